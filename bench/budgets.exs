defmodule Bench.Budgets do
  # The budgets of the design. A table carries its own, as maps:
  #
  #   * what: the line's name; Bench.Budgets.order/0 says where it stands
  #   * unit: of the number, "× System.cmd" or "KiB"
  #   * value: {ours, rival}, which is the ratio of these two, or a function from the statistics to the number
  #   * must, goal: {:at_most, number}, {:at_least, number}, or nil

  @order [
    "run /bin/true",
    "commands/s, 16 at a time",
    "stdout",
    "stdin and stdout through cat",
    "the same, by what Exile does",
    "1-byte ping-pong",
    "memory outside, per idle command",
    "memory inside, per idle command",
    "1,000 at once",
    "a stream's memory",
    "wake-ups, VM",
    "wake-ups, shepherds"
  ]

  @doc "What a table's budgets say, with its statistics and ratios."
  def measure(table, statistics, ratios) do
    for budget <- table.budgets do
      {value, noise} =
        case budget.value do
          {_ours, _rival} = pair -> {ratios[pair].ratio, ratios[pair].noise}
          function -> {function.(statistics), nil}
        end

      %{what: budget.what, unit: budget.unit, value: value, noise: noise}
      |> Map.merge(%{must: budget.must, goal: budget.goal})
      |> Map.merge(%{must_met: met?(value, budget.must), goal_met: met?(value, budget.goal)})
    end
  end

  def met?(_value, nil), do: nil
  def met?(value, {:at_most, bound}), do: value <= bound
  def met?(value, {:at_least, bound}), do: value >= bound

  def sort(budgets), do: Enum.sort_by(budgets, &Enum.find_index(@order, fn what -> what == &1.what end))

  def bound(nil), do: "–"
  def bound({:at_most, bound}), do: "≤ #{bound}"
  def bound({:at_least, bound}), do: "≥ #{bound}"
end
