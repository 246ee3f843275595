defmodule NetRunner.DaemonTest do
  use NetRunner.Test.SystemCase, async: false
  doctest NetRunner.Daemon

  import ExUnit.CaptureLog

  alias NetRunner.Daemon

  setup do
    Process.flag(:trap_exit, true)
    :ok
  end

  defp start!(opts) do
    {:ok, daemon} = Daemon.start_link([kill_timeout: 500] ++ opts)
    daemon
  end

  # The reason with which a daemon of this command ends.
  defp ends_with(opts) do
    daemon = start!(opts)
    assert_receive {:EXIT, ^daemon, reason}, 20_000
    reason
  end

  describe "the command's exit is the daemon's" do
    @tag :capture_log
    test "its reason" do
      assert ends_with(cmd: ["true"]) == :normal
      assert ends_with(cmd: sh("exit 3")) == {:exit_status, 3}
      assert ends_with(cmd: sh("exit 3"), success: [0, 3]) == :normal
      assert ends_with(cmd: sh("exit 3"), success: :any) == :normal
      assert ends_with(cmd: sh("kill -KILL $$")) == {:signal, :sigkill}
      assert ends_with(cmd: sh("exit 137")) == {:exit_status, 137}
    end

    @tag :capture_log
    test "a shepherd that is killed" do
      daemon = start!(cmd: ["sleep", "1000"])
      OS.kill(OS.shepherd(Daemon.os_pid(daemon)), "KILL")
      assert_receive {:EXIT, ^daemon, :shepherd_died}, 20_000
    end

    test "a stop that was asked for has the asker's reason, whatever the status" do
      for reason <- [:normal, :shutdown, {:shutdown, :enough}] do
        daemon =
          start!(cmd: sh("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done"), ready: ~r/ready/)

        assert Daemon.stop(daemon, reason) == :ok
        assert_receive {:EXIT, ^daemon, ^reason}
      end
    end
  end

  describe "start_link/1" do
    test "what cannot start is a value, and no exit signal comes" do
      assert Daemon.start_link(cmd: "/nonexistent") == {:error, {:exec, :enoent}}
      assert Daemon.start_link(cmd: ["true"], cd: "/nonexistent") == {:error, {:cd, :enoent}}
      assert Daemon.start_link(cmd: []) == {:error, {:invalid_cmd, :empty}}
      assert Daemon.start_link(cmd: :ls) == {:error, {:invalid_cmd, :not_a_list}}
      assert Daemon.start_link(cmd: "true", args: [1]) == {:error, {:invalid_args, :not_a_binary}}

      for cmd <- ["true", ["true"], ["true" | "x"], NetRunner.Command.new("true", "x")] do
        assert Daemon.start_link(cmd: cmd, args: "x") == {:error, {:invalid_args, :not_a_list}}
      end

      assert_mailbox_has_only_normal_exits()
    end

    test "cmd, args, and a command that brings options" do
      command = NetRunner.Command.new("sh", ["-c", "echo $0 $1 $A $B; exit 0"], env: [{"A", "a"}], cd: "/")

      {:ok, daemon} =
        Daemon.start_link(cmd: command, args: ["x", "y"], env: [{"B", "b"}], on_output: {:send, self()})

      assert_receive {^daemon, {:stdout, "x y b\n"}}
      assert_receive {:EXIT, ^daemon, :normal}
    end

    test "a name" do
      daemon = start!(cmd: ["cat"], name: :net_runner_daemon_test)
      assert Process.whereis(:net_runner_daemon_test) == daemon

      assert Daemon.start_link(cmd: ["cat"], name: :net_runner_daemon_test) ==
               {:error, {:already_started, daemon}}

      assert Daemon.alive?(:net_runner_daemon_test)
      assert Daemon.stop(:net_runner_daemon_test) == :ok
    end

    test "mistakes raise" do
      assert_raise ArgumentError, ~r/cmd/, fn -> Daemon.start_link([]) end
      assert_raise ArgumentError, ~r/keyword list/, fn -> Daemon.start_link("true") end

      assert_raise ArgumentError, ~r/not an option of NetRunner.Daemon/, fn ->
        Daemon.start_link(cmd: "true", into: "")
      end

      assert_raise ArgumentError, ~r/:on_output/, fn -> Daemon.start_link(cmd: "true", on_output: :print) end
      assert_raise ArgumentError, ~r/:ready/, fn -> Daemon.start_link(cmd: "true", ready: "ready") end

      assert_raise ArgumentError, ~r/nothing is logged/, fn ->
        Daemon.start_link(cmd: "true", log_level: :debug)
      end

      assert_raise ArgumentError, ~r/nothing is waited for/, fn ->
        Daemon.start_link(cmd: "true", ready_timeout: 1)
      end
    end
  end

  describe "what can be asked" do
    test "while it runs" do
      daemon = start!(cmd: ["cat"], on_output: {:send, self()})
      assert OS.alive?(Daemon.os_pid(daemon))
      assert Daemon.alive?(daemon)
      assert Daemon.write(daemon, ["hel", ?l, "o"]) == :ok
      assert_receive {^daemon, {:stdout, "hello"}}
      assert %NetRunner.Stats{bytes_in: 5, bytes_out: 5} = Daemon.stats(daemon)
      assert Daemon.kill(daemon, :nonsense) == {:error, :unknown_signal}
      assert [%{command: ["cat"], owner: ^daemon}] = NetRunner.list()
      assert Daemon.kill(daemon, :sigusr1) == :ok
      assert_receive {:EXIT, ^daemon, {:signal, :sigusr1}}
    end

    test "when it is gone: values, never an exit" do
      daemon = start!(cmd: ["cat"])
      assert Daemon.stop(daemon) == :ok
      assert Daemon.stop(daemon) == :ok
      refute Daemon.alive?(daemon)
      assert Daemon.kill(daemon) == {:error, :not_running}
      assert Daemon.os_pid(daemon) == {:error, :closed}
      assert Daemon.write(daemon, "x") == {:error, :closed}
      assert Daemon.stats(daemon) == {:error, :closed}
      assert Daemon.stats(:no_such_daemon) == {:error, :closed}
      assert Daemon.stop(:no_such_daemon) == :ok
    end

    test "a full stdin blocks the writer, and nobody else" do
      daemon = start!(cmd: ["sleep", "1000"])
      writer = Task.async(fn -> Daemon.write(daemon, :binary.copy("x", 1_000_000)) end)
      OS.eventually(fn -> Daemon.stats(daemon).bytes_in >= 65_536 end)
      assert Process.alive?(writer.pid)
      assert is_integer(Daemon.os_pid(daemon))
      assert Daemon.alive?(daemon)
      assert Daemon.stop(daemon) == :ok
      assert {:error, _closed_or_epipe} = Task.await(writer)
    end
  end

  describe "output" do
    test "nobody wants it: it is read all the same" do
      assert ends_with(cmd: sh("head -c 10000000 /dev/zero; head -c 1000000 /dev/zero >&2")) == :normal
    end

    test "a function of a chunk gets stdout; of two, both" do
      test = self()
      script = sh("echo out; echo err >&2")
      assert ends_with(cmd: script, on_output: &send(test, {:one, &1})) == :normal
      assert ends_with(cmd: script, on_output: &send(test, {:two, &1, &2})) == :normal
      script = sh("echo out; echo err >&2")
      assert ends_with(cmd: script, on_output: &send(test, {:chunk, &1}), stderr: :redirect) == :normal
      assert_received {:one, "out\n"}
      refute_received {:one, _}
      assert_received {:two, :stdout, "out\n"}
      assert_received {:two, :stderr, "err\n"}
      assert received("") == "out\nerr\n"
    end

    test "all of it is there when the daemon ends, however slow the function" do
      test = self()

      slowly = fn chunk ->
        # Slower than the command.
        receive do
        after
          20 -> :ok
        end

        send(test, {:chunk, chunk})
      end

      assert ends_with(cmd: sh("head -c 300000 /dev/zero"), on_output: slowly) == :normal
      assert byte_size(received("")) == 300_000
    end

    defp received(data) do
      receive do
        {:chunk, chunk} -> received(data <> chunk)
      after
        0 -> data
      end
    end

    test "a function that raises, throws or exits is called again, and that is logged once" do
      for fail <- [fn -> raise "no" end, fn -> throw(:no) end, fn -> exit(:no) end] do
        test = self()

        log =
          capture_log(fn ->
            daemon =
              start!(
                cmd: ["cat"],
                on_output: fn chunk ->
                  send(test, {:called, chunk})
                  fail.()
                end
              )

            for text <- ~w(a b c) do
              :ok = Daemon.write(daemon, text)
              assert_receive {:called, ^text}
            end

            :ok = Daemon.stop(daemon)
          end)

        assert length(String.split(log, ":on_output function")) == 2
      end
    end

    test "it has the caller's $callers" do
      test = self()
      start!(cmd: ["echo"], on_output: fn _ -> send(test, {:callers, Process.get(:"$callers")}) end)
      assert_receive {:callers, [_daemon | callers]}
      assert is_list(callers)
      assert_receive {:EXIT, _daemon, :normal}
    end

    test "{:send, pid}: a receiver that does not read is waited for" do
      test = self()
      sleeper = spawn(fn -> receive(do: (:stop -> :ok)) end)
      daemon = start!(cmd: ["yes"], on_output: {:send, sleeper})
      OS.eventually(fn -> Process.info(sleeper, :message_queue_len) == {:message_queue_len, 1_000} end)
      # The command waits: its pipe is full, and nothing is read behind the chunk that waits for room.
      bytes = Daemon.stats(daemon).bytes_out
      OS.eventually(fn -> OS.state(Daemon.os_pid(daemon)) == "S" end)
      assert Daemon.stats(daemon).bytes_out in bytes..(bytes + 65_536)
      assert Daemon.stop(daemon) == :ok
      send(sleeper, :stop)
      assert is_pid(test)
    end
  end

  describe "on_output: :log" do
    test "a line per message, with level, prefix and metadata; the last one without newline too" do
      log =
        capture_log([metadata: [:stream], format: "$level|$metadata|$message\n"], fn ->
          options = [on_output: :log, log_level: :warning, log_prefix: "> "]
          assert ends_with([cmd: sh("echo one; printf 'two\nthree'; echo four >&2")] ++ options) == :normal
        end)

      assert log =~ "warning|stream=stdout |> one\n"
      assert log =~ "warning|stream=stdout |> two\n"
      assert log =~ "warning|stream=stdout |> three\n"
      assert log =~ "warning|stream=stderr |> four\n"
    end

    test "os_pid and command are in the metadata" do
      :ok = :logger.add_handler(:net_runner_daemon_test, __MODULE__, %{config: %{test: self()}})
      on_exit(fn -> :logger.remove_handler(:net_runner_daemon_test) end)

      capture_log(fn ->
        command = sh("echo $$")
        assert ends_with(cmd: command, on_output: :log, log_metadata: [service: "s"]) == :normal

        assert_receive {:event,
                        %{meta: %{os_pid: os_pid, command: ^command, service: "s"}, msg: {:string, line}}}

        assert IO.iodata_to_binary(line) == "#{os_pid}"
      end)
    end

    def log(%{meta: %{stream: _}} = event, %{config: %{test: test}}), do: send(test, {:event, event})
    def log(_other, _config), do: :ok

    test "none is lost, and a line of 10 MB is cut and says so" do
      :ok = :logger.add_handler(:net_runner_daemon_test, __MODULE__, %{config: %{test: self()}})
      on_exit(fn -> :logger.remove_handler(:net_runner_daemon_test) end)
      level = Logger.level()
      :ok = :logger.update_handler_config(:default, :level, :none)
      on_exit(fn -> :logger.update_handler_config(:default, :level, level) end)
      script = "seq 20000; head -c 10000000 /dev/zero | tr '\\0' x; echo; echo end"
      assert ends_with(cmd: sh(script), on_output: :log) == :normal

      assert logged(20_000) == Enum.map(1..20_000, &to_string/1)
      assert [long, "end"] = logged(2)
      assert String.ends_with?(long, "x [cut: 10000000 bytes in all]")
    end

    # So many lines, in the order in which they came.
    defp logged(count) do
      for _ <- 1..count do
        assert_receive {:event, %{msg: {:string, ["", line]}}}
        line
      end
    end
  end

  describe "ready" do
    test "a regular expression is looked for in stderr, too, whatever becomes of output" do
      for opts <- [[], [on_output: :discard], [stdout: :disabled], [on_output: fn _stream, _chunk -> :ok end]] do
        opts = [cmd: sh("echo here I am >&2; exec sleep 60"), ready: ~r/I am/] ++ opts
        assert Daemon.stop(start!(opts)) == :ok
      end
    end

    test "a regular expression, across chunks, on stdout or stderr" do
      for to <- ["", ">&2"] do
        daemon =
          start!(
            cmd: sh("printf rea #{to}; read x; printf 'dy!' #{to}; cat"),
            ready: ~r/ready!/,
            on_output: tell_go(),
            stderr: :pipe
          )

        assert Daemon.alive?(daemon)
        assert Daemon.stop(daemon) == :ok
      end
    end

    # The command goes on when its first output has come; start_link has not returned by then.
    defp tell_go do
      fn _stream, chunk ->
        [daemon | _] = Process.get(:"$callers")
        if chunk == "rea", do: :ok = Daemon.write(daemon, "go\n")
      end
    end

    test "a function, which may raise, and may ask the daemon" do
      {:ok, counter} = Agent.start_link(fn -> 0 end)

      ready = fn ->
        true = Daemon.alive?(:net_runner_ready_test)
        if Agent.get_and_update(counter, &{&1, &1 + 1}) < 3, do: raise("not yet"), else: true
      end

      daemon = start!(cmd: ["cat"], ready: ready, name: :net_runner_ready_test)
      assert Agent.get(counter, & &1) == 4
      assert Daemon.stop(daemon) == :ok
    end

    test "a port" do
      {:ok, listener} = :gen_tcp.listen(0, [])
      {:ok, port} = :inet.port(listener)
      :gen_tcp.close(listener)

      listen =
        "import socket,sys; s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); sys.stdin.readline(); s.bind(('127.0.0.1',#{port})); s.listen(); sys.stdout.write('up\\n'); sys.stdout.flush(); sys.stdin.read()"

      test = self()

      starter =
        Task.async(fn ->
          {:ok, daemon} =
            Daemon.start_link(
              cmd: ["python3", "-c", listen],
              ready: {:tcp, "127.0.0.1", port},
              name: :net_runner_tcp_test,
              on_output: {:send, test}
            )

          Process.unlink(daemon)
          daemon
        end)

      OS.eventually(fn -> Daemon.alive?(:net_runner_tcp_test) end)
      assert Task.yield(starter, 200) == nil
      :ok = Daemon.write(:net_runner_tcp_test, "\n")
      daemon = Task.await(starter, 20_000)
      assert_receive {^daemon, {:stdout, "up\n"}}
      assert Daemon.stop(daemon) == :ok
    end

    test "a command that exits first, or is not ready in time, leaves nothing" do
      assert Daemon.start_link(cmd: sh("exit 3"), ready: fn -> false end) == {:error, {:exited, 3}}
      assert Daemon.start_link(cmd: sh("kill -KILL $$"), ready: ~r/never/) == {:error, {:exited, 137}}

      never = [ready: fn -> false end, ready_timeout: 100, kill_timeout: 100]
      assert Daemon.start_link([cmd: sh("trap '' TERM; sleep 1000")] ++ never) == {:error, :ready_timeout}
      hangs = fn -> receive(do: (:never -> :ok)) end

      assert Daemon.start_link(cmd: ["sleep", "1000"], ready: hangs, ready_timeout: 100) ==
               {:error, :ready_timeout}

      assert NetRunner.list() == []
      assert_mailbox_has_only_normal_exits()
    end

    test "wait_for comes before the start" do
      {:ok, gate} = Agent.start_link(fn -> false end)
      test = self()

      starter =
        Task.async(fn ->
          {:ok, daemon} =
            Daemon.start_link(
              cmd: ["echo", "started"],
              wait_for: fn -> send(test, :asked) && Agent.get(gate, & &1) end,
              on_output: {:send, test},
              name: :net_runner_wait_test
            )

          Process.unlink(daemon)
          daemon
        end)

      assert_receive :asked
      assert_receive :asked
      refute Daemon.alive?(:net_runner_wait_test)
      assert NetRunner.list() == []
      Agent.update(gate, fn _ -> true end)
      daemon = Task.await(starter)
      assert_receive {^daemon, {:stdout, "started\n"}}

      assert Daemon.start_link(cmd: ["true"], wait_for: fn -> false end, ready_timeout: 50) ==
               {:error, :ready_timeout}
    end

    test "a parent that dies meanwhile ends the command" do
      parent =
        spawn(fn ->
          Daemon.start_link(cmd: ["sleep", "1000"], ready: fn -> false end, name: :net_runner_parent_test)
        end)

      OS.eventually(fn -> is_integer(Daemon.os_pid(:net_runner_parent_test)) end)
      command = OS.identity(Daemon.os_pid(:net_runner_parent_test))
      Process.exit(parent, :kill)
      OS.await_gone([command])
    end

    test "a parent that dies meanwhile ends the command, also where it has a name" do
      parent =
        spawn(fn ->
          Process.register(self(), :net_runner_parent)
          opts = [cmd: ["sleep", "1000"], ready: fn -> false end, ready_timeout: :infinity]
          Daemon.start_link([name: :net_runner_parent_test] ++ opts)
        end)

      OS.eventually(fn -> is_integer(Daemon.os_pid(:net_runner_parent_test)) end)
      daemon = Process.whereis(:net_runner_parent_test)
      command = OS.identity(Daemon.os_pid(daemon))
      on_exit(fn -> Process.exit(daemon, :kill) end)
      Process.exit(parent, :kill)
      OS.await_gone([command])
    end

    test "a function that never returns does not outlive the daemon, whoever ends that" do
      test = self()
      hangs = fn -> send(test, {:try, self()}) && receive(do: (:never -> :ok)) end

      for option <- [:wait_for, :ready], who <- [:daemon, :parent] do
        opts = [cmd: ["sleep", "1000"], name: :net_runner_try_test, ready_timeout: :infinity]
        parent = spawn(fn -> Daemon.start_link([{option, hangs} | opts]) end)
        assert_receive {:try, try}, 20_000
        monitor = Process.monitor(try)
        victim = if who == :parent, do: parent, else: Process.whereis(:net_runner_try_test)
        Process.exit(victim, :kill)
        assert_receive {:DOWN, ^monitor, :process, ^try, _reason}, 20_000
        OS.eventually(fn -> Process.whereis(:net_runner_try_test) == nil end)
      end
    end

    test "a command that exits first is not waited for" do
      # Each time the daemon waited a second for the end of an output that had ended.
      {microseconds, :ok} =
        :timer.tc(fn ->
          for _ <- 1..10 do
            assert Daemon.start_link(cmd: ["true"], ready: ~r/never/) == {:error, {:exited, 0}}
          end

          :ok
        end)

      assert microseconds < 10_000_000
    end

    test "a regular expression of Unicode, in output that is not UTF-8, or is cut in a character" do
      for {first, then} <- [{"\\377 ", "\\374 ready"}, {"\\303", "\\251 ready"}] do
        daemon =
          start!(
            cmd: sh("printf '#{first}'; read x; printf '#{then}'; cat"),
            ready: ~r/[é\x{fffd}] ready$/u,
            on_output: fn chunk ->
              [daemon | _] = Process.get(:"$callers")
              if not String.ends_with?(chunk, "ready"), do: :ok = Daemon.write(daemon, "go\n")
            end
          )

        assert Daemon.alive?(daemon)
        assert Daemon.stop(daemon) == :ok
      end
    end
  end

  test "killed, the command ends too" do
    daemon = start!(cmd: ["sleep", "1000"])
    command = OS.identity(Daemon.os_pid(daemon))
    Process.exit(daemon, :kill)
    OS.await_gone([command])
  end

  test "strangers' messages and exits are no matter" do
    daemon = start!(cmd: ["cat"])
    send(daemon, :nonsense)
    send(daemon, {:EXIT, spawn(fn -> :ok end), :boo})
    assert GenServer.call(daemon, :nonsense) == {:error, :unknown_call}
    GenServer.cast(daemon, :nonsense)
    assert Daemon.alive?(daemon)
    assert Daemon.stop(daemon) == :ok
  end

  # Of a start that failed, linked as start_link is.
  defp assert_mailbox_has_only_normal_exits do
    receive do
      {:EXIT, _pid, :normal} -> assert_mailbox_has_only_normal_exits()
      other -> flunk("a message came: #{inspect(other)}")
    after
      0 -> :ok
    end
  end
end
