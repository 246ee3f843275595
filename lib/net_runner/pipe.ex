defmodule NetRunner.Pipe do
  @moduledoc false
  # Reading and writing a pipe in the process that wants it, without a call to any other.
  #
  # * The functions wait, but for read_within/3 without a time limit, so they leave only with a result; and whoever got
  #   `:wait` from the NIF has then received its message, or taken it back. So no message is left in the caller's mailbox.
  # * The reference is made in the function that receives: the VM then skips what was in the mailbox before
  #   (Erlang efficiency guide, "Receiving messages").

  alias NetRunner.Nif

  @type max_bytes :: pos_integer()

  # What one read asks for; a pipe holds 65,536 bytes (pipe(7)).
  @read_size 65_536

  @doc "The size of a read for whoever has no reason for another one, in bytes."
  @spec read_size() :: pos_integer()
  def read_size, do: @read_size

  @doc "At most `max` bytes, at least one; waits for them."
  @spec read(Nif.pipe(), max_bytes()) :: {:ok, binary()} | :eof | {:error, atom()}
  def read(pipe, max \\ @read_size) do
    ref = make_ref()

    case Nif.read(pipe, ref, max) do
      :wait ->
        receive do
          {:select, ^pipe, ^ref, _what} -> read(pipe, max)
        end

      result ->
        result
    end
  end

  @doc "As `read/2`, until a time, in ms of `System.monotonic_time/1`."
  @spec read_within(Nif.pipe(), max_bytes(), deadline :: integer() | :infinity) ::
          {:ok, binary()} | :eof | :timeout | {:error, atom()}
  def read_within(pipe, max, deadline) do
    ref = make_ref()

    case Nif.read(pipe, ref, max) do
      :wait ->
        receive do
          {:select, ^pipe, ^ref, _what} -> read_within(pipe, max, deadline)
        after
          remaining(deadline) ->
            cancel(pipe, :read, ref)
            :timeout
        end

      result ->
        result
    end
  end

  defp remaining(:infinity), do: :infinity
  defp remaining(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  @doc "Writes all; returns when every byte is in the pipe."
  @spec write(Nif.pipe(), iodata()) :: :ok | {:error, atom()}
  def write(pipe, data), do: write_iovec(pipe, :erlang.iolist_to_iovec(data))

  defp write_iovec(pipe, iovec) do
    ref = make_ref()

    case Nif.write(pipe, ref, iovec) do
      :ok ->
        :ok

      {:wait, rest} ->
        receive do
          {:select, ^pipe, ^ref, _what} -> write_iovec(pipe, rest)
        end

      {:again, rest} ->
        write_iovec(pipe, rest)

      {:error, reason} ->
        {:error, reason}
    end
  end

  @doc "Ends the input: all that was written before comes first."
  @spec end_input(Nif.pipe()) :: :ok | {:error, :not_canonical}
  def end_input(pipe) do
    ref = make_ref()

    case Nif.end_input(pipe, ref) do
      :wait ->
        receive do
          {:select, ^pipe, ^ref, _what} -> end_input(pipe)
        end

      result ->
        result
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
    read_first(first ++ behind, [], max, make_ref())
  end

  # `waiting`: the pipes that this process waits for.
  defp read_first([{name, pipe} = entry | others], waiting, max, ref) do
    case Nif.read(pipe, ref, max) do
      :wait ->
        read_first(others, [entry | waiting], max, ref)

      {:ok, data} ->
        cancel_reads(waiting, ref)
        {:ok, {name, data}}

      :eof ->
        read_first(others, waiting, max, ref)

      {:error, reason} ->
        cancel_reads(waiting, ref)
        {:error, reason}
    end
  end

  defp read_first([], [], _max, _ref), do: :eof

  defp read_first([], waiting, max, ref) do
    receive do
      {:select, pipe, ^ref, _what} ->
        {[entry], others} = Enum.split_with(waiting, fn {_name, other} -> other == pipe end)
        read_first([entry], others, max, ref)
    end
  end

  defp cancel_reads(waiting, ref) do
    Enum.each(waiting, fn {_name, pipe} -> cancel(pipe, :read, ref) end)
  end

  @doc """
  Gives a place in the queue back, after `:wait`, and before the message has been received. Afterwards no
  message will come.
  """
  @spec cancel(Nif.pipe(), :read | :write, reference()) :: :ok
  def cancel(pipe, direction, ref) do
    with :sent <- Nif.cancel(pipe, direction, ref) do
      receive do
        {:select, ^pipe, ^ref, _what} -> :ok
      end
    else
      :cancelled -> :ok
    end
  end
end
