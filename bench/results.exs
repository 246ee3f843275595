defmodule Bench.Results do
  # Results as JSON, and two of them compared.

  alias Bench.{Budgets, Measure, Table}

  @doc "One table's result; Bench.Results.write/3 takes a list of them."
  def entry(name, table, statistics, ratios, budgets) do
    {unit, _decimals, _convert} = table.unit

    %{
      case: name,
      title: table.title,
      better: table.better,
      unit: unit,
      rivals: for({rival, _function} <- table.rivals, do: Map.put(statistics[rival], :name, rival)),
      ratios:
        for({{ours, rival}, ratio} when ratio != nil <- Enum.sort(ratios)) do
          Map.merge(ratio, %{ours: ours, rival: rival})
        end,
      budgets:
        for budget <- budgets do
          %{budget | must: Budgets.bound(budget.must), goal: Budgets.bound(budget.goal)}
        end
    }
  end

  @doc "Writes a file below the directory, named after the time, and returns its path."
  def write(directory, mode, machine, entries) do
    File.mkdir_p!(directory)
    now = DateTime.utc_now() |> DateTime.truncate(:second)
    path = Path.join(directory, "#{DateTime.to_iso8601(now, :basic)}-#{mode}.json")
    results = %{time: DateTime.to_iso8601(now), mode: mode, machine: machine, tables: entries}
    File.write!(path, [:json.format(results, &encode/3), "\n"])
    path
  end

  # `:json` takes nil for an atom like any other.
  defp encode(nil, _encoder, _state), do: "null"
  defp encode(value, encoder, state), do: :json.format_value(value, encoder, state)

  @doc "The latest results of the same mode that have one of these cases, or nil."
  def latest(directory, mode, names) do
    Path.join(directory, "*-#{mode}.json")
    |> Path.wildcard()
    |> Enum.sort(:desc)
    |> Enum.find(fn path ->
      %{"tables" => tables} = path |> File.read!() |> :json.decode()
      Enum.any?(tables, &(&1["case"] in names))
    end)
  end

  @doc """
  The second file beside the first. Times cannot be compared between two runs, for the machine was never the same;
  ratios to a rival of the same run can: what counts is the ratio of the two ratios, and whether it is more than
  the noise of both.
  """
  def compare(before, now) do
    [before_results, now_results] = for path <- [before, now], do: path |> File.read!() |> :json.decode()
    earlier = by_name(before_results)

    rows =
      for {key, now} <- Enum.sort(by_name(now_results)), before = earlier[key] do
        row(key, before, now)
      end

    header = ["", "before", "now", "now/before", "noise", ""]

    [
      "compared with #{before} (load #{before_results["machine"]["load"]})\n",
      "and now #{now} (load #{now_results["machine"]["load"]})\n\n",
      if(rows == [], do: "  they have nothing in common\n", else: Table.align([header | rows]))
    ]
  end

  # {table, ours, rival} => {ratio, noise, better}; where there is no rival, the budget itself.
  defp by_name(%{"tables" => tables}) do
    ratios =
      for table <- tables,
          %{"ratio" => ratio, "noise" => noise, "rival" => rival} = one <- table["ratios"],
          not Measure.ours?(rival) do
        {"#{table["title"]}: #{one["ours"]} / #{rival}", {ratio, noise, table["better"]}}
      end

    values =
      for table <- tables, %{"noise" => :null, "value" => value, "unit" => unit} = one <- table["budgets"] do
        {"#{one["what"]}, #{unit}", {value, nil, "less"}}
      end

    Map.new(ratios ++ values)
  end

  defp row(key, {before, before_noise, better}, {now, noise, better}) when before_noise != nil do
    change = now / before
    noise = before_noise / before + noise / now

    verdict =
      cond do
        abs(:math.log(change)) <= noise -> "="
        change < 1 == (better == "less") -> "better"
        true -> "WORSE"
      end

    [key, decimals(before), decimals(now), decimals(change), "±#{decimals(noise)}", verdict]
  end

  defp row(key, {before, _noise, _better}, {now, _now_noise, _now_better}),
    do: [key, decimals(before), decimals(now), "", "", ""]

  defp decimals(number), do: Table.decimals(number, 2)
end
