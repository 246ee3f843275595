defmodule NetRunner.Run do
  @moduledoc false
  # `run`, `run!` and `capture`: a command from its start to its end, in the caller's own process.
  #
  # Returns when nothing of the command is left, or, with `leftovers: :keep`, when it has exited.

  alias NetRunner.{Collector, Command, Environment, Error, Options, Pump, Result, Stats}
  alias NetRunner.Process.Server

  @typep cmd :: [binary()] | Command.t()

  # Why the command was ended before its time.
  @typep cut_short :: nil | Pump.time_limit() | :max_output_exceeded

  # A command that has run: what it has written and how it has ended.
  @typep ended :: {stdout :: Collectable.t(), stderr :: binary(), Server.report(), cut_short()}

  @spec run(cmd(), keyword()) ::
          {Collectable.t(), 0..255} | {Collectable.t(), 0..255, binary()} | {:error, Error.reason()}
  def run(cmd, opts) do
    with {:ok, command} <- Command.prepare(cmd, opts),
         {command, options} = Options.split(:run, command),
         {:ok, {stdout, stderr, report, cut_short}} <- execute(command, options) do
      case {cut_short, options.stderr} do
        {nil, :capture} -> {stdout, report.stats.exit_status, stderr}
        {nil, _elsewhere} -> {stdout, report.stats.exit_status}
        {:max_output_exceeded, _any} -> {:error, {:max_output_exceeded, partial(stdout, stderr)}}
        {time_limit, _any} -> {:error, time_limit}
      end
    end
  end

  # All bytes that count, in one binary where that is what output is collected into.
  defp partial(stdout, stderr) when is_binary(stdout), do: stdout <> stderr
  defp partial(collected, _stderr), do: collected

  @spec run!(cmd(), keyword()) :: Collectable.t()
  def run!(cmd, opts) do
    case Command.prepare(cmd, opts) do
      {:ok, command} ->
        {command, options} = Options.split(:run, command)
        stdout!(execute(command, options), command, options)

      {:error, reason} ->
        raise %Error{reason: reason, command: impossible(cmd, opts)}
    end
  end

  # As far as it is one.
  defp impossible(cmd, opts) do
    case Command.to_command(cmd) do
      {:ok, command} ->
        command = Command.extend(command, opts)
        %{command | opts: Options.without_data(command.opts)}

      {:error, _invalid} ->
        nil
    end
  end

  defp stdout!({:ok, {stdout, stderr, report, nil}}, command, options) do
    if Options.success?(options, report.stats.exit_status) do
      stdout
    else
      raise exit_error(command, options, report, stderr)
    end
  end

  defp stdout!({:ok, {stdout, stderr, report, cut_short}}, command, options) do
    reason =
      if cut_short == :max_output_exceeded, do: {cut_short, partial(stdout, stderr)}, else: cut_short

    raise %{error(reason, command, options) | stderr: report.stderr_tail}
  end

  defp stdout!({:error, reason}, command, options), do: raise(error(reason, command, options))

  @spec capture(cmd(), keyword()) :: {:ok, Result.t()} | {:error, Error.reason()}
  def capture(cmd, opts) do
    with {:ok, command} <- Command.prepare(cmd, opts),
         {command, options} = Options.split(:capture, command),
         {:ok, {stdout, stderr, report, cut_short}} <- execute(command, options) do
      stderr = if options.stderr == :capture, do: stderr, else: report.stderr_tail
      {:ok, {_how, rusage}} = report.outcome
      result = Result.new(stdout, stderr, report.stats, rusage)

      case cut_short do
        nil -> {:ok, result}
        # Its status says what we did, not what it did; it is in the stats.
        reason -> {:error, {reason, %{result | status: nil, signal: nil}}}
      end
    end
  end

  # -- errors that are raised --------------------------------------------------------------------------

  @doc "The error of a command that could not be run, with what helps to understand it."
  @spec error(Error.reason(), Command.t(), Options.t()) :: Error.t()
  def error(reason, command, options) do
    %Error{reason: reason, command: command, path: path(reason, options)}
  end

  defp path({:exec, :enoent}, options), do: options.env |> Environment.block() |> Environment.variable("PATH")
  defp path(_reason, _options), do: nil

  defp exit_error(command, options, report, stderr) do
    {:ok, {how, _rusage}} = report.outcome
    status = Stats.exit_status(how)

    %Error{
      reason: if(signal = Stats.signal(how), do: {:signal, signal}, else: {:exit_status, status}),
      command: command,
      status: status,
      stderr:
        if(options.stderr == :capture, do: last(stderr, options.stderr_tail_bytes), else: report.stderr_tail)
    }
  end

  defp last(binary, size) when byte_size(binary) <= size, do: binary
  defp last(binary, size), do: binary_part(binary, byte_size(binary), -size)

  # -- from start to end -------------------------------------------------------------------------------

  @spec execute(Command.t(), Options.t()) :: {:ok, ended()} | {:error, Error.reason()}
  defp execute(command, options) do
    collector = Collector.new(options)

    case Pump.open(command, options) do
      {:ok, pump} ->
        collect(Pump.watch(pump), collector)

      {:error, reason} ->
        Collector.abandon(collector)
        {:error, reason}
    end
  end

  # The command must not go on when the collectable raises.
  defp collect(pump, collector) do
    {pump, collector, cut_short} = read(pump, collector, nil)

    case Pump.finish(pump) do
      {:ok, %{outcome: {:ok, _exit}} = report, passed} when not is_tuple(cut_short) ->
        {stdout, stderr} = Collector.finish(collector)
        {:ok, {stdout, stderr, report, cut_short || passed}}

      {:ok, %{outcome: {:ok, _exit}}, _passed} ->
        Collector.abandon(collector)
        {:error, cut_short}

      {:ok, %{outcome: {:error, reason}}, _passed} ->
        Collector.abandon(collector)
        {:error, reason}

      {:error, :closed} ->
        Collector.abandon(collector)
        {:error, :closed}
    end
  catch
    kind, reason ->
      stacktrace = __STACKTRACE__
      Pump.halt(pump)
      Collector.abandon(collector)
      :erlang.raise(kind, reason, stacktrace)
  end

  # Reads to the end, or to what cuts it short: a time limit, the limit of output, or the reason of an error
  # of the input file (a tuple). After a time limit what the command writes until it is dead is read, too.
  defp read(pump, collector, cut_short) do
    case Pump.next(pump) do
      {:data, name, data, pump} ->
        case Collector.add(collector, name, data) do
          {:ok, collector} ->
            read(pump, collector, cut_short)

          {:full, collector} ->
            {pump |> Pump.close_outputs() |> Pump.stop(), collector, cut_short || :max_output_exceeded}
        end

      {:eof, pump} ->
        {pump, collector, cut_short}

      {:timeout, name, pump} ->
        read(Pump.stop(pump), collector, name)

      {:error, {:input, _posix} = reason, pump} ->
        read(Pump.stop(pump), collector, cut_short || reason)

      # What it means, finish/1 tells.
      {:error, _reason, pump} ->
        {pump, collector, cut_short}
    end
  end
end
