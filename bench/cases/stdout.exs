defmodule Bench.Case.Stdout do
  # The output of `head -c N /dev/zero`, to its end. `counted`: each piece is dropped when its size has been
  # added up. `collected`: the result is one binary of N bytes.

  alias Bench.Rivals

  def new(%{bytes: bytes, floor: floor, rounds: rounds}) do
    head = Rivals.head(bytes)
    dd = "#{Enum.join(head, " ")} | dd bs=64K of=/dev/null 2>/dev/null"
    collect? = memory_for?(bytes)

    %{
      title: "#{Enum.join(head, " ")}, read to its end",
      # Who runs on which processor makes more of a difference here than anywhere else.
      rounds: 2 * rounds,
      unit: Rivals.megabytes_per_second(bytes),
      better: :more,
      notes: if(collect?, do: [], else: ["(too little memory to collect)"]),
      rivals:
        [
          {"NetRunner.stream!, counted",
           Rivals.turn(fn -> ^bytes = Rivals.count(NetRunner.stream!(head)) end)},
          {"Port, counted", Rivals.turn(fn -> ^bytes = Rivals.count_port(head) end)}
        ] ++
          if collect? do
            [
              {"NetRunner.run, collected",
               Rivals.turn(fn -> {<<_::binary-size(bytes)>>, 0} = NetRunner.run(head) end)},
              {"System.cmd, collected",
               Rivals.turn(fn -> {<<_::binary-size(bytes)>>, 0} = System.cmd(hd(head), tl(head)) end)}
            ]
          else
            []
          end ++
          [
            {"head | dd bs=64K", Rivals.turn(fn -> Rivals.shell(dd) end)},
            {"read(2) of 64 KiB", Rivals.floor_bytes(floor, bytes, ["read", 65_536 | head])},
            {"read(2) of 1 MiB", Rivals.floor_bytes(floor, bytes, ["read", 1_048_576 | head])}
          ],
      budgets: [
        %{
          what: "stdout",
          unit: "× head | dd bs=64K",
          value: {"NetRunner.stream!, counted", "head | dd bs=64K"},
          must: {:at_least, 1.0},
          goal: {:at_least, 1.3}
        }
      ]
    }
  end

  # A binary that grows is moved, and two of them exist at that moment.
  defp memory_for?(bytes) do
    with {:ok, text} <- File.read("/proc/meminfo"),
         [_, kib] <- Regex.run(~r/^MemAvailable:\s*(\d+) kB$/m, text) do
      String.to_integer(kib) * 1024 > 4 * bytes
    else
      _ -> true
    end
  end
end
