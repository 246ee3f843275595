defmodule NetRunner.Test.Chaos.Targets do
  @moduledoc false
  # What the victim of the chaos suite can kill of itself: BEAM processes, and the application.

  alias NetRunner.Process, as: Proc
  alias NetRunner.Table
  alias NetRunner.Test.Chaos.{Kills, Marked}

  @names %{
    watcher: NetRunner.Watcher,
    fork_server_process: NetRunner.ForkServer,
    supervisor: NetRunner.Supervisor,
    application: NetRunner.Supervisor
  }

  @typedoc "Who is to be killed, nil where there is nobody, and the marks of the commands that must end of it."
  @type aimed :: {Kills.target(), pid() | nil, (-> [String.t()])}

  @doc """
  One of several by a number from 0.0 to 1.0, or the only one there is. `callers` are those who run commands, with
  their entries.
  """
  @spec aim(Kills.target(), float(), [{pid(), map()}]) :: aimed()
  def aim(:caller, pick, callers), do: caller(:caller, pick, callers, &(&1.face != :stream))
  def aim(:consumer, pick, callers), do: caller(:consumer, pick, callers, &(&1.face == :stream))

  def aim(:server, pick, callers) do
    case pick(Enum.sort_by(Table.commands(), & &1.server), pick) do
      nil -> nobody(:server)
      row -> {:server, row.server, constant(mark(row, Map.new(callers)))}
    end
  end

  def aim(target, _pick, callers) when target in [:supervisor, :application] do
    {target, Process.whereis(@names[target]), fn -> Enum.flat_map(callers, &marks/1) end}
  end

  def aim(target, _pick, _callers), do: {target, Process.whereis(Map.fetch!(@names, target)), constant([])}

  defp caller(target, pick, callers, wanted?) do
    candidates = for {pid, entry} <- callers, wanted?.(entry), Process.alive?(pid), do: {pid, entry}

    case pick(Enum.sort(candidates), pick) do
      nil -> nobody(target)
      {pid, entry} -> {target, pid, constant([entry.mark])}
    end
  end

  defp nobody(target), do: {target, nil, constant([])}
  defp constant(marks), do: fn -> marks end

  # The command of a daemon belongs to the daemon. It may not be there yet.
  defp mark(row, entries) do
    case Map.fetch(entries, row.owner) do
      {:ok, entry} -> [entry.mark]
      :error -> for mark when mark != nil <- [row.os_pid && Marked.mark_of(row.os_pid)], do: mark
    end
  end

  # A daemon that is started again from now on may live.
  defp marks({_pid, %{face: :daemon} = entry}) do
    for start <- 1..:counters.get(entry.starts, 1)//1, do: Marked.start(entry.mark, start)
  end

  defp marks({_pid, entry}), do: [entry.mark]

  @doc """
  Kills them at once. Returns those that have died of it, not before it and of something else, and the marks of the
  commands that must end. The application is stopped by a process, which is returned, too.
  """
  @spec kill([aimed()]) :: {[Kills.target()], [String.t()], [pid()]}
  def kill(aimed) do
    marks = for {_target, _pid, marks} <- aimed, mark <- marks.(), do: mark
    {stopped, killed} = Enum.split_with(aimed, &match?({:application, _pid, _marks}, &1))
    monitored = for {target, pid, _marks} <- killed, do: {target, pid, Process.monitor(pid)}
    for {_target, pid, _monitor} <- monitored, do: Process.exit(pid, :kill)
    stoppers = for _ <- stopped, do: spawn(fn -> Application.stop(:net_runner) end)

    hit =
      for {target, _pid, monitor} <- monitored do
        receive do
          {:DOWN, ^monitor, :process, _pid, :killed} -> [target]
          {:DOWN, ^monitor, :process, _pid, _ended_by_itself} -> []
        end
      end

    {Enum.concat(hit) ++ for({target, _pid, _marks} <- stopped, do: target), Enum.uniq(marks), stoppers}
  end

  @doc "Ends the commands of these callers in order, until all of them are back."
  @spec release([pid()]) :: :ok
  def release(callers) do
    living = Enum.filter(callers, &Process.alive?/1)
    for row <- Table.commands(), row.owner in living, do: Proc.shutdown(row.server)

    if living != [] do
      receive do
      after
        10 -> release(living)
      end
    else
      :ok
    end
  end

  @doc "One of a list, by a number from 0.0 to 1.0."
  def pick([], _pick), do: nil
  def pick(list, pick), do: Enum.at(list, trunc(pick * length(list)))
end
