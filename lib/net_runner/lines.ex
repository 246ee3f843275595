defmodule NetRunner.Lines do
  @moduledoc false
  # Chunks to lines, without their newline. Pure.
  #
  # A line longer than `limit` bytes is cut into several of at most that length, so that a command that never
  # ends its line cannot fill the memory; no byte but newlines is lost. At most `limit` bytes are held.

  alias __MODULE__

  @type t :: %Lines{limit: pos_integer(), unfinished: binary()}

  @enforce_keys [:limit]
  defstruct [:limit, unfinished: ""]

  @spec new(limit :: pos_integer()) :: t()
  def new(limit), do: %Lines{limit: limit}

  @spec add(t(), binary()) :: {[binary()], t()}
  def add(%Lines{limit: limit} = lines, chunk) do
    # Only the new bytes are searched.
    case :binary.split(chunk, "\n", [:global]) do
      [more] ->
        {pieces, unfinished} = cut(lines.unfinished <> more, limit)
        {pieces, %{lines | unfinished: unfinished}}

      [first | others] ->
        {last, whole} = List.pop_at(others, -1)
        finished = Enum.flat_map([lines.unfinished <> first | whole], &whole(&1, limit))
        {pieces, unfinished} = cut(last, limit)
        {finished ++ pieces, %{lines | unfinished: unfinished}}
    end
  end

  @doc "What has come since the last newline, if anything."
  @spec finish(t()) :: [binary()]
  def finish(%Lines{unfinished: ""}), do: []
  def finish(%Lines{unfinished: unfinished}), do: [unfinished]

  defp whole(line, limit) when byte_size(line) <= limit, do: [line]

  defp whole(line, limit) do
    {pieces, rest} = cut(line, limit)
    pieces ++ [rest]
  end

  # The rest has at least one byte where there were any: the newline may come next.
  defp cut(line, limit) when byte_size(line) <= limit, do: {[], line}

  defp cut(line, limit) do
    <<piece::binary-size(limit), rest::binary>> = line
    {pieces, rest} = cut(rest, limit)
    {[piece | pieces], rest}
  end
end
