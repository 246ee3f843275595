defmodule NetRunner.Cgroup.Limits do
  @moduledoc false
  # The limits of a control group: what the option `:cgroup` takes, and what goes into the group's files.

  @highest 0xFFFF_FFFF_FFFF_FFFF

  # cgroup-v2.rst of the kernel: "max" is no limit; weights are 100 unless said otherwise.
  @limits [
    memory_max: :amount,
    memory_high: :amount,
    memory_swap_max: :amount,
    memory_oom_group: :boolean,
    cpu_max: :quota,
    cpu_weight: :weight,
    pids_max: :amount,
    io_weight: :weight,
    cpuset_cpus: :cpus
  ]

  @names Keyword.keys(@limits)

  @doc "Each limit with the text for its file."
  @spec cast(term()) :: {:ok, [{atom(), binary()}]} | :error
  def cast(limits) when is_map(limits) and not is_struct(limits), do: limits |> Map.to_list() |> cast()

  def cast(limits) when is_list(limits) do
    if Keyword.keyword?(limits) and Enum.all?(limits, fn {name, value} -> text(@limits[name], value) end) do
      # Always in the same order. Of two values of one the first counts, as everywhere with keyword lists.
      {:ok,
       for(
         {name, type} <- @limits,
         {:ok, value} <- [Keyword.fetch(limits, name)],
         do: {name, text(type, value)}
       )}
    else
      :error
    end
  end

  def cast(_other), do: :error

  # nil: no value of this limit.
  defp text(:amount, :infinity), do: "max"
  defp text(:amount, amount) when is_integer(amount) and amount in 0..@highest, do: to_string(amount)
  defp text(:boolean, boolean) when is_boolean(boolean), do: if(boolean, do: "1", else: "0")
  defp text(:weight, weight) when is_integer(weight) and weight in 1..10_000, do: to_string(weight)

  # At least a millisecond, in a period of at most a second.
  defp text(:quota, {quota, period}) when is_integer(period) and period in 1_000..1_000_000 do
    cond do
      quota == :infinity -> "max #{period}"
      is_integer(quota) and quota in 1_000..@highest -> "#{quota} #{period}"
      true -> nil
    end
  end

  defp text(:cpus, cpus) when is_binary(cpus) do
    if cpus =~ ~r/\A\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*\z/, do: cpus
  end

  defp text(_type, _value), do: nil

  @spec expected() :: String.t()
  def expected do
    "a map or a keyword list of #{Enum.map_join(@names, ", ", &inspect/1)}: bytes or processes are non-negative integers " <>
      "or :infinity, :memory_oom_group is a boolean, :cpu_max is {microseconds or :infinity, period in microseconds} " <>
      "with at least 1000 in a period from 1000 to 1000000, weights are from 1 to 10000, :cpuset_cpus is a list such " <>
      "as \"0-3,7\""
  end
end
