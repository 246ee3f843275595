defmodule NetRunner.Watcher do
  @moduledoc false
  # Sees to what servers leave behind.
  #
  # * It monitors every server (NetRunner.Process.Server). One that dies before its command is over has left a
  #   row in the table: its pipes are closed, and its control is taken over and read until nothing of the
  #   command is left. (The stop sequence has begun without us: the NIF monitors the server too.) A shepherd
  #   that does not finish in time is killed. Then the row goes.
  # * It holds the controls of commands whose leftovers are kept.
  # * When the application stops, it ends all commands, and waits for it.
  # * Another Watcher can take its place at any time: it reads the table. Leftovers that were kept end then,
  #   for the NIF has monitored the one before as their server.

  use GenServer, shutdown: :infinity

  require Logger

  alias NetRunner.Cgroup.Sweep
  alias NetRunner.{Cgroup, ForkServer, Nif, Table}

  @typep held :: %{
           kind: :orphan | :kept,
           server: pid(),
           control: Nif.control(),
           kill_timeout: non_neg_integer(),
           cgroup: Cgroup.t() | nil
         }

  @typep state :: %{
           monitors: %{reference() => pid()},
           # By the reference that its messages carry.
           held: %{reference() => held()},
           # Those of them whose shepherd has died, by the monitor of what ends the rest.
           sweeps: %{reference() => reference()},
           waiting: %{pid() => [GenServer.from()]},
           stopping: boolean()
         }

  # After kill_timeout a shepherd may take this long; after its SIGKILL it is given up.
  @hung_after 1_000
  @abandon_after 500
  # At the application's stop: what servers and the Watcher itself need for hung shepherds, and a little.
  @stop_margin 3_000
  @retry_after 10

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_arg), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @doc "This server is to be watched. Returns who does it, for `watch_again/2`."
  @spec watch(server :: pid()) :: pid() | nil
  def watch(server) do
    watcher = Process.whereis(__MODULE__)
    if watcher, do: send(watcher, {:watch, server})
    watcher
  end

  @doc """
  To be called when the server's row is in the table. A Watcher that has died since it was told by `watch/1`
  may have a successor that has read the table before the row was there.
  """
  @spec watch_again(server :: pid(), watcher :: pid() | nil) :: :ok
  def watch_again(server, watcher) do
    if Process.whereis(__MODULE__) != watcher, do: watch(server)
    :ok
  end

  @doc "Takes the control of a command whose leftovers are kept. Called by its server."
  @spec keep(server :: pid(), Nif.control()) :: :ok | {:error, :no_watcher}
  def keep(server, control) do
    GenServer.call(__MODULE__, {:keep, server, control}, :infinity)
  catch
    :exit, _reason -> {:error, :no_watcher}
  end

  @doc "Returns when the server has died and nothing of its command is left."
  @spec await_gone(server :: pid()) :: :ok
  def await_gone(server) do
    if Table.member?(server) do
      try do
        GenServer.call(__MODULE__, {:await_gone, server}, :infinity)
      catch
        :exit, _reason ->
          # It is being restarted. (Or all of NetRunner: then there is no table.)
          Process.sleep(@retry_after)
          await_gone(server)
      end
    else
      :ok
    end
  end

  # -- server ------------------------------------------------------------------------------------------

  @impl true
  def init([]) do
    Process.flag(:trap_exit, true)
    ForkServer.resume_spawning()
    state = %{monitors: %{}, held: %{}, sweeps: %{}, waiting: %{}, stopping: false}
    state = Enum.reduce(Table.kept(), state, &take_from_the_dead/2)
    {:ok, Enum.reduce(Table.commands(), state, &monitor(&2, &1.server))}
  end

  # The stop is for the case that it died before it was the server.
  defp take_from_the_dead({server, control, kill_timeout, cgroup}, state) do
    Nif.control_stop(control)
    hold(state, :orphan, server, control, %{kill_timeout: kill_timeout, cgroup: cgroup})
  end

  @impl true
  def handle_call({:keep, _server, _control}, _from, %{stopping: true} = state) do
    {:reply, {:error, :no_watcher}, state}
  end

  def handle_call({:keep, server, control}, _from, state) do
    {:ok, row} = Table.fetch(server)
    Table.insert_kept(server, control, row.info.kill_timeout, row.info.cgroup)
    Nif.control_set_owner(control, nil)
    {:reply, :ok, hold(state, :kept, server, control, row.info)}
  end

  def handle_call({:await_gone, server}, from, state) do
    if Table.member?(server) do
      {:noreply, %{state | waiting: Map.update(state.waiting, server, [from], &[from | &1])}}
    else
      {:reply, :ok, state}
    end
  end

  @impl true
  def handle_info({:watch, server}, state) do
    # It was being started when the others were told.
    if state.stopping, do: GenServer.cast(server, :stop_and_end)
    {:noreply, monitor(state, server)}
  end

  def handle_info({:DOWN, monitor, :process, _sweep, _reason}, %{sweeps: sweeps} = state)
      when is_map_key(sweeps, monitor) do
    {ref, state} = pop_in(state.sweeps[monitor])
    {:noreply, release(state, ref)}
  end

  def handle_info({:DOWN, monitor, :process, server, _reason}, state) do
    {:noreply, server_down(%{state | monitors: Map.delete(state.monitors, monitor)}, server)}
  end

  def handle_info({:select, _control, ref, _what}, state) do
    gone? = not is_map_key(state.held, ref) or sweeping?(state, ref)
    {:noreply, if(gone?, do: state, else: listen(state, ref))}
  end

  def handle_info({:timeout, _timer, {step, ref}}, state) do
    held = state.held[ref]
    gone_meanwhile? = held == nil or sweeping?(state, ref)
    {:noreply, if(gone_meanwhile?, do: state, else: overdue(state, step, ref, held))}
  end

  def handle_info({:EXIT, _pid, _reason}, state), do: {:noreply, state}

  # As GenServer does: a crash would end all that is held.
  def handle_info(message, state) do
    Logger.error("NetRunner.Watcher has received an unexpected message: #{inspect(message)}")
    {:noreply, state}
  end

  @impl true
  def terminate(reason, state) do
    if orderly?(reason), do: end_all(state)
  end

  defp orderly?(:normal), do: true
  defp orderly?(:shutdown), do: true
  defp orderly?({:shutdown, _reason}), do: true
  defp orderly?(_crash), do: false

  defp monitor(state, server), do: put_in(state.monitors[Process.monitor(server)], server)

  # -- servers that died -------------------------------------------------------------------------------

  @spec server_down(state(), pid()) :: state()
  defp server_down(state, server) do
    case Table.fetch(server) do
      {:ok, row} ->
        for pipe <- [row.stdin, row.stdout, row.stderr], pipe, do: Nif.close(pipe)
        if row.writer, do: Process.exit(row.writer, :kill)

        if held?(state, server),
          do: gone(state, server),
          else: hold(state, :orphan, server, row.control, row.info)

      # In order, or found by two monitors.
      :error ->
        gone(state, server)
    end
  end

  defp held?(state, server), do: Enum.any?(state.held, fn {_ref, held} -> held.server == server end)

  @spec hold(state(), :orphan | :kept, pid(), Nif.control(), map()) :: state()
  defp hold(state, kind, server, control, %{kill_timeout: kill_timeout, cgroup: cgroup}) do
    ref = make_ref()
    Nif.control_take_over(control)
    if kind == :orphan, do: arm(kill_timeout + @hung_after, {:kill, ref})
    held = %{kind: kind, server: server, control: control, kill_timeout: kill_timeout, cgroup: cgroup}
    listen(put_in(state.held[ref], held), ref)
  end

  defp listen(state, ref) do
    held = state.held[ref]
    events = Nif.control_read(held.control, ref)

    # It is being stopped, and may be too broken for that. (An orphan has its deadline already.)
    if held.kind == :kept and Enum.any?(events, &match?({:error, _reason}, &1)),
      do: arm(held.kill_timeout + @hung_after, {:kill, ref})

    case Enum.find(events, &over?/1) do
      nil -> state
      :eof -> shepherd_died(state, ref, held)
      _over -> release(state, ref)
    end
  end

  # With its last word missing.
  defp shepherd_died(state, ref, %{cgroup: nil}), do: release(state, ref)

  defp shepherd_died(state, ref, held) do
    Nif.control_close(held.control)
    put_in(state.sweeps[Sweep.start(held.cgroup)], ref)
  end

  defp sweeping?(state, ref), do: ref in Map.values(state.sweeps)

  defp over?(:done), do: true
  defp over?(:eof), do: true
  defp over?({:failed, _reason}), do: true
  # The socket is shut down, and its end follows.
  defp over?({:error, _reason}), do: false
  defp over?(:forked), do: false
  defp over?(:used), do: false
  defp over?({:started, _os_pid}), do: false
  defp over?({:signalled, _result}), do: false
  defp over?({:exited, _how, _rusage}), do: false
  defp over?({:cgroup, _stats}), do: false

  defp over?({:unkillable, os_pids}) do
    Logger.error("NetRunner cannot kill #{inspect(os_pids)}, alive five seconds after SIGKILL")
    true
  end

  defp overdue(state, :kill, ref, held) do
    Logger.error("a shepherd of NetRunner does not finish; it and its command are killed")
    _ = Nif.control_kill(held.control)
    arm(@abandon_after, {:abandon, ref})
    state
  end

  defp overdue(state, :abandon, ref, held), do: shepherd_died(state, ref, held)

  defp arm(milliseconds, message), do: :erlang.start_timer(milliseconds, self(), message)

  defp release(state, ref) do
    {held, state} = pop_in(state.held[ref])
    Nif.control_close(held.control)
    Table.delete_kept(held.server)

    case held.kind do
      :orphan -> gone(state, held.server)
      :kept -> state
    end
  end

  defp gone(state, server) do
    Table.delete(server)
    {waiting, state} = pop_in(state.waiting[server])
    Enum.each(waiting || [], &GenServer.reply(&1, :ok))
    state
  end

  # -- the application stops ---------------------------------------------------------------------------

  defp end_all(state) do
    ForkServer.stop_spawning()
    rows = Table.commands()
    Enum.each(rows, &GenServer.cast(&1.server, :stop_and_end))
    held = Map.values(state.held)
    Enum.each(held, &Nif.control_stop(&1.control))

    kill_timeouts = Enum.map(rows, & &1.info.kill_timeout) ++ Enum.map(held, & &1.kill_timeout)
    deadline = now() + Enum.max(kill_timeouts, fn -> 0 end) + @stop_margin
    await_all(%{state | stopping: true}, deadline)
  catch
    # The fork server's process is being restarted: nothing is left to end it in order.
    :exit, _reason -> :ok
  end

  defp await_all(state, deadline) do
    remaining = deadline - now()

    cond do
      state.held == %{} and state.monitors == %{} ->
        :ok

      remaining <= 0 ->
        Enum.each(controls(state), &Nif.control_kill/1)

      true ->
        receive do
          {:"$gen_call", from, request} ->
            case handle_call(request, from, state) do
              {:reply, reply, state} ->
                GenServer.reply(from, reply)
                await_all(state, deadline)

              {:noreply, state} ->
                await_all(state, deadline)
            end

          message ->
            {:noreply, state} = handle_info(message, state)
            await_all(state, deadline)
        after
          remaining -> await_all(state, deadline)
        end
    end
  end

  defp controls(state) do
    Enum.map(Map.values(state.held), & &1.control) ++ Enum.map(Table.commands(), & &1.control)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
