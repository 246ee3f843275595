defmodule NetRunner.WatcherTest do
  use NetRunner.Test.SystemCase

  alias NetRunner.{Table, Watcher}

  test "finishes what a server that was killed has left" do
    {server, tree} = start(Tree.executable(), Tree.arguments(), kill_timeout: 200)
    end_process(server)
    assert Watcher.await_gone(server) == :ok
    assert OS.present(tree) == []
    refute Table.member?(server)
  end

  test "killed itself, its successor goes on" do
    {server, tree} = start("sh", ["-c", "trap '' TERM; echo; sleep 60"], kill_timeout: 500)
    end_process(server)
    gone = Task.async(fn -> Watcher.await_gone(server) end)
    kill_watcher()
    assert Task.await(gone) == :ok
    assert OS.present(tree) == []
    refute Table.member?(server)
  end

  test "killed at the same moment as servers, its successor finds them" do
    servers =
      for _ <- 1..10 do
        {server, _tree} = start("sh", ["-c", "echo; sleep 60"])
        server
      end

    Process.exit(Process.whereis(Watcher), :kill)
    Enum.each(servers, &Process.exit(&1, :kill))
    for server <- servers, do: assert(Watcher.await_gone(server) == :ok)
    assert OS.commands() == []
  end

  test "watches servers that were started before it" do
    {server, tree} = start("sh", ["-c", "echo; sleep 60"])
    kill_watcher()
    end_process(server)
    assert Watcher.await_gone(server) == :ok
    assert OS.present(tree) == []
  end

  test "servers that are started while it is replaced again and again are watched" do
    killer = background(fn -> Stream.repeatedly(&kill_watcher/0) |> Stream.run() end)

    servers =
      for _ <- 1..50 do
        {:ok, server} = Proc.start("sleep", ["60"], owner: nil, kill_timeout: 0)
        server
      end

    end_process(killer)
    OS.eventually(fn -> Process.whereis(Watcher) != nil end)
    Enum.each(servers, &Process.exit(&1, :kill))
    for server <- servers, do: assert(Watcher.await_gone(server) == :ok)
    assert Table.commands() == []
  end

  @tag capture_log: true
  test "kills a shepherd that does not finish" do
    {server, tree} = start("sh", ["-c", "echo; sleep 60"], kill_timeout: 100)
    [{os_pid, _start} | _] = tree
    OS.kill(OS.shepherd(os_pid), "STOP")
    end_process(server)
    {ms, :ok} = timed(fn -> Watcher.await_gone(server) end)
    assert ms in 500..5_000
    OS.await_gone(tree)
  end

  test "kills the writer of a server that was killed" do
    test = self()

    input =
      Stream.map(1..1, fn _ ->
        send(test, {:writer, self()})
        Process.sleep(:infinity)
      end)

    runner = Task.async(fn -> NetRunner.run(["cat"], input: input) end)
    assert_receive {:writer, writer}, 5_000
    monitor = Process.monitor(writer)
    %{server: server} = Enum.find(NetRunner.list(), &(&1.owner == runner.pid))
    end_process(server)
    assert Task.await(runner) == {:error, :closed}
    assert_received {:DOWN, ^monitor, :process, _writer, :killed}
  end

  test "of a server that is gone, or never was one, there is nothing to wait for" do
    {:ok, server} = Proc.start("true")
    :ok = Proc.stop(server)
    assert Watcher.await_gone(server) == :ok
    assert Watcher.await_gone(self()) == :ok
  end

  test "holds what is kept, also when the server is stopped or killed" do
    for end_server <- [&Proc.stop/1, &end_process/1] do
      {:ok, server} = Proc.start("sh", ["-c", "sleep 60 & echo $!"], leftovers: :keep)
      {:ok, text} = Proc.read(server)
      os_pid = text |> String.trim() |> String.to_integer()
      {:ok, 0} = Proc.await_exit(server)
      assert Proc.read(server) == :eof
      identity = OS.identity(os_pid)
      end_server.(server)
      assert Watcher.await_gone(server) == :ok
      :sys.get_state(Watcher)
      assert OS.alive?(os_pid)
      # When the last of them has ended, so has the holding.
      OS.kill(os_pid, "KILL")
      OS.await_gone([identity])
      OS.eventually(fn -> :sys.get_state(Watcher).held == %{} end)
    end
  end

  test "killed, what it has kept ends, and nothing is left of it" do
    census = Census.take()

    {text, 0} = NetRunner.run(sh("sleep 60 & echo $!"), leftovers: :keep)
    identity = text |> String.trim() |> String.to_integer() |> OS.identity()
    kill_watcher()
    OS.await_gone([identity])
    OS.eventually(fn -> :sys.get_state(Watcher).held == %{} end)
    assert Table.kept() == []
    Census.assert_unchanged(Map.drop(census, [:beam_processes]))
  end

  describe "when the application stops" do
    setup do
      on_exit(fn -> {:ok, _started} = Application.ensure_all_started(:net_runner) end)
    end

    @tag capture_log: true
    test "all commands end, and everybody is told" do
      {_server, tree} = start(Tree.executable(), Tree.arguments(), kill_timeout: 200, owner: nil)
      runner = Task.async(fn -> NetRunner.run(["sleep", "60"]) end)
      streamer = Task.async(fn -> rescued(fn -> Stream.run(NetRunner.stream!(["yes"])) end) end)
      {kept, 0} = NetRunner.run(sh("sleep 60 & echo $!"), leftovers: :keep)
      kept = kept |> String.trim() |> String.to_integer() |> OS.identity()
      OS.eventually(fn -> length(NetRunner.list()) == 3 end)

      {ms, :ok} = timed(fn -> Application.stop(:net_runner) end)
      assert ms < 10_000
      assert OS.present([kept | tree]) == []
      assert OS.commands() == []
      # Whether its server had been asked for the status before it ended.
      assert Task.await(runner) in [{"", 143}, {:error, :closed}]
      # Its server ends while it reads, or when it has read to the end.
      assert Task.await(streamer).__struct__ in [NetRunner.Error, NetRunner.Stream.AbnormalExit]
      OS.eventually(fn -> Enum.filter(OS.children(OS.vm()), &(&1.name == "shepherd")) == [] end)
    end

    @tag capture_log: true
    test "nothing can be run, and everything has an answer" do
      {:ok, server} = Proc.start("sleep", ["60"])
      :ok = Application.stop(:net_runner)
      refute Process.alive?(server)

      assert NetRunner.run(["true"]) == {:error, :not_started}
      assert NetRunner.capture(["true"]) == {:error, :not_started}
      assert Proc.start("true") == {:error, :not_started}
      assert NetRunner.list() == []
      assert {:ok, stream} = NetRunner.stream(["true"])
      assert %{reason: :not_started} = assert_raise(NetRunner.Error, fn -> Stream.run(stream) end)
      assert Proc.read(server) == {:error, :closed}
      assert Proc.stop(server) == :ok
      refute Proc.alive?(server)

      {:ok, _started} = Application.ensure_all_started(:net_runner)
      assert NetRunner.run(["echo", "x"]) == {"x\n", 0}
    end

    @tag capture_log: true
    test "a shepherd that hangs does not hold it up for ever" do
      {_server, tree} = start("sh", ["-c", "echo; sleep 60"], kill_timeout: 100)
      [{os_pid, _start} | _] = tree
      OS.kill(OS.shepherd(os_pid), "STOP")
      {ms, :ok} = timed(fn -> Application.stop(:net_runner) end)
      assert ms < 10_000
      OS.await_gone(tree)
    end
  end

  defp rescued(fun) do
    fun.()
  rescue
    error -> error
  end

  # A command that has written a line, and the identities of its processes.
  defp start(executable, args, opts \\ []) do
    {:ok, server} = Proc.start(executable, args, opts)
    {:ok, _ready} = Proc.read(server)
    if executable == "perl", do: OS.eventually(fn -> length(OS.tree(Proc.os_pid(server))) >= 5 end)
    {server, OS.tree(Proc.os_pid(server))}
  end

  defp kill_watcher do
    old = Process.whereis(Watcher)
    if old, do: end_process(old)
    OS.eventually(fn -> Process.whereis(Watcher) not in [nil, old] end)
  end
end
