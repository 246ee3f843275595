defmodule NetRunner.Stream do
  @moduledoc """
  The enumerable that `NetRunner.stream/2` and `NetRunner.stream!/2` return.

  Each enumeration runs the command anew, in and owned by the enumerating process. It ends with the enumeration,
  whether that comes to the end of the output, is halted, or raises: then nothing of the command is left.
  """

  alias NetRunner.{Command, Lines, Options, Pump, Run, Stats}
  alias NetRunner.Process.Tail
  alias NetRunner.Stream.AbnormalExit
  alias __MODULE__

  @enforce_keys [:command, :options, :raise?]
  defstruct [:command, :options, :raise?]

  @typedoc "A command that is run when it is enumerated."
  @type t :: %Stream{command: Command.t(), options: Options.t(), raise?: boolean()}

  @doc false
  # From the arguments of NetRunner.stream and stream!. `raise?`: an abnormal exit raises.
  @spec new([term()], raise? :: boolean()) :: {:ok, t()} | {:error, Command.invalid()}
  def new(args, raise?) do
    {cmd, opts} = command_and_options(args)

    with {:ok, command} <- Command.prepare(cmd, opts) do
      {command, options} = Options.split(:stream, command)
      {:ok, %Stream{command: command, options: options, raise?: raise?}}
    end
  end

  @doc false
  # The command and options of a call of one, two or three arguments; piped input becomes the option :input.
  @spec command_and_options([term()]) :: {term(), keyword()}
  def command_and_options([cmd]), do: {cmd, []}

  def command_and_options([input, cmd]) do
    cond do
      command?(cmd) -> pipe_into(input, cmd, [])
      Keyword.keyword?(cmd) -> {input, cmd}
      true -> neither!(cmd)
    end
  end

  def command_and_options([input, cmd, opts]) do
    if not command?(cmd), do: neither!(cmd)
    pipe_into(input, cmd, opts)
  end

  defp command?(%Command{}), do: true
  defp command?([executable | _args]), do: is_binary(executable)
  defp command?(_other), do: false

  defp pipe_into(input, cmd, opts) do
    if not Keyword.keyword?(opts), do: neither!(opts)

    if Keyword.has_key?(opts, :input) or (is_struct(cmd, Command) and Keyword.has_key?(cmd.opts, :input)) do
      raise ArgumentError,
            "the input of a command is given twice.\n" <>
              "Expected: an enumerable piped into it, or the option :input\nGot: both"
    end

    {cmd, Keyword.put(opts, :input, input)}
  end

  @spec neither!(term()) :: no_return()
  defp neither!(got) do
    raise ArgumentError,
          "invalid arguments of NetRunner.stream or NetRunner.stream!.\n" <>
            "Expected: (command), (command, options), (input, command) or (input, command, options), where " <>
            "the command is a %NetRunner.Command{} or a list that starts with a binary\nGot: #{inspect(got)}"
  end

  # -- enumeration -------------------------------------------------------------------------------------

  # The states of an enumeration:
  #
  #     {:reading, pump, lines, tail}    lines: an unfinished line for each output, or nil
  #                                      tail: the end of the stderr that is streamed, for AbnormalExit
  #     {:ended, exit}             the command is over; its last elements have been delivered

  @doc false
  @spec start(t()) :: {:reading, Pump.t(), map() | nil, Tail.t()}
  def start(%Stream{command: command, options: options}) do
    case Pump.open(command, %{options | owner: self()}) do
      {:ok, pump} -> {:reading, pump, options.lines && %{}, Tail.new(options.stderr_tail_bytes)}
      {:error, reason} -> raise Run.error(reason, command, options)
    end
  end

  @doc false
  def next(stream, {:reading, pump, lines, tail}) do
    case Pump.next(pump) do
      {:data, name, data, pump} ->
        {items, lines} = items(stream, name, data, lines)
        tail = if name == :stderr, do: Tail.add(tail, data), else: tail
        {elements(stream, name, items), {:reading, pump, lines, tail}}

      {:timeout, name, pump} ->
        Pump.halt(pump)
        raise Run.error(name, stream.command, stream.options)

      {:error, {:input, _posix} = reason, pump} ->
        Pump.halt(pump)
        raise Run.error(reason, stream.command, stream.options)

      # What an error means, the end tells.
      {:error, _reason, pump} ->
        finish(stream, pump, lines, tail)

      {:eof, pump} ->
        finish(stream, pump, lines, tail)
    end
  end

  def next(%Stream{raise?: true} = stream, {:ended, report}) do
    if not Options.success?(stream.options, report.stats.exit_status),
      do: raise(abnormal_exit(stream, report))

    {:halt, {:ended, report}}
  end

  def next(_stream, {:ended, report}), do: {:halt, {:ended, report}}

  @doc false
  def stop({:reading, pump, _lines, _tail}), do: Pump.halt(pump)
  def stop({:ended, _report}), do: :ok

  defp finish(stream, pump, lines, tail) do
    case Pump.finish(pump) do
      {:ok, %{outcome: {:ok, _exit}} = report, nil} ->
        unfinished =
          for {name, unfinished} <- lines || %{}, item <- Lines.finish(unfinished), do: {name, item}

        last = Enum.flat_map(unfinished, fn {name, item} -> elements(stream, name, [item]) end)
        exit = if stream.options.stderr == :stream, do: [{:exit, report.stats.exit_status}], else: []

        report =
          if stream.options.stderr == :stream, do: %{report | stderr_tail: Tail.to_binary(tail)}, else: report

        {last ++ exit, {:ended, report}}

      {:ok, %{outcome: {:ok, _exit}}, time_limit} ->
        raise Run.error(time_limit, stream.command, stream.options)

      {:ok, %{outcome: {:error, reason}}, _time_limit} ->
        raise Run.error(reason, stream.command, stream.options)

      {:error, :closed} ->
        raise Run.error(:closed, stream.command, stream.options)
    end
  end

  defp items(_stream, _name, data, nil), do: {[data], nil}

  defp items(stream, name, data, lines) do
    {items, rest} = lines |> Map.get_lazy(name, fn -> Lines.new(stream.options.lines) end) |> Lines.add(data)
    {items, Map.put(lines, name, rest)}
  end

  defp elements(%Stream{options: %{stderr: :stream}}, name, items), do: Enum.map(items, &{name, &1})
  defp elements(_stream, :stdout, items), do: items

  defp abnormal_exit(stream, report) do
    {:ok, {how, _rusage}} = report.outcome

    %AbnormalExit{
      status: report.stats.exit_status,
      signal: Stats.signal(how),
      stderr: report.stderr_tail,
      command: stream.command
    }
  end

  defimpl Enumerable do
    alias NetRunner.Stream

    def reduce(stream, acc, fun) do
      Elixir.Stream.resource(fn -> Stream.start(stream) end, &Stream.next(stream, &1), &Stream.stop/1).(
        acc,
        fun
      )
    end

    def count(_stream), do: {:error, __MODULE__}
    def member?(_stream, _element), do: {:error, __MODULE__}
    def slice(_stream), do: {:error, __MODULE__}
  end
end
