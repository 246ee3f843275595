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
