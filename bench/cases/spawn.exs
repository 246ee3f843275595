defmodule Bench.Case.Spawn do
  # A command that does nothing, from the call to its status. The floor is posix_spawn(3) and wait(2) in a small
  # program: no VM, no pipe, nobody who watches.

  alias Bench.Measure

  @command "/bin/true"

  def new(settings) do
    turns = 20
    per_turn = div(settings.spawns, turns)

    %{
      title: "run #{@command} and wait, one at a time",
      rounds: turns,
      reference: "System.cmd",
      unit: {"microseconds", 0, &(&1 / 1_000)},
      better: :less,
      notes: [],
      rivals: [
        {"NetRunner.run", fn -> each(per_turn, fn -> {"", 0} = NetRunner.run([@command]) end) end},
        {"System.cmd", fn -> each(per_turn, fn -> {"", 0} = System.cmd(@command, []) end) end},
        {"posix_spawn + wait", fn -> floor(settings.floor, per_turn) end}
      ]
    }
  end

  defp each(count, function), do: for(_ <- 1..count, do: Measure.time(function))

  # It takes the time of each by itself; its own start does not count.
  defp floor(program, count) do
    {output, 0} = System.cmd(program, ["spawn", to_string(count), @command])
    output |> String.split() |> Enum.map(&String.to_integer/1)
  end
end
