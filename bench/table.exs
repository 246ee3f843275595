defmodule Bench.Table do
  # Tables and budgets as text.

  alias Bench.{Budgets, Measure}

  def format(table, statistics, ratios) do
    {unit, _decimals, _convert} = table.unit
    names = Enum.map(table.rivals, &elem(&1, 0))
    ours = names |> Enum.filter(&Measure.ours?/1) |> Enum.zip(~w(a b c d))
    header = ["", "median", "p90", "p99", "noise", "CPU VM", "others", "n"]

    rows =
      for name <- names do
        statistics = statistics[name]

        ["#{Map.get(Map.new(ours), name, " ")} #{name}"] ++
          Enum.map([:median, :p90, :p99], &value(table, statistics[&1])) ++
          ["#{round(statistics.noise * 100)} %", cpu(statistics.cpu_vm), cpu(statistics.cpu_others)] ++
          [to_string(statistics.count)] ++
          for({our, _letter} <- ours, length(names) > 1, do: ratio(ratios[{our, name}]))
      end

    header = header ++ for({_our, letter} <- ours, length(names) > 1, do: "#{letter} / this")
    notes = if is_function(table.notes), do: table.notes.(), else: table.notes

    [
      [table.title, "\n"],
      ["(#{unit}, #{table.better} is better; CPU in ms)\n\n"],
      align([header | rows]),
      Enum.map(notes, &["  ", &1, "\n"])
    ]
  end

  def format_budgets(budgets) do
    rows =
      for budget <- budgets do
        noise = if budget.noise, do: " ±#{decimals(budget.noise, 2)}", else: ""

        [budget.what, Budgets.bound(budget.must), Budgets.bound(budget.goal)] ++
          ["#{decimals(budget.value, 2)}#{noise}", budget.unit, verdict(budget)]
      end

    align([["", "must", "goal", "measured", "unit", ""] | rows])
  end

  defp verdict(%{must_met: false}), do: "NOT MET"
  defp verdict(%{goal_met: false}), do: "met, not the goal"
  defp verdict(_budget), do: "met"

  defp ratio(nil), do: "–"
  defp ratio(%{ratio: ratio, noise: noise}), do: "#{decimals(ratio, 2)} ±#{decimals(noise, 2)}"

  # Nanoseconds, as ms.
  defp cpu(nanoseconds) when nanoseconds < 100_000_000, do: decimals(nanoseconds / 1_000_000, 2)
  defp cpu(nanoseconds), do: decimals(nanoseconds / 1_000_000, 0)

  defp value(%{unit: {_name, decimals, convert}}, number), do: decimals(convert.(number), decimals)

  def decimals(number, 0), do: number |> round() |> to_string()
  def decimals(number, count), do: :erlang.float_to_binary(number / 1, decimals: count)

  @doc "Rows of cells; the first column is to the left, the others to the right."
  def align(rows) do
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
