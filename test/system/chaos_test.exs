defmodule NetRunner.System.ChaosTest do
  @moduledoc false
  # Issue point 1: whatever is killed, and whenever, nothing of a command is left that had to end, nobody hangs, and
  # NetRunner goes on as before.
  #
  #     NETRUNNER_CHAOS_SEED=N     the seed of the first round; each round prints its own when it fails
  #     NETRUNNER_CHAOS_ROUNDS=N   how many; a round is repeated with its seed and 1
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Test.{Cgroups, Chaos, Group}

  @moduletag timeout:
               if(System.get_env("NETRUNNER_CHAOS_ROUNDS"), do: :infinity, else: soak(300_000, :infinity))

  test "whatever dies: no survivor, no zombie, no hang" do
    seed = number("NETRUNNER_CHAOS_SEED", :rand.uniform(1_000_000_000))
    rounds = number("NETRUNNER_CHAOS_ROUNDS", soak(length(Chaos.Kills.kinds()) * 2, 1_000))
    mark = mark()

    IO.puts("\nchaos: #{rounds} rounds from seed #{seed}")
    if not Chaos.Kills.terminal?(), do: IO.puts("chaos: no Ctrl-C, for script(1) is not there")
    if why = Cgroups.skip(), do: IO.puts("chaos: no command in a control group, for #{why}")
    results = Chaos.play(seed, rounds, mark)
    if soak?() or rounds > 100, do: IO.puts("\n" <> Chaos.summary(results))

    failed =
      for result <- results, [_ | _] = problems <- [Chaos.problems(result)] do
        "NETRUNNER_CHAOS_SEED=#{result.seed} NETRUNNER_CHAOS_ROUNDS=1: #{result.kind}\n  " <>
          Enum.join(problems, "\n  ")
      end

    assert failed == [],
           "#{length(failed)} of #{rounds} rounds from seed #{seed}:\n" <> Enum.join(failed, "\n")

    assert length(results) == rounds
    # Each kind has come so often, and has met what it was meant for.
    times = div(rounds, length(Chaos.Kills.kinds()))
    hit = Enum.frequencies(Enum.flat_map(results, & &1.hit))
    for {target, count} <- Enum.frequencies(Chaos.Kills.certain()), do: assert(hit[target] >= count * times)

    # Two at the same instant: one may have ended by the death of the other, but not in all rounds.
    pairs = Enum.filter(results, &(&1.kind == :two))
    together = for pair <- pairs, Chaos.all_hit?(pair), do: Enum.sort(pair.targets)
    IO.puts("chaos: of #{length(pairs)} pairs #{length(together)} were hit at the same instant")
    if times > 0, do: assert(together != [])

    if rounds >= Chaos.Kills.rounds_of_all(),
      do: assert(Enum.map(Chaos.Kills.pairs(), &Enum.sort/1) -- together == [])

    # What the last VM has left there, it has left to the next command.
    if Cgroups.skip() == nil do
      assert {"", 0} = NetRunner.run(["true"], cgroup_path: Chaos.Shapes.cgroup() <> "/a")
      refute File.exists?(Cgroups.path(Chaos.Shapes.cgroup()))
    end
  end

  # Fork server and shepherd are killed: the command dies, and what hops lives on, each process for 2 ms.
  describe "a process that is never the same for long, and outlives its command" do
    test "is a survivor where nothing may, and is ended all the same" do
      result = Chaos.play_one(%{hopping() | tolerant?: false, patience: 1_000}, mark())
      # Two, if one has forked the next and has not exited yet.
      assert [survivor | others] = result.survivors
      assert length(others) <= 1
      assert [group] = result.groups

      assert survivor =~ ~r/^\d+ T parent \d+ group #{group} session #{group} \S+ perl: perl \S+/

      assert_nobody(group)
    end

    test "is counted where it may, and ended" do
      result = Chaos.play_one(hopping(), mark())
      assert Chaos.problems(result) == []
      assert result.tolerated in [1, 2]
      assert [group] = result.groups
      assert_nobody(group)
    end
  end

  # Here NetRunner lets it live.
  test "the clean-up ends a process that is never the same for long, which has been seen but once" do
    mark = "hopping.#{mark()}"
    on_exit(fn -> Chaos.Marked.clean_up(mark) end)
    env = Map.new(Chaos.Marked.environment(mark), fn {name, value} -> {"#{name}", "#{value}"} end)
    {:ok, p} = Proc.start("perl", Tree.arguments(~w(hopping)), env: env, leftovers: :keep)
    %{root: {group, _start}} = Tree.read(p)
    assert Enum.any?(Chaos.Marked.living(mark), &(&1.os_pid == group))
    OS.kill(group, "KILL")
    assert {:ok, 137} = Proc.await_exit(p)
    assert Group.inhabited([group]) == [group]
    Chaos.Marked.clean_up(mark)
    assert_nobody(group)
    assert :ok = Proc.stop(p)
  end

  # The double fault of one command, which has had the time to start what it starts.
  defp hopping do
    seed = Enum.find(Stream.iterate(1, &(&1 + 1)), &(Chaos.Round.plan(&1).kind == :double_fault))
    %{entries: [entry | _]} = plan = Chaos.Round.plan(seed)

    entry = %{
      entry
      | shape: :hopping,
        face: :run,
        stderr: :consume,
        keep: false,
        held: true,
        ms: 60_000
    }

    hops? = fn living -> Enum.any?(living, &(&1.mark != nil and &1.os_pid != &1.group)) end
    # In this order: a fork server that sees the shepherd's death before its own ends what hops.
    %{plan | entries: [entry], moment: hops?, targets: [:fork_server, :shepherd]}
  end

  # But zombies, which are init's.
  defp assert_nobody(group) do
    left = Group.stop([group])
    if left != [], do: Group.clean_up([group])
    assert left == []
  end

  defp mark do
    mark = "#{System.pid()}.#{System.unique_integer([:positive])}"
    on_exit(fn -> Chaos.clean_up(mark) end)
    mark
  end

  defp number(variable, default) do
    case System.get_env(variable) do
      nil -> default
      text -> String.to_integer(text)
    end
  end
end
