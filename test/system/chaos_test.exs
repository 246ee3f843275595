defmodule NetRunner.System.ChaosTest do
  @moduledoc false
  # Issue point 1: whatever is killed, and whenever, nothing of a command is left that had to end, nobody hangs, and
  # NetRunner goes on as before.
  #
  #     NETRUNNER_CHAOS_SEED=N     the seed of the first round; each round prints its own when it fails
  #     NETRUNNER_CHAOS_ROUNDS=N   how many; a round is repeated with its seed and 1
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Test.{Cgroups, Chaos}

  @moduletag timeout:
               if(System.get_env("NETRUNNER_CHAOS_ROUNDS"), do: :infinity, else: soak(300_000, :infinity))

  test "whatever dies: no survivor, no zombie, no hang" do
    seed = number("NETRUNNER_CHAOS_SEED", :rand.uniform(1_000_000_000))
    rounds = number("NETRUNNER_CHAOS_ROUNDS", soak(length(Chaos.Kills.kinds()) * 2, 1_000))
    mark = "#{System.pid()}.#{System.unique_integer([:positive])}"
    on_exit(fn -> Chaos.clean_up(mark) end)

    IO.puts("\nchaos: #{rounds} rounds from seed #{seed}")
    if not Chaos.Kills.terminal?(), do: IO.puts("chaos: no Ctrl-C, for script(1) is not there")
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

    # What the last VM has left there, it has left to the next command.
    if Cgroups.skip() == nil do
      assert {"", 0} = NetRunner.run(["true"], cgroup_path: Chaos.Shapes.cgroup() <> "/a")
      refute File.exists?(Cgroups.path(Chaos.Shapes.cgroup()))
    end
  end

  defp number(variable, default) do
    case System.get_env(variable) do
      nil -> default
      text -> String.to_integer(text)
    end
  end
end
