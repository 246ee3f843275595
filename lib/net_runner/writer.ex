defmodule NetRunner.Writer do
  @moduledoc false
  # The process that enumerates a command's input, where that means to run the user's code: so that output can
  # be read meanwhile. It is also the `Collectable` that an input function gets.
  #
  # * It stands for the caller: `$callers` and the Logger's metadata are set. But `self()` is another one, and it
  #   owns the commands that are started in it.
  # * A command that does not want to read any more is no error: the enumeration is halted.
  # * An exception stops the command: with a part of its input it must not end as if that were all. The caller
  #   raises it again, when it asks by finish/1.
  # * It lives until the caller asks or is dead, so that what it has to say is not lost. While it enumerates another
  #   process watches the caller, for nothing else may be left to do so: the server, and NetRunner itself, can be gone
  #   before the caller. The server of its command monitors it, in case it is killed.
  # * The caller is not linked to it, and gets no message from it but inside finish/1.

  require Logger

  alias NetRunner.{Error, Nif, Pipe, Table, Watcher}

  @typedoc "What is enumerated."
  @type source :: Enumerable.t() | (Collectable.t() -> term())

  @type outcome :: :ok | {:raised, :error | :exit | :throw, term(), Exception.stacktrace()}

  # As a Collectable: where to write, and what is thrown when nobody reads any more.
  @enforce_keys [:pipe, :stop]
  defstruct [:pipe, :stop]

  # How long user code may take to notice that nobody reads any more.
  @grace 100

  @doc "Starts to write to the command of this server."
  @spec start(server :: pid(), Nif.pipe(), source()) :: pid()
  def start(server, pipe, source) do
    caller = self()
    callers = [caller | Process.get(:"$callers", [])]
    metadata = Logger.metadata()

    spawn(fn ->
      Process.put(:"$callers", callers)
      Logger.metadata(metadata)

      writer = self()
      guard = spawn(fn -> guard(writer, caller) end)

      # False: the server has died meanwhile, and nobody reads.
      outcome =
        if Table.update(server, :writer, writer) do
          GenServer.cast(server, {:writer, writer})
          write(server, pipe, source)
        else
          :ok
        end

      send(guard, :done)
      linger(caller, outcome)
    end)
  end

  # Ends the writer when the caller dies: the commands of the input, which it owns, end with it, and not after those
  # that they write to.
  defp guard(writer, caller) do
    monitor = Process.monitor(caller)
    Process.monitor(writer)

    receive do
      {:DOWN, ^monitor, :process, _caller, _reason} -> Process.exit(writer, :kill)
      {:DOWN, _monitor, :process, _writer, _reason} -> :ok
      :done -> :ok
    end
  end

  @doc """
  Ends the writer and says how its enumeration went; after 100 ms it is killed. Returns when the commands that
  it owned are gone. The command's stdin must be closed, or nobody read it any more.
  """
  @spec finish(pid()) :: outcome()
  def finish(writer) do
    monitor = Process.monitor(writer)
    send(writer, {__MODULE__, :finish})

    outcome =
      receive do
        {:DOWN, ^monitor, :process, _writer, {:shutdown, outcome}} -> outcome
        # It was killed, which its command's server has noticed.
        {:DOWN, ^monitor, :process, _writer, _reason} -> :ok
      after
        @grace -> kill(writer, monitor)
      end

    await_owned(writer)
    outcome
  end

  @doc "Ends the writer of a caller who is dead. Returns when the commands that it owned are gone."
  @spec abandon(pid()) :: :ok
  def abandon(writer) do
    kill(writer, Process.monitor(writer))
    await_owned(writer)
  end

  defp kill(writer, monitor) do
    Process.exit(writer, :kill)

    receive do
      {:DOWN, ^monitor, :process, _writer, {:shutdown, outcome}} -> outcome
      {:DOWN, ^monitor, :process, _writer, _reason} -> :ok
    end
  end

  # The commands that a dead process owned, and those of their writers: a server awaits them before its row goes
  # (NetRunner.Process.Effects), but not one that was killed.
  defp await_owned(owner) do
    Enum.each(Table.owned_by(owner), fn server ->
      writer = Table.writer(server)
      Watcher.await_gone(server)
      with {:ok, writer} when writer != nil <- writer, do: await_owned(writer)
    end)
  end

  # -- in the writer's process -------------------------------------------------------------------------

  defp write(server, pipe, source) do
    stop = make_ref()

    try do
      enumerate(source, %__MODULE__{pipe: pipe, stop: stop})
      # In raw mode a terminal has no end of input; the command knows when it is over.
      _ = Pipe.end_input(pipe)
      :ok
    catch
      :throw, ^stop ->
        :ok

      kind, reason ->
        GenServer.cast(server, :stop)
        {:raised, kind, reason, __STACKTRACE__}
    end
  end

  defp enumerate(function, writer) when is_function(function, 1), do: function.(writer)

  defp enumerate(enumerable, writer) do
    Enum.reduce_while(enumerable, :ok, fn data, :ok ->
      case Pipe.write(writer.pipe, data) do
        :ok -> {:cont, :ok}
        {:error, :line_too_long} -> raise Error, reason: {:input, :line_too_long}
        {:error, _nobody_reads} -> {:halt, :ok}
      end
    end)
  end

  defp linger(caller, outcome) do
    monitor = Process.monitor(caller)

    receive do
      {__MODULE__, :finish} -> exit({:shutdown, outcome})
      {:DOWN, ^monitor, :process, _caller, _reason} -> :ok
    end
  end

  defimpl Collectable do
    def into(writer) do
      {writer,
       fn
         writer, {:cont, data} ->
           case NetRunner.Pipe.write(writer.pipe, data) do
             :ok -> writer
             {:error, :line_too_long} -> raise NetRunner.Error, reason: {:input, :line_too_long}
             {:error, _nobody_reads} -> throw(writer.stop)
           end

         writer, :done ->
           writer

         _writer, :halt ->
           :ok
       end}
    end
  end
end
