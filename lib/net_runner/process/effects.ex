defmodule NetRunner.Process.Effects do
  @moduledoc false
  # Does what NetRunner.Process.State has decided, in the server's process.

  require Logger

  alias NetRunner.Cgroup.Sweep
  alias NetRunner.{ForkServer, Nif, Stats, Table, Watcher, Writer}
  alias NetRunner.Process.{Drain, Server, State, Tail}

  @sigkill 9

  @doc "Takes the new state, and performs its effects in order."
  @spec perform(Server.data(), {[State.effect()], State.t()}) :: Server.data()
  def perform(data, {effects, state}), do: Enum.reduce(effects, %{data | state: state}, &effect/2)

  defp effect(:answered, data) do
    ForkServer.answer(data.fork_server)
    data
  end

  defp effect({:started, os_pid}, data) do
    Table.update(self(), :os_pid, os_pid)
    data
  end

  # Who is told of the exit finds all that the command has written to stderr.
  defp effect(:exited, data) do
    Table.update(self(), :exited, true)
    %{data | exited: System.monotonic_time(:millisecond), drain: Drain.read(data.drain)}
  end

  defp effect({:reply, from, reply}, data) do
    :gen_server.reply(from, reply)
    data
  end

  # It is ending.
  defp effect({:end, _report?, replies}, %{input_ends: {monitor, reason, before}} = data) do
    %{data | input_ends: {monitor, reason, before ++ replies}}
  end

  # Who waits for a command whose caller is dead waits for those of its input as well.
  defp effect({:end, report?, replies}, data) do
    reason = if report? or data.reports?, do: {:shutdown, {:report, report(data)}}, else: :normal
    let_go(data)

    case data.owner_down and Table.writer(self()) do
      {:ok, writer} when writer != nil ->
        {_pid, monitor} = spawn_monitor(Writer, :abandon, [writer])
        %{data | input_ends: {monitor, reason, replies}}

      _no_input ->
        leave(data, reason, replies)
    end
  end

  defp effect(:stop, data) do
    Nif.control_stop(data.control)
    data
  end

  # On a socket that is closed the answer is its end, which comes as an event.
  defp effect({:signal, signal}, data) do
    _ = Nif.control_signal(data.control, signal)
    data
  end

  defp effect(:probe, data), do: effect({:signal, @sigkill}, data)

  defp effect({:arm, name, milliseconds}, data) do
    data = disarm(data, name)
    put_in(data.timers[name], :erlang.start_timer(milliseconds, self(), name))
  end

  defp effect({:disarm, name}, data), do: disarm(data, name)
  defp effect(:disarm_all, data), do: data.timers |> Map.keys() |> Enum.reduce(data, &disarm(&2, &1))

  defp effect(:fork_server_hangs, data) do
    ForkServer.unresponsive(data.fork_server)
    data
  end

  defp effect(:kill_shepherd, data) do
    case Nif.control_kill(data.control) do
      :ok -> data
      {:error, :no_pidfd} -> perform(data, State.abandon(data.state))
    end
  end

  defp effect(:close_stdin, data) do
    if data.stdin, do: Nif.close(data.stdin)
    data
  end

  defp effect(:finish_pipes, data) do
    if data.stdin, do: Nif.fail(data.stdin, :epipe)
    if data.stdout, do: Nif.finish(data.stdout)
    if data.stderr, do: Nif.finish(data.stderr)
    %{data | drain: Drain.finish(data.drain)}
  end

  defp effect({:fail_pipes, reason}, data) do
    data = %{data | drain: Drain.finish(data.drain)}
    for pipe <- [data.stdin, data.stdout, data.stderr], pipe, do: Nif.fail(pipe, reason)
    data
  end

  defp effect(:hand_over, data) do
    case Watcher.keep(self(), data.control) do
      :ok -> %{data | control: nil}
      # It stays here then, and the leftovers end with this server.
      {:error, :no_watcher} -> data
    end
  end

  defp effect(:close_control, data) do
    Nif.control_close(data.control)
    %{data | control: nil}
  end

  defp effect(:sweep, data), do: %{data | sweep: Sweep.start(data.cgroup)}

  defp effect({:log_unkillable, os_pids}, data) do
    Logger.error("NetRunner cannot kill #{inspect(os_pids)}, alive five seconds after SIGKILL", metadata())
    data
  end

  defp effect(:log_hung, data) do
    Logger.error("a shepherd of NetRunner does not answer; it and its command are killed", metadata())
    data
  end

  defp disarm(%{timers: timers} = data, name) do
    case timers do
      %{^name => timer} ->
        :erlang.cancel_timer(timer, async: true, info: false)
        %{data | timers: Map.delete(timers, name)}

      _not_armed ->
        data
    end
  end

  defp metadata do
    case Table.fetch(self()) do
      {:ok, row} -> [os_pid: row.os_pid, command: row.info.command]
      :error -> []
    end
  end

  @doc "Nobody can read or write any more."
  @spec close_pipes(Server.data()) :: Server.data()
  def close_pipes(data) do
    for pipe <- [data.stdin, data.stdout, data.stderr], pipe, do: Nif.close(pipe)
    %{data | drain: Drain.close(data.drain)}
  end

  @doc "Nothing of the commands of the input is left."
  @spec input_ended(Server.data()) :: Server.data()
  def input_ended(%{input_ends: {_monitor, reason, replies}} = data), do: leave(data, reason, replies)

  @doc "Everything that the server holds is let go."
  @spec release(Server.data()) :: :ok
  def release(data) do
    let_go(data)
    Table.delete(self())
  end

  defp let_go(data) do
    close_pipes(data)
    if data.control, do: Nif.control_close(data.control)
  end

  defp leave(data, reason, replies) do
    Table.delete(self())
    for {from, reply} <- replies, do: :gen_server.reply(from, reply)
    %{data | ended: reason}
  end

  @spec report(Server.data()) :: Server.report()
  defp report(data) do
    %{
      outcome: State.result(data.state),
      stderr_tail: Tail.to_binary(data.drain.tail),
      stats: stats(data),
      writer_killed: data.writer_killed
    }
  end

  @spec stats(Server.data()) :: Stats.t()
  def stats(data) do
    Stats.new(
      {counters(data.stdin), counters(data.stdout), counters(data.stderr)},
      DateTime.from_unix!(data.started_at, :millisecond),
      (data.exited || System.monotonic_time(:millisecond)) - data.started,
      data.state.exit,
      data.state.cgroup
    )
  end

  defp counters(nil), do: nil
  defp counters(pipe), do: Nif.counters(pipe)
end
