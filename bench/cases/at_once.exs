defmodule Bench.Case.AtOnce do
  # As spawn, from 16 and from 64 processes at a time. The floor has as many threads.

  alias Bench.{Measure, Rivals}

  @command "/bin/true"

  def new(settings), do: for(workers <- [16, 64], do: table(workers, settings))

  defp table(workers, settings) do
    each = div(settings.batch, workers)
    commands = workers * each

    %{
      title: "run #{@command} and wait, #{workers} at a time",
      rounds: settings.rounds,
      # Nanoseconds per command.
      operations: commands,
      unit: {"commands/s", 0, &(1_000_000_000 / &1)},
      better: :more,
      rivals: [
        {"NetRunner.run", turn(workers, each, fn -> {"", 0} = NetRunner.run([@command]) end)},
        {"System.cmd", turn(workers, each, fn -> {"", 0} = System.cmd(@command, []) end)},
        {"posix_spawn + wait",
         fn ->
           [nanoseconds] = Rivals.floor(settings.floor, ["workers", workers, each, @command])
           [nanoseconds / commands]
         end}
      ],
      budgets: budgets(workers)
    }
  end

  defp turn(workers, each, function) do
    fn ->
      all = Measure.time(fn -> Rivals.at_once(workers, fn -> for(_ <- 1..each, do: function.()) end) end)
      [all / (workers * each)]
    end
  end

  defp budgets(16) do
    [
      %{
        what: "commands/s, 16 at a time",
        unit: "× System.cmd",
        value: {"NetRunner.run", "System.cmd"},
        must: {:at_least, 1.0},
        goal: {:at_least, 1.3}
      }
    ]
  end

  defp budgets(_workers), do: []
end
