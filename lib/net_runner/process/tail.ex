defmodule NetRunner.Process.Tail do
  @moduledoc false
  # The last bytes of a stream. Pure.
  #
  # Holds at most twice `limit` bytes, and nothing that is held is part of a larger binary. A chunk costs no
  # more than its own bytes do, on average: it is copied once when it comes and at most once when it is joined.

  alias __MODULE__

  @type t :: %Tail{limit: non_neg_integer(), size: non_neg_integer(), chunks: [binary()]}

  # `chunks`: the last one first.
  @enforce_keys [:limit]
  defstruct [:limit, size: 0, chunks: []]

  @spec new(limit :: non_neg_integer()) :: t()
  def new(limit), do: %Tail{limit: limit}

  @spec add(t(), binary()) :: t()
  def add(%Tail{limit: 0} = tail, _chunk), do: tail

  def add(%Tail{limit: limit} = tail, chunk) when byte_size(chunk) >= limit do
    %{tail | size: limit, chunks: [last(chunk, limit)]}
  end

  def add(%Tail{limit: limit, size: size} = tail, chunk) when size + byte_size(chunk) >= 2 * limit do
    joined = IO.iodata_to_binary(Enum.reverse([chunk | tail.chunks]))
    %{tail | size: limit, chunks: [last(joined, limit)]}
  end

  def add(tail, chunk) do
    %{tail | size: tail.size + byte_size(chunk), chunks: [:binary.copy(chunk) | tail.chunks]}
  end

  @doc "At most `limit` bytes: the end of everything that was added."
  @spec to_binary(t()) :: binary()
  def to_binary(%Tail{chunks: []}), do: ""

  def to_binary(%Tail{} = tail) do
    joined = IO.iodata_to_binary(Enum.reverse(tail.chunks))
    if byte_size(joined) > tail.limit, do: last(joined, tail.limit), else: joined
  end

  # A sub-binary would keep the whole binary alive (Erlang efficiency guide, "Sub-binaries").
  defp last(binary, size), do: binary |> binary_part(byte_size(binary), -size) |> :binary.copy()
end
