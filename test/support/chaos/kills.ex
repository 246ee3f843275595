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

  @doc "What is killed in a round of this kind; `random` returns a number from 1 to its argument."
  def targets(:two, random), do: Enum.at(pairs(), random.(length(pairs())) - 1)
  def targets(:double_fault, _random), do: @double_fault
  def targets(kind, _random), do: Keyword.fetch!(@singles ++ @others, kind)

  @doc "All that is killed in a run with every kind in it, but for pairs."
  def certain,
    do: for(kind <- kinds(), kind != :two, target <- targets(kind, &Function.identity/1), do: target)

  defp pairs, do: @pairs -- [@double_fault]

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
