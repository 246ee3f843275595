defmodule NetRunner.Test.PipeModel do
  @moduledoc false
  # What must be true of a command's three pipes, whatever was done to them in which order.
  #
  # A history is what was asked, in the order in which it was accepted, with the results: writes to stdin, reads
  # from stdout and stderr, and what the command itself has read and written. The pipes are streams of bytes:
  #
  # * What went into stdin is the writes one after the other, up to one that failed, of which a part did;
  #   `bytes_in` of the statistics is exactly its length. The command reads the beginning of that, all of it if
  #   it reads to the end, and all but what a pipe holds.
  # * What readers got is, in the order in which they asked, the beginning of what the command has written, and
  #   all of it if one of them was told `:eof`.
  # * A result is one of those that what was done before allows.

  import ExUnit.Assertions

  alias NetRunner.Test.Puppet

  # What a pipe holds (pipe(7)).
  @pipe 65_536
  # Until so many bytes were written, none has been grown: 16 writes have found it full then (growth.rs), the first after
  # 64 KiB, and each other after about a page, or more.
  @not_grown 100_000
  @grown 1_048_576

  @doc """
  `writes`: `{bytes, result}` in order of acceptance. `received`: what the command has read, in order;
  `to_end?`: up to the end of file; `unanswered`: how much more it may have read. `bytes_in`: as it was counted.
  """
  def check_stdin(%{writes: writes, received: received, to_end?: to_end?, bytes_in: bytes_in} = history) do
    received = IO.iodata_to_binary(received)
    {done, rest} = Enum.split_while(writes, fn {_bytes, result} -> result == :ok end)
    whole = done |> Enum.map(&elem(&1, 0)) |> IO.iodata_to_binary()

    # Who comes after one that failed has written nothing: it is closed, or nobody reads.
    for {bytes, result} <- rest do
      assert result != :ok or bytes == "",
             "a write succeeded after another had failed: #{inspect(results(writes))}"
    end

    # The rest of what was written is in the pipe, or was when it was closed.
    pipe = if bytes_in < @not_grown, do: @pipe, else: @grown

    assert bytes_in <= byte_size(received) + history.unanswered + pipe,
           "bytes_in is #{bytes_in}, and #{byte_size(received)} were received"

    part = bytes_in - byte_size(whole)
    assert part >= 0, "bytes_in is #{bytes_in}, and #{byte_size(whole)} were written"

    broken = with [{bytes, _error} | _] <- rest, do: bytes, else: ([] -> "")

    assert part == 0 or part < byte_size(broken),
           "#{part} of #{byte_size(broken)} bytes of a write that failed"

    stream = whole <> binary_part(broken, 0, part)

    assert byte_size(received) <= byte_size(stream), "received #{byte_size(received)} of #{byte_size(stream)}"

    assert same?(received, binary_part(stream, 0, byte_size(received))),
           "other bytes were received than written"

    if to_end?,
      do: assert(byte_size(received) == byte_size(stream), "not all was received at the end of file")
  end

  defp results(writes), do: for({bytes, result} <- writes, do: {byte_size(bytes), result})

  @doc """
  `reads`: `{max, result}` in the order in which they were asked. `written`: how many bytes the command says it
  has written; `at_most`: how many it may have begun to write. `counted`: of the statistics, or nil.
  """
  def check_output(name, %{reads: reads, written: written, at_most: at_most, counted: counted}) do
    chunks = for {_max, {:ok, chunk}} <- reads, do: chunk
    got = IO.iodata_to_binary(chunks)

    for {max, {:ok, chunk}} <- reads,
        do: assert(byte_size(chunk) in 1..max//1, "#{byte_size(chunk)} of #{max}")

    assert counted in [nil, byte_size(got)], "#{name}: #{byte_size(got)} were read, #{counted} were counted"
    assert byte_size(got) <= at_most, "#{name}: #{byte_size(got)} were read, #{at_most} were written"
    assert same?(got, Puppet.pattern(name, 0, byte_size(got))), "#{name}: other bytes were read than written"

    if Enum.any?(reads, fn {_max, result} -> result == :eof end) do
      assert byte_size(got) >= written, "#{name}: #{byte_size(got)} of #{written} were there before :eof"
      {_before, from_eof} = Enum.split_while(reads, fn {_max, result} -> result != :eof end)

      assert Enum.all?(from_eof, fn {_max, result} -> not match?({:ok, _}, result) end),
             "#{name}: data after :eof"
    end
  end

  # A failed `==` of such binaries prints them both.
  defp same?(one, other), do: one == other
end
