defmodule NetRunner.System.MisuseTest do
  # What nobody should do and somebody will: messages to the wrong process, impossible timeouts, dead owners,
  # a supervisor that is killed. Nothing hangs, and no command suffers for it that has no part in it.
  use NetRunner.Test.SystemCase, async: false

  import ExUnit.CaptureLog

  describe "a message of a stranger" do
    test "does not end a command" do
      {:ok, p} = Proc.start("cat", [])

      log =
        capture_log(fn ->
          send(p, :hello)
          GenServer.cast(p, :hello)
          assert GenServer.call(p, :hello) == {:error, :unknown_call}
          assert Proc.alive?(p)
        end)

      assert log =~ "unexpected message: :hello"
      assert Proc.stop(p) == :ok
    end

    test "does not end what is kept" do
      {output, 0} = NetRunner.run(sh("sleep 1000 & echo $!"), leftovers: :keep)
      os_pid = output |> String.trim() |> String.to_integer()
      identity = OS.identity(os_pid)

      log =
        capture_log(fn ->
          for name <- [NetRunner.Watcher, NetRunner.ForkServer] do
            pid = Process.whereis(name)
            send(name, :hello)
            # It has handled the message before it answers this.
            assert %{} = :sys.get_state(name)
            assert Process.whereis(name) == pid
          end
        end)

      assert log =~ "unexpected message: :hello"
      assert OS.alive?(os_pid)
      OS.clean_up([identity])
    end
  end

  test "stop/1 of what is no server returns" do
    assert Proc.stop(self()) == :ok
    assert Proc.stop(background(fn -> Process.sleep(:infinity) end)) == :ok
  end

  test "a command ends with the supervisor, and so its tree" do
    victim =
      Victim.start("""
      Logger.configure(level: :none)
      {:ok, p} = Proc.start("sh", ["-c", "trap '' TERM; sleep 1000 & wait"], kill_timeout: 200)
      {:ok, q} = Proc.start("cat", [], owner: nil, kill_timeout: 200)
      say.([Proc.os_pid(p), Proc.os_pid(q)])
      IO.gets("")
      Process.exit(Process.whereis(NetRunner.Supervisor), :kill)
      for server <- [p, q], do: (ref = Process.monitor(server); receive do {:DOWN, ^ref, _, _, _} -> :ok end)
      say.({Proc.alive?(p), Proc.stop(p), NetRunner.run(["true"])})
      Process.sleep(:infinity)
      """)

    identities = victim |> Victim.term() |> Enum.map(&OS.identity/1)
    Victim.tell(victim, "go on")
    assert Victim.term(victim) == {false, :ok, {:error, :not_started}}
    OS.eventually(fn -> Enum.all?(identities, fn {os_pid, _} = one -> OS.identity(os_pid) != one end) end)
    Victim.kill(victim)
    Victim.await_exit(victim)
  end

  describe "time" do
    test "a deadline that has passed is a timeout of 0, and a very long one none" do
      {:ok, p} = Proc.start("cat", [])
      assert Proc.await_exit(p, -5) == {:error, :timeout}
      assert_raise ArgumentError, ~r/Expected: milliseconds or :infinity/, fn -> Proc.await_exit(p, :soon) end
      assert Proc.shutdown(p, -1) == {:error, :timeout}
      assert Proc.await_exit(p, 99_999_999_999) == {:ok, 143}
      Proc.stop(p)
    end

    test "stderr that is drained is output to the idle timeout" do
      talk = sh("for i in 1 2 3 4 5 6 7 8; do echo x >&2; sleep 0.1; done")
      assert NetRunner.run(talk, idle_timeout: 600) == {"", 0}
      assert NetRunner.run(talk, idle_timeout: 600, stdout: :disabled) == {"", 0}
      assert NetRunner.run(sh("echo x >&2; sleep 1000"), idle_timeout: 200) == {:error, :idle_timeout}
    end

    @tag :tmp_dir
    test "a FIFO is no input file: to open it would wait without end", %{tmp_dir: directory} do
      fifo = Path.join(directory, "fifo")
      {_, 0} = System.cmd("mkfifo", [fifo])
      assert NetRunner.run(["cat"], input: {:file, fifo}, timeout: 300) == {:error, {:input, :enotsup}}
      assert NetRunner.run(["cat"], input: {:file, "/dev/null"}) == {"", 0}
    end

    test "kill/2 of a command whose shepherd hangs returns" do
      capture_log(fn ->
        {:ok, p} = Proc.start("sh", ["-c", "read x; kill -STOP $PPID; echo; sleep 1000"], kill_timeout: 200)
        :ok = Proc.write(p, "go on\n")
        assert Proc.read(p) == {:ok, "\n"}
        assert Proc.kill(p, :sigkill) == {:error, :shepherd_died}
        assert Proc.stop(p) == :ok
      end)
    end
  end

  test "AbnormalExit has the end of a stderr that is streamed" do
    stream =
      NetRunner.stream!(sh("echo one >&2; echo two >&2; exit 4"), stderr: :stream, stderr_tail_bytes: 6)

    error = assert_raise NetRunner.Stream.AbnormalExit, fn -> Stream.run(stream) end
    assert {error.status, error.stderr} == {4, "e\ntwo\n"}
  end

  describe "an owner that is dead" do
    test "before the start: nothing is started" do
      dead = background(fn -> :ok end)
      end_process(dead)
      assert Proc.start("sleep", ["1000"], owner: dead) == {:error, :closed}
    end

    test "is not replaced when it is too late" do
      test = self()

      owner =
        background(fn ->
          {:ok, p} = Proc.start("sleep", ["1000"])
          send(test, p)
          Process.sleep(:infinity)
        end)

      p = receive(do: (p -> p))
      ref = Process.monitor(p)
      Process.exit(owner, :kill)

      case Proc.set_owner(p, self()) do
        # It came first: then the command is ours, and lives.
        :ok -> if Proc.alive?(p), do: Proc.stop(p)
        {:error, :closed} -> :ok
      end

      assert_receive {:DOWN, ^ref, :process, ^p, _reason}, 10_000
    end
  end
end
