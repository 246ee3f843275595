defmodule NetRunner.System.BytesTest do
  @moduledoc false
  # Issue point 1 and 2: every byte arrives, once, in order, however fast the command exits.
  use NetRunner.Test.SystemCase, async: false

  @mib 1024 * 1024

  describe "input comes back through cat" do
    test "64 MiB through run" do
      bytes = :rand.bytes(64 * @mib)
      assert {out, 0} = NetRunner.run(~w(cat), input: bytes)
      assert same?(out, bytes)
    end

    test "64 MiB through stream!, with a consumer that is fast" do
      bytes = :rand.bytes(64 * @mib)

      assert NetRunner.stream!(~w(cat), input: bytes)
             |> Enum.to_list()
             |> IO.iodata_to_binary()
             |> same?(bytes)
    end

    test "64 MiB through stream!, with a consumer that is slow" do
      bytes = :rand.bytes(64 * @mib)

      out =
        NetRunner.stream!(~w(cat), input: bytes)
        |> Stream.each(fn _chunk -> be_slow(1) end)
        |> Enum.to_list()
        |> IO.iodata_to_binary()

      assert same?(out, bytes)
    end

    test "64 MiB piped in, in pieces of all sizes, through two commands" do
      bytes = :rand.bytes(64 * @mib)

      out =
        pieces(bytes)
        |> NetRunner.stream!(~w(cat))
        |> NetRunner.stream!(~w(cat))
        |> Enum.to_list()
        |> IO.iodata_to_binary()

      assert same?(out, bytes)
    end

    test "a producer that is slower than the consumer" do
      bytes = :rand.bytes(300_000)
      slowly = Stream.each(pieces(bytes, 1_000), fn _piece -> be_slow(1) end)
      assert {^bytes, 0} = NetRunner.run(~w(cat), input: slowly)
    end

    test "sizes around the ones that matter to pipes" do
      for around <- [0, 4096, 65_536, @mib], size <- (around - 1)..(around + 1), size >= 0 do
        bytes = :rand.bytes(size)
        assert {^bytes, 0} = NetRunner.run(~w(cat), input: bytes)
        assert ^bytes = NetRunner.stream!(~w(cat), input: bytes) |> Enum.join()
      end
    end

    test "16 commands at the same time" do
      inputs = for _ <- 1..16, do: :rand.bytes(4 * @mib)

      inputs
      |> Enum.map(&Task.async(fn -> NetRunner.run(~w(cat), input: &1) end))
      |> Task.await_many(60_000)
      |> Enum.zip(inputs)
      |> Enum.each(fn {{out, 0}, bytes} -> assert same?(out, bytes) end)
    end

    test "stderr is as exact as stdout" do
      bytes = :rand.bytes(8 * @mib)
      assert {"", 0, err} = NetRunner.run(sh("cat >&2"), input: bytes, stderr: :capture)
      assert same?(err, bytes)
      assert {out, 0} = NetRunner.run(sh("cat >&2"), input: bytes, stderr: :redirect)
      assert same?(out, bytes)
    end
  end

  describe "a command that writes and exits at once" do
    setup do
      directory = tmp_dir()
      small = :rand.bytes(60_000)
      large = :rand.bytes(10_000_000)
      File.write!(Path.join(directory, "small"), small)
      File.write!(Path.join(directory, "large"), large)
      %{directory: directory, small: small, large: large}
    end

    test "60,000 bytes, 1,000 times, with the right status", %{directory: directory, small: small} do
      in_parallel(1..1_000, fn n ->
        status = rem(n, 256)
        command = sh("cat small; exit $1", ["#{status}"])
        assert {out, ^status} = NetRunner.run(command, cd: directory)
        assert same?(out, small)
      end)
    end

    test "10 MB, 1,000 times, with the right status", %{directory: directory, large: large} do
      in_parallel(1..1_000, fn n ->
        status = rem(n, 256)
        command = sh("cat large; exit $1", ["#{status}"])
        assert {out, ^status} = NetRunner.run(command, cd: directory)
        assert same?(out, large)
      end)
    end

    test "60,000 bytes through stream!, Process and stderr", %{directory: directory, small: small} do
      in_parallel(1..200, fn n ->
        status = rem(n, 256)
        command = sh("cat small; exit $1", ["#{status}"])

        {:ok, stream} = NetRunner.stream(command, cd: directory, stderr: :stream)
        {chunks, [{:exit, ^status}]} = stream |> Enum.to_list() |> Enum.split(-1)
        assert for({:stdout, chunk} <- chunks, into: "", do: chunk) |> same?(small)

        command = sh("cat small >&2; exit $1", ["#{status}"])
        assert {"", ^status, err} = NetRunner.run(command, cd: directory, stderr: :capture)
        assert same?(err, small)

        {:ok, p} = Proc.start("sh", ["-c", "cat small; exit $1", "sh", "#{status}"], cd: directory)
        # It has exited before anything is read.
        assert {:ok, ^status} = Proc.await_exit(p)
        assert same?(read_all(p), small)
        assert :eof = Proc.read(p)
        assert :ok = Proc.stop(p)
      end)
    end

    test "more than a pipe holds waits in the pipe, and is there after the exit of who wrote it" do
      {:ok, p} = Proc.start("sh", ["-c", "head -c 65536 /dev/zero; exit 5"])
      assert {:ok, 5} = Proc.await_exit(p)
      assert read_all(p) == :binary.copy(<<0>>, 65_536)
      assert :ok = Proc.stop(p)
    end
  end

  describe "input that nobody reads" do
    test "what the command does not read is no error" do
      assert {"0123456789", 0} = NetRunner.run(~w(head -c 10), input: String.duplicate("0123456789", @mib))
      assert {"", 0} = NetRunner.run(~w(true), input: :rand.bytes(@mib))

      assert "0123456789" =
               NetRunner.stream!(~w(head -c 10), input: String.duplicate("0123456789", @mib)) |> Enum.join()
    end

    test "an infinite input ends with the command" do
      assert {"y\ny\n", 0} = NetRunner.run(~w(head -n 2), input: Stream.cycle(["y\n"]))
    end

    test "a command that neither reads nor ends is stopped by its timeout" do
      assert {:error, :timeout} = NetRunner.run(~w(sleep 1000), input: :rand.bytes(@mib), timeout: 200)
    end

    test "a command that closes its stdin and goes on" do
      assert {"done\n", 0} = NetRunner.run(sh("exec <&-; cat /dev/null; echo done"), input: :rand.bytes(@mib))
    end
  end

  describe "every kind of input" do
    test "iodata, file, enumerable and collectable" do
      path = Path.join(tmp_dir(), "input")
      bytes = :rand.bytes(200_000)
      File.write!(path, bytes)

      assert {"abc", 0} = NetRunner.run(~w(cat), input: ["a", [?b, "c"]])
      assert {"", 0} = NetRunner.run(~w(cat), input: "")
      assert {"", 0} = NetRunner.run(~w(cat), input: [])
      assert {^bytes, 0} = NetRunner.run(~w(cat), input: {:file, path})
      assert {^bytes, 0} = NetRunner.run(~w(cat), input: File.stream!(path, 1_000))
      assert {"1234", 0} = NetRunner.run(~w(cat), input: Stream.map(1..4, &Integer.to_string/1))
      assert {"a,b,c", 0} = NetRunner.run(~w(cat), input: Stream.map(["a", [?,, "b"], ",c"], & &1))
      assert {"<<>>", 0} = NetRunner.run(~w(cat), input: fn input -> Enum.into(["<<", ">>"], input) end)
    end

    test "none is an end of file at once" do
      assert {"", 0} = NetRunner.run(~w(cat))
      assert "" = NetRunner.stream!(~w(cat)) |> Enum.join()
    end

    test "a file that is not there is an error, and nothing is left running" do
      assert {:error, _reason} = NetRunner.run(~w(cat), input: {:file, "/nonexistent/file"})
      assert OS.commands() == []
    end

    test "an input that raises does so in the caller, and ends the command" do
      failing = Stream.map(1..3, fn n -> if n == 3, do: raise(ArithmeticError, "three"), else: "#{n}" end)
      assert_raise ArithmeticError, "three", fn -> NetRunner.run(~w(cat), input: failing) end
      assert OS.commands() == []

      assert_raise ArithmeticError, "three", fn ->
        NetRunner.stream!(~w(cat), input: failing) |> Enum.to_list()
      end

      assert OS.commands() == []
    end
  end

  describe "writers and readers" do
    test "each write arrives whole, in one piece, and once, however many write at the same time" do
      {:ok, p} = Proc.start("cat", [])
      # Larger than a pipe: each must wait for room, in the middle.
      writes = for writer <- 1..4, number <- 1..5, do: {writer, number}

      writers =
        for writer <- 1..4 do
          Task.async(fn ->
            for number <- 1..5, do: :ok = Proc.write(p, [piece({writer, number})])
          end)
        end

      reader = Task.async(fn -> read_all(p) end)
      Task.await_many(writers, 60_000)
      assert :ok = Proc.close_stdin(p)
      out = Task.await(reader, 60_000)
      assert byte_size(out) == Enum.sum(Enum.map(writes, &byte_size(piece(&1))))

      order = for <<writer, number, rest::binary-size(199_998) <- out>>, do: {{writer, number}, rest}
      for {write, rest} <- order, do: assert(piece(write) == <<elem(write, 0), elem(write, 1), rest::binary>>)
      order = Enum.map(order, &elem(&1, 0))
      assert Enum.sort(order) == Enum.sort(writes)
      # Each writer's own writes are in its order.
      for writer <- 1..4, do: assert(for({^writer, number} <- order, do: number) == [1, 2, 3, 4, 5])
      assert {:ok, 0} = Proc.await_exit(p)
      assert :ok = Proc.stop(p)
    end

    test "each byte goes to exactly one reader" do
      {:ok, p} = Proc.start("sh", ["-c", "seq 1 200000"])
      readers = for _ <- 1..4, do: Task.async(fn -> read_chunks(p, []) end)
      chunks = readers |> Task.await_many(60_000) |> List.flatten()
      expected = for n <- 1..200_000, into: "", do: "#{n}\n"
      assert Enum.sum(Enum.map(chunks, &byte_size/1)) == byte_size(expected)
      # Nobody gets what another got: laid out end to end, each chunk is somewhere in the output, once.
      assert chunks |> Enum.map(&position(expected, &1)) |> Enum.sort() |> contiguous?(0)
      assert :ok = Proc.stop(p)
    end

    test "max_bytes is a limit, and what is left is read next" do
      {:ok, p} = Proc.start("printf", ["0123456789"])
      assert {:ok, 0} = Proc.await_exit(p)
      assert {:ok, "0123"} = Proc.read(p, 4)
      assert {:ok, "4567"} = Proc.read(p, 4)
      assert {:ok, "89"} = Proc.read(p, 4)
      assert :eof = Proc.read(p, 4)
      assert :ok = Proc.stop(p)
    end
  end

  test "a byte goes through at once, both ways, without waiting for more" do
    {:ok, p} = Proc.start("cat", [])

    for n <- 1..1_000 do
      byte = <<rem(n, 256)>>
      assert :ok = Proc.write(p, byte)
      assert {:ok, ^byte} = Proc.read(p)
    end

    assert :ok = Proc.stop(p)
  end

  # A failed `==` of such binaries prints them both.
  defp same?(one, other), do: byte_size(one) == byte_size(other) and one == other

  defp pieces(bytes, size \\ nil) do
    Stream.unfold(bytes, fn
      "" -> nil
      rest -> :erlang.split_binary(rest, min(byte_size(rest), size || :rand.uniform(200_000)))
    end)
  end

  defp piece({writer, number}), do: <<writer, number>> <> :binary.copy(<<writer * 16 + number>>, 199_998)

  defp read_all(p), do: p |> read_chunks([]) |> Enum.reverse() |> IO.iodata_to_binary()

  defp read_chunks(p, chunks) do
    case Proc.read(p) do
      {:ok, chunk} -> read_chunks(p, [chunk | chunks])
      :eof -> chunks
    end
  end

  # A chunk begins in the middle of a number: it is found by its length of at least a line and a half.
  defp position(expected, chunk) do
    [{start, length}] = :binary.matches(expected, chunk)
    {start, length}
  end

  defp contiguous?([], _at), do: true
  defp contiguous?([{at, length} | rest], at), do: contiguous?(rest, at + length)
  defp contiguous?(_gap_or_overlap, _at), do: false

  # Not to wait for anything: this consumer takes its time.
  defp be_slow(ms) do
    receive do
    after
      ms -> :ok
    end
  end

  defp in_parallel(numbers, fun) do
    numbers
    |> Task.async_stream(fun, max_concurrency: 4, timeout: 60_000, ordered: false)
    |> Enum.each(fn {:ok, _} -> :ok end)
  end
end
