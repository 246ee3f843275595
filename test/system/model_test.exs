defmodule NetRunner.System.ModelTest do
  @moduledoc false
  # Issue point 4: no byte is lost and none comes twice, whatever is done to the pipes in whatever order.
  #
  # What is random comes from a seed, which is printed: NETRUNNER_SEED does the same again, as far as it does not
  # depend on time. NETRUNNER_SOAK_SECONDS is how long a soak takes.
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Test.{PipeHistory, Puppet}

  @mib 1024 * 1024
  # What a pipe holds (pipe(7)).
  @pipe 65_536

  setup_all do
    seed = String.to_integer(System.get_env("NETRUNNER_SEED") || "#{:rand.uniform(1_000_000_000)}")
    IO.puts("pipe model: NETRUNNER_SEED=#{seed}")
    %{seed: seed}
  end

  setup %{seed: seed} do
    :rand.seed(:exsss, seed)
    %{census: Census.take()}
  end

  test "random histories of one command's pipes are those of the model", %{census: census} do
    deadline = System.monotonic_time(:millisecond) + soak(6_000, 1_000 * soak_seconds())
    lives = live_until(deadline, 0)
    if soak?(), do: IO.puts("pipe model: #{lives} histories")
    assert lives > 0
    Census.assert_unchanged(census)
  end

  defp soak_seconds, do: String.to_integer(System.get_env("NETRUNNER_SOAK_SECONDS") || "240")

  defp live_until(deadline, number) do
    steps = PipeHistory.generate()

    try do
      PipeHistory.live(steps)
    rescue
      error in [ExUnit.AssertionError, MatchError] -> failed(steps, number, error, __STACKTRACE__)
    catch
      :exit, reason -> failed(steps, number, ErlangError.exception(reason), __STACKTRACE__)
    end

    if System.monotonic_time(:millisecond) < deadline, do: live_until(deadline, number + 1), else: number + 1
  end

  defp failed(steps, number, error, stacktrace) do
    IO.puts(
      :stderr,
      "history #{number} is not as the model says: #{inspect(PipeHistory.describe(steps), limit: :infinity)}"
    )

    fewer = PipeHistory.shrink(steps)
    IO.puts(:stderr, "nor is this part of it: #{inspect(PipeHistory.describe(fewer), limit: :infinity)}")
    reraise error, stacktrace
  end

  describe "EPIPE at every point:" do
    # The command reads k bytes of n, and closes its stdin.
    test "bytes_in is what the pipe took", %{census: census} do
      for n <- sizes(), k <- PipeHistory.sizes(), k <= n, do: assert_epipe(n, k)
      Census.assert_unchanged(census)
    end

    test "also when it closes it at once, while the writer writes", %{census: census} do
      for n <- sizes(), k <- PipeHistory.sizes(), k <= n, do: assert_epipe_at_once(n, k)
      Census.assert_unchanged(census)
    end

    # A pipe is filled by the two largest in any case.
    defp sizes, do: Enum.filter(PipeHistory.sizes(), &soak(&1 not in [0, 2, @mib - 1, @mib], true))

    defp assert_epipe(n, k) do
      puppet = Puppet.start()
      bytes = PipeHistory.bytes(n)
      writer = Task.async(fn -> Proc.write(puppet.p, bytes) end)
      assert Puppet.obey(puppet, [:read, k]) == binary_part(bytes, 0, k)
      # The writer has done what it can: all, or the pipe is full.
      OS.eventually(fn -> not Process.alive?(writer.pid) or full?(puppet) end)
      in_pipe = unread(puppet)
      assert Puppet.obey(puppet, [:close, 0]) == ""
      assert Task.await(writer, 30_000) == if(k + in_pipe == n, do: :ok, else: {:error, :epipe})
      assert Proc.stats(puppet.p).bytes_in == k + in_pipe
      assert {:error, :epipe} = Proc.write(puppet.p, "x")
      assert Proc.stats(puppet.p).bytes_in == k + in_pipe
      stop(puppet)
    end

    defp assert_epipe_at_once(n, k) do
      puppet = Puppet.start()
      bytes = PipeHistory.bytes(n)
      Puppet.order(puppet, [:"read-close", k])
      result = Proc.write(puppet.p, bytes)
      [^k, in_pipe] = puppet |> Puppet.answer() |> String.split(" ") |> Enum.map(&String.to_integer/1)
      taken = Proc.stats(puppet.p).bytes_in
      # More may have come between the count and the closing.
      assert taken in (k + in_pipe)..min(n, k + @pipe)//1, "#{n} #{k} #{in_pipe}: #{taken}"
      assert result == if(taken == n, do: :ok, else: {:error, :epipe})
      assert {:error, :epipe} = Proc.write(puppet.p, "x")
      assert Proc.stats(puppet.p).bytes_in == taken
      stop(puppet)
    end

    # A pipe has 16 pages (pipe(7)); one that has been read from in part counts as full.
    defp full?(puppet), do: unread(puppet) > @pipe - 4_096
    defp unread(puppet), do: puppet |> Puppet.obey([:unread]) |> String.to_integer()

    defp stop(puppet) do
      assert :ok = Proc.stop(puppet.p)
      Puppet.close(puppet)
    end
  end

  describe "histories that are worth a name:" do
    # Each write is larger than what the pipe has room for: all but the first wait in the queue.
    @writes for _ <- 1..8, do: :write
    @reads for _ <- 1..8, do: {:read, 10_000}

    @histories [
      queued_writes_and_an_exit: @writes ++ [{:order, :read, 250_000}, :exit],
      queued_writes_and_a_kill: @writes ++ [{:order, :read, 250_000}, :kill],
      queued_writes_and_a_stop: @writes ++ [{:order, :read, 250_000}, :stop],
      queued_writes_and_a_dead_owner: @writes ++ [{:order, :read, 250_000}, :owner_dies],
      queued_writes_and_its_end_closed: @writes ++ [{:order, :read, 250_000}, {:order, :close, 0}, :complete],
      queued_writes_and_ours_closed: @writes ++ [{:order, :read, 250_000}, :close_stdin, :write, :complete],
      queued_writes_and_nobody_who_reads: @writes ++ [:exit],
      readers_before_there_is_anything:
        @reads ++ [{:order, :write, 1, 4_097}, {:order, :write, 1, 65_537}, :complete],
      readers_of_which_some_read_both:
        Enum.intersperse(@reads, {:read_any, 5_000}) ++
          [{:order, :write, 2, 65_537}, {:order, :write, 1, 65_537}, {:order, :close, 2}, :complete],
      readers_when_our_end_is_closed: @reads ++ [{:order, :write, 1, 20_000}, :close_stdout, :complete],
      nobody_who_reads: [{:order, :write, 1, @mib}, {:order, :write, 2, @mib}, :exit],
      nobody_who_reads_and_a_kill: [{:order, :write, 1, @mib}, {:kill, :sigterm}, :write, :complete]
    ]

    # What the sizes of the other tests leave out in their fast part.
    test "sizes_at_which_something_changes", %{census: census} do
      for n <- [0, 2, @mib - 1, @mib, @mib + 1], ending <- [:complete, :stop] do
        write = {:write, PipeHistory.bytes(n)}

        for steps <- [
              # All of it, to the byte; and what comes behind it.
              [write, {:order, :read, n}, {:write, "x"}],
              # All but the last byte, of which there is none.
              [write, {:order, :read, max(n - 1, 0)}, {:order, :close, 0}],
              [write, write, :close_stdin, {:order, :read, n}],
              [{:order, :write, 1, n}, {:read, max(n, 1)}, {:order, :write, 2, n}, {:read_stderr, max(n, 1)}]
            ],
            do: assert(:ok = PipeHistory.live(steps ++ [ending]))
      end

      Census.assert_unchanged(census)
    end

    for {name, steps} <- @histories do
      test "#{name}", %{census: census} do
        for _ <- 1..soak(2, 100) do
          assert :ok =
                   PipeHistory.live(
                     for(
                       step <- unquote(Macro.escape(steps)),
                       do: with(:write <- step, do: {:write, PipeHistory.bytes(100_000)})
                     )
                   )
        end

        Census.assert_unchanged(census)
      end
    end
  end

  describe "input of run and stream! in pieces of any size" do
    setup do
      %{directory: tmp_dir()}
    end

    test "comes back through cat, whatever kind it is", %{census: census, directory: directory} do
      for size <- input_sizes(),
          kind <- [:binary, :iodata, :list, :enumerable, :file, :file_stream, :function] do
        bytes = PipeHistory.bytes(size)
        input = input(kind, bytes, directory)
        assert {out, 0} = NetRunner.run(~w(cat), input: input)
        assert out == bytes, "run, #{kind} of #{size}: #{byte_size(out)} came back"
        out = NetRunner.stream!(~w(cat), input: input(kind, bytes, directory)) |> Enum.to_list()
        assert IO.iodata_to_binary(out) == bytes, "stream!, #{kind} of #{size}: not the same came back"
      end

      Census.assert_unchanged(census)
    end

    test "is no error when only a part of it is read", %{census: census, directory: directory} do
      for size <- input_sizes(),
          kind <- [:binary, :iodata, :list, :enumerable, :file, :file_stream, :function] do
        bytes = PipeHistory.bytes(size)
        count = :rand.uniform(size + 1) - 1
        head = ["head", "-c", "#{count}"]
        part = binary_part(bytes, 0, count)
        assert {out, 0} = NetRunner.run(head, input: input(kind, bytes, directory))
        assert out == part, "run, #{count} of #{kind} of #{size}: #{byte_size(out)} came back"
        out = NetRunner.stream!(head, input: input(kind, bytes, directory)) |> Enum.to_list()
        assert IO.iodata_to_binary(out) == part, "stream!, #{count} of #{kind} of #{size}"
      end

      Census.assert_unchanged(census)
    end

    defp input_sizes, do: Enum.filter(PipeHistory.sizes(), &soak(&1 not in [2, 4_096, @mib - 1, @mib], true))

    defp input(:binary, bytes, _directory), do: bytes
    defp input(:iodata, bytes, _directory), do: nested(pieces(bytes))
    defp input(:list, bytes, _directory), do: pieces(bytes)
    defp input(:enumerable, bytes, _directory), do: Stream.map(pieces(bytes), &[&1])

    defp input(:function, bytes, _directory) do
      pieces = pieces(bytes)
      fn input -> Enum.into(pieces, input) end
    end

    defp input(:file, bytes, directory), do: {:file, file(bytes, directory)}

    defp input(:file_stream, bytes, directory) do
      File.stream!(file(bytes, directory), Enum.random([1_000, 4_096, 65_537]))
    end

    defp file(bytes, directory) do
      path = Path.join(directory, "#{System.unique_integer([:positive])}")
      File.write!(path, bytes)
      path
    end

    # A few of them empty.
    defp pieces(""), do: Enum.random([[], [""], ["", ""]])

    defp pieces(bytes) do
      Stream.unfold(bytes, fn
        "" -> nil
        rest -> :erlang.split_binary(rest, min(byte_size(rest), PipeHistory.size()))
      end)
      # Many empty ones in a row would not end.
      |> Enum.take(200)
      |> complete(bytes)
    end

    defp complete(pieces, bytes) do
      had = IO.iodata_length(pieces)
      pieces ++ [binary_part(bytes, had, byte_size(bytes) - had)]
    end

    defp nested([piece | pieces]), do: [[piece], nested(pieces) | if(pieces == [], do: "", else: [])]
    defp nested([]), do: [~c""]
  end
end
