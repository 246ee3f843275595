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
        {pieces, unfinished} = collect([lines.unfinished <> first | others], limit, [])
        {pieces, %{lines | unfinished: unfinished}}
    end
  end

  @doc "What has come since the last newline, if anything."
  @spec finish(t()) :: [binary()]
  def finish(%Lines{unfinished: ""}), do: []
  def finish(%Lines{unfinished: unfinished}), do: [unfinished]

  # `pieces`: in reverse. The last one is unfinished.
  defp collect([last], limit, pieces) do
    {last_pieces, unfinished} = cut(last, limit)
    {Enum.reverse(pieces, last_pieces), unfinished}
  end

  defp collect([line | others], limit, pieces) when byte_size(line) <= limit,
    do: collect(others, limit, [line | pieces])

  defp collect([line | others], limit, pieces) do
    {line_pieces, rest} = cut(line, limit)
    collect(others, limit, [rest | Enum.reverse(line_pieces, pieces)])
  end

  # The rest has at least one byte where there were any: the newline may come next.
  defp cut(line, limit) when byte_size(line) <= limit, do: {[], line}

  defp cut(line, limit) do
    <<piece::binary-size(limit), rest::binary>> = line
    {pieces, rest} = cut(rest, limit)
    {[piece | pieces], rest}
  end
end
