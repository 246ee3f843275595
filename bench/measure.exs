defmodule Bench.Measure do
  # Runs the rivals of a table in turn, again and again (A B C, B C A, …), so that whatever else the machine does
  # meanwhile meets all of them. The first round is a warm-up and does not count.
  #
  # A table is a map:
  #
  #   * title: what is measured
  #   * rounds: how often each rival has its turn
  #   * warm_up: false where each turn begins from nothing anyway
  #   * rivals: [{name, function}]; the function returns the numbers (mostly nanoseconds) of what it did in its turn.
  #     Those whose names begin with NetRunner are compared with all the others.
  #   * operations: how many operations one of these numbers stands for, 1 by default: CPU time is given per operation
  #   * unit: {name, decimals, function from such a number to that unit}
  #   * better: :less or :more
  #   * notes: lines to be printed below the table, or a function that returns them afterwards
  #   * budgets: see Bench.Budgets

  alias Bench.Usage

  @defaults %{warm_up: true, operations: 1, notes: [], budgets: []}

  def with_defaults(table), do: Map.merge(@defaults, table)

  @doc "Of each rival its statistics, by name; and of each of ours the ratio to each other, by both names."
  def run(%{rounds: rounds, rivals: rivals} = table) do
    first = if table.warm_up, do: 0, else: 1

    turns =
      for round <- first..rounds, {name, function} <- rotate(rivals, round), reduce: %{} do
        turns ->
          turn = take_turn(function)
          if round == 0, do: turns, else: Map.update(turns, name, [turn], &[turn | &1])
      end

    statistics = Map.new(turns, fn {name, turns} -> {name, statistics(turns, table.operations)} end)
    {statistics, ratios(table, statistics)}
  end

  defp take_turn(function) do
    :erlang.garbage_collect()
    others = Usage.of_others()
    vm = Usage.of_vm()
    samples = function.()
    vm = Usage.of_vm() - vm
    # What it has started may still be on its way out.
    Process.sleep(10)
    %{samples: samples, vm: vm, others: Usage.of_others() - others}
  end

  defp rotate(list, count) do
    {front, back} = Enum.split(list, rem(count, length(list)))
    back ++ front
  end

  @doc "Nanoseconds of `function`."
  def time(function) do
    start = System.monotonic_time(:nanosecond)
    function.()
    System.monotonic_time(:nanosecond) - start
  end

  @doc "Nanoseconds of each of `count` calls."
  def each(count, function), do: for(_ <- 1..count, do: time(function))

  # `rounds`: the median of each round; `noise`: how far the rounds lie apart, as the distance of their quartiles.
  defp statistics(turns, operations) do
    samples = Enum.flat_map(turns, & &1.samples)
    sorted = samples |> Enum.sort() |> List.to_tuple()
    rounds = turns |> Enum.reverse() |> Enum.map(&median(&1.samples))
    count = length(samples) * operations

    %{
      count: length(samples),
      best: elem(sorted, 0),
      median: median(samples),
      p90: quantile(sorted, 0.9),
      p99: quantile(sorted, 0.99),
      rounds: rounds,
      noise: spread(rounds),
      cpu_vm: turns |> Enum.map(& &1.vm) |> Enum.sum() |> Kernel./(count),
      cpu_others: turns |> Enum.map(& &1.others) |> Enum.sum() |> Kernel./(count)
    }
  end

  # The median of what the rounds say, each of which had both. Of speeds it is the ratio of speeds.
  # `noise`: 1.57 × the distance of the quartiles / √n: two medians that are farther apart than both their noises
  # differ, at about 95 % (McGill, Tukey and Larsen, 1978, "Variations of box plots").
  defp ratios(table, statistics) do
    names = Enum.map(table.rivals, &elem(&1, 0))

    for ours <- names, ours?(ours), rival <- names, rival != ours, into: %{} do
      rounds =
        for {a, b} <- Enum.zip(statistics[ours].rounds, statistics[rival].rounds), a > 0, b > 0 do
          if table.better == :less, do: a / b, else: b / a
        end

      {{ours, rival}, if(rounds != [], do: ratio(rounds))}
    end
  end

  defp ratio(rounds) do
    median = median(rounds)
    %{ratio: median, noise: median * 1.57 * spread(rounds) / :math.sqrt(length(rounds))}
  end

  def ours?(name), do: String.starts_with?(name, "NetRunner")

  def median(values) do
    sorted = values |> Enum.sort() |> List.to_tuple()
    count = tuple_size(sorted)
    (elem(sorted, div(count - 1, 2)) + elem(sorted, div(count, 2))) / 2
  end

  defp spread(values) do
    sorted = values |> Enum.sort() |> List.to_tuple()
    median = median(values)
    if median == 0, do: 0.0, else: (quantile(sorted, 0.75) - quantile(sorted, 0.25)) / median
  end

  # The smallest value that is not below the given part of all.
  defp quantile(sorted, part), do: elem(sorted, max(ceil(part * tuple_size(sorted)) - 1, 0))
end
