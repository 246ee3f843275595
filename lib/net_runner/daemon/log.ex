defmodule NetRunner.Daemon.Log do
  @moduledoc false
  # Chunks of two streams to lines for a log. Pure. Of a line that is too long the beginning is kept, and how long
  # it was is said at its end, so the memory is bounded and one line is one message.

  alias __MODULE__

  @type stream :: :stdout | :stderr
  @type line :: {stream(), String.t()}
  # What has come of the unfinished line: its beginning, and how many bytes are not kept.
  @typep unfinished :: {binary(), cut :: non_neg_integer()}
  @opaque t :: %Log{stdout: unfinished(), stderr: unfinished()}

  @limit 65_536

  defstruct stdout: {"", 0}, stderr: {"", 0}

  @spec new() :: t()
  def new, do: %Log{}

  @spec add(t(), stream(), binary()) :: {[line()], t()}
  def add(log, stream, chunk) do
    [first | others] = :binary.split(chunk, "\n", [:global])
    {lines, unfinished} = split(others, append(Map.fetch!(log, stream), first), [])
    {for(line <- lines, do: {stream, text(line)}), Map.replace!(log, stream, unfinished)}
  end

  @doc "The lines that have no newline."
  @spec finish(t()) :: [line()]
  def finish(log) do
    for stream <- [:stdout, :stderr],
        line = Map.fetch!(log, stream),
        line != {"", 0},
        do: {stream, text(line)}
  end

  defp split([], unfinished, lines), do: {Enum.reverse(lines), unfinished}
  defp split([next | others], finished, lines), do: split(others, append({"", 0}, next), [finished | lines])

  defp append({kept, cut}, more) do
    taken = min(byte_size(more), @limit - byte_size(kept))
    # A copy: a part of a chunk would keep all of it.
    {kept <> :binary.copy(binary_part(more, 0, taken)), cut + byte_size(more) - taken}
  end

  defp text({kept, cut}) do
    kept = String.replace_invalid(kept)
    if cut == 0, do: kept, else: "#{kept} [cut: #{@limit + cut} bytes in all]"
  end
end
