defmodule NetRunner.LinesTest do
  use ExUnit.Case, async: true

  alias NetRunner.Lines

  test "lines come without their newline, the last one at the end" do
    assert lines(100, ["a\nb\n"]) == ["a", "b"]
    assert lines(100, ["a\nb"]) == ["a", "b"]
    assert lines(100, ["\n\n"]) == ["", ""]
    assert lines(100, []) == []
    assert lines(100, [""]) == []
  end

  test "only the newline is taken away" do
    assert lines(100, ["a\r\nb\r\n"]) == ["a\r", "b\r"]
  end

  test "a line is delivered when its newline has come" do
    assert {[], lines} = Lines.add(Lines.new(100), "ab")
    assert {["abc"], lines} = Lines.add(lines, "c\nd")
    assert Lines.finish(lines) == ["d"]
  end

  test "a long line is cut into pieces of the limit" do
    assert lines(3, ["abcdefgh\n"]) == ["abc", "def", "gh"]
    assert lines(3, ["abcdefgh"]) == ["abc", "def", "gh"]
    assert lines(3, ["abcdef\n", "x\n"]) == ["abc", "def", "x"]
    assert lines(3, ["abc\n"]) == ["abc"]
    assert lines(1, ["ab\n"]) == ["a", "b"]
  end

  test "pieces of a long line do not wait for its end, and no more than the limit is held" do
    {pieces, lines} = Lines.add(Lines.new(3), "abcdefg")
    assert pieces == ["abc", "def"]
    assert lines.unfinished == "g"
  end

  test "no line keeps the chunk that it came in, nor does what is unfinished" do
    line = String.duplicate("a", 100)
    chunk = String.duplicate(line <> "\n", 300)

    for limit <- [70, 1_000],
        chunks <- [[chunk <> line], [line, chunk, line], [line <> line, chunk, line, line]] do
      {items, lines} = Enum.flat_map_reduce(chunks, Lines.new(limit), &Lines.add(&2, &1))
      for item <- [lines.unfinished | items], do: assert(:binary.referenced_byte_size(item) < 1_000)
    end
  end

  test "an unfinished line of exactly 512 MiB is there at the end" do
    # 2^32 bits (docs/decisions.md).
    bytes = 512 * 1024 * 1024
    assert [line] = lines(2 * bytes, [:binary.copy("a", bytes)])
    assert byte_size(line) == bytes
  end

  test "the cut of the chunks makes no difference" do
    :rand.seed(:exsss, {1, 2, 3})

    for _round <- 1..200 do
      text = for _byte <- 1..:rand.uniform(100), into: "", do: Enum.random(["a", "b", "\n"])
      limit = :rand.uniform(10)
      assert lines(limit, split(text)) == lines(limit, [text])
    end
  end

  defp split(""), do: []

  defp split(text) do
    {chunk, rest} = String.split_at(text, :rand.uniform(5))
    [chunk | split(rest)]
  end

  defp lines(limit, chunks) do
    {items, lines} = Enum.flat_map_reduce(chunks, Lines.new(limit), &Lines.add(&2, &1))
    items ++ Lines.finish(lines)
  end
end
