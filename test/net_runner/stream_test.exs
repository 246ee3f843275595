defmodule NetRunner.StreamTest do
  use NetRunner.Test.SystemCase

  alias NetRunner.Stream.AbnormalExit

  test "starts when it is enumerated, and anew each time" do
    path = Path.join(tmp_dir(), "count")
    stream = NetRunner.stream!(sh("echo >> \"$1\"; wc -l < \"$1\"", [path]))
    refute File.exists?(path)
    assert Enum.join(stream) == "1\n"
    assert Enum.join(stream) == "2\n"
  end

  test "ends the command before a halt returns" do
    Mailbox.unchanged(fn ->
      {ms, chunks} = timed(fn -> NetRunner.stream!(["yes"]) |> Enum.take(1) end)
      assert ["y\n" <> _] = chunks
      assert ms < 4_500
    end)

    assert owned() == []
  end

  test "ends the command before an exception goes on" do
    Mailbox.unchanged(fn ->
      assert_raise RuntimeError, "oops", fn ->
        NetRunner.stream!(["yes"]) |> Enum.each(fn _ -> raise "oops" end)
      end

      assert catch_throw(NetRunner.stream!(["yes"]) |> Enum.each(fn _ -> throw(:ball) end)) == :ball
    end)

    assert owned() == []
  end

  test "ends the command when the consumer dies" do
    test = self()

    consumer =
      background(fn ->
        NetRunner.stream!(["yes"])
        |> Enum.each(fn _ ->
          send(test, :chunk)
          Process.sleep(:infinity)
        end)
      end)

    assert_receive :chunk, 5_000
    OS.eventually(fn -> Enum.find(NetRunner.list(), &(&1.owner == consumer)).os_pid != nil end)
    %{server: server, os_pid: os_pid} = Enum.find(NetRunner.list(), &(&1.owner == consumer))
    tree = OS.tree(os_pid)
    end_process(consumer)
    OS.await_gone(tree)
    OS.eventually(fn -> not Process.alive?(server) end)
  end

  test "can be suspended and zipped" do
    Mailbox.unchanged(fn ->
      zipped = Stream.zip(NetRunner.stream!(["seq", "3"], lines: 10), NetRunner.stream!(["yes"], lines: 10))
      assert Enum.to_list(zipped) == [{"1", "y"}, {"2", "y"}, {"3", "y"}]
    end)

    assert owned() == []
  end

  test "the mailbox is clean between the elements, too" do
    clean = Process.info(self(), [:messages, :links, :monitors])

    input = Stream.map(1..50, fn _ -> String.duplicate("x", 100_000) end)

    NetRunner.stream!(sh("cat & cat >&2; wait"), input: input, stderr: :stream, idle_timeout: 60_000)
    |> Enum.each(fn _ -> assert Process.info(self(), [:messages, :links, :monitors]) == clean end)
  end

  test "an abnormal exit raises after the last element, in stream! alone" do
    script = sh("echo out; echo err >&2; exit 3")

    error =
      assert_raise AbnormalExit, fn ->
        NetRunner.stream!(script) |> Enum.each(&send(self(), {:element, &1}))
      end

    assert %{status: 3, signal: nil, stderr: "err\n", command: %NetRunner.Command{}} = error
    assert_received {:element, "out\n"}

    assert {:ok, stream} = NetRunner.stream(script)
    assert Enum.join(stream) == "out\n"
    assert NetRunner.stream!(script, success: [3]) |> Enum.join() == "out\n"
    assert NetRunner.stream!(script, success: [1..5]) |> Enum.join() == "out\n"
    assert NetRunner.stream!(script, success: :any) |> Enum.join() == "out\n"

    error = assert_raise AbnormalExit, fn -> NetRunner.stream!(sh("kill -9 $$")) |> Stream.run() end
    assert %{status: 137, signal: :sigkill} = error
  end

  test "an early halt raises nothing, whatever the status would be" do
    assert NetRunner.stream!(sh("echo out; exit 3")) |> Enum.take(1) == ["out\n"]
  end

  test "stderr can be part of the stream" do
    script = sh("echo 1; read x; echo 2 >&2; read x; echo 3; exit 4")
    assert {:ok, stream} = NetRunner.stream(script, stderr: :stream, input: ["\n\n"])
    elements = Enum.to_list(stream)
    assert List.last(elements) == {:exit, 4}
    assert elements |> Keyword.get_values(:stdout) |> Enum.join() == "1\n3\n"
    assert elements |> Keyword.get_values(:stderr) |> Enum.join() == "2\n"

    elements = ["a", "b"] |> NetRunner.stream!(sh("cat >&2; exit 4"), stderr: :stream) |> safely()
    assert elements == [{:stderr, "ab"}, {:exit, 4}, :abnormal_exit]
  end

  test "lines of both outputs are whole, the last ones too" do
    script = sh("printf 'a\\nbc'; printf 'd\\nef' >&2")
    assert {:ok, stream} = NetRunner.stream(script, stderr: :stream, lines: 10)

    assert Enum.sort(stream) ==
             [exit: 0, stderr: "d", stderr: "ef", stdout: "a", stdout: "bc"]

    assert NetRunner.stream!(["printf", "abcde\\nf"], lines: 3) |> Enum.to_list() == ["abc", "de", "f"]
  end

  test "what prevents the command from running is an error when it is enumerated" do
    assert {:ok, stream} = NetRunner.stream(["no-such-command"])
    error = assert_raise NetRunner.Error, fn -> Stream.run(stream) end
    assert %{reason: {:exec, :enoent}} = error
    assert error.path
    stream = NetRunner.stream!(["cat"], input: {:file, "/no/such/file"})
    assert %{reason: {:input, :enoent}} = assert_raise(NetRunner.Error, fn -> Stream.run(stream) end)
    assert NetRunner.stream([""]) == {:error, {:invalid_cmd, :empty_executable}}
    assert_raise NetRunner.Error, fn -> NetRunner.stream!([""]) end
    assert_raise ArgumentError, fn -> NetRunner.stream(["true"], timeout: 1) end
  end

  test "an idle timeout is an error, and ends the command" do
    stream = NetRunner.stream!(sh("echo out; sleep 60"), idle_timeout: 200)

    Mailbox.unchanged(fn ->
      error = assert_raise NetRunner.Error, fn -> Enum.each(stream, &send(self(), {:element, &1})) end
      assert error.reason == :idle_timeout
      assert_received {:element, "out\n"}
    end)

    assert owned() == []
  end

  test "time that the consumer takes is not idle time" do
    stream = NetRunner.stream!(sh("echo 1; read x; echo 2"), idle_timeout: 300, input: ["\n"])
    elements = Enum.map(stream, fn element -> receive(do: (:never -> element), after: (400 -> element)) end)
    assert Enum.join(elements) == "1\n2\n"
  end

  test "a shepherd killed is an error" do
    stream = NetRunner.stream!(sh("echo; sleep 60"))

    error =
      assert_raise NetRunner.Error, fn ->
        Enum.each(stream, fn _ ->
          OS.eventually(fn -> match?([%{os_pid: os_pid}] when os_pid != nil, owned()) end)
          [%{os_pid: os_pid}] = owned()
          OS.kill(OS.shepherd(os_pid), "KILL")
        end)
      end

    assert error.reason == :shepherd_died
  end

  test "pipelines carry everything, and end together" do
    data = for number <- 1..100_000, into: "", do: "#{number}\n"
    path = Path.join(tmp_dir(), "numbers")
    File.write!(path, data)

    Mailbox.unchanged(fn ->
      count =
        File.stream!(path)
        |> NetRunner.stream!(["grep", "7"])
        |> NetRunner.stream!(["sort", "-rn"])
        |> NetRunner.stream!(["wc", "-l"])
        |> Enum.join()

      assert String.trim(count) == "40951"
    end)

    before = OS.commands() |> Enum.map(& &1.os_pid)

    Mailbox.unchanged(fn ->
      [first] =
        NetRunner.stream!(["yes"]) |> NetRunner.stream!(["cat"]) |> NetRunner.stream!(["cat"]) |> Enum.take(1)

      assert "y\n" <> _ = first
    end)

    assert Enum.filter(OS.commands(), &(&1.name in ["yes", "cat"] and &1.os_pid not in before)) == []
  end

  test "when a pipeline is halted nothing of it is left, however long it is" do
    asleep = Stream.concat(["a"], Stream.map([:never], fn _ -> receive(do: (:never -> :ok)) end))
    endless = Stream.repeatedly(fn -> String.duplicate("a", 10_000) end)

    for input <- [asleep, endless], length <- [12, 100] do
      pipeline = Enum.reduce(1..length, input, fn _, input -> NetRunner.stream!(input, ["cat"]) end)
      assert ["a" <> _] = Enum.take(pipeline, 1)
      assert NetRunner.list() == []
    end
  end

  test "the commands of a pipeline that is halted end together, not one after the other" do
    asleep = Stream.concat(["a\n"], Stream.map([:never], fn _ -> receive(do: (:never -> :ok)) end))
    deaf = sh("trap '' TERM; read line; echo $line; sleep 600")

    halt = fn length ->
      pipeline =
        Enum.reduce(1..length, asleep, fn _, input -> NetRunner.stream!(input, deaf, kill_timeout: 300) end)

      {took, ["a\n"]} = :timer.tc(fn -> Enum.take(pipeline, 1) end)
      assert NetRunner.list() == []
      took
    end

    assert halt.(10) < 3 * halt.(2)
  end

  test "the server of a command that is over answers while those of its input are not" do
    asleep = Stream.concat(["a\n"], Stream.map([:never], fn _ -> receive(do: (:never -> :ok)) end))
    deaf = sh("trap '' TERM; read line; echo $line; sleep 600")

    pipeline =
      asleep |> NetRunner.stream!(deaf, kill_timeout: :timer.minutes(10)) |> NetRunner.stream!(["cat"])

    test = self()
    consumer = spawn(fn -> Enum.each(pipeline, &send(test, {:said, &1})) end)
    assert_receive {:said, "a\n"}, 10_000
    OS.eventually(fn -> Enum.all?(NetRunner.list(), & &1.os_pid) end)
    [outer] = for row <- NetRunner.list(), row.owner == consumer, do: row
    [inner] = for row <- NetRunner.list(), row.server != outer.server, do: row
    command = OS.identity(outer.os_pid)
    Process.exit(consumer, :kill)
    OS.await_gone([command])
    OS.eventually(fn -> not Proc.alive?(outer.server) end)
    assert OS.alive?(inner.os_pid)
    OS.kill(for({os_pid, _start} <- OS.tree(inner.os_pid), do: os_pid), "KILL")
    OS.eventually(fn -> NetRunner.list() == [] end)
  end

  # What goes to another process is copied, and loses what its parts share.
  test "a long pipeline costs no more for each of its commands than a short one" do
    pipeline = fn length ->
      Enum.reduce(1..length, ["abc"], fn _, input -> NetRunner.stream!(input, ["cat"]) end)
    end

    size = fn length -> :erts_debug.flat_size(pipeline.(length)) end
    assert size.(40) <= 2 * size.(20)
    assert Enum.join(pipeline.(40)) == "abc"
  end

  test "the server of a command gets no copy of the input, nor of what output is collected into" do
    list = List.duplicate("a", 100_000)
    size = 8 * :erts_debug.flat_size(list)

    for opts <- [[input: list], [input: Stream.map(list, & &1)], [into: MapSet.new(1..100_000)]] do
      task = Task.async(fn -> NetRunner.run(["sleep", "60"], opts) end)
      command = fn -> Enum.find(NetRunner.list(), &(&1.owner == task.pid and &1.os_pid != nil)) end
      OS.eventually(fn -> command.() end)
      {:memory, memory} = Process.info(command.().server, :memory)
      assert memory < size / 10
      Task.shutdown(task, :brutal_kill)
    end
  end

  test "an exception of the input is raised in the consumer" do
    input = Stream.map(1..3, fn number -> if number == 3, do: raise("oops"), else: "x" end)

    Mailbox.unchanged(fn ->
      assert_raise RuntimeError, "oops", fn -> input |> NetRunner.stream!(["cat"]) |> Stream.run() end
    end)

    assert owned() == []
  end

  test "of a slow consumer and a fast command nothing is lost" do
    data = :rand.bytes(3_000_000)

    read =
      NetRunner.stream!(["cat"], input: data)
      |> Enum.map(fn chunk ->
        :erlang.yield()
        chunk
      end)

    assert IO.iodata_to_binary(read) == data
  end

  defp owned, do: Enum.filter(NetRunner.list(), &(&1.owner == self()))

  # The elements, and then whether it has raised.
  defp safely(stream) do
    Enum.each(stream, &send(self(), {:element, &1}))
    received()
  rescue
    AbnormalExit -> received() ++ [:abnormal_exit]
  end

  defp received do
    receive do
      {:element, element} -> [element | received()]
    after
      0 -> []
    end
  end
end
