defmodule NetRunner.Process.Server do
  @moduledoc false
  # The server of one command: hears what its shepherd says and what callers ask, lets NetRunner.Process.State
  # decide, and has NetRunner.Process.Effects do it.
  #
  # * It never waits for the command, so that it can always answer.
  # * Its row stands in NetRunner.Table, and the Watcher knows it, before anyone learns its pid. At its end
  #   the row goes, after the pipes and the control are closed, and before the last callers are answered.
  # * Its death, however it comes, ends the command: the NIF monitors it.

  @behaviour :gen_server

  require Logger

  alias NetRunner.{Cgroup, Command, ForkServer, Nif, Options, Stats, Table}
  alias NetRunner.Process.{Drain, Effects, Launch, State, Tail}

  @typedoc """
  What to run. `stdin`: whether there is somebody to write. `start_awaited`: whether somebody waits until the
  command runs. `spawned`: what the caller has spawned; where it is
  nil the server spawns, and starting is over only when the command runs, so that what prevents it is the result
  of `start/2`; otherwise that comes as the outcome.
  """
  @type start :: %{
          command: Command.t(),
          options: Options.t(),
          stdin: :pipe | :null,
          start_awaited: boolean(),
          link: boolean(),
          spawned: Launch.spawned() | nil
        }

  @type data :: %{
          state: State.t(),
          # nil when it is closed, or the Watcher has it.
          control: Nif.control() | nil,
          control_ref: reference(),
          stdin: Nif.pipe() | nil,
          stdout: Nif.pipe() | nil,
          stderr: Nif.pipe() | nil,
          drain: Drain.t(),
          # Those that are armed. The message of one that was disarmed too late is not found here.
          timers: %{State.timer() => reference()},
          fork_server: ForkServer.t(),
          # How many spawns it had answered when it was last looked at.
          answered: non_neg_integer(),
          owner_monitor: reference() | nil,
          table_monitor: reference(),
          cgroup: Cgroup.t() | nil,
          # Of what ends the rest in the cgroup of a shepherd that has died.
          sweep: reference() | nil,
          owner_down: boolean(),
          # Of what waits for the commands of the input; the reason to end with then, and who is answered.
          input_ends: {monitor :: reference(), term(), [{State.caller(), term()}]} | nil,
          writer: {pid(), monitor :: reference()} | nil,
          # The exit reason of a writer that was killed.
          writer_killed: term(),
          # Milliseconds: of System.system_time/1, and of System.monotonic_time/1.
          started_at: integer(),
          started: integer(),
          exited: integer() | nil,
          # Whether it ends with a report in any case: it runs a command of `run` or `stream`, and nobody else
          # waits for its end.
          reports?: boolean(),
          # The reason to end with.
          ended: term()
        }

  @typedoc "All that is known of a command at its end."
  @type report :: %{
          outcome: State.outcome(),
          stderr_tail: binary(),
          stats: Stats.t(),
          writer_killed: term()
        }

  @spec start(start(), keyword()) :: {:ok, pid()} | {:error, term()}
  def start(start, opts) do
    started =
      if start.link,
        do: GenServer.start_link(__MODULE__, start, opts),
        else: GenServer.start(__MODULE__, start, opts)

    # By somebody else, while it was starting.
    with {:error, :killed} <- started, do: {:error, :closed}
  end

  @doc "Starts the server of what the caller has spawned, and does not wait until it is there."
  @spec start_async(start()) :: pid()
  def start_async(%{spawned: %{}} = start), do: :proc_lib.spawn(__MODULE__, :enter, [start])

  # -- start -------------------------------------------------------------------------------------------

  @doc false
  def enter(start) do
    {:ok, data, {:continue, :listen} = listen} = init(start)
    :gen_server.enter_loop(__MODULE__, [], data, listen)
  end

  @impl :gen_server
  def init(start) do
    # Only where an exit signal of a supervisor means "end in order".
    if start.link, do: Process.flag(:trap_exit, true)

    case start.spawned do
      nil ->
        with {:ok, spawned} <- Launch.spawn(start), do: spawned |> serve(start) |> read_control() |> started()

      spawned ->
        Nif.control_take_over(spawned.control)
        {:ok, serve(spawned, start), {:continue, :listen}}
    end
  end

  defp serve(spawned, %{options: options} = start) do
    Launch.announce(spawned, start)

    spawned
    |> new(options, start.spawned != nil)
    |> Effects.perform(State.new(options.leftovers, options.kill_timeout, spawned.cgroup != nil))
  end

  @impl :gen_server
  def handle_continue(:listen, data), do: data |> read_control() |> noreply()

  defp new(spawned, options, reports?) do
    %{
      state: nil,
      control: spawned.control,
      control_ref: make_ref(),
      stdin: spawned.stdin,
      stdout: spawned.stdout,
      stderr: spawned.stderr,
      drain: Drain.new(if(options.stderr == :consume, do: spawned.stderr), options.stderr_tail_bytes),
      timers: %{},
      fork_server: spawned.fork_server,
      answered: ForkServer.answered(spawned.fork_server),
      owner_monitor: options.owner && Process.monitor(options.owner),
      table_monitor: Process.monitor(NetRunner.Supervisor),
      cgroup: spawned.cgroup,
      sweep: nil,
      owner_down: false,
      input_ends: nil,
      writer: nil,
      writer_killed: nil,
      started_at: System.system_time(:millisecond),
      started: spawned.started,
      exited: nil,
      reports?: reports?,
      ended: nil
    }
  end

  # Everything but the start stays in the mailbox for later.
  defp await_start(%{control_ref: control_ref, timers: timers, sweep: sweep} = data) do
    receive do
      {:select, _control, ^control_ref, _what} ->
        data |> read_control() |> started()

      {:timeout, timer, name} when :erlang.map_get(name, timers) == timer ->
        name |> timeout(data) |> started()

      {:DOWN, ^sweep, :process, _pid, _reason} ->
        data |> Effects.perform(State.swept(data.state)) |> started()
    end
  end

  defp started(%{state: %State{phase: phase}} = data) when phase in [:starting, :sweeping],
    do: await_start(data)

  defp started(%{state: %State{phase: :over, outcome: {:error, reason}}} = data) do
    Effects.release(data)
    {:error, reason}
  end

  # It will mostly wait from now on. What the start has left on the heap (the environment) is 70 times what is
  # kept.
  defp started(data), do: {:ok, data, :hibernate}

  # -- requests ----------------------------------------------------------------------------------------

  @impl :gen_server
  def handle_call({:await_exit, id}, from, data), do: step(data, &State.await_exit(&1, id, from))

  # The read ends are closed first: a command that is busy writing learns at once that nobody reads.
  def handle_call(:stop, from, data) do
    data
    |> Effects.close_pipes()
    |> Effects.perform(State.stop(data.state))
    |> step(&State.await_done(&1, nil, from, :ok_and_end))
  end

  def handle_call({:shutdown, id}, from, data) do
    data
    |> Effects.perform(State.stop(data.state))
    |> step(&State.await_done(&1, id, from, :status))
  end

  def handle_call({:withdraw, id}, from, data), do: step(data, &State.withdraw(&1, id, from))
  def handle_call({:signal, signal}, from, data), do: step(data, &State.signal(&1, signal, from))

  def handle_call({:set_owner, owner}, from, data) do
    answer = if data.control, do: Nif.control_set_owner(data.control, owner), else: :ok
    if data.owner_monitor, do: Process.demonitor(data.owner_monitor, [:flush])
    Table.update(self(), :owner, owner)
    data = %{data | owner_monitor: owner && Process.monitor(owner)}
    :gen_server.reply(from, answer)
    if answer == :ok, do: {:noreply, data}, else: step(data, &State.owner_down/1)
  end

  def handle_call(:alive?, _from, data), do: {:reply, State.alive?(data.state), data}
  def handle_call(:stats, _from, data), do: {:reply, Effects.stats(data), data}
  def handle_call(:stderr_tail, _from, data), do: {:reply, Tail.to_binary(data.drain.tail), data}

  # A stranger's mistake must not end the command.
  def handle_call(request, _from, data) do
    log_unexpected(request)
    {:reply, {:error, :unknown_call}, data}
  end

  @impl :gen_server
  def handle_cast(:stop, data), do: step(data, &State.stop/1)

  # The answer is the exit reason: who waits for it knows then that the server, too, is gone, and is woken
  # only once.
  def handle_cast(:report_and_end, data), do: step(data, &State.await_done(&1, nil, nil, :report_and_end))

  # From the Watcher, when the application stops.
  def handle_cast(:stop_and_end, data), do: data |> Effects.close_pipes() |> step(&State.owner_down/1)

  def handle_cast({:writer, writer}, data) do
    {:noreply, %{data | writer: {writer, Process.monitor(writer)}}}
  end

  def handle_cast(message, data) do
    log_unexpected(message)
    {:noreply, data}
  end

  # -- what happens ------------------------------------------------------------------------------------

  @impl :gen_server
  def handle_info({:select, _control, ref, _what}, %{control_ref: ref} = data) do
    data |> read_control() |> noreply()
  end

  def handle_info({:select, _stderr, ref, _what}, %{drain: %Drain{ref: ref}} = data), do: drain(data)
  def handle_info({:drain, ref}, %{drain: %Drain{ref: ref}} = data), do: drain(data)

  # Of a pipe that is not drained any more.
  def handle_info({:select, _stderr, _ref, _what}, data), do: {:noreply, data}
  def handle_info({:drain, _ref}, data), do: {:noreply, data}

  def handle_info({:timeout, timer, name}, %{timers: timers} = data) do
    case timers do
      %{^name => ^timer} -> name |> timeout(data) |> noreply()
      _disarmed_too_late -> {:noreply, data}
    end
  end

  def handle_info({:DOWN, monitor, :process, _owner, _reason}, %{owner_monitor: monitor} = data) do
    step(%{data | owner_down: true}, &State.owner_down/1)
  end

  def handle_info({:DOWN, monitor, :process, writer, reason}, %{writer: {writer, monitor}} = data) do
    data = %{data | writer: nil}

    case reason do
      # Asked to end by the caller, or because the caller is dead.
      {:shutdown, _outcome} -> {:noreply, data}
      :normal -> {:noreply, data}
      # The input is incomplete, and nobody is left to say how it ends. (One that was killed before it could
      # be monitored is :noproc.)
      :noproc -> step(%{data | writer_killed: :killed}, &State.stop/1)
      killed -> step(%{data | writer_killed: killed}, &State.stop/1)
    end
  end

  # The table has gone with the supervisor: nobody can find this command any more.
  def handle_info({:DOWN, monitor, :process, _supervisor, _reason}, %{table_monitor: monitor} = data) do
    data |> Effects.close_pipes() |> step(&State.owner_down/1)
  end

  def handle_info({:DOWN, monitor, :process, _sweep, _reason}, %{sweep: monitor} = data) do
    step(data, &State.swept/1)
  end

  def handle_info({:DOWN, monitor, :process, _pid, _reason}, %{input_ends: {monitor, _, _}} = data) do
    data |> Effects.input_ended() |> noreply()
  end

  # Of an owner that was replaced.
  def handle_info({:DOWN, _monitor, :process, _pid, _reason}, data), do: {:noreply, data}

  # As if exits were not trapped; that of the parent is gen_server's business.
  def handle_info({:EXIT, _pid, :normal}, data), do: {:noreply, data}
  def handle_info({:EXIT, _pid, reason}, data), do: {:stop, reason, data}

  def handle_info(message, data) do
    log_unexpected(message)
    {:noreply, data}
  end

  # As GenServer does.
  defp log_unexpected(message) do
    Logger.error("the server of a command has received an unexpected message: #{inspect(message)}")
  end

  defp step(data, decide), do: data |> Effects.perform(decide.(data.state)) |> noreply()

  defp noreply(%{ended: nil} = data), do: {:noreply, data}
  defp noreply(%{ended: reason} = data), do: {:stop, reason, data}

  # A message that was under way when the control was closed or handed over.
  defp read_control(%{control: nil} = data), do: data

  defp read_control(data) do
    data.control |> Nif.control_read(data.control_ref) |> handle_events(data)
  end

  defp handle_events([event | events], %{ended: nil} = data) do
    handle_events(events, Effects.perform(data, State.event(data.state, explained(event, data))))
  end

  defp handle_events(_events, data), do: data

  # There has been no shepherd that could have died.
  defp explained(:eof, %{state: %State{phase: :starting}} = data) do
    if ForkServer.came_up?(data.fork_server), do: :eof, else: {:failed, {:fork_server, :eof}}
  end

  defp explained(event, _data), do: event

  defp drain(data), do: {:noreply, %{data | drain: Drain.read(data.drain)}}

  # What the shepherd has said counts first: after a VM was stopped and continued, the time is up, and the
  # answers are there.
  defp timeout(name, data) do
    case read_control(data) do
      %{timers: %{^name => _timer} = timers, ended: nil} = data ->
        due(name, %{data | timers: Map.delete(timers, name)})

      disarmed ->
        disarmed
    end
  end

  defp due(:spawn, data) do
    answered = ForkServer.answered(data.fork_server)
    progress? = answered > data.answered
    Effects.perform(%{data | answered: answered}, State.spawn_deadline(data.state, progress?))
  end

  defp due(name, data), do: Effects.perform(data, State.timeout(data.state, name))

  # -- the end that a supervisor asks for --------------------------------------------------------------

  @impl :gen_server
  def terminate(reason, %{ended: nil} = data) do
    if orderly?(reason), do: data |> Effects.perform(State.owner_down(data.state)) |> await_end()
  end

  def terminate(_reason, _ended), do: :ok

  defp await_end(%{ended: reason}) when reason != nil, do: :ok

  defp await_end(%{sweep: sweep} = data) do
    input_ends = data.input_ends && elem(data.input_ends, 0)

    message =
      receive do
        {:DOWN, monitor, :process, _pid, _reason} = message when monitor in [sweep, input_ends] -> message
        {:select, _resource, _ref, _what} = message -> message
        {:timeout, _timer, _name} = message -> message
        {:drain, _ref} = message -> message
      end

    case handle_info(message, data) do
      {:noreply, data} -> await_end(data)
      {:stop, _reason, _data} -> :ok
    end
  end

  defp orderly?(:normal), do: true
  defp orderly?(:shutdown), do: true
  defp orderly?({:shutdown, _reason}), do: true
  defp orderly?(_crash), do: false
end
