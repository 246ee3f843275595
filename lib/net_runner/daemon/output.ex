defmodule NetRunner.Daemon.Output do
  @moduledoc false
  # The process that reads a daemon's output and hands it on, for as long as there is some.
  #
  # * It is linked to the daemon. Its exit reason says how the command has ended, when all output is delivered.
  # * It reads the next chunk when the last one is delivered: a slow receiver slows the command, and nothing piles
  #   up.
  # * Until the output has matched the daemon's `:ready` pattern, it is searched as well.

  require Logger

  alias NetRunner.Daemon.Log
  alias NetRunner.Options
  alias NetRunner.Process, as: Proc

  @typedoc "How the command has ended: its status, and the signal that ended it."
  @type outcome :: {:ok, 0..255, atom() | nil} | {:error, term()}

  # A mailbox of this length is waited for.
  @most_messages 1_000
  @mailbox_pause 10
  # A match may begin in one chunk and end in another, so far back.
  @searched_bytes 65_536

  @spec start_link(Proc.t(), [binary()], Options.t()) :: pid()
  def start_link(process, command, options) do
    daemon = self()
    callers = [daemon | Process.get(:"$callers", [])]

    spawn_link(fn ->
      Process.put(:"$callers", callers)
      Logger.metadata([os_pid: Proc.os_pid(process), command: command] ++ options.log_metadata)

      state =
        read(%{
          daemon: daemon,
          process: process,
          options: options,
          sink: if(options.on_output == :log, do: Log.new(), else: options.on_output),
          raised?: false,
          pattern: if(is_struct(options.ready, Regex), do: options.ready),
          seen: %{stdout: "", stderr: ""}
        })

      if is_struct(state.sink, Log), do: log(Log.finish(state.sink), state)
      exit({:shutdown, {:over, outcome(process)}})
    end)
  end

  defp read(state) do
    case Proc.read_any(state.process) do
      {:ok, {stream, chunk}} -> state |> search(stream, chunk) |> deliver(stream, chunk) |> read()
      # Neither is a pipe, or the command is lost: its exit tells.
      _eof_or_error -> state
    end
  end

  # Of a server that the application's stop has ended meanwhile there is only the status.
  defp outcome(process) do
    with {:ok, status} <- Proc.await_exit(process) do
      case Proc.stats(process) do
        %{signal: signal} -> {:ok, status, signal}
        {:error, :closed} -> {:ok, status, nil}
      end
    end
  end

  defp search(%{pattern: nil} = state, _stream, _chunk), do: state

  defp search(state, stream, chunk) do
    text = state.seen[stream] <> chunk

    if matches?(state.pattern, text) do
      send(state.daemon, {__MODULE__, :matched})
      %{state | pattern: nil, seen: nil}
    else
      kept = min(byte_size(text), @searched_bytes)
      put_in(state.seen[stream], :binary.copy(binary_part(text, byte_size(text), -kept)))
    end
  end

  defp matches?(pattern, text) do
    Regex.match?(pattern, text)
  rescue
    # One of Unicode takes nothing but UTF-8. Output may be anything, and may end within a character.
    ArgumentError -> Regex.match?(pattern, String.replace_invalid(text))
  end

  defp deliver(%{sink: :discard} = state, _stream, _chunk), do: state

  defp deliver(%{sink: %Log{} = log} = state, stream, chunk) do
    {lines, log} = Log.add(log, stream, chunk)
    log(lines, state)
    %{state | sink: log}
  end

  defp deliver(%{sink: {:send, pid}} = state, stream, chunk) do
    await_mailbox(pid)
    send(pid, {state.daemon, {stream, chunk}})
    state
  end

  defp deliver(%{sink: function} = state, stream, chunk) do
    if is_function(function, 1), do: function.(chunk), else: function.(stream, chunk)
    state
  catch
    kind, reason -> raised(state, Exception.format(kind, reason, __STACKTRACE__))
  end

  defp raised(%{raised?: true} = state, _what), do: state

  defp raised(state, what) do
    Logger.error(
      "the :on_output function of a NetRunner.Daemon has failed; it is called again for what comes\n#{what}"
    )

    %{state | raised?: true}
  end

  # A receiver that is too slow must not fill the memory. One that is dead has no mailbox.
  defp await_mailbox(pid) do
    case Process.info(pid, :message_queue_len) do
      {:message_queue_len, length} when length >= @most_messages ->
        receive do
        after
          @mailbox_pause -> await_mailbox(pid)
        end

      _room_or_dead ->
        :ok
    end
  end

  defp log(lines, %{options: options}) do
    for {stream, line} <- lines, do: Logger.log(options.log_level, [options.log_prefix, line], stream: stream)
  end
end
