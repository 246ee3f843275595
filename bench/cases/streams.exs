defmodule Bench.Case.Streams do
  # The output of 100 commands at once, each read by a process of its own.

  alias Bench.Rivals

  @streams 100

  def new(%{bytes: bytes, rounds: rounds}) do
    each = div(bytes, @streams)
    head = Rivals.head(each)
    all = each * @streams

    script =
      "for i in $(seq #{@streams}); do #{Enum.join(head, " ")} | dd bs=64K of=/dev/null 2>/dev/null & done; wait"

    %{
      title: "#{@streams} at once of #{Enum.join(head, " ")}, read to their ends",
      rounds: rounds,
      unit: Rivals.megabytes_per_second(all),
      better: :more,
      rivals: [
        {"NetRunner.stream!", turn(each, fn -> Rivals.count(NetRunner.stream!(head)) end)},
        {"Port", turn(each, fn -> Rivals.count_port(head) end)},
        {"head | dd bs=64K", Rivals.turn(fn -> Rivals.shell(script) end)}
      ]
    }
  end

  defp turn(each, count),
    do: Rivals.turn(fn -> @streams |> Rivals.at_once(count) |> Enum.each(fn ^each -> :ok end) end)
end
