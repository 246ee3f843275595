defmodule NetRunner.Test.Chaos.Kills do
  @moduledoc false
  # Whom the chaos suite kills, and what may come of it. `inside`: what the victim kills of itself; `outside`: what
  # is done to processes of the system.

  @type target :: atom()

  # Any two of these are killed at the same instant, too.
  @inside [:caller, :consumer, :server, :watcher, :fork_server_process, :supervisor, :application]
  @outside [:fork_server, :shepherd, :vm]
  @pairs for {a, i} <- Enum.with_index(@inside ++ @outside),
             b <- Enum.drop(@inside ++ @outside, i + 1),
             do: [a, b]
  @double_fault [:fork_server, :shepherd]

  @singles for target <- @inside ++ @outside, do: {target, [target]}
  @others [
    stopped_shepherd: [:stopped_shepherd],
    stopped_shepherd_and_vm: [:stopped_shepherd, :vm],
    stopped_fork_server_and_vm: [:stopped_fork_server, :vm],
    stopped_vm_continued: [:stopped_vm_continued],
    stopped_vm_killed: [:stopped_vm_killed],
    crash: [:crash],
    halt: [:halt],
    abort: [:abort],
    system_stop: [:system_stop],
    sigterm: [:sigterm],
    ctrl_c: [:ctrl_c]
  ]

  @doc "Each kind once, in the order of rounds; `:two` is any pair but the double fault."
  def kinds do
    others = if terminal?(), do: @others, else: Keyword.delete(@others, :ctrl_c)
    Keyword.keys(@singles ++ others) ++ [:two, :two, :two, :double_fault]
  end

  @doc "Whether there is script(1), which makes a terminal."
  def terminal?, do: System.find_executable("script") != nil

  @doc "The kind of the round with this seed, and what is killed in it. In `rounds_of_all/0` rounds every pair has its turn."
  def of_round(seed) do
    kinds = kinds()
    {cycle, number} = {Integer.floor_div(seed, length(kinds)), Integer.mod(seed, length(kinds))}
    kind = Enum.at(kinds, number)
    before = Enum.count(Enum.take(kinds, number), &(&1 == :two))
    {kind, targets(kind, cycle * Enum.count(kinds, &(&1 == :two)) + before)}
  end

  defp targets(:two, number), do: Enum.at(pairs(), Integer.mod(number, length(pairs())))
  defp targets(:double_fault, _number), do: @double_fault
  defp targets(kind, _number), do: Keyword.fetch!(@singles ++ @others, kind)

  @doc "In so many rounds, one after the other, whichever is the first, all pairs are killed."
  def rounds_of_all do
    kinds = kinds()
    cycles = ceil(length(pairs()) / Enum.count(kinds, &(&1 == :two)))
    # The first and the last cycle may be there in part.
    (cycles + 1) * length(kinds)
  end

  @doc "All that is killed in a run with every kind in it, but for pairs."
  def certain, do: for(kind <- kinds(), kind != :two, target <- targets(kind, 0), do: target)

  @doc "Any two of these, but for the double fault."
  def pairs, do: @pairs -- [@double_fault]

  def inside?(target), do: target in @inside

  @doc "Which faces the command has whose target is there at any moment; nil where there always is one."
  def faces(:caller), do: [:run, :capture, :process]
  def faces(:consumer), do: [:stream]
  def faces(target) when target in [:server, :shepherd, :stopped_shepherd], do: [:stream | faces(:caller)]
  def faces(_target), do: nil

  @doc "Whether the VM ends."
  def vm_ends?(targets) do
    Enum.any?(
      targets,
      &(&1 in [:vm, :stopped_vm_killed, :crash, :halt, :abort, :system_stop, :sigterm, :ctrl_c])
    )
  end

  @doc "Whether the next command need not run at once."
  def disturbs?(targets), do: Enum.any?(targets, &(&1 in [:supervisor, :application, :fork_server]))

  @doc "Whether what a caller got is documented, for commands of its own that end, and for what was killed."
  def documented?(result, targets), do: result?(result) or Enum.any?(targets, &result?(&1, result))

  defp result?({:status, status}), do: status in 0..255
  defp result?({:error, reason}), do: reason in [:timeout, :idle_timeout]
  defp result?(result), do: result == :halted or result == :ended

  defp result?(target, :killed), do: target in [:caller, :consumer]
  # Its supervisor could not start it again.
  defp result?(target, {:error, :gave_up}), do: disturbs?([target])
  # stop/1 ends a server for all who call it.
  defp result?(:server, {:error, reason}), do: reason in [:closed, :killed]
  defp result?(:fork_server, {:error, {:fork_server, _posix}}), do: true
  defp result?(:fork_server, {:error, reason}), do: reason in [:shepherd_died, :no_fork_server]
  defp result?(target, {:error, :shepherd_died}) when target in [:shepherd, :stopped_shepherd], do: true

  defp result?(target, {:error, reason}) when target in [:supervisor, :application],
    do: reason in [:not_started, :no_fork_server, :closed, :shepherd_died]

  defp result?(_target, _result), do: false
end
