defmodule NetRunner.System.ReuseTest do
  @moduledoc false
  # A shepherd has one command after the other. What a command could see of the one before is compared in
  # native/shepherd/tests/system/reuse.rs.
  use NetRunner.Test.SystemCase, async: false

  defp shepherd_of_a_run do
    {text, 0} = NetRunner.run(sh("echo $PPID"))
    text |> String.trim() |> String.to_integer()
  end

  defp started(command, opts \\ []) do
    {:ok, p} = Proc.start(hd(command), tl(command), opts)
    {p, p |> Proc.os_pid() |> OS.shepherd() |> OS.identity()}
  end

  setup do
    {"", 0} = NetRunner.run(["true"])
    %{idle: OS.idle_shepherds()}
  end

  test "commands in a row have the same few shepherds", %{idle: idle} do
    os_pids = for {os_pid, _start} <- idle, do: os_pid
    assert for(_ <- 1..20, do: shepherd_of_a_run()) |> Enum.uniq() |> Enum.sort() == Enum.sort(os_pids)
    assert OS.idle_shepherds() == idle
  end

  test "many at a time use them again, and when nothing runs any more there are as many as before" do
    runs = fn ->
      for(_ <- 1..16, do: Task.async(fn -> for _ <- 1..20, do: shepherd_of_a_run() end))
      |> Task.await_many(60_000)
      |> List.flatten()
    end

    census = Census.take()
    shepherds = Enum.uniq(runs.())
    assert length(shepherds) < 320 / 2
    OS.idle_shepherds()
    Census.assert_unchanged(census)
  end

  test "while something runs, some more are kept, and a few only" do
    {p, _shepherd} = started(["cat"])
    for(_ <- 1..64, do: Task.async(fn -> NetRunner.run(["true"]) end)) |> Task.await_many(60_000)
    OS.eventually(fn -> length(OS.children(OS.fork_server())) <= 1 + 4 + 16 end)
    assert :ok = Proc.stop(p)
    OS.idle_shepherds()
  end

  describe "it is the last command of a shepherd" do
    test "that was sent a signal, or stopped" do
      for ending <- [
            fn p -> {:ok, 137} = (:ok = Proc.kill(p, :sigkill)) && Proc.await_exit(p) end,
            fn p -> :ok = Proc.stop(p) end,
            fn p -> {:ok, 143} = Proc.shutdown(p) end
          ] do
        {p, shepherd} = started(["sleep", "1000"])
        ending.(p)
        Proc.stop(p)
        OS.await_gone([shepherd])
      end
    end

    test "whose owner or server has died" do
      for who <- [:owner, :server] do
        test = self()

        owner =
          background(fn ->
            send(test, started(["sleep", "1000"]))
            Process.sleep(:infinity)
          end)

        assert_receive {p, shepherd}, 10_000
        end_process(if(who == :owner, do: owner, else: p))
        OS.await_gone([shepherd])
        end_process(owner)
      end
    end

    test "that had a terminal, or a request that was large", %{idle: idle} do
      for opts <- [[pty: true], [env: %{"A" => String.duplicate("a", 70_000)}]] do
        {text, 0} = NetRunner.run(sh("echo $PPID"), opts)
        shepherd = text |> String.trim() |> String.to_integer()
        OS.await_gone(for {os_pid, _} = one <- idle, os_pid == shepherd, do: one)
      end

      OS.idle_shepherds()
    end
  end

  # Each kill is late, or just in time: a command that it was not meant for must not feel it.
  test "a signal that comes too late hits nobody else" do
    others = fn -> for _ <- 1..200, do: {"x\n", 0} = NetRunner.run(["echo", "x"]) end
    running = for _ <- 1..2, do: Task.async(others)

    results =
      for n <- 1..200 do
        {:ok, p} = Proc.start("sh", ["-c", "exit 3"])
        if rem(n, 2) == 0, do: Proc.await_exit(p)
        killed = Proc.kill(p, :sigkill)
        exit = Proc.await_exit(p)
        Proc.stop(p)
        {killed, exit}
      end

    assert Enum.all?(results, fn {killed, exit} ->
             exit in [{:ok, 3}, {:ok, 137}] and killed in [:ok, {:error, :not_running}]
           end)

    Task.await_many(running, 60_000)
  end

  test "one that has died meanwhile is not asked: all of them", %{idle: idle} do
    OS.kill(for({os_pid, _} <- idle, do: os_pid), "KILL")
    OS.await_gone(idle)
    for _ <- 1..5, do: assert({"x\n", 0} = NetRunner.run(["echo", "x"]))
    OS.idle_shepherds()
  end

  test "all go with the fork server that has forked them", %{idle: idle} do
    {p, shepherd} = started(["cat"])
    OS.kill(OS.fork_server(), "KILL")
    assert {"x\n", 0} = NetRunner.run(["echo", "x"])
    OS.await_gone(idle -- [shepherd])
    # A command of the old one goes on, and its shepherd does not come back to the new one.
    :ok = Proc.write(p, "x")
    assert {:ok, "x"} = Proc.read(p)
    :ok = Proc.close_stdin(p)
    assert {:ok, 0} = Proc.await_exit(p)
    OS.await_gone([shepherd])
    OS.idle_shepherds()
  end

  # `Done` comes with the exit, before the control is handed to the Watcher.
  test "commands that may leave something, and do not, leave no shepherd either" do
    census = Census.take()
    for _ <- 1..30, do: assert({"", 0} = NetRunner.run(["true"], leftovers: :keep))
    runs = for _ <- 1..60, do: Task.async(fn -> NetRunner.run(["true"], leftovers: :keep) end)
    assert runs |> Task.await_many(60_000) |> Enum.uniq() == [{"", 0}]
    Census.assert_unchanged(census)
    OS.idle_shepherds()
  end

  test "a caller that dies while it starts a command counts no longer" do
    user = uid()

    for n <- 1..200 do
      {pid, ref} = spawn_monitor(fn -> NetRunner.run(["true"], user: user) end)
      :erlang.start_timer(rem(n, 4), self(), :kill)
      receive do: ({:timeout, _timer, :kill} -> Process.exit(pid, :kill))
      receive do: ({:DOWN, ^ref, :process, ^pid, _reason} -> :ok)
    end

    for(_ <- 1..32, do: Task.async(fn -> NetRunner.run(["sleep", "0.1"]) end)) |> Task.await_many(60_000)
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    assert {"", 0} = NetRunner.run(["true"])
    OS.idle_shepherds()
  end

  # Asking for a user makes the spawn a dirty one, during which its caller can be killed.
  defp uid do
    {text, 0} = System.cmd("id", ["-u"])
    String.trim(text)
  end

  test "the numbers of one are not those of the next" do
    first = cpu_ms(sh("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"))
    assert Enum.all?(1..4, fn _ -> cpu_ms(["true"]) < first end)
  end

  defp cpu_ms(command) do
    {:ok, p} = Proc.start(hd(command), tl(command))
    {:ok, 0} = Proc.await_exit(p)
    stats = Proc.stats(p)
    :ok = Proc.stop(p)
    stats.user_ms + stats.system_ms
  end
end
