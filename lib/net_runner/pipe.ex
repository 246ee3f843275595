defmodule NetRunner.Pipe do
  @moduledoc false
  # Reading and writing a pipe in the process that wants it, without a call to any other.
  #
  # * The functions wait, but for read_within/3 without a time limit, so they leave only with a result; and whoever got
  #   `:wait` from the NIF has then received its message, or taken it back. So no message is left in the caller's mailbox.
  # * The reference is made in the function that receives: the VM then skips what was in the mailbox before
  #   (Erlang efficiency guide, "Receiving messages"). And it is made only where a receive follows for certain: a
  #   process that makes many and waits for few of them can meet an error of the VM (docs/decisions.md, "A reference
  #   is made only by whoever waits").

  alias NetRunner.Nif

  @type max_bytes :: pos_integer()

  # What one read asks for; a pipe holds 65,536 bytes (pipe(7)). The NIF takes a read of this size for that of a stream
  # (LARGE in reading.rs).
  @read_size 65_536

  @doc "The size of a read for whoever has no reason for another one, in bytes."
  @spec read_size() :: pos_integer()
  def read_size, do: @read_size

  @doc "At most `max` bytes, at least one; waits for them."
  @spec read(Nif.pipe(), max_bytes()) :: {:ok, binary()} | :eof | {:error, atom()}
  def read(pipe, max \\ @read_size) do
    with :wait <- Nif.read(pipe, max) do
      wait(pipe, :read)
      read(pipe, max)
    end
  end

  defp wait(pipe, direction) do
    ref = make_ref()
    Nif.wait(pipe, direction, ref)

    receive do
      {:select, ^pipe, ^ref, _what} -> :ok
    end
  end

  @doc "As `read/2`, until a time, in ms of `System.monotonic_time/1`."
  @spec read_within(Nif.pipe(), max_bytes(), deadline :: integer() | :infinity) ::
          {:ok, binary()} | :eof | :timeout | {:error, atom()}
  def read_within(pipe, max, deadline) do
    with :wait <- Nif.read(pipe, max),
         :ok <- wait_to_read(pipe, deadline),
         do: read_within(pipe, max, deadline)
  end

  defp wait_to_read(pipe, deadline) do
    ref = make_ref()
    Nif.wait(pipe, :read, ref)

    receive do
      {:select, ^pipe, ^ref, _what} -> :ok
    after
      remaining(deadline) ->
        cancel(pipe, :read, ref)
        :timeout
    end
  end

  defp remaining(:infinity), do: :infinity
  defp remaining(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  @doc "Writes all; returns when every byte is in the pipe."
  @spec write(Nif.pipe(), iodata()) :: :ok | {:error, atom()}
  def write(pipe, data), do: write_iovec(pipe, iovec(data))

  defp iovec(data) do
    :erlang.iolist_to_iovec(data)
  rescue
    ArgumentError ->
      reraise ArgumentError,
              "not something that can be written to a command, by :input or write.\n" <>
                "Expected: iodata: a binary, or a list of binaries, bytes and such lists\nGot: #{inspect(data)}",
              __STACKTRACE__
  end

  defp write_iovec(pipe, iovec) do
    case Nif.write(pipe, iovec) do
      :ok ->
        :ok

      {:wait, rest} ->
        wait(pipe, :write)
        write_iovec(pipe, rest)

      {:again, rest} ->
        write_iovec(pipe, rest)

      {:error, reason} ->
        {:error, reason}
    end
  end

  @doc "Ends the input: all that was written before comes first."
  @spec end_input(Nif.pipe()) :: :ok | {:error, :not_canonical}
  def end_input(pipe) do
    with :wait <- Nif.end_input(pipe) do
      wait(pipe, :write)
      end_input(pipe)
    end
  end

  @doc """
  Reads from whichever of several pipes has something, waiting for the first that has; `:eof` when all have
  ended. A pipe that is always full does not starve the others.
  """
  @spec read_any([{name, Nif.pipe()}], max_bytes()) ::
          {:ok, {name, binary()}} | :eof | {:error, atom()}
        when name: atom()
  def read_any([], _max), do: :eof

  def read_any([{name, pipe}], max) do
    with {:ok, data} <- read(pipe, max), do: {:ok, {name, data}}
  end

  def read_any(pipes, max) do
    # Nothing is remembered between calls, so it is chance that is fair.
    {behind, first} = Enum.split(pipes, rem(:erlang.unique_integer([:positive]), length(pipes)))
    ask(first ++ behind, [], max)
  end

  # Each is asked once. `entered`: those that have nothing.
  defp ask([], [], _max), do: :eof
  defp ask([], entered, max), do: wait_for_one(entered, max)

  defp ask([{name, pipe} = entry | others], entered, max) do
    case Nif.read(pipe, max) do
      :wait -> ask(others, [entry | entered], max)
      :eof -> ask(others, entered, max)
      result -> result_of(name, result, entered, nil)
    end
  end

  defp wait_for_one(entered, max) do
    ref = make_ref()
    Enum.each(entered, fn {_name, pipe} -> Nif.wait(pipe, :read, ref) end)
    await_one(entered, max, ref)
  end

  # The places of the others in their queues are kept.
  defp await_one(waiting, max, ref) do
    receive do
      {:select, pipe, ^ref, _what} ->
        {[{name, ^pipe}], others} = Enum.split_with(waiting, fn {_name, other} -> other == pipe end)

        case Nif.read(pipe, max) do
          :wait ->
            Nif.wait(pipe, :read, ref)
            await_one(waiting, max, ref)

          :eof when others == [] ->
            :eof

          :eof ->
            await_one(others, max, ref)

          result ->
            result_of(name, result, others, ref)
        end
    end
  end

  defp result_of(name, result, waiting, ref) do
    for {_name, pipe} <- waiting, do: cancel(pipe, :read, ref)
    with {:ok, data} <- result, do: {:ok, {name, data}}
  end

  @doc """
  Gives a place in the queue back, after `:wait`. With the reference of `wait/3`, before its message has been received;
  afterwards no message will come.
  """
  @spec cancel(Nif.pipe(), :read | :write, reference() | nil) :: :ok
  def cancel(pipe, direction, nil) do
    Nif.cancel(pipe, direction)
    :ok
  end

  def cancel(pipe, direction, ref) do
    with :sent <- Nif.cancel(pipe, direction) do
      receive do
        {:select, ^pipe, ^ref, _what} -> :ok
      end
    else
      :cancelled -> :ok
    end
  end
end
