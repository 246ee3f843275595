defmodule Bench.Case.Spawn do
  # A command that does nothing, from the call to its status. The floor is posix_spawn(3) and wait(2) in a small
  # program: no VM, no pipe, nobody who watches.

  alias Bench.{Measure, Rivals}

  @command "/bin/true"

  def new(settings) do
    turns = 20
    per_turn = div(settings.spawns, turns)

    %{
      title: "run #{@command} and wait, one at a time",
      rounds: turns,
      unit: Rivals.microseconds(),
      better: :less,
      rivals: [
        {"NetRunner.run", fn -> Measure.each(per_turn, fn -> {"", 0} = NetRunner.run([@command]) end) end},
        {"System.cmd", fn -> Measure.each(per_turn, fn -> {"", 0} = System.cmd(@command, []) end) end},
        {"posix_spawn + wait", fn -> Rivals.floor(settings.floor, ["spawn", per_turn, @command]) end}
      ],
      budgets: [
        %{
          what: "run /bin/true",
          unit: "× System.cmd",
          value: {"NetRunner.run", "System.cmd"},
          must: {:at_most, 1.0},
          goal: {:at_most, 0.8}
        }
      ]
    }
  end
end
