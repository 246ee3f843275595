defmodule Bench.Measure do
  # Runs the rivals of a case in turn, again and again (A B C, B C A, …), so that whatever else the machine does
  # meanwhile meets all of them. The first round is a warm-up and does not count.
  #
  # A case is a map:
  #
  #   * title: what is measured
  #   * rounds: how often each rival has its turn
  #   * rivals: [{name, function}]; the function returns the nanoseconds of each thing it did in its turn
  #   * reference: the name of the rival that the others are compared with
  #   * unit: {name, decimals, function from nanoseconds to that unit}
  #   * better: :less or :more
  #   * notes: lines to be printed below the table

  def run(%{rounds: rounds, rivals: rivals}) do
    samples =
      for round <- 0..rounds, {name, function} <- rotate(rivals, round), reduce: %{} do
        samples ->
          :erlang.garbage_collect()
          turn = function.()
          if round == 0, do: samples, else: Map.update(samples, name, turn, &(turn ++ &1))
      end

    Map.new(samples, fn {name, all} -> {name, statistics(all)} end)
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

  @doc "All in nanoseconds; `spread` is the distance of the quartiles as a part of the median: how noisy it was."
  def statistics(samples) do
    sorted = samples |> Enum.sort() |> List.to_tuple()
    median = quantile(sorted, 0.5)

    %{
      count: tuple_size(sorted),
      best: elem(sorted, 0),
      median: median,
      p90: quantile(sorted, 0.9),
      p99: quantile(sorted, 0.99),
      spread: (quantile(sorted, 0.75) - quantile(sorted, 0.25)) / median
    }
  end

  # The smallest sample that is not below the given part of all.
  defp quantile(sorted, part) do
    elem(sorted, max(ceil(part * tuple_size(sorted)) - 1, 0))
  end
end
