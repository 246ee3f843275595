defmodule NetRunner.Process.Drain do
  @moduledoc false
  # Reads a pipe of which only the end is wanted, in the process that holds it. It reads what is there and no
  # more, so that a command that floods stderr does not keep its server from other work.
  #
  # The process passes on the messages `{:select, _, ref, _}` and `{:drain, ref}` that carry the drain's `ref`. It
  # is nil when there is nothing to read any more.

  alias NetRunner.{Nif, Pipe}
  alias NetRunner.Process.Tail
  alias __MODULE__

  @type t :: %Drain{pipe: Nif.pipe() | nil, ref: reference() | nil, tail: Tail.t()}

  @enforce_keys [:tail]
  defstruct [:pipe, :ref, :tail]

  # Not what a stream reads at once: that would wait for more to come, some 100 µs each time.
  @read_size 2 * Pipe.read_size()

  # How often is read before other messages have their turn.
  @reads 16

  @doc "Starts to read; `nil` is no pipe."
  @spec new(Nif.pipe() | nil, tail_bytes :: non_neg_integer()) :: t()
  def new(nil, tail_bytes), do: %Drain{tail: Tail.new(tail_bytes)}
  def new(pipe, tail_bytes), do: read(%Drain{pipe: pipe, ref: make_ref(), tail: Tail.new(tail_bytes)})

  @doc "Reads what is there. Where that is much, a message says when to go on."
  @spec read(t()) :: t()
  def read(drain), do: read(drain, @reads)

  defp read(%Drain{ref: nil} = drain, _reads), do: drain

  defp read(%Drain{ref: ref} = drain, 0) do
    send(self(), {:drain, ref})
    drain
  end

  defp read(%Drain{ref: ref} = drain, reads) do
    case Nif.read(drain.pipe, @read_size) do
      {:ok, chunk} ->
        read(%{drain | tail: Tail.add(drain.tail, chunk)}, reads - 1)

      :wait ->
        Nif.wait(drain.pipe, :read, ref)
        drain

      _eof_or_error ->
        close(drain)
    end
  end

  @doc "Reads what is in the pipe at this moment, and nothing afterwards."
  @spec finish(t()) :: t()
  def finish(%Drain{ref: nil} = drain), do: drain

  def finish(drain) do
    # Others may still write.
    Nif.finish(drain.pipe)
    drain |> read_all() |> close()
  end

  defp read_all(drain) do
    case Nif.read(drain.pipe, @read_size) do
      {:ok, chunk} -> read_all(%{drain | tail: Tail.add(drain.tail, chunk)})
      _no_more -> drain
    end
  end

  @doc "Nothing is read any more. A message that is under way carries a reference that nobody knows."
  @spec close(t()) :: t()
  def close(drain), do: %{drain | ref: nil}
end
