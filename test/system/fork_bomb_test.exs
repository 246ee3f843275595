defmodule NetRunner.System.ForkBombTest do
  @moduledoc false
  # Issue point 2: processes that fork on, also faster than they can be killed one by one, do end. Every bomb is
  # bounded by the fixture, too: in number, and in time.
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Test.Chaos.Marked
  alias NetRunner.Test.Group

  # By itself a bomb ends after so many seconds, which is too late for every test here.
  @seconds "40"

  setup do
    mark = "bomb.#{System.pid()}.#{System.unique_integer([:positive])}"
    on_exit(fn -> Marked.clean_up(mark) end)
    env = Map.new(Marked.environment(mark), fn {n, v} -> {"#{n}", "#{v}"} end)
    %{mark: mark, options: [env: env, kill_timeout: 200]}
  end

  # Each process says on stderr who it is.
  defp bomb(shape, bound, hiding) do
    [Application.app_dir(:net_runner, "fixture"), "fork-bomb", shape, @seconds, bound | List.wrap(hiding)]
  end

  # When `ready` processes have said that they are ready, and `count` who they are.
  defp explode(command, ready, count, context) do
    {:ok, server} = Proc.start(hd(command), tl(command), [stderr: :redirect] ++ context.options)
    {server, await_ready(server, ready, count, "")}
  end

  defp await_ready(server, ready, count, text) do
    processes = who(text)

    if length(processes) < count or length(Regex.scan(~r/^ready$/m, text)) < ready do
      assert {:ok, chunk} = Proc.read(server)
      await_ready(server, ready, count, text <> chunk)
    else
      assert length(processes) == count
      assert Enum.uniq_by(processes, &elem(&1, 0)) == processes
      processes
    end
  end

  # {pid, group, session} of each that has said so.
  defp who(text) do
    for [_, pid, group, session] <- Regex.scan(~r/^(\d+) (\d+) (\d+)\n/m, text),
        do: {String.to_integer(pid), String.to_integer(group), String.to_integer(session)}
  end

  # The command leads a group and a session.
  defp assert_one_group([{root, root, root} | _] = processes) do
    for {_pid, group, session} <- processes, do: assert({group, session} == {root, root})
  end

  defp assert_hiding(processes),
    do: for({pid, group, session} <- processes, do: assert({group, session} == {pid, pid}))

  # As they are in /proc.
  defp living(mark), do: for(one <- Marked.living(mark), do: {one.os_pid, one.group, one.session})

  describe "a burst of 256 processes" do
    @generations "8"
    @size 256

    test "in one group", context do
      {server, processes} = explode(bomb("burst", @generations, nil), @size, @size, context)
      assert_one_group(processes)
      assert Enum.sort(living(context.mark)) == Enum.sort(processes)
      assert {:ok, 137} = Proc.shutdown(server)
      assert Marked.living(context.mark) == []
      assert :ok = Proc.stop(server)
    end

    test "each in a session of its own", context do
      {server, processes} = explode(bomb("burst", @generations, "hiding"), @size, @size, context)
      assert_hiding(processes)
      assert Enum.sort(living(context.mark)) == Enum.sort(processes)
      assert {:ok, 137} = Proc.shutdown(server)
      assert Marked.living(context.mark) == []
      assert :ok = Proc.stop(server)
    end

    test "each in a session of its own, and their shepherd is killed", context do
      {server, processes} = explode(bomb("burst", @generations, "hiding"), @size, @size, context)
      assert_hiding(processes)
      assert length(living(context.mark)) == @size
      OS.kill(OS.shepherd(Proc.os_pid(server)), "KILL")
      assert {:error, :shepherd_died} = Proc.await_exit(server)
      OS.eventually(fn -> Marked.living(context.mark) == [] end, 20_000)
      assert :ok = Proc.stop(server)
    end
  end

  describe "a chain, of which each process forks the next and exits" do
    # The command is its first process; the others are what it leaves. No look at /proc comes to see one of them: what
    # says that none is left is the end of stderr, which each of them holds, and in one group that this is empty.
    test "in one group", context do
      assert {"ready\n", 0, stderr} =
               NetRunner.run(bomb("chain", "0", nil), [stderr: :capture] ++ context.options)

      assert Marked.living(context.mark) == []
      processes = [{group, _, _} | _] = who(stderr)
      assert Group.inhabited([group]) == []
      assert length(processes) > 10
      assert Enum.uniq_by(processes, &elem(&1, 0)) == processes
      assert_one_group(processes)
    end

    test "each in a session of its own", context do
      assert {"ready\n", 0, stderr} =
               NetRunner.run(bomb("chain", "0", "hiding"), [stderr: :capture] ++ context.options)

      assert Marked.living(context.mark) == []
      processes = who(stderr)
      assert length(processes) > 10
      assert Enum.uniq_by(processes, &elem(&1, 0)) == processes
      assert_hiding(processes)
    end
  end

  # At the limit each death makes room for another: those that are only killed are replaced as fast.
  describe "all of them fork as often as they can, up to RLIMIT_NPROC" do
    @limit 200

    @describetag skip: Skip.unless_root("only root can become a user that has no other processes")

    test "in one group", context do
      {server, processes} = explode(bomb("tree", "#{@limit}", nil), 1, @limit, context)
      assert_one_group(processes)
      assert {:ok, 137} = Proc.shutdown(server)
      assert Marked.living(context.mark) == []
      assert :ok = Proc.stop(server)
    end

    @tag :capture_log
    test "each in a session of its own", context do
      {server, processes} = explode(bomb("tree", "#{@limit}", "hiding"), 1, @limit, context)
      assert_hiding(processes)

      # They leave a hundredth of the processors to the shepherd: it may be taken for one that hangs, or say itself
      # that five seconds were not enough.
      case Proc.shutdown(server) do
        {:ok, 137} -> assert Marked.living(context.mark) == []
        {:error, :shepherd_died} -> :ok
        {:error, {:unkillable, _os_pids}} -> :ok
      end

      OS.eventually(fn -> Marked.living(context.mark) == [] end, 20_000)
      assert :ok = Proc.stop(server)
      assert {"", 0} = NetRunner.run(~w(true))
    end
  end
end
