defmodule NetRunnerTest do
  use NetRunner.Test.SystemCase

  doctest NetRunner

  test "list/0 has what runs, and no longer what has exited" do
    {:ok, server} = Proc.start("cat", ["-u"])
    os_pid = Proc.os_pid(server)
    :ok = Proc.write(server, "four")
    {:ok, "four"} = Proc.read(server)

    assert %{os_pid: ^os_pid, command: ["cat", "-u"], age_ms: age, stats: stats} = entry(server)
    assert age >= 0
    assert %{bytes_in: 4, bytes_out: 4, exit_status: nil} = stats

    :ok = Proc.close_stdin(server)
    {:ok, 0} = Proc.await_exit(server)
    assert entry(server) == nil
    :ok = Proc.stop(server)
  end

  test "stream and stream! tell input, command and options apart" do
    cat = NetRunner.Command.new("cat")
    collect = &Enum.join/1

    assert NetRunner.stream!(["echo", "x"]) |> collect.() == "x\n"
    assert NetRunner.stream!(["echo", "x"], []) |> collect.() == "x\n"
    assert NetRunner.stream!(["cat"], input: "x") |> collect.() == "x"
    assert NetRunner.stream!(["x", "y"], ["cat"]) |> collect.() == "xy"
    assert NetRunner.stream!(["x", "y"], cat) |> collect.() == "xy"
    assert NetRunner.stream!("x", cat) |> collect.() == "x"
    assert NetRunner.stream!(["x"], ["cat"], kill_timeout: 100) |> collect.() == "x"
    assert {:ok, stream} = NetRunner.stream(["x"], ["cat"])
    assert collect.(stream) == "x"
    assert {:ok, stream} = NetRunner.stream(["x"], cat, [])
    assert collect.(stream) == "x"
  end

  test "stream and stream! refuse what is neither" do
    for call <- [
          fn -> NetRunner.stream!(["cat"], "x") end,
          fn -> NetRunner.stream!(["cat"], [1]) end,
          fn -> NetRunner.stream!(["cat"], :cat, []) end,
          fn -> NetRunner.stream!(["x"], [], []) end,
          fn -> NetRunner.stream(["cat"], %{}) end
        ] do
      assert_raise ArgumentError, ~r/Expected: \(command\)/, call
    end

    for call <- [
          fn -> NetRunner.stream!(["x"], ["cat"], input: "y") end,
          fn -> NetRunner.stream!(["x"], NetRunner.Command.new("cat", [], input: "y")) end,
          fn -> NetRunner.stream(["x"], NetRunner.Command.new("cat", [], input: "y"), []) end
        ] do
      assert_raise ArgumentError, ~r/given twice/, call
    end
  end

  defp entry(server), do: Enum.find(NetRunner.list(), &(&1.server == server))
end
