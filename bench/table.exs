defmodule Bench.Table do
  # A case and its statistics as text.

  @columns ["median", "best", "p90", "p99", "spread", "samples"]

  def format(bench, statistics) do
    {unit, _decimals, _convert} = bench.unit
    reference = statistics[bench.reference].median

    rows =
      for {name, _function} <- bench.rivals do
        statistics = statistics[name]

        [name, ratio(bench, statistics.median / reference)] ++
          Enum.map([:median, :best, :p90, :p99], &value(bench, statistics[&1])) ++
          ["#{round(statistics.spread * 100)} %", to_string(statistics.count)]
      end

    [
      [bench.title, "\n"],
      ["(#{unit}; #{bench.better} is better; ratio to #{bench.reference})\n\n"],
      align([["", "ratio" | @columns] | rows]),
      Enum.map(bench.notes, &["\n", &1]),
      if(bench.notes == [], do: [], else: "\n")
    ]
  end

  # Of times, the ratio of times; of speeds, that of speeds.
  defp ratio(%{better: :less}, ratio), do: decimals(ratio, 2)
  defp ratio(%{better: :more}, ratio), do: decimals(1 / ratio, 2)

  defp value(%{unit: {_name, decimals, convert}}, nanoseconds), do: decimals(convert.(nanoseconds), decimals)

  defp decimals(number, 0), do: number |> round() |> to_string()
  defp decimals(number, count), do: :erlang.float_to_binary(number / 1, decimals: count)

  defp align(rows) do
    widths =
      rows
      |> Enum.zip_with(& &1)
      |> Enum.map(fn column -> column |> Enum.map(&String.length/1) |> Enum.max() end)

    for [name | values] <- rows do
      [width | value_widths] = widths
      cells = Enum.zip_with(values, value_widths, &String.pad_leading/2)
      ["  ", String.pad_trailing(name, width), "  ", Enum.join(cells, "  "), "\n"]
    end
  end
end
