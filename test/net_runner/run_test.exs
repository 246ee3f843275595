defmodule NetRunner.RunTest do
  use NetRunner.Test.SystemCase

  alias NetRunner.Command

  describe "run" do
    test "returns output and status" do
      assert NetRunner.run(["echo", "x"]) == {"x\n", 0}
      assert NetRunner.run(sh("exit 3")) == {"", 3}
      assert NetRunner.run(sh("kill -9 $$")) == {"", 137}
      assert NetRunner.run(Command.new("echo", ["x"]), args: ["y"]) == {"x y\n", 0}
      assert NetRunner.run(["true"], stdout: :disabled) == {"", 0}
    end

    test "returns what prevents the command from running" do
      Mailbox.unchanged(fn ->
        assert NetRunner.run(["no-such-command"]) == {:error, {:exec, :enoent}}
        assert NetRunner.run(["true"], cd: "/no/such/directory") == {:error, {:cd, :enoent}}
        assert NetRunner.run([]) == {:error, {:invalid_cmd, :empty}}
        assert NetRunner.run(["cat"], input: {:file, "/no/such/file"}) == {:error, {:input, :enoent}}
        assert NetRunner.run(["cat"], input: {:file, "/"}) == {:error, {:input, :eisdir}}
      end)
    end

    test "stderr goes where it is to go" do
      script = sh("echo out; echo err >&2")
      assert NetRunner.run(script) == {"out\n", 0}
      assert NetRunner.run(script, stderr: :capture) == {"out\n", 0, "err\n"}
      assert NetRunner.run(script, stderr: :redirect) == {"out\nerr\n", 0}
      assert NetRunner.run(script, stderr: :disabled) == {"out\n", 0}
      assert NetRunner.run(script, stderr: :capture, stdout: :disabled) == {"", 0, "err\n"}
    end

    test "both outputs are read, however much comes of each" do
      script = sh("seq 200000 & seq 300000 >&2; wait")
      {out, 0, err} = NetRunner.run(script, stderr: :capture)
      assert {byte_size(out), byte_size(err)} == {1_288_895, 1_988_895}
    end

    test "output is collected into what is wanted, as chunks and lines" do
      assert NetRunner.run(["seq", "3"], into: []) == {["1\n2\n3\n"], 0}
      assert NetRunner.run(["seq", "3"], into: [], lines: 100) == {["1", "2", "3"], 0}
      assert NetRunner.run(["printf", "abcde\\nf"], into: [], lines: 3) == {["abc", "de", "f"], 0}
      assert NetRunner.run(["echo", "x"], into: "> ") == {"> x\n", 0}
    end

    test "an exception of the collectable ends the command, and goes on" do
      Mailbox.unchanged(fn ->
        assert_raise ArgumentError, fn -> NetRunner.run(["yes"], into: %{}) end
      end)

      assert NetRunner.list() |> Enum.filter(&(&1.owner == self())) == []
    end
  end

  describe "run!" do
    test "returns stdout" do
      assert NetRunner.run!(["echo", "x"]) == "x\n"
      assert NetRunner.run!(sh("echo x; exit 3"), success: [0, 3]) == "x\n"
      assert NetRunner.run!(sh("exit 7"), success: :any) == ""
    end

    test "raises with what helps" do
      error = assert_raise NetRunner.Error, fn -> NetRunner.run!(sh("echo oops >&2; exit 3")) end
      assert %{reason: {:exit_status, 3}, status: 3, stderr: "oops\n", command: %Command{}} = error

      error =
        assert_raise NetRunner.Error, fn -> NetRunner.run!(sh("echo oops >&2; kill $$"), stderr: :capture) end

      assert %{reason: {:signal, :sigterm}, status: 143, stderr: "oops\n"} = error

      # It is kept, copied and logged.
      secret = [input: "sesame", env: %{"TOKEN" => "sesame"}, cd: "/"]

      for raises <- [
            fn -> NetRunner.run!(["false"], [into: MapSet.new(["sesame"])] ++ secret) end,
            fn -> NetRunner.run!(["nope"], secret) end,
            fn -> NetRunner.run!([""], secret) end,
            fn -> NetRunner.stream!(["nope"], secret) |> Stream.run() end,
            fn -> NetRunner.stream!(["false"], secret) |> Stream.run() end
          ] do
        error = catch_error(raises.())
        assert error.command.opts == [cd: "/"]
        refute inspect(error) =~ "sesame"
      end

      error =
        assert_raise ArgumentError, fn ->
          NetRunner.run!(["true"], [stdout: :disabled, max_output_size: 5] ++ secret)
        end

      assert error.message =~ ~s(Got: [stdout: :disabled, max_output_size: 5, cd: "/"])

      error = assert_raise NetRunner.Error, fn -> NetRunner.run!(["nope"], env: %{"PATH" => "/bin"}) end
      assert %{reason: {:exec, :enoent}, path: "/bin", status: nil} = error

      error =
        assert_raise NetRunner.Error, fn -> NetRunner.run!(sh("echo oops >&2; sleep 60"), timeout: 300) end

      assert %{reason: :timeout, stderr: "oops\n"} = error

      error = assert_raise NetRunner.Error, fn -> NetRunner.run!(["yes"], max_output_size: 3) end
      assert %{reason: {:max_output_exceeded, "y\ny"}} = error

      assert_raise NetRunner.Error, fn -> NetRunner.run!([]) end
      assert_raise ArgumentError, fn -> NetRunner.run!(["true"], nonsense: 1) end
    end
  end

  describe "capture" do
    test "has everything" do
      assert {:ok, result} = NetRunner.capture(sh("echo out; echo err >&2; exit 3"))
      assert %{stdout: "out\n", stderr: "err\n", status: 3, signal: nil} = result
      assert %{exit_status: 3, bytes_out: 4, bytes_err: 4} = result.stats
      assert result.rusage.max_rss_bytes > 0
      assert result.duration_ms == result.stats.duration_ms

      assert {:ok, %{stderr: stderr}} = NetRunner.capture(sh("seq 9999 >&2"), stderr: :capture)
      assert byte_size(stderr) == 48_888
    end

    test "keeps what there is when it ends the command" do
      assert {:error, {:timeout, result}} = NetRunner.capture(sh("echo out; sleep 60"), timeout: 300)
      assert %{stdout: "out\n", status: nil, signal: nil} = result
      assert result.stats.signal == :sigterm

      assert {:error, {:idle_timeout, result}} =
               NetRunner.capture(sh("echo out; sleep 60"), idle_timeout: 300)

      assert result.stdout == "out\n"

      script = sh("echo out; echo err >&2; yes")
      opts = [max_output_size: 100, stderr: :capture]
      assert {:error, {:max_output_exceeded, result}} = NetRunner.capture(script, opts)
      assert byte_size(result.stdout) + byte_size(result.stderr) == 100
      assert NetRunner.capture(["nope"]) == {:error, {:exec, :enoent}}
    end
  end

  describe "input" do
    test "of every kind arrives whole" do
      data = :rand.bytes(300_000)
      path = Path.join(tmp_dir(), "input")
      File.write!(path, data)
      chunks = for <<chunk::binary-size(1_000) <- data>>, do: chunk

      for input <- [
            data,
            chunks,
            [chunks | ""],
            {:file, path},
            Stream.map(chunks, & &1),
            File.stream!(path, 4_096),
            MapSet.new([data]),
            fn collectable -> Enum.into(chunks, collectable) end
          ] do
        Mailbox.unchanged(fn -> assert NetRunner.run(["cat"], input: input) == {data, 0} end)
      end

      assert NetRunner.run(["cat"], input: "") == {"", 0}
      assert NetRunner.run(["cat"], input: []) == {"", 0}
      assert NetRunner.run(["cat"], input: Stream.take([], 1)) == {"", 0}
      assert NetRunner.run(["cat"]) == {"", 0}
    end

    test "that is not read is no error, and is not enumerated to its end" do
      for input <- [
            String.duplicate("x", 1_000_000),
            Stream.repeatedly(fn -> "x\n" end),
            fn collectable -> Enum.into(Stream.repeatedly(fn -> "x\n" end), collectable) end
          ] do
        Mailbox.unchanged(fn ->
          assert NetRunner.run(["true"], input: input) == {"", 0}
          assert {_x, 0} = NetRunner.run(["head", "-c", "1"], input: input)
        end)
      end
    end

    test "goes on when the command has closed its output" do
      data = String.duplicate("x", 1_000_000)
      path = Path.join(tmp_dir(), "output")
      script = sh("exec >&-; exec cat > \"$1\"", [path])
      # (A shell opens the file as its fd 1.)
      assert NetRunner.run(script, input: data) == {"", 0}
      assert File.read!(path) == data
      assert NetRunner.run(script, input: Stream.map([data], & &1)) == {"", 0}
      assert File.read!(path) == data
    end

    test "is enumerated in another process, in the caller's name" do
      require Logger
      Logger.metadata(request: 7)
      test = self()

      input =
        Stream.map(1..1, fn _ ->
          send(test, {:writer, self(), Process.get(:"$callers"), Logger.metadata()})
          "x"
        end)

      assert NetRunner.run(["cat"], input: input) == {"x", 0}
      assert_received {:writer, writer, [^test | _], metadata}
      assert writer != test
      assert metadata[:request] == 7
      refute Process.alive?(writer)
    end

    test "whose enumeration raises, throws or exits does so here, after the command has ended" do
      raising = fn fun -> Stream.map(1..3, fn number -> if number == 3, do: fun.(), else: "x" end) end

      Mailbox.unchanged(fn ->
        error =
          assert_raise RuntimeError, "oops", fn ->
            NetRunner.run(["cat"], input: raising.(fn -> raise "oops" end))
          end

        assert error
        assert catch_throw(NetRunner.run(["cat"], input: raising.(fn -> throw(:ball) end))) == :ball
        assert catch_exit(NetRunner.run(["cat"], input: raising.(fn -> exit(:stage_left) end))) == :stage_left
        input = Stream.map([:no_iodata], & &1)
        error = assert_raise ArgumentError, fn -> NetRunner.run(["cat"], input: input) end
        assert error.message =~ "by :input or write.\nExpected: iodata"
        assert error.message =~ "Got: :no_iodata"
        assert_raise ArgumentError, fn -> NetRunner.run(["cat"], input: [:no_iodata]) end
      end)

      assert NetRunner.list() |> Enum.filter(&(&1.owner == self())) == []
    end

    test "that raises does not look like the end of input to the command" do
      path = Path.join(tmp_dir(), "sorted")
      input = Stream.map(1..2, fn number -> if number == 1, do: "x\n", else: raise("oops") end)
      assert_raise RuntimeError, fn -> NetRunner.run(["sort", "-o", path], input: input) end
      # (Some versions of sort open their output before they read.)
      assert File.read(path) in [{:error, :enoent}, {:ok, ""}]
    end

    test "whose process is killed ends the command" do
      input = Stream.map(1..1, fn _ -> Process.exit(self(), :kill) end)
      Mailbox.unchanged(fn -> assert catch_exit(NetRunner.run(["cat"], input: input)) == :killed end)
    end

    test "that never comes is not waited for when the command has ended" do
      input = Stream.map(1..1, fn _ -> Process.sleep(:infinity) end)
      {ms, result} = timed(fn -> NetRunner.run(["true"], input: input) end)
      assert result == {"", 0}
      assert ms < 10_000
    end

    test "from a nested command, which ends with the outer one" do
      inner = NetRunner.stream!(["yes"])
      Mailbox.unchanged(fn -> assert {"y", 0} = NetRunner.run(["head", "-c", "1"], input: inner) end)
      # The inner one waits and does not notice that nobody reads.
      inner = NetRunner.stream!(["sleep", "60"])
      before = OS.commands() |> Enum.map(& &1.os_pid)
      Mailbox.unchanged(fn -> assert {"", 0} = NetRunner.run(["true"], input: inner) end)
      assert Enum.filter(OS.commands(), &(&1.name == "sleep" and &1.os_pid not in before)) == []
    end
  end

  describe "time limits" do
    test "stop the command, and nothing of it is left" do
      Mailbox.unchanged(fn ->
        {ms, result} =
          timed(fn -> NetRunner.run(sh("sleep 61 & setsid sleep 61 & sleep 61"), timeout: 200) end)

        assert result == {:error, :timeout}
        assert ms in 200..4_500
      end)

      assert Enum.filter(OS.commands(), &(&1.name == "sleep" and cmdline(&1) =~ "61")) == []
    end

    test "leave a command that heeds no signal no more than its kill_timeout" do
      {ms, result} =
        timed(fn -> NetRunner.run(sh("trap '' TERM; sleep 60"), timeout: 100, kill_timeout: 200) end)

      assert result == {:error, :timeout}
      assert ms in 300..5_000
    end

    test "count while output comes, too" do
      assert NetRunner.run(["yes"], timeout: 100, stdout: :disabled) == {:error, :timeout}
      assert NetRunner.run(sh("while :; do echo; sleep 0.01; done"), timeout: 200) == {:error, :timeout}

      assert NetRunner.run(["yes"], timeout: 100, into: NetRunner.Test.Tell.to(background(&ignore/0))) ==
               {:error, :timeout}
    end

    test "let a command that is stopped write what it has to say" do
      script = sh("trap 'echo bye; exit 1' TERM; echo; while :; do sleep 0.01; done")
      assert {:error, {:timeout, %{stdout: "\nbye\n"}}} = NetRunner.capture(script, timeout: 300)
    end

    test "of idling begin anew with each output" do
      script = sh("for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
      assert {"1\n2\n3\n4\n5\n", 0} = NetRunner.run(script, idle_timeout: 5_000)
      {ms, result} = timed(fn -> NetRunner.run(sh("echo; sleep 60"), idle_timeout: 300) end)
      assert result == {:error, :idle_timeout}
      assert ms in 300..5_000
      # Without output to read, too.
      assert NetRunner.run(sh("exec >&- 2>&-; sleep 60"), idle_timeout: 100) == {:error, :idle_timeout}
      assert NetRunner.run(["sleep", "60"], stdout: :disabled, timeout: 100) == {:error, :timeout}
    end

    test "also while input is written that is read at once" do
      input = {:file, "/dev/zero"}
      assert NetRunner.run(sh("cat > /dev/null"), input: input, timeout: 200) == {:error, :timeout}
      assert NetRunner.run(["sleep", "60"], input: input, timeout: 200) == {:error, :timeout}

      assert NetRunner.run(["cat"], input: Stream.repeatedly(fn -> "x" end), timeout: 200) ==
               {:error, :timeout}
    end
  end

  describe "max_output_size" do
    test "is exact" do
      assert NetRunner.run(["printf", "abc"], max_output_size: 3) == {"abc", 0}
      assert NetRunner.run(["printf", "abcd"], max_output_size: 3) == {:error, {:max_output_exceeded, "abc"}}
      assert NetRunner.run(["true"], max_output_size: 0) == {"", 0}
      assert NetRunner.run(["yes"], max_output_size: 0) == {:error, {:max_output_exceeded, ""}}
      assert {:error, {:max_output_exceeded, partial}} = NetRunner.run(["yes"], max_output_size: 1_000_001)
      assert byte_size(partial) == 1_000_001
    end

    test "counts captured stderr" do
      opts = [max_output_size: 1_000, stderr: :capture]
      assert {:error, {:max_output_exceeded, partial}} = NetRunner.run(sh("yes >&2"), opts)
      assert byte_size(partial) == 1_000
      assert {:error, {:max_output_exceeded, partial}} = NetRunner.run(sh("yes & yes >&2"), opts)
      assert byte_size(partial) == 1_000
      # What is only drained does not count.
      assert {"", 0} = NetRunner.run(sh("seq 10000 >&2"), max_output_size: 10)
    end
  end

  test "the server killed is :closed, when the command is gone" do
    test = self()

    runner =
      Task.async(fn -> NetRunner.run(sh("sleep 62 & echo; sleep 62"), into: NetRunner.Test.Tell.to(test)) end)

    assert_receive {:told, "\n"}, 5_000
    {server, os_pid} = running(runner.pid)
    tree = OS.tree(os_pid)
    end_process(server)
    assert Task.await(runner) == {:error, :closed}
    assert OS.present(tree) == []
  end

  test "the caller killed, nothing is left, and no writer either" do
    test = self()

    caller =
      background(fn ->
        input =
          Stream.map(1..2, fn _ ->
            send(test, {:writer, self()})
            Process.sleep(:infinity)
          end)

        NetRunner.run(["cat"], input: input)
      end)

    assert_receive {:writer, writer}, 5_000
    {server, os_pid} = running(caller)
    tree = OS.tree(os_pid)
    end_process(caller)
    OS.await_gone(tree)
    OS.eventually(fn -> not Process.alive?(server) and not Process.alive?(writer) end)
  end

  test "a shepherd killed is :shepherd_died" do
    test = self()
    runner = Task.async(fn -> NetRunner.run(sh("echo; sleep 60"), into: NetRunner.Test.Tell.to(test)) end)
    assert_receive {:told, "\n"}, 5_000
    {_server, os_pid} = running(runner.pid)
    OS.kill(OS.shepherd(os_pid), "KILL")
    assert Task.await(runner) == {:error, :shepherd_died}
  end

  test "leftovers hold nobody up, and live only when they are kept" do
    {ms, result} = timed(fn -> NetRunner.run(sh("sleep 60 & echo $!; exit 3")) end)
    assert {pid, 3} = result
    assert ms < 4_500
    refute OS.alive?(String.trim(pid))

    {ms, result} = timed(fn -> NetRunner.run(sh("sleep 60 & echo $!; exit 3"), leftovers: :keep) end)
    assert {pid, 3} = result
    assert ms < 4_500
    os_pid = pid |> String.trim() |> String.to_integer()
    assert OS.alive?(os_pid)
    OS.kill(os_pid, "KILL")
  end

  # The command of this owner, when its server knows that it runs.
  defp running(owner) do
    OS.eventually(fn -> match?(%{os_pid: os_pid} when os_pid != nil, entry(owner)) end)
    %{server: server, os_pid: os_pid} = entry(owner)
    {server, os_pid}
  end

  defp entry(owner), do: Enum.find(NetRunner.list(), &(&1.owner == owner))

  defp ignore do
    receive do
      _any -> ignore()
    end
  end

  defp cmdline(%{os_pid: os_pid}) do
    case File.read("/proc/#{os_pid}/cmdline") do
      {:ok, text} -> text
      {:error, _gone} -> ""
    end
  end
end
