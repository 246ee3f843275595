defmodule Bench.Case.PingPong do
  # One byte to `cat`, and back, again and again.

  alias Bench.{Measure, Rivals}
  alias NetRunner.Process, as: Proc

  def new(%{pings: pings, floor: floor, rounds: rounds}) do
    %{
      title: "one byte through cat and back",
      rounds: rounds,
      unit: {"microseconds", 1, &(&1 / 1_000)},
      better: :less,
      rivals: [
        {"NetRunner.Process", fn -> process(pings) end},
        {"Port", fn -> port(pings) end},
        {"write(2) and read(2)", fn -> Rivals.floor(floor, ["ping", pings, "cat"]) end}
      ],
      budgets: [
        %{
          what: "1-byte ping-pong",
          unit: "× Port",
          value: {"NetRunner.Process", "Port"},
          must: {:at_most, 1.5},
          goal: {:at_most, 1.0}
        }
      ]
    }
  end

  defp process(pings) do
    {:ok, cat} = Proc.start("cat")

    times =
      Measure.each(pings, fn ->
        :ok = Proc.write(cat, "x")
        {:ok, "x"} = Proc.read(cat)
      end)

    :ok = Proc.stop(cat)
    times
  end

  defp port(pings) do
    port = Rivals.open_port(["cat"])

    times =
      Measure.each(pings, fn ->
        Port.command(port, "x")

        receive do
          {^port, {:data, "x"}} -> :ok
        end
      end)

    Port.close(port)
    times
  end
end
