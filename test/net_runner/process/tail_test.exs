defmodule NetRunner.Process.TailTest do
  use ExUnit.Case, async: true

  alias NetRunner.Process.Tail

  test "keeps all that fits" do
    assert tail(10, ["abc", "", "def"]) == "abcdef"
    assert tail(6, ["abc", "def"]) == "abcdef"
    assert tail(10, []) == ""
  end

  test "keeps the end of what does not fit" do
    assert tail(4, ["abc", "def"]) == "cdef"
    assert tail(4, ["abcdefgh"]) == "efgh"
    assert tail(4, ["abcdefgh", "i"]) == "fghi"
    assert tail(1, ["abc"]) == "c"
  end

  test "keeps nothing with a limit of 0" do
    assert tail(0, ["abc", "def"]) == ""
  end

  test "is the end of everything, however it is cut into chunks" do
    :rand.seed(:exsss, {1, 2, 3})

    for _round <- 1..200 do
      limit = :rand.uniform(50)
      chunks = for _chunk <- 1..:rand.uniform(30), do: :rand.bytes(:rand.uniform(80) - 1)
      all = IO.iodata_to_binary(chunks)
      kept = min(limit, byte_size(all))
      assert tail(limit, chunks) == binary_part(all, byte_size(all), -kept)
    end
  end

  test "holds at most twice its limit, and no part of a larger binary" do
    chunk = String.duplicate("x", 1_000)

    Enum.reduce(1..100, Tail.new(1_500), fn size, tail ->
      tail = Tail.add(tail, binary_part(chunk, 0, size * 10))
      assert IO.iodata_length(tail.chunks) == tail.size
      assert tail.size < 3_000
      # (Of a heap binary, up to 64 bytes, OTP 27 tells the bits.)
      assert Enum.all?(
               tail.chunks,
               &(byte_size(&1) <= 64 or :binary.referenced_byte_size(&1) == byte_size(&1))
             )

      tail
    end)
  end

  defp tail(limit, chunks), do: chunks |> Enum.reduce(Tail.new(limit), &Tail.add(&2, &1)) |> Tail.to_binary()
end
