defmodule Bench.Case.Lines do
  # The output of `seq N`, as chunks that are counted, and as lines, which are counted too.

  alias Bench.Rivals

  @longest 1_024

  def new(settings), do: [chunks(settings), lines(settings)]

  defp chunks(%{lines: lines, floor: floor, rounds: rounds}) do
    seq = ["seq", to_string(lines)]
    bytes = bytes(lines)

    %{
      title: "seq #{lines}, as chunks",
      rounds: rounds,
      unit: Rivals.milliseconds(),
      better: :less,
      rivals: [
        {"NetRunner.stream!", Rivals.turn(fn -> ^bytes = Rivals.count(NetRunner.stream!(seq)) end)},
        {"Port", Rivals.turn(fn -> ^bytes = Rivals.count_port(seq) end)},
        {"read(2) of 64 KiB", Rivals.floor_bytes(floor, bytes, ["read", 65_536 | seq])},
        {"seq | cat", Rivals.turn(fn -> Rivals.shell("seq #{lines} | cat >/dev/null") end)}
      ]
    }
  end

  defp lines(%{lines: lines, rounds: rounds}) do
    seq = ["seq", to_string(lines)]

    %{
      title: "seq #{lines}, as lines",
      rounds: rounds,
      unit: Rivals.milliseconds(),
      better: :less,
      rivals: [
        {"NetRunner.stream!, lines:",
         Rivals.turn(fn -> ^lines = seq |> NetRunner.stream!(lines: @longest) |> Enum.reduce(0, &add/2) end)},
        {"NetRunner.stream! and Stream",
         Rivals.turn(fn -> ^lines = seq |> NetRunner.stream!() |> split() |> Enum.reduce(0, &add/2) end)},
        {"Port, {:line, #{@longest}}",
         Rivals.turn(fn -> ^lines = count_lines(Rivals.open_port(seq, line: @longest), 0) end)},
        {"seq | wc -l", Rivals.turn(fn -> {_, 0} = System.cmd("sh", ["-c", "seq #{lines} | wc -l"]) end)}
      ]
    }
  end

  defp add(_line, count), do: count + 1

  # How it is done by hand.
  defp split(chunks) do
    Stream.transform(chunks, "", fn chunk, rest ->
      {lines, [rest]} = (rest <> chunk) |> String.split("\n") |> Enum.split(-1)
      {lines, rest}
    end)
  end

  defp count_lines(port, count) do
    receive do
      {^port, {:data, {:eol, _line}}} -> count_lines(port, count + 1)
      {^port, {:exit_status, 0}} -> count
    end
  end

  # Of the numbers from 1 to `lines`, and a newline each.
  defp bytes(lines) do
    Stream.iterate(1, &(&1 * 10))
    |> Stream.take_while(&(&1 <= lines))
    |> Enum.map(fn first ->
      (min(first * 10 - 1, lines) - first + 1) * (length(Integer.digits(first)) + 1)
    end)
    |> Enum.sum()
  end
end
