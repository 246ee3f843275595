defmodule NetRunner.System.StreamsTest do
  @moduledoc false
  # What API.md says of `stream` and `stream!`, as a user would try it.
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Stream.AbnormalExit

  test "lazy: nothing runs before the enumeration, and each one runs anew" do
    directory = tmp_dir()
    stream = NetRunner.stream!(sh("echo x >>ran; cat ran"), cd: directory)
    assert File.ls!(directory) == []
    assert "x\n" = Enum.join(stream)
    assert "x\nx\n" = Enum.join(stream)
    # Both at the same time, each its own.
    assert ["x\nx\nx\n", _] = Enum.map([stream, stream], &Enum.join/1)
  end

  test "an exit that is no success raises after the last chunk, with stream! only" do
    failing = sh("echo out; echo why >&2; exit 3")
    test = self()

    Mailbox.unchanged(fn ->
      error =
        assert_raise AbnormalExit, fn ->
          NetRunner.stream!(failing) |> Enum.each(&send(test, {:chunk, &1}))
        end

      assert %{status: 3, stderr: "why\n"} = error
      assert_received {:chunk, "out\n"}

      {:ok, stream} = NetRunner.stream(failing)
      assert ["out\n"] = Enum.to_list(stream)
      assert ["out\n"] = NetRunner.stream!(failing, success: [3]) |> Enum.to_list()
      assert ["out\n"] = NetRunner.stream!(failing, success: :any) |> Enum.to_list()
    end)
  end

  test "a consumer who stops early is told of no exit" do
    assert ["out\n"] = NetRunner.stream!(sh("echo out; exit 3")) |> Enum.take(1)
    assert ["y\n" <> _] = NetRunner.stream!(~w(yes)) |> Enum.take(1)
    assert [] = NetRunner.stream!(~w(yes)) |> Enum.take(0)
    # It never ran.
    assert [] = NetRunner.stream!(["/nonexistent"]) |> Enum.take(0)
  end

  test "stderr: :stream has all of both, and the status at last" do
    {:ok, stream} = NetRunner.stream(sh("echo 1; echo 2 >&2; exit 3"), stderr: :stream)
    elements = Enum.to_list(stream)
    assert List.last(elements) == {:exit, 3}
    assert Enum.sort(elements) == [exit: 3, stderr: "2\n", stdout: "1\n"]

    # stream! tells the status, and then raises for it.
    test = self()

    assert_raise AbnormalExit, fn ->
      NetRunner.stream!(sh("exit 3"), stderr: :stream) |> Enum.each(&send(test, {:element, &1}))
    end

    assert_received {:element, {:exit, 3}}
    assert [exit: 0] = NetRunner.stream!(~w(true), stderr: :stream) |> Enum.to_list()
  end

  test "stderr: :stream and a flood of both starves neither" do
    {stdout, stderr} =
      NetRunner.stream!(sh("yes out & yes err >&2"), stderr: :stream)
      |> Enum.reduce_while({0, 0}, fn
        _, {out, err} when out > 1_000_000 and err > 1_000_000 -> {:halt, {out, err}}
        {:stdout, chunk}, {out, err} -> {:cont, {out + byte_size(chunk), err}}
        {:stderr, chunk}, {out, err} -> {:cont, {out, err + byte_size(chunk)}}
      end)

    assert stdout > 1_000_000 and stderr > 1_000_000
  end

  test "lines" do
    assert ["1", "2", "3"] = NetRunner.stream!(~w(seq 3), lines: 1_000) |> Enum.to_list()
    assert ["a", "", "b"] = NetRunner.stream!(["printf", "a\\n\\nb"], lines: 1_000) |> Enum.to_list()

    assert Enum.map(1..100_000, &Integer.to_string/1) ==
             NetRunner.stream!(~w(seq 100000), lines: 1_000) |> Enum.to_list()
  end

  describe "pipelines" do
    test "a file through two commands" do
      path = Path.join(tmp_dir(), "log")
      lines = for n <- 1..20_000, do: if(rem(n, 3) == 0, do: "ERROR #{n}\n", else: "INFO #{n}\n")
      File.write!(path, lines)

      out =
        File.stream!(path)
        |> NetRunner.stream!(~w(grep ERROR))
        |> NetRunner.stream!(~w(sort -r))
        |> Enum.join()

      assert out == lines |> Enum.filter(&(&1 =~ "ERROR")) |> Enum.sort(:desc) |> Enum.join()
    end

    test "a command in the middle that fails raises in the consumer" do
      Mailbox.unchanged(fn ->
        pipeline = ["x\n"] |> NetRunner.stream!(sh("cat; exit 3")) |> NetRunner.stream!(~w(cat))
        assert_raise AbnormalExit, fn -> Enum.to_list(pipeline) end
        assert OS.commands() == []

        pipeline = ["x\n"] |> NetRunner.stream!(["/nonexistent"]) |> NetRunner.stream!(~w(cat))
        error = assert_raise NetRunner.Error, fn -> Enum.to_list(pipeline) end
        assert error.reason == {:exec, :enoent}
        assert OS.commands() == []
      end)
    end

    test "ten commands deep, both ways through" do
      bytes = :rand.bytes(1_000_000)
      pipeline = Enum.reduce(1..10, [bytes], fn _, input -> NetRunner.stream!(input, ~w(cat)) end)
      assert Enum.join(pipeline) == bytes

      assert [_] =
               Enum.reduce(1..10, Stream.cycle([bytes]), fn _, input -> NetRunner.stream!(input, ~w(cat)) end)
               |> Enum.take(1)

      assert OS.commands() == []
    end

    test "the last command ends first, and the others with it" do
      assert ["0123456789"] =
               NetRunner.stream!(~w(yes 0123456789)) |> NetRunner.stream!(~w(head -c 10)) |> Enum.to_list()

      assert OS.commands() == []
    end

    test "the input's own clean-up runs, also when the consumer halts" do
      test = self()
      input = Stream.resource(fn -> 0 end, &{["#{&1}\n"], &1 + 1}, fn _ -> send(test, :cleaned_up) end)
      assert [_] = input |> NetRunner.stream!(~w(cat)) |> Enum.take(1)
      assert_receive :cleaned_up
      assert {"0\n", 0} = NetRunner.run(~w(head -n 1), input: input)
      assert_receive :cleaned_up
    end
  end

  describe "suspended" do
    test "two streams zipped" do
      zipped =
        Stream.zip(
          NetRunner.stream!(~w(seq 1000), lines: 100),
          NetRunner.stream!(~w(seq 1001 2000), lines: 100)
        )

      expected = Enum.zip(Enum.map(1..1000, &"#{&1}"), Enum.map(1001..2000, &"#{&1}"))
      Mailbox.unchanged(fn -> assert Enum.to_list(zipped) == expected end)
    end

    test "the shorter ends the longer" do
      Mailbox.unchanged(fn ->
        assert [_, _] = Stream.zip(NetRunner.stream!(~w(yes), lines: 100), [1, 2]) |> Enum.to_list()
        assert [_, _] = Stream.zip([1, 2], NetRunner.stream!(~w(yes), lines: 100)) |> Enum.to_list()
      end)

      assert OS.commands() == []
    end

    test "and thrown away: it ends with its process" do
      {pid, ref} =
        spawn_monitor(fn ->
          {:suspended, _, _} =
            Enumerable.reduce(NetRunner.stream!(~w(yes)), {:cont, nil}, fn _, _ -> {:suspend, nil} end)

          exit(length(OS.commands()))
        end)

      assert_receive {:DOWN, ^ref, :process, ^pid, 1}, 30_000
      OS.eventually(fn -> OS.commands() == [] end)
    end

    test "while the command exits: what it wrote is there, and its status" do
      {:suspended, first, continue} =
        Enumerable.reduce(NetRunner.stream!(sh("echo a; echo b; exit 3"), lines: 10), {:cont, nil}, fn line,
                                                                                                       _ ->
          {:suspend, line}
        end)

      assert first == "a"
      OS.eventually(fn -> OS.commands() == [] end)
      assert {:suspended, "b", continue} = continue.({:cont, nil})
      assert_raise AbnormalExit, fn -> continue.({:cont, nil}) end
    end
  end

  test "nested: a stream enumerated in the consumer of another" do
    Mailbox.unchanged(fn ->
      out =
        for outer <- NetRunner.stream!(~w(seq 3), lines: 10),
            inner <- NetRunner.stream!(~w(seq 2), lines: 10),
            do: {outer, inner}

      assert out == for(outer <- 1..3, inner <- 1..2, do: {"#{outer}", "#{inner}"})

      assert [{"1", "1"}] =
               Stream.flat_map(NetRunner.stream!(~w(yes 1), lines: 10), fn o ->
                 Stream.map(NetRunner.stream!(~w(yes 1), lines: 10), &{o, &1})
               end)
               |> Enum.take(1)

      assert OS.commands() == []
    end)
  end

  test "as Stream, Enum and Task use it" do
    stream = NetRunner.stream!(~w(seq 100), lines: 10)
    assert 100 = Enum.count(stream)
    assert "50" in stream
    assert "50" = Enum.at(stream, 49)
    assert Enum.chunk_every(stream, 30) |> Enum.map(&length/1) == [30, 30, 30, 10]

    assert 5050 =
             Task.async_stream(stream, &String.to_integer/1)
             |> Enum.reduce(0, fn {:ok, n}, sum -> n + sum end)

    assert ["1", "2"] = Stream.take(stream, 2) |> Enum.to_list()
    path = Path.join(tmp_dir(), "out")
    NetRunner.stream!(~w(seq 3)) |> Enum.into(File.stream!(path))
    assert File.read!(path) == "1\n2\n3\n"
  end

  test "nothing in the mailbox, whatever happens, with exits trapped too" do
    for trap <- [false, true] do
      Process.flag(:trap_exit, trap)

      Mailbox.unchanged(fn ->
        NetRunner.stream!(~w(seq 1000)) |> Stream.run()
        NetRunner.stream!(~w(yes)) |> Enum.take(3)
        catch_throw(NetRunner.stream!(~w(yes)) |> Enum.each(fn _ -> throw(:no) end))
        Stream.cycle(["x"]) |> NetRunner.stream!(~w(cat)) |> NetRunner.stream!(~w(cat)) |> Enum.take(1)
        catch_error(NetRunner.stream!(["/nonexistent"]) |> Enum.to_list())
        NetRunner.stream!(~w(cat), input: Stream.map(["x"], & &1)) |> Enum.to_list()
      end)
    end
  end
end
