defmodule NetRunner.Pump do
  @moduledoc false
  # Runs a command for `run` and `stream`, in the caller's own process: writes its input, reads its output, minds
  # the time.
  #
  # * Between two calls no message is under way to the caller: a call takes back what it still waits for.
  #   Nothing is linked or monitored between calls, but for the monitor of watch/1.
  # * The caller is the command's owner, so its death ends the command.
  # * A pump that was opened ends with finish/1 or halt/1, which return when nothing of the command is left.
  # * No user code runs in here; what has to be enumerated runs in a NetRunner.Writer.

  alias NetRunner.{Command, Input, Nif, Options, Pipe, Watcher, Writer}
  alias NetRunner.Process.{Launch, Server}
  alias __MODULE__

  @type name :: :stdout | :stderr
  @type time_limit :: :timeout | :idle_timeout

  @type t :: %Pump{
          server: pid(),
          spawned: Launch.spawned(),
          stdin: Nif.pipe() | nil,
          input: Input.t() | nil,
          writer: pid() | nil,
          # Of the server, after watch/1.
          monitor: reference() | nil,
          # Those that have not ended; the first is tried first.
          sources: [{name(), Nif.pipe()}],
          # How often in a row the first one had something at once.
          burst: non_neg_integer(),
          # Milliseconds of System.monotonic_time/1.
          deadline: integer() | :infinity,
          idle_timeout: timeout(),
          # How much of stderr the server had drained when an idle limit passed.
          heard: non_neg_integer()
        }

  @enforce_keys [:server, :spawned]
  defstruct [
    :server,
    :spawned,
    :stdin,
    :input,
    :writer,
    :monitor,
    sources: [],
    burst: 0,
    deadline: :infinity,
    idle_timeout: :infinity,
    heard: 0
  ]

  # After so many chunks in a row it is another one's turn.
  @max_burst 16

  @spec open(Command.t(), Options.t()) :: {:ok, t()} | {:error, term()}
  def open(command, options) do
    with {:ok, input, source} <- Input.prepare(input(options)) do
      start = %{
        command: command,
        # For its server: data would be copied.
        options: %{options | input: nil, into: nil},
        stdin: if(options.input == nil, do: :null, else: :pipe),
        start_awaited: false,
        link: false,
        spawned: nil
      }

      with {:ok, spawned} <- Launch.spawn(start),
           {:ok, server} <- start_server(%{start | spawned: spawned}, source) do
        {:ok, pump(server, spawned, options, input, source)}
      else
        {:error, reason} ->
          Input.close(input)
          {:error, reason}
      end
    end
  end

  # A terminal is there also for a command without input, which is at its end at once.
  defp input(%Options{input: nil, pty: pty}) when pty != nil, do: ""
  defp input(%Options{input: input}), do: input

  # The command is on its way: only a writer needs the server to be there, and in the table.
  defp start_server(start, nil), do: {:ok, Server.start_async(start)}

  defp start_server(start, _source) do
    with {:error, reason} <- Server.start(start, []) do
      Launch.abandon(start.spawned)
      {:error, reason}
    end
  end

  defp pump(server, spawned, options, input, source) do
    writer = if source, do: Writer.start(server, spawned.stdin, source)
    stderr? = options.stderr in [:capture, :stream]

    %Pump{
      server: server,
      spawned: spawned,
      stdin: spawned.stdin,
      input: input,
      writer: writer,
      sources:
        for(
          {name, pipe} <- [stdout: spawned.stdout, stderr: stderr? && spawned.stderr],
          pipe,
          do: {name, pipe}
        ),
      deadline: if(options.timeout == :infinity, do: :infinity, else: now() + options.timeout),
      idle_timeout: options.idle_timeout
    }
  end

  @doc """
  Monitors the server from now on, so that its report is not missed where others end it, as the stop of the
  application does. Its message stays in the mailbox until `finish/1` or `halt/1`.
  """
  @spec watch(t()) :: t()
  def watch(pump), do: %{pump | monitor: Process.monitor(pump.server)}

  # -- next --------------------------------------------------------------------------------------------

  @doc """
  The next chunk of output. `:eof`: all output has ended, and all input that the caller writes is written.
  After `:timeout` and `:error` the pump can be used as before.
  """
  @spec next(t()) ::
          {:data, name(), binary(), t()} | {:eof, t()} | {:timeout, time_limit(), t()} | {:error, term(), t()}
  def next(%Pump{sources: [{name, pipe}], input: nil, deadline: :infinity, idle_timeout: :infinity} = pump) do
    case Pipe.read(pipe) do
      {:ok, data} -> {:data, name, data, pump}
      :eof -> {:eof, %{pump | sources: []}}
      {:error, reason} -> {:error, reason, %{pump | sources: []}}
    end
  end

  def next(%Pump{sources: [], input: nil} = pump), do: {:eof, pump}

  def next(pump) do
    with {:timeout, :idle_timeout, pump} <- next_within(pump, time_limit(pump)),
         {:heard, pump} <- listen_to_stderr(pump) do
      next(pump)
    else
      {:silent, pump} -> {:timeout, :idle_timeout, pump}
      result -> result
    end
  end

  defp next_within(pump, limit) do
    if passed?(limit) do
      {:timeout, elem(limit, 1), pump}
    else
      {entries, pump} = turns(pump)
      with {:wait, pump, entered} <- ask(entries, pump, []), do: wait(pump, entered, limit)
    end
  end

  # A source that always has something must not keep the others waiting, nor the input.
  defp turns(%Pump{burst: burst, sources: sources} = pump) when burst >= @max_burst do
    {first, others} = Enum.split(sources, 1)
    pump = %{pump | sources: others ++ first, burst: 0}
    {[:stdin | pump.sources], pump}
  end

  defp turns(pump), do: {pump.sources ++ [:stdin], pump}

  # Each is asked once. `entered`: what the NIF has said `:wait` for.
  defp ask([], pump, entered), do: {:wait, pump, entered}

  defp ask([:stdin | others], pump, entered) do
    case write(pump) do
      {:wait, pump} ->
        ask(others, pump, [:stdin | entered])

      {:error, reason, pump} ->
        take_back(entered, pump, nil)
        {:error, reason, pump}

      {_more_or_done, pump} ->
        ask(others, pump, entered)
    end
  end

  defp ask([{name, pipe} = source | others], pump, entered) do
    case Nif.read(pipe, Pipe.read_size()) do
      :wait ->
        ask(others, pump, [source | entered])

      {:ok, data} ->
        take_back(entered, pump, nil)
        {:data, name, data, in_front(source, pump)}

      :eof ->
        ask(others, drop_source(source, pump), entered)

      {:error, reason} ->
        take_back(entered, pump, nil)
        {:error, reason, drop_source(source, pump)}
    end
  end

  defp wait(%Pump{input: nil} = pump, [], _limit), do: {:eof, pump}

  defp wait(pump, entered, limit) do
    ref = make_ref()
    wait_for(entered, pump, ref)
    await(pump, entered, ref, limit)
  end

  defp wait_for(entered, pump, ref) do
    Enum.each(entered, fn
      :stdin -> Nif.wait(pump.stdin, :write, ref)
      {_name, pipe} -> Nif.wait(pipe, :read, ref)
    end)
  end

  # `waiting`: what is told with this reference.
  defp await(pump, waiting, ref, limit) do
    # Input that is read as fast as it is written must not keep output waiting.
    more? = pump.input != nil and :stdin not in waiting

    receive do
      {:select, pipe, ^ref, _what} ->
        {[told], others} = Enum.split_with(waiting, &(pipe_of(&1, pump) == pipe))
        ask_again(told, pump, others, ref, limit)
    after
      if(more?, do: 0, else: remaining(limit)) ->
        if more? and not passed?(limit),
          do: ask_again(:stdin, pump, waiting, ref, limit),
          else: give_up(pump, waiting, ref, limit)
    end
  end

  defp ask_again(entry, pump, waiting, ref, limit) do
    case ask([entry], pump, []) do
      {:wait, %Pump{input: nil} = pump, []} when waiting == [] ->
        {:eof, pump}

      {:wait, pump, entered} ->
        wait_for(entered, pump, ref)
        await(pump, entered ++ waiting, ref, limit)

      result ->
        take_back(waiting, pump, ref)
        result
    end
  end

  defp pipe_of(:stdin, pump), do: pump.stdin
  defp pipe_of({_name, pipe}, _pump), do: pipe

  defp give_up(pump, waiting, ref, {_deadline, name}) do
    take_back(waiting, pump, ref)
    {:timeout, name, pump}
  end

  defp take_back(waiting, pump, ref) do
    Enum.each(waiting, fn
      :stdin -> Pipe.cancel(pump.stdin, :write, ref)
      {_name, pipe} -> Pipe.cancel(pipe, :read, ref)
    end)
  end

  # Whoever had something is likely to have more.
  defp in_front(source, %Pump{sources: [source | _others]} = pump), do: %{pump | burst: pump.burst + 1}

  defp in_front(source, pump) do
    %{pump | sources: [source | List.delete(pump.sources, source)], burst: 1}
  end

  defp drop_source(source, pump), do: %{pump | sources: List.delete(pump.sources, source)}

  # -- input -------------------------------------------------------------------------------------------

  defp write(%Pump{input: nil} = pump), do: {:done, pump}

  defp write(pump) do
    case Input.write(pump.input, pump.stdin) do
      :done -> end_input(pump)
      # Stdin stays open.
      {:error, reason} -> {:error, reason, %{pump | input: nil}}
      {more_or_wait, input} -> {more_or_wait, %{pump | input: input}}
    end
  end

  # The end of stdin, for the command. A terminal may have no room for it yet, and in raw mode it has none: the
  # command knows then when it is over.
  defp end_input(pump) do
    case Nif.end_input(pump.stdin) do
      :wait -> {:wait, %{pump | input: {[], nil}}}
      _ended_or_raw -> {:done, %{pump | input: nil}}
    end
  end

  # -- the end -----------------------------------------------------------------------------------------

  @doc """
  Begins the stop sequence. What the command writes until its end can still be read, and time limits do not
  count any more.
  """
  @spec stop(t()) :: t()
  def stop(pump) do
    GenServer.cast(pump.server, :stop)
    Input.close(pump.input)
    if pump.stdin, do: Nif.close(pump.stdin)
    %{pump | input: nil, deadline: :infinity, idle_timeout: :infinity}
  end

  @doc "Closes the read ends: nothing more can be read."
  @spec close_outputs(t()) :: t()
  def close_outputs(pump) do
    for {_name, pipe} <- pump.sources, do: Nif.close(pipe)
    %{pump | sources: []}
  end

  @doc """
  Waits until the command is over, and ends the server. When a time limit passes meanwhile, the command is
  stopped; the limit is in the answer. Raises what the enumeration of the input has raised.

  `{:error, :closed}`: the server was killed.
  """
  @spec finish(t()) :: {:ok, Server.report(), time_limit() | nil} | {:error, :closed}
  def finish(pump) do
    answer = end_server(pump, time_limit(pump))
    Input.close(pump.input)
    finish_writer(pump, answer)
    answer
  end

  # The server may still be on its way into the table, so it is not looked up there.
  defp end_server(pump, limit) do
    monitor = pump.monitor || Process.monitor(pump.server)
    GenServer.cast(pump.server, :report_and_end)
    await_end(pump, monitor, limit, nil)
  end

  defp await_end(pump, monitor, limit, passed) do
    receive do
      {:DOWN, ^monitor, :process, _server, {:shutdown, {:report, report}}} ->
        {:ok, report, passed}

      {:DOWN, ^monitor, :process, server, _reason} ->
        Watcher.await_gone(server)
        # One that was killed before the Watcher knew it has left this to us.
        Launch.abandon(pump.spawned)
        {:error, :closed}
    after
      remaining(limit) -> await_end_late(pump, monitor, elem(limit, 1))
    end
  end

  defp await_end_late(pump, monitor, :idle_timeout) do
    case listen_to_stderr(pump) do
      {:heard, pump} -> await_end(pump, monitor, time_limit(pump), nil)
      {:silent, pump} -> await_end(stop(pump), monitor, :infinity, :idle_timeout)
    end
  end

  defp await_end_late(pump, monitor, :timeout), do: await_end(stop(pump), monitor, :infinity, :timeout)

  defp finish_writer(%Pump{writer: nil}, _answer), do: :ok

  defp finish_writer(%Pump{writer: writer}, answer) do
    case {Writer.finish(writer), answer} do
      {{:raised, kind, reason, stacktrace}, _answer} -> :erlang.raise(kind, reason, stacktrace)
      {:ok, {:ok, %{writer_killed: reason}, _passed}} when reason != nil -> exit(reason)
      {:ok, _answer} -> :ok
    end
  end

  @doc "Ends the command without waiting for its output. Does nothing when it is over."
  @spec halt(t()) :: :ok
  def halt(pump) do
    pump = pump |> close_outputs() |> stop()
    if pump.writer, do: Writer.finish(pump.writer)
    # Its message may have come already: finish/1 raises what the input has raised.
    if pump.monitor, do: Process.demonitor(pump.monitor, [:flush])
    _report = end_server(%{pump | monitor: nil}, :infinity)
    :ok
  end

  # -- time --------------------------------------------------------------------------------------------

  # The time limit that passes first. Time without output counts only while we wait for it.
  defp time_limit(%Pump{deadline: :infinity, idle_timeout: :infinity}), do: :infinity
  defp time_limit(%Pump{deadline: deadline, idle_timeout: :infinity}), do: {deadline, :timeout}

  defp time_limit(%Pump{deadline: deadline, idle_timeout: idle_timeout}) do
    idle_deadline = now() + idle_timeout
    # A number is less than :infinity.
    if idle_deadline < deadline, do: {idle_deadline, :idle_timeout}, else: {deadline, :timeout}
  end

  # What the server drains is output too. It is looked at only when the limit has passed, so a command that
  # falls silent may have up to twice the limit.
  defp listen_to_stderr(%Pump{spawned: %{stderr: nil}} = pump), do: {:silent, pump}

  defp listen_to_stderr(%Pump{spawned: %{stderr: stderr}} = pump) do
    {read_bytes, _reads, _written_bytes, _writes} = Nif.counters(stderr)
    if read_bytes > pump.heard, do: {:heard, %{pump | heard: read_bytes}}, else: {:silent, pump}
  end

  defp remaining(:infinity), do: :infinity
  defp remaining({deadline, _name}), do: max(deadline - now(), 0)

  defp passed?(:infinity), do: false
  defp passed?({deadline, _name}), do: deadline <= now()

  defp now, do: System.monotonic_time(:millisecond)
end
