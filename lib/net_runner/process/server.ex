defmodule NetRunner.Process.Server do
  @moduledoc false
  # The server of one command: reads what its shepherd says, performs what NetRunner.Process.State decides,
  # and drains stderr where only the end of it is wanted. It decides nothing itself.
  #
  # * It never waits for the command, so that it can always answer.
  # * Its row stands in NetRunner.Table, and the Watcher knows it, before anyone learns its pid. At its end
  #   the row goes, after the pipes and the control are closed, and before the last callers are answered.
  # * Its death, however it comes, ends the command: the NIF monitors it.

  @behaviour :gen_server

  require Logger

  alias NetRunner.{Command, Environment, ForkServer, Nif, Options, Pipe, Stats, Table, Watcher}
  alias NetRunner.Process.{State, Tail}

  @typedoc """
  What to run. `stdin`: whether there is somebody to write. `await_start`: whether starting is over only when
  the command runs, so that what prevents it is the result of `start/2`; otherwise that comes as the outcome.
  """
  @type start :: %{
          command: Command.t(),
          options: Options.t(),
          stdin: :pipe | :null,
          await_start: boolean(),
          link: boolean()
        }

  @typedoc "All that is known of a command at its end."
  @type report :: %{
          outcome: State.outcome(),
          stderr_tail: binary(),
          stats: Stats.t(),
          # The exit reason of the process that enumerated the input, where it was killed.
          writer_killed: term()
        }

  # How much of stderr is read before other messages have their turn.
  @drain_reads 16
  @spawn_attempts 5

  @spec start(start(), keyword()) :: {:ok, pid()} | {:error, term()}
  def start(%{link: true} = start, opts), do: GenServer.start_link(__MODULE__, start, opts)
  def start(%{link: false} = start, opts), do: GenServer.start(__MODULE__, start, opts)

  # -- start -------------------------------------------------------------------------------------------

  @impl :gen_server
  def init(%{options: options} = start) do
    # Only where an exit signal of a supervisor means "end in order".
    if start.link, do: Process.flag(:trap_exit, true)
    control_ref = make_ref()

    case spawn_command(start, control_ref, @spawn_attempts) do
      {:ok, {fork_server, control, stdin, stdout, stderr}} ->
        data = %{
          control: control,
          control_ref: control_ref,
          stdin: stdin,
          stdout: stdout,
          stderr: stderr,
          stderr_ref: nil,
          tail: Tail.new(options.stderr_tail_bytes),
          state: nil,
          timers: %{},
          fork_server: fork_server,
          answered: answered(fork_server),
          owner: options.owner,
          owner_monitor: options.owner && Process.monitor(options.owner),
          owner_down: false,
          writer: nil,
          writer_killed: nil,
          started_at: System.system_time(:millisecond),
          started: System.monotonic_time(:millisecond),
          exited: nil,
          ended: nil
        }

        announce(data, start)
        data = apply_state(data, State.new(options.leftovers, options.kill_timeout))
        data = if options.stderr == :consume, do: drain(%{data | stderr_ref: make_ref()}), else: data
        if start.await_start, do: await_start(data), else: {:ok, data}

      {:error, reason} ->
        {:error, reason}
    end
  end

  defp spawn_command(start, control_ref, attempts) do
    with {:ok, {resource, _answered} = fork_server} <- ForkServer.current() do
      case Nif.spawn(resource, request(start), start.options.owner, control_ref) do
        {:ok, control, stdin, stdout, stderr} ->
          {:ok, {fork_server, control, stdin, stdout, stderr}}

        {:error, :no_fork_server} when attempts > 1 ->
          with {:ok, _new} <- ForkServer.renew(fork_server),
               do: spawn_command(start, control_ref, attempts - 1)

        {:error, reason} ->
          {:error, reason}
      end
    end
  end

  defp request(%{command: command, options: options} = start) do
    %{
      executable: command.executable,
      argv: [options.arg0 || command.executable | command.args],
      env: Environment.block(options.env),
      cd: options.cd,
      umask: options.umask,
      stdin: start.stdin,
      stdout: stdio(options.stdout),
      stderr: stdio(options.stderr),
      kill_timeout: options.kill_timeout,
      stop_signals: [options.stop_signal],
      leftovers: options.leftovers
    }
  end

  defp stdio(where) when where in [:pipe, :consume, :capture, :stream], do: :pipe
  defp stdio(:redirect), do: :stdout
  defp stdio(:disabled), do: :null

  # The Watcher is told first, so that there is no moment in which this process could be killed and its row
  # stay. A Watcher that is replaced meanwhile reads the table when it starts, or is told again.
  defp announce(data, %{command: command, options: options}) do
    watcher = Watcher.watch(self())

    Table.insert(%{
      server: self(),
      control: data.control,
      stdin: data.stdin,
      stdout: data.stdout,
      stderr: data.stderr,
      readable_stderr: if(options.stderr != :consume, do: data.stderr),
      owner: data.owner,
      os_pid: nil,
      exited: false,
      writer: nil,
      info: %{
        command: [command.executable | command.args],
        kill_timeout: options.kill_timeout,
        started: data.started
      }
    })

    Watcher.watch_again(self(), watcher)
  end

  # Everything but the start stays in the mailbox for later.
  defp await_start(%{control_ref: control_ref, timers: timers} = data) do
    spawn_timer = Map.get(timers, :spawn)

    receive do
      {:select, _control, ^control_ref, _what} -> started(read_control(data))
      {:timeout, ^spawn_timer, :spawn} -> started(timeout(:spawn, data))
    end
  end

  defp started(%{state: %State{phase: :starting}} = data), do: await_start(data)

  defp started(%{state: %State{phase: :over, outcome: {:error, reason}}} = data) do
    release(data)
    {:error, reason}
  end

  # It will mostly wait from now on: the heap is left as small as it can be.
  defp started(data), do: {:ok, data, :hibernate}

  # -- requests ----------------------------------------------------------------------------------------

  @impl :gen_server
  def handle_call({:await_exit, id}, from, data) do
    data |> apply_state(State.await_exit(data.state, id, from)) |> noreply()
  end

  # The read ends are closed first: a command that is busy writing learns at once that nobody reads.
  def handle_call(:stop, from, data) do
    data = data |> close_stdin() |> close_outputs() |> apply_state(State.stop(data.state))
    data |> apply_state(State.await_done(data.state, nil, from, :ok_and_end)) |> noreply()
  end

  def handle_call({:shutdown, id}, from, data) do
    data = apply_state(data, State.stop(data.state))
    data |> apply_state(State.await_done(data.state, id, from, :status)) |> noreply()
  end

  def handle_call({:signal, signal}, from, data) do
    data |> apply_state(State.signal(data.state, signal, from)) |> noreply()
  end

  def handle_call({:withdraw, id}, from, data) do
    data |> apply_state(State.withdraw(data.state, id, from)) |> noreply()
  end

  def handle_call({:set_owner, owner}, _from, data) do
    if data.control, do: Nif.control_set_owner(data.control, owner)
    if data.owner_monitor, do: Process.demonitor(data.owner_monitor, [:flush])
    Table.update(self(), :owner, owner)
    {:reply, :ok, %{data | owner: owner, owner_monitor: owner && Process.monitor(owner)}}
  end

  def handle_call(:alive?, _from, data), do: {:reply, State.alive?(data.state), data}
  def handle_call(:stats, _from, data), do: {:reply, stats(data), data}
  def handle_call(:stderr_tail, _from, data), do: {:reply, Tail.to_binary(data.tail), data}

  @impl :gen_server
  def handle_cast(:stop, data), do: data |> apply_state(State.stop(data.state)) |> noreply()

  # The answer is the exit reason: who waits for it knows then that the server, too, is gone, and is woken
  # only once.
  def handle_cast(:report_and_end, data) do
    data |> apply_state(State.await_done(data.state, nil, nil, :report_and_end)) |> noreply()
  end

  # From the Watcher, when the application stops.
  def handle_cast(:stop_and_end, data) do
    data |> close_stdin() |> close_outputs() |> apply_state(State.owner_down(data.state)) |> noreply()
  end

  def handle_cast({:writer, writer}, data) do
    {:noreply, %{data | writer: {writer, Process.monitor(writer)}}}
  end

  # -- what happens ------------------------------------------------------------------------------------

  @impl :gen_server
  def handle_info({:select, _control, ref, _what}, %{control_ref: ref} = data) do
    data |> read_control() |> noreply()
  end

  def handle_info({:select, _stderr, ref, _what}, %{stderr_ref: ref} = data) when ref != nil do
    data |> drain() |> noreply()
  end

  # Of a pipe that was finished or closed meanwhile.
  def handle_info({:select, _resource, _ref, _what}, data), do: {:noreply, data}

  def handle_info({:drain, ref}, %{stderr_ref: ref} = data) when ref != nil, do: data |> drain() |> noreply()
  def handle_info({:drain, _ref}, data), do: {:noreply, data}

  def handle_info({:timeout, timer, name}, %{timers: timers} = data) do
    case timers do
      %{^name => ^timer} -> timeout(name, data) |> noreply()
      _disarmed_too_late -> {:noreply, data}
    end
  end

  def handle_info({:DOWN, monitor, :process, _owner, _reason}, %{owner_monitor: monitor} = data) do
    %{data | owner_down: true} |> apply_state(State.owner_down(data.state)) |> noreply()
  end

  def handle_info({:DOWN, monitor, :process, writer, reason}, %{writer: {writer, monitor}} = data) do
    data = %{data | writer: nil}

    if writer_finished?(reason) do
      {:noreply, data}
    else
      # The input is incomplete, and nobody is left to say how it ends. (One that was killed before it could
      # be monitored is :noproc; for a writer does not end by itself.)
      reason = if reason == :noproc, do: :killed, else: reason
      %{data | writer_killed: reason} |> apply_state(State.stop(data.state)) |> noreply()
    end
  end

  # Of an owner that was replaced.
  def handle_info({:DOWN, _monitor, :process, _pid, _reason}, data), do: {:noreply, data}

  # As if exits were not trapped; that of the parent is gen_server's business.
  def handle_info({:EXIT, _pid, :normal}, data), do: {:noreply, data}
  def handle_info({:EXIT, _pid, reason}, data), do: {:stop, reason, data}

  @impl :gen_server
  def terminate(reason, %{ended: nil} = data) do
    if orderly?(reason), do: data |> apply_state(State.owner_down(data.state)) |> await_end()
  end

  def terminate(_reason, _ended), do: :ok

  defp await_end(%{ended: reason}) when reason != nil, do: :ok

  defp await_end(data) do
    message =
      receive do
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

  defp writer_finished?(:normal), do: true
  defp writer_finished?({:shutdown, _outcome}), do: true
  defp writer_finished?(_killed), do: false

  defp noreply(%{ended: nil} = data), do: {:noreply, data}
  defp noreply(%{ended: reason} = data), do: {:stop, reason, data}

  # A message that was under way when the control was closed or handed over.
  defp read_control(%{control: nil} = data), do: data

  defp read_control(data) do
    data.control |> Nif.control_read(data.control_ref) |> handle_events(data)
  end

  defp handle_events([event | events], %{ended: nil} = data) do
    handle_events(events, apply_state(data, State.event(data.state, event)))
  end

  defp handle_events(_events, data), do: data

  defp timeout(:spawn, data) do
    answered = answered(data.fork_server)
    progress? = answered > data.answered
    data = %{data | answered: answered, timers: Map.delete(data.timers, :spawn)}
    apply_state(data, State.spawn_deadline(data.state, progress?))
  end

  defp timeout(name, data) do
    data = %{data | timers: Map.delete(data.timers, name)}
    apply_state(data, State.timeout(data.state, name))
  end

  # -- effects -----------------------------------------------------------------------------------------

  defp apply_state(data, {effects, state}), do: Enum.reduce(effects, %{data | state: state}, &perform/2)

  defp perform(:answered, %{fork_server: {_resource, answered}} = data) do
    :counters.add(answered, 1, 1)
    perform({:disarm, :spawn}, data)
  end

  defp perform({:started, os_pid}, data) do
    Table.update(self(), :os_pid, os_pid)
    data
  end

  # Who is told of the exit finds all that the command has written to stderr.
  defp perform(:exited, data) do
    Table.update(self(), :exited, true)
    data = %{data | exited: System.monotonic_time(:millisecond)}
    if data.stderr_ref, do: drain(data), else: data
  end

  defp perform({:reply, from, reply}, data) do
    :gen_server.reply(from, reply)
    data
  end

  defp perform({:end, report?, replies}, data) do
    ended = if report?, do: {:shutdown, {:report, report(data)}}, else: :normal
    release(data)
    for {from, reply} <- replies, do: :gen_server.reply(from, reply)
    %{data | ended: ended}
  end

  defp perform(:stop, data) do
    Nif.control_stop(data.control)
    data
  end

  # On a closed socket the answer is its end, which comes as an event.
  defp perform({:signal, signal}, data) do
    _ = Nif.control_signal(data.control, signal)
    data
  end

  defp perform(:probe, data), do: perform({:signal, 9}, data)

  defp perform({:arm, name, milliseconds}, data) do
    data = perform({:disarm, name}, data)
    put_in(data.timers[name], :erlang.start_timer(milliseconds, self(), name))
  end

  defp perform({:disarm, name}, %{timers: timers} = data) do
    case timers do
      %{^name => timer} ->
        :erlang.cancel_timer(timer, async: true, info: false)
        %{data | timers: Map.delete(timers, name)}

      _not_armed ->
        data
    end
  end

  defp perform(:disarm_all, data) do
    Enum.reduce(Map.keys(data.timers), data, &perform({:disarm, &1}, &2))
  end

  defp perform(:fork_server_hangs, data) do
    ForkServer.unresponsive(data.fork_server)
    data
  end

  defp perform(:kill_shepherd, data) do
    case Nif.control_kill(data.control) do
      :ok -> data
      {:error, :no_pidfd} -> apply_state(data, State.abandon(data.state))
    end
  end

  defp perform(:close_stdin, data), do: close_stdin(data)

  defp perform(:finish_pipes, data) do
    if data.stdin, do: Nif.fail(data.stdin, :epipe)
    if data.stdout, do: Nif.finish(data.stdout)
    if data.stderr, do: Nif.finish(data.stderr)
    drain_all(data)
  end

  # Stderr may be flooded by what is still to be killed: only what is there now is read.
  defp perform({:fail_pipes, reason}, data) do
    if data.stderr, do: Nif.finish(data.stderr)
    data = drain_all(data)
    for pipe <- [data.stdin, data.stdout, data.stderr], pipe, do: Nif.fail(pipe, reason)
    data
  end

  defp perform(:hand_over, data) do
    case Watcher.keep(self(), data.control) do
      :ok -> %{data | control: nil}
      # It stays here then, and the leftovers end with this server.
      {:error, :no_watcher} -> data
    end
  end

  defp perform(:close_control, data) do
    Nif.control_close(data.control)
    %{data | control: nil}
  end

  defp perform({:log_unkillable, os_pids}, data) do
    Logger.error("NetRunner cannot kill #{inspect(os_pids)}, alive five seconds after SIGKILL", metadata())
    data
  end

  defp perform(:log_hung, data) do
    Logger.error("a shepherd of NetRunner does not answer; it and its command are killed", metadata())
    data
  end

  defp metadata do
    case Table.fetch(self()) do
      {:ok, row} -> [os_pid: row.os_pid, command: row.info.command]
      :error -> []
    end
  end

  defp close_stdin(data) do
    if data.stdin, do: Nif.close(data.stdin)
    data
  end

  defp close_outputs(data) do
    if data.stdout, do: Nif.close(data.stdout)
    if data.stderr, do: Nif.close(data.stderr)
    %{data | stderr_ref: nil}
  end

  defp release(data) do
    close_outputs(close_stdin(data))
    if data.control, do: Nif.control_close(data.control)
    # The caller, who would have ended it, is dead.
    with {writer, _monitor} when data.owner_down <- data.writer, do: Process.exit(writer, :kill)
    Table.delete(self())
  end

  # -- stderr ------------------------------------------------------------------------------------------

  defp drain(data), do: drain(data, @drain_reads)

  defp drain(data, 0) do
    send(self(), {:drain, data.stderr_ref})
    data
  end

  defp drain(%{stderr_ref: ref} = data, reads) do
    case Nif.read(data.stderr, ref, Pipe.read_size()) do
      {:ok, chunk} -> drain(%{data | tail: Tail.add(data.tail, chunk)}, reads - 1)
      :wait -> data
      :eof -> %{data | stderr_ref: nil}
      {:error, _reason} -> %{data | stderr_ref: nil}
    end
  end

  # What is in the pipe now. A message that is under way is for a reference that is not known any more.
  defp drain_all(%{stderr_ref: nil} = data), do: data

  defp drain_all(%{stderr_ref: ref} = data) do
    case Nif.read(data.stderr, ref, Pipe.read_size()) do
      {:ok, chunk} -> drain_all(%{data | tail: Tail.add(data.tail, chunk)})
      _no_more -> %{data | stderr_ref: nil}
    end
  end

  # -- what is known -----------------------------------------------------------------------------------

  defp report(data) do
    %{
      outcome: State.result(data.state),
      stderr_tail: Tail.to_binary(data.tail),
      stats: stats(data),
      writer_killed: data.writer_killed
    }
  end

  defp stats(data) do
    Stats.new(
      {counters(data.stdin), counters(data.stdout), counters(data.stderr)},
      DateTime.from_unix!(data.started_at, :millisecond),
      (data.exited || System.monotonic_time(:millisecond)) - data.started,
      data.state.exit
    )
  end

  defp counters(nil), do: nil
  defp counters(pipe), do: Nif.counters(pipe)

  defp answered({_resource, answered}), do: :counters.get(answered, 1)
end
