defmodule NetRunner.ForkServerTest do
  use NetRunner.Test.SystemCase

  alias NetRunner.{ForkServer, Table}

  test "what the system lacks is known when it has come up; where the tests run, nothing" do
    assert NetRunner.run(["true"]) == {"", 0}
    OS.eventually(fn -> ForkServer.lacks() != :error end)
    assert ForkServer.lacks() == {:ok, []}
  end

  test "one that is killed is replaced, and commands go on" do
    {:ok, cat} = Proc.start("cat")
    {:ok, old} = ForkServer.current()
    os_pid = OS.fork_server()
    OS.kill(os_pid, "KILL")
    OS.eventually(fn -> ForkServer.current() != {:ok, old} end)
    assert NetRunner.run(["echo", "x"]) == {"x\n", 0}
    assert :ok = Proc.write(cat, "x")
    assert {:ok, "x"} = Proc.read(cat)
  end

  test "the process can be killed as often as one likes, and the fork server stays" do
    {:ok, current} = ForkServer.current()
    os_pid = OS.fork_server()

    for _ <- 1..100 do
      ForkServer |> Process.whereis() |> end_process()
      OS.eventually(fn -> Process.whereis(ForkServer) != nil end)
    end

    assert ForkServer.current() == {:ok, current}
    assert OS.fork_server() == os_pid
    assert NetRunner.run(["echo", "x"]) == {"x\n", 0}

    # The new process hears of its end.
    OS.kill(os_pid, "KILL")
    OS.eventually(fn -> ForkServer.current() != {:ok, current} end)
    assert NetRunner.run(["echo", "x"]) == {"x\n", 0}
  end

  @tag capture_log: true
  test "the process can be killed while it starts one, which is not left behind" do
    for delay <- 0..39 do
      # One that is not ready is not started again at once.
      OS.eventually(fn -> NetRunner.run(["true"]) == {"", 0} end)
      {:ok, current} = ForkServer.current()
      process = Process.whereis(ForkServer)
      ForkServer.unresponsive(current)
      # Starting one takes a millisecond or two.
      wait_until(System.monotonic_time(:microsecond) + 100 * delay)
      end_process(process)
      OS.eventually(fn -> Process.whereis(ForkServer) not in [nil, process] end)
    end

    assert NetRunner.run(["echo", "x"]) == {"x\n", 0}
    OS.eventually(fn -> Enum.count(OS.children(OS.vm()), &(&1.name == "shepherd")) == 1 end)
  end

  defp wait_until(time), do: System.monotonic_time(:microsecond) >= time or wait_until(time)

  test "a dead one is renewed by whoever finds it first, and by nobody twice" do
    {:ok, dead} = ForkServer.current()
    OS.kill(OS.fork_server(), "KILL")
    OS.eventually(fn -> ForkServer.current() != {:ok, dead} end)
    {:ok, new} = ForkServer.current()
    renewed = for _ <- 1..10, do: Task.async(fn -> ForkServer.renew(dead) end)
    assert renewed |> Task.await_many() |> Enum.uniq() == [{:ok, new}]
  end

  test "one that lives is not replaced" do
    {:ok, current} = ForkServer.current()
    assert ForkServer.renew(current) == {:ok, current}
    assert ForkServer.current() == {:ok, current}
  end

  @tag capture_log: true
  test "one that does not answer is killed, and a report of an old one is ignored" do
    {:ok, hanging} = ForkServer.current()
    os_pid = OS.fork_server()
    identity = OS.identity(os_pid)
    OS.kill(os_pid, "STOP")
    ForkServer.unresponsive(hanging)
    ForkServer.unresponsive(hanging)
    OS.await_gone([identity])
    assert NetRunner.run(["echo", "x"]) == {"x\n", 0}
    {:ok, new} = ForkServer.current()
    ForkServer.unresponsive(hanging)
    :sys.get_state(ForkServer)
    assert ForkServer.current() == {:ok, new}
  end

  @tag capture_log: true
  test "one that cannot be started is an error, and tried again by the next who needs it" do
    shepherd = Application.app_dir(:net_runner, "priv/shepherd")
    hidden = shepherd <> ".hidden"
    File.rename!(shepherd, hidden)
    {:ok, dead} = ForkServer.current()

    try do
      OS.kill(OS.fork_server(), "KILL")
      OS.eventually(fn -> match?({:ok, {:failed, _reason}}, Table.fork_server()) end)
      assert NetRunner.run(["true"]) == {:error, {:fork_server, :enoent}}
      assert Proc.start("true") == {:error, {:fork_server, :enoent}}
      # A file that can be executed, but is no fork server: it must not be started for ever.
      File.write!(shepherd, "#!/bin/sh\nexit 0\n")
      File.chmod!(shepherd, 0o755)

      for _ <- 1..20 do
        assert NetRunner.run(["true"]) == {:error, {:fork_server, :eof}}
        assert Proc.start("true") == {:error, {:fork_server, :eof}}
      end

      OS.eventually(fn -> Table.fork_server() == {:ok, {:failed, {:fork_server, :eof}}} end)
    after
      File.rm(shepherd)
      File.rename!(hidden, shepherd)
    end

    assert NetRunner.run(["echo", "x"]) == {"x\n", 0}
    assert {:ok, new} = ForkServer.current()
    assert new != dead
  end
end
