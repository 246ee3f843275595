defmodule NetRunner.Process.PendingTest do
  use ExUnit.Case, async: true

  alias NetRunner.Process.Pending

  test "those who wait for the exit are taken out once, in order" do
    pending = Pending.new() |> Pending.await_exit(:a, "first") |> Pending.await_exit(:b, "second")
    assert {["first", "second"], pending} = Pending.take_exit(pending)
    assert {[], ^pending} = Pending.take_exit(pending)
  end

  test "those who wait for the end are taken out once, in order, with what they want" do
    pending =
      Pending.new()
      |> Pending.await_done(:a, "first", :status)
      |> Pending.await_done(:b, "second", :ok_and_end)

    assert {[{"first", :status}, {"second", :ok_and_end}], pending} = Pending.take_done(pending)
    assert {[], _pending} = Pending.take_done(pending)
  end

  test "signals are answered in the order in which they were sent" do
    pending = Pending.new() |> Pending.await_signal("first") |> Pending.await_signal("second")
    assert {{:ok, "first"}, pending} = Pending.take_signal(pending)
    assert {{:ok, "second"}, pending} = Pending.take_signal(pending)
    assert {:empty, _pending} = Pending.take_signal(pending)
  end

  test "all who have sent a signal can be taken out together" do
    pending = Pending.new() |> Pending.await_signal("first") |> Pending.await_signal("second")
    assert {["first", "second"], pending} = Pending.take_signals(pending)
    assert {:empty, _pending} = Pending.take_signal(pending)
  end

  test "who withdraws is not taken out, and can tell whether it was before" do
    pending =
      Pending.new()
      |> Pending.await_exit(:a, "a")
      |> Pending.await_exit(:b, "b")
      |> Pending.await_done(:c, "c", :status)
      |> Pending.await_done(:d, "d", :status)

    {:ok, pending} = Pending.withdraw(pending, :a)
    {:ok, pending} = Pending.withdraw(pending, :c)
    assert Pending.withdraw(pending, :a) == :error
    assert Pending.withdraw(pending, :unknown) == :error
    assert {["b"], pending} = Pending.take_exit(pending)
    assert {[{"d", :status}], pending} = Pending.take_done(pending)
    assert Pending.withdraw(pending, :b) == :error
  end
end
