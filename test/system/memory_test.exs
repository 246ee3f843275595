defmodule NetRunner.System.MemoryTest do
  @moduledoc false
  # Issue point 8: whatever a command writes, and whoever reads it slowly or not at all, memory is bounded.
  use NetRunner.Test.SystemCase, async: false

  # `yes` writes about a gigabyte a second: what were kept of it would be seen.
  @seconds 1_500
  @bound 64 * 1024 * 1024

  describe "yes >&2, for seconds" do
    for mode <- [:consume, :redirect, :disabled, :capture] do
      test "run, stderr: #{inspect(mode)}" do
        # What is returned is kept, so there is a limit to it, or it goes nowhere.
        options =
          case unquote(mode) do
            :capture -> [max_output_size: 1_000_000]
            :redirect -> [into: Tell.to(spawn(fn -> :ok end))]
            _ -> []
          end

        {growth, result} =
          growth(fn ->
            NetRunner.run(sh("yes >&2"), [stderr: unquote(mode), timeout: @seconds] ++ options)
          end)

        case unquote(mode) do
          :capture -> assert {:error, {:max_output_exceeded, _partial}} = result
          _ -> assert {:error, :timeout} = result
        end

        assert growth < @bound
      end
    end

    test "stream, stderr: :stream, to a consumer that sleeps" do
      {growth, :over} =
        growth(fn -> consume_for(NetRunner.stream!(sh("yes >&2"), stderr: :stream, success: :any), 5) end)

      assert growth < @bound
    end

    for mode <- [:consume, :redirect, :disabled] do
      test "stream, stderr: #{inspect(mode)}, to a consumer that sleeps" do
        {growth, :over} =
          growth(fn -> consume_for(NetRunner.stream!(sh("yes >&2 & exec yes"), stderr: unquote(mode)), 5) end)

        assert growth < @bound
      end
    end

    test "Process, stderr: :pipe, and nobody reads" do
      {growth, :ok} =
        growth(fn ->
          {:ok, p} = Proc.start("sh", ["-c", "yes >&2 & exec yes"], stderr: :pipe)
          assert {:error, :timeout} = Proc.await_exit(p, @seconds)
          # It waits in the pipe, and what is there can still be read.
          assert {:ok, "y\n" <> _} = Proc.read_stderr(p)
          Proc.stop(p)
        end)

      assert growth < @bound
    end

    test "Process, stderr: :consume: gigabytes go by, and only the end is kept" do
      {growth, tail} =
        growth(fn ->
          {:ok, p} = Proc.start("sh", ["-c", "yes >&2"], stderr: :consume)
          OS.eventually(fn -> Proc.stats(p).bytes_err > 1_000_000_000 end, 30_000)
          tail = Proc.stderr_tail(p)
          Proc.stop(p)
          tail
        end)

      assert growth < @bound
      assert byte_size(tail) == 8_192
      assert tail =~ ~r/\A(y\n|\ny)+y?\z/
    end
  end

  test "yes against a consumer that sleeps" do
    {growth, :over} = growth(fn -> consume_for(NetRunner.stream!(~w(yes)), 5) end)
    assert growth < @bound
  end

  test "yes against a consumer that never comes back for a second element, while others work" do
    {growth, _} =
      growth(fn ->
        # Zipping suspends the enumeration.
        assert [{"y\n" <> _, 1}] = Stream.zip(NetRunner.stream!(~w(yes)), [1]) |> Enum.to_list()
        {:ok, p} = Proc.start("yes", [])
        assert {:error, :timeout} = Proc.await_exit(p, @seconds)
        Proc.stop(p)
      end)

    assert growth < @bound
  end

  test "an infinite input against a command that does not read" do
    {growth, result} =
      growth(fn ->
        NetRunner.run(~w(sleep 1000), input: Stream.cycle([:binary.copy("x", 65_536)]), timeout: @seconds)
      end)

    assert result == {:error, :timeout}
    assert growth < @bound
  end

  test "a gigabyte through two commands and a fast consumer" do
    {growth, bytes} =
      growth(fn ->
        NetRunner.stream!(~w(head -c 1073741824 /dev/zero))
        |> NetRunner.stream!(~w(cat))
        |> Enum.reduce(0, &(byte_size(&1) + &2))
      end)

    assert bytes == 1_073_741_824
    assert growth < @bound
  end

  test "a writer of megabytes that nobody reads waits, and can be stopped" do
    {:ok, p} = Proc.start("sleep", ["1000"])
    writer = Task.async(fn -> Proc.write(p, :binary.copy("x", 1_000_000)) end)
    OS.eventually(fn -> Proc.stats(p).bytes_in >= 65_536 end)
    assert :ok = Proc.close_stdin(p)
    assert {:error, :closed} = Task.await(writer)
    assert :ok = Proc.stop(p)
  end

  # Takes its time for each element.
  defp consume_for(stream, ms) do
    deadline = System.monotonic_time(:millisecond) + @seconds

    Enum.reduce_while(stream, :over, fn _element, :over ->
      be_slow(ms)
      if System.monotonic_time(:millisecond) < deadline, do: {:cont, :over}, else: {:halt, :over}
    end)
  end

  # The highest resident memory of the VM while `fun` runs, over what there was before.
  defp growth(fun) do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    before = OS.rss(OS.vm())
    test = self()
    sampler = spawn_link(fn -> sample(test, before) end)
    result = fun.()
    send(sampler, {:highest, self()})
    assert_receive {:highest, highest}
    {highest - before, result}
  end

  defp sample(test, highest) do
    receive do
      {:highest, ^test} -> send(test, {:highest, max(highest, OS.rss(OS.vm()))})
    after
      20 -> sample(test, max(highest, OS.rss(OS.vm())))
    end
  end

  defp be_slow(ms) do
    receive do
    after
      ms -> :ok
    end
  end
end
