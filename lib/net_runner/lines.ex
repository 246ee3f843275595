defmodule NetRunner.Lines do
  @moduledoc false
  # Chunks to lines, without their newline. Pure.
  #
  # A line longer than `limit` bytes is cut into several of at most that length, so that a command that never
  # ends its line cannot fill the memory; no byte but newlines is lost. At most `limit` bytes are held, and no line
  # keeps the chunk that it came in.

  alias __MODULE__

  @type t :: %Lines{limit: pos_integer(), unfinished: binary()}

  @enforce_keys [:limit]
  defstruct [:limit, unfinished: ""]

  # Parts of a binary of so many bytes are binaries of their own (OTP 27 and later); larger ones keep all of it.
  @small if(String.to_integer(System.otp_release()) >= 27, do: 64, else: 0)

  @spec new(limit :: pos_integer()) :: t()
  def new(limit), do: %Lines{limit: limit}

  @spec add(t(), binary()) :: {[binary()], t()}
  def add(%Lines{limit: limit} = lines, chunk) do
    # Only the new bytes are searched.
    case :binary.split(chunk, "\n", [:global]) do
      [more] ->
        case cut(lines.unfinished <> more, limit) do
          # Appended to, chunk after chunk: a copy of each time would take as long as the square of its length.
          {[], unfinished} -> {[], %{lines | unfinished: unfinished}}
          {pieces, rest} -> {pieces, %{lines | unfinished: own(rest)}}
        end

      [first | others] ->
        # A list that the VM reverses twice costs less than one that is built here.
        [last | reversed] = Enum.reverse(others, [lines.unfinished <> first])
        {pieces, rest} = cut(last, limit)

        pieces =
          if short?(reversed, min(limit, @small)),
            do: Enum.reverse(reversed, pieces),
            else: collect(reversed, limit, pieces)

        {pieces, %{lines | unfinished: own(rest)}}
    end
  end

  defp short?([line | others], most) when byte_size(line) <= most, do: short?(others, most)
  defp short?(others, _most), do: others == []

  defp own(part) when byte_size(part) <= @small, do: part
  defp own(part), do: :binary.copy(part)

  @doc "What has come since the last newline, if anything."
  @spec finish(t()) :: [binary()]
  # Not matched with `""`, as in NetRunner.Collector.
  def finish(%Lines{unfinished: unfinished}) when byte_size(unfinished) == 0, do: []
  def finish(%Lines{unfinished: unfinished}), do: [unfinished]

  # In front of `pieces`, the last line first.
  defp collect([], _limit, pieces), do: pieces

  defp collect([line | others], limit, pieces) when byte_size(line) <= limit,
    do: collect(others, limit, [own(line) | pieces])

  defp collect([line | others], limit, pieces) do
    {line_pieces, rest} = cut(line, limit)
    collect(others, limit, line_pieces ++ [own(rest) | pieces])
  end

  # The rest has at least one byte where there were any: the newline may come next.
  defp cut(line, limit) when byte_size(line) <= limit, do: {[], line}

  defp cut(line, limit) do
    <<piece::binary-size(limit), rest::binary>> = line
    {pieces, rest} = cut(rest, limit)
    {[own(piece) | pieces], rest}
  end
end
