defmodule NetRunner.Daemon.LogTest do
  use ExUnit.Case, async: true

  alias NetRunner.Daemon.Log

  # The lines of chunks of stdout, and the last one.
  defp lines(chunks) do
    {lines, log} = Enum.flat_map_reduce(chunks, Log.new(), &Log.add(&2, :stdout, &1))
    for {:stdout, line} <- lines ++ Log.finish(log), do: line
  end

  test "a line is what a newline ends, however it comes; the last one needs none" do
    assert lines(["a\nb\n"]) == ["a", "b"]
    assert lines(["a", "", "b\n", "\n", "c"]) == ["ab", "", "c"]
    assert lines([]) == []
    assert lines(["\n"]) == [""]
    assert lines(["a\n", ""]) == ["a"]
  end

  test "the two streams do not mix" do
    {[], log} = Log.add(Log.new(), :stdout, "a")
    {[{:stderr, "b"}], log} = Log.add(log, :stderr, "b\nc")
    {[{:stdout, "ad"}], log} = Log.add(log, :stdout, "d\n")
    assert Log.finish(log) == [stderr: "c"]
  end

  test "the limit: up to it a line is whole, above it is cut and says so, whatever the chunks" do
    limit = 65_536

    for size <- [limit - 1, limit, limit + 1, 10 * limit + 7], piece <- [1_000, 65_536, 100_000] do
      text = :binary.copy("x", size)
      chunks = for <<chunk::binary-size(piece) <- text>>, do: chunk
      rest = binary_part(text, size - rem(size, piece), rem(size, piece))
      assert [line, "y"] = lines(chunks ++ [rest, "\ny"])

      if size <= limit,
        do: assert(line == text),
        else: assert(line == :binary.copy("x", limit) <> " [cut: #{size} bytes in all]")
    end
  end

  test "what is not UTF-8 is replaced, where a character was cut too" do
    assert lines([<<"a", 255, "b\n">>]) == ["a\uFFFDb"]
    assert lines([<<0xC3>>, <<0xA9, "\n">>]) == ["é"]
    long = :binary.copy("x", 65_535)
    assert [line] = lines([long <> "é\n"])
    assert line == long <> "\uFFFD [cut: 65537 bytes in all]"
  end

  test "a line without end is not kept whole" do
    chunk = :binary.copy("x", 1_000_000)
    {[], log} = Enum.reduce(1..100, {[], Log.new()}, fn _, {[], log} -> Log.add(log, :stdout, chunk) end)
    assert :erlang.external_size(log) < 100_000
    assert [stdout: line] = Log.finish(log)
    assert line =~ "[cut: 100000000 bytes in all]"
  end
end
