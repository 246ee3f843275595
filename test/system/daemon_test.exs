defmodule NetRunner.System.DaemonTest do
  @moduledoc false
  # Daemons below real supervisors, one of them a real server.
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Daemon

  @moduletag :capture_log

  defp start_supervisor(children, opts \\ []) do
    Process.flag(:trap_exit, true)
    {:ok, supervisor} = Supervisor.start_link(children, opts ++ [strategy: :one_for_one])
    supervisor
  end

  defp daemon(opts, overrides \\ []), do: Supervisor.child_spec({Daemon, opts}, overrides)

  defp child(supervisor, id) do
    Enum.find_value(Supervisor.which_children(supervisor), fn {name, pid, _, _} -> name == id && pid end)
  end

  # The next command of this daemon, when it runs.
  defp another(name, old) do
    OS.eventually(fn ->
      os_pid = Daemon.os_pid(name)
      is_integer(os_pid) and os_pid != old
    end)

    Daemon.os_pid(name)
  end

  describe "redis-server" do
    # One program, which goes by the name that it is called with. Debian's redis-tools has it as redis-check-rdb.
    @redis System.find_executable("redis-server") || System.find_executable("redis-check-rdb")
    @describetag skip: if(@redis == nil, do: "redis is missing (bin/setup --dev)")

    setup do
      {:ok, listener} = :gen_tcp.listen(0, [])
      {:ok, port} = :inet.port(listener)
      :ok = :gen_tcp.close(listener)
      %{port: port, directory: tmp_dir()}
    end

    defp ask(port, request) do
      {:ok, socket} = :gen_tcp.connect(~c"127.0.0.1", port, [:binary, active: false])
      :ok = :gen_tcp.send(socket, request <> "\r\n")
      {:ok, answer} = :gen_tcp.recv(socket, 0, 10_000)
      :gen_tcp.close(socket)
      answer
    end

    test "is ready when the start returns, restarted when it is killed, stopped gracefully", context do
      test = self()

      supervisor =
        start_supervisor([
          daemon(
            cmd: [@redis, "--port", "#{context.port}", "--save", "", "--dir", context.directory],
            arg0: "redis-server",
            name: :net_runner_redis,
            ready: {:tcp, "127.0.0.1", context.port},
            on_output: &send(test, {:redis, &1})
          )
        ])

      assert ask(context.port, "PING") == "+PONG\r\n"
      assert ask(context.port, "SET key value") == "+OK\r\n"
      first = Daemon.os_pid(:net_runner_redis)
      identity = OS.identity(first)
      assert Daemon.kill(:net_runner_redis, :sigkill) == :ok
      OS.await_gone([identity])
      second = another(:net_runner_redis, first)
      # The supervisor has it back when it is ready, and a call waits for that.
      assert [{:net_runner_redis, _pid, :worker, _}] = Supervisor.which_children(supervisor)
      assert ask(context.port, "GET key") == "$-1\r\n"

      identity = OS.identity(second)
      assert Supervisor.stop(supervisor) == :ok
      assert OS.gone?(identity)
      assert said("") =~ "Received SIGTERM"
    end

    defp said(text) do
      receive do
        {:redis, chunk} -> said(text <> chunk)
      after
        0 -> text
      end
    end
  end

  describe "restart" do
    test "permanent, transient and temporary mean what they say" do
      for {restart, script, again?} <- [
            {:permanent, "exit 0", true},
            {:permanent, "exit 3", true},
            {:transient, "exit 0", false},
            {:transient, "exit 3", true},
            {:transient, "kill -TERM $$", true},
            {:temporary, "exit 3", false}
          ] do
        supervisor =
          start_supervisor([
            daemon([cmd: sh("read go; #{script}"), name: :net_runner_restart], restart: restart)
          ])

        first = Daemon.os_pid(:net_runner_restart)
        assert Daemon.write(:net_runner_restart, "go\n") == :ok

        if again? do
          assert another(:net_runner_restart, first)
        else
          OS.eventually(fn -> Supervisor.count_children(supervisor).active == 0 end)
        end

        assert Supervisor.stop(supervisor) == :ok
        assert NetRunner.list() == []
      end
    end

    test "a crash loop is the supervisor's to judge" do
      supervisor = start_supervisor([daemon(cmd: sh("exit 3"))], max_restarts: 5, max_seconds: 60)
      assert_receive {:EXIT, ^supervisor, :shutdown}, 20_000
      assert NetRunner.list() == []
    end

    test "rest_for_one: the second goes and comes with the first, which waits for nothing of it" do
      children = [
        daemon(cmd: ["cat"], name: :net_runner_first),
        daemon(cmd: ["cat"], name: :net_runner_second)
      ]

      supervisor = start_supervisor(children, strategy: :rest_for_one)
      [first, second] = Enum.map([:net_runner_first, :net_runner_second], &Daemon.os_pid/1)
      Daemon.kill(:net_runner_second, :sigkill)
      second = another(:net_runner_second, second)
      assert Daemon.os_pid(:net_runner_first) == first
      identity = OS.identity(second)
      Daemon.kill(:net_runner_first, :sigkill)
      another(:net_runner_first, first)
      another(:net_runner_second, second)
      OS.await_gone([identity])
      assert Supervisor.stop(supervisor) == :ok
    end
  end

  test "ready holds the next child back" do
    test = self()
    command = sh("read go; echo ready; read end")

    starter =
      Task.async(fn ->
        children = [
          daemon(cmd: command, name: :net_runner_slow, ready: ~r/^ready$/m),
          {Task, fn -> send(test, {:next, NetRunner.list() |> Enum.map(& &1.command)}) end}
        ]

        {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
        Process.unlink(supervisor)
        supervisor
      end)

    OS.eventually(fn -> Daemon.alive?(:net_runner_slow) end)
    refute_receive {:next, _}, 100
    :ok = Daemon.write(:net_runner_slow, "go\n")
    assert_receive {:next, [^command]}, 10_000
    assert Supervisor.stop(Task.await(starter)) == :ok
  end

  test "a supervisor's stop of a tree that traps SIGTERM stays in its time and leaves nothing" do
    test = self()

    options = [
      cmd: Tree.command(),
      kill_timeout: 300,
      name: :net_runner_tree,
      on_output: &send(test, {:told, &1})
    ]

    spec = daemon(options)
    assert spec.shutdown == 2_300
    supervisor = start_supervisor([spec])
    tree = Tree.told()
    pid = child(supervisor, :net_runner_tree)
    monitor = Process.monitor(pid)
    assert Supervisor.stop(supervisor) == :ok
    # Not killed by the supervisor.
    assert_receive {:DOWN, ^monitor, :process, ^pid, :shutdown}
    assert OS.present(Map.values(tree)) == []
  end

  test "what it says when it is told to end is delivered" do
    test = self()
    script = "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.01; done"

    supervisor =
      start_supervisor([daemon(cmd: sh(script), ready: ~r/hello/, on_output: &send(test, {:told, &1}))])

    assert Supervisor.stop(supervisor) == :ok
    assert_received {:told, "hello\n"}
    assert_received {:told, "bye\n"}
  end

  test "a function that never returns does not keep it from ending" do
    stuck = fn _chunk -> receive(do: (:never -> :ok)) end

    supervisor =
      start_supervisor([daemon(cmd: sh("echo x; sleep 1000"), kill_timeout: 300, on_output: stuck)])

    OS.eventually(fn -> match?([%{stats: %{bytes_out: 2}}], NetRunner.list()) end)
    pid = child(supervisor, Daemon)
    monitor = Process.monitor(pid)
    assert Supervisor.stop(supervisor) == :ok
    assert_receive {:DOWN, ^monitor, :process, ^pid, :shutdown}
    assert NetRunner.list() == []
  end

  test "a gigabyte while on_output waits: the memory stays bounded, and all of it comes" do
    test = self()
    size = 1024 * 1024 * 1024

    on_output = fn chunk ->
      receive do
        :go -> send(self(), :go)
      end

      :counters.add(:persistent_term.get(__MODULE__), 1, byte_size(chunk))
      send(test, :called)
    end

    :persistent_term.put(__MODULE__, :counters.new(1, []))
    on_exit(fn -> :persistent_term.erase(__MODULE__) end)
    Process.flag(:trap_exit, true)
    memory = OS.rss(OS.vm())
    {:ok, daemon} = Daemon.start_link(cmd: ["head", "-c", "#{size}", "/dev/zero"], on_output: on_output)
    # The pipe is full, and the command waits.
    OS.eventually(fn -> OS.state(Daemon.os_pid(daemon)) == "S" and Daemon.stats(daemon).bytes_out > 0 end)
    assert OS.rss(OS.vm()) - memory < 32 * 1024 * 1024
    {:links, links} = Process.info(daemon, :links)
    for pid <- links, pid != test, do: send(pid, :go)
    assert_receive {:EXIT, ^daemon, :normal}, 60_000
    assert :counters.get(:persistent_term.get(__MODULE__), 1) == size
    assert OS.rss(OS.vm()) - memory < 64 * 1024 * 1024
  end

  test "the VM is killed: its daemons are gone" do
    victim =
      Victim.start("""
      {:ok, daemon} = NetRunner.Daemon.start_link(cmd: #{inspect(Tree.command())}, kill_timeout: 300, on_output: &IO.write/1)
      _ = daemon
      wait.()
      """)

    tree = Tree.from(victim)
    everything = OS.tree(victim.os_pid)
    on_exit(fn -> OS.clean_up(everything) end)
    Victim.kill(victim)
    OS.await_gone(Map.values(tree) ++ everything)
  end
end
