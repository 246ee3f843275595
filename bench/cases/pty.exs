defmodule Bench.Case.Pty do
  # A command on a terminal: what that costs more than pipes, and how fast its output is read.

  alias Bench.{Measure, Rivals}

  @command "/bin/true"

  def new(settings), do: [start(settings), output(settings)]

  defp start(%{spawns: spawns, floor: floor}) do
    turns = 10
    per_turn = div(spawns, turns * 2)

    %{
      title: "run #{@command} on a terminal and wait",
      rounds: turns,
      unit: Rivals.microseconds(),
      better: :less,
      rivals: [
        {"NetRunner.run, pty: true",
         fn -> Measure.each(per_turn, fn -> {"", 0} = NetRunner.run([@command], pty: true) end) end},
        {"without a terminal",
         fn -> Measure.each(per_turn, fn -> {"", 0} = NetRunner.run([@command]) end) end},
        {"openpt and posix_spawn",
         fn ->
           for _ <- 1..per_turn do
             [0, nanoseconds] = Rivals.floor(floor, ["terminal", 65_536, @command])
             nanoseconds
           end
         end}
      ]
    }
  end

  defp output(%{terminal: bytes, floor: floor, rounds: rounds}) do
    head = Rivals.head(bytes)

    %{
      title: "#{Enum.join(head, " ")} on a terminal, read to its end",
      rounds: rounds,
      unit: Rivals.megabytes_per_second(bytes),
      better: :more,
      rivals: [
        {"NetRunner.stream!, pty: true",
         Rivals.turn(fn -> ^bytes = Rivals.count(NetRunner.stream!(head, pty: true)) end)},
        {"read(2) of 64 KiB", Rivals.floor_bytes(floor, bytes, ["terminal", 65_536 | head])}
      ]
    }
  end
end
