defmodule NetRunner.System.ResultsTest do
  @moduledoc false
  # What API.md says of `run`, `run!` and `capture`, as a user would try it.
  use NetRunner.Test.SystemCase, async: false

  describe "run" do
    test "output and status" do
      Mailbox.unchanged(fn ->
        assert {"hello\n", 0} = NetRunner.run(~w(echo hello))
        assert {"", 3} = NetRunner.run(sh("exit 3"))
        assert {"", 255} = NetRunner.run(sh("exit 255"))
        assert {"out\n", 1, "err\n"} = NetRunner.run(sh("echo out; echo err >&2; exit 1"), stderr: :capture)
        assert {"", 0, ""} = NetRunner.run(~w(true), stderr: :capture)
        assert {"", 137} = NetRunner.run(sh("kill -9 $$"))
        assert {"", 143} = NetRunner.run(sh("kill $$"))
      end)
    end

    test "every mode of stderr" do
      command = sh("echo 1; echo 2 >&2; echo 3; echo 4 >&2")
      assert {"1\n3\n", 0} = NetRunner.run(command)
      assert {"1\n3\n", 0} = NetRunner.run(command, stderr: :consume)
      assert {"1\n3\n", 0} = NetRunner.run(command, stderr: :disabled)
      assert {"1\n2\n3\n4\n", 0} = NetRunner.run(command, stderr: :redirect)
      assert {"1\n3\n", 0, "2\n4\n"} = NetRunner.run(command, stderr: :capture)
    end

    test "stdout: :disabled" do
      assert {"", 0, "err\n"} =
               NetRunner.run(sh("echo out; echo err >&2"), stdout: :disabled, stderr: :capture)

      assert {"", 0} = NetRunner.run(~w(head -c 1000000 /dev/zero), stdout: :disabled)

      assert {"/dev/null\n", 0, ""} =
               NetRunner.run(~w(readlink /proc/self/fd/2), stderr: :disabled) |> Tuple.insert_at(2, "")
    end

    test "max_output_size counts what is captured of both, and partial is exactly that long" do
      both = sh("echo out; echo err >&2; sleep 1000")

      assert {:error, {:max_output_exceeded, partial}} =
               NetRunner.run(both, stderr: :capture, max_output_size: 7)

      assert byte_size(partial) == 7
      # What is not captured does not count.
      assert {"out\n", 0} = NetRunner.run(sh("echo out; head -c 100000 /dev/zero >&2"), max_output_size: 4)

      for size <- [0, 1, 2, 65_535, 65_536, 65_537, 1_000_001] do
        assert {:error, {:max_output_exceeded, partial}} = NetRunner.run(~w(yes), max_output_size: size)
        assert partial == binary_part(String.duplicate("y\n", div(size, 2) + 1), 0, size)
      end
    end

    test ":into, and :lines" do
      assert {["a\nb\n"], 0} = NetRunner.run(["printf", "a\\nb\\n"], into: [])
      assert {["a", "b", "c"], 0} = NetRunner.run(["printf", "a\\nb\\nc"], into: [], lines: 100)
      assert {["a", "", "b"], 0} = NetRunner.run(["printf", "a\\n\\nb\\n"], into: [], lines: 100)
      assert {set, 0} = NetRunner.run(~w(seq 100), into: MapSet.new(), lines: 100)
      assert MapSet.size(set) == 100
      # The limit on the length of a line.
      assert {["123", "456", "78", "9"], 0} = NetRunner.run(["printf", "12345678\\n9"], into: [], lines: 3)
    end

    test "an :into that raises does so in the caller, and ends the command" do
      raising = %Tell{to: :no_such_process}
      Mailbox.unchanged(fn -> assert_raise ArgumentError, fn -> NetRunner.run(~w(yes), into: raising) end end)
      assert OS.commands() == []
    end

    test "a timeout is counted from the call, and its error has no partial result" do
      {ms, result} = timed(fn -> NetRunner.run(sh("echo x; sleep 1000"), timeout: 300) end)
      assert result == {:error, :timeout}
      assert ms >= 300
      assert {"x\n", 0} = NetRunner.run(~w(echo x), timeout: 60_000)
      assert {"x\n", 0} = NetRunner.run(~w(echo x), timeout: :infinity)
      # One that goes on writing does not put it off.
      assert {:error, :timeout} = NetRunner.run(~w(yes), timeout: 300, into: Tell.to(spawn(fn -> :ok end)))
      assert {:error, :timeout} = NetRunner.run(sh("sleep 1000 & wait"), timeout: 100)
    end

    test "nothing in the mailbox, whatever comes out, with exits trapped too" do
      for trap <- [false, true] do
        Process.flag(:trap_exit, trap)

        Mailbox.unchanged(fn ->
          {_, 0} = NetRunner.run(~w(cat), input: :rand.bytes(300_000))
          {_, 0} = NetRunner.run(~w(cat), input: Stream.map(["x"], & &1))
          {_, 3, _} = NetRunner.run(sh("echo x; exit 3"), stderr: :capture)
          {:error, :timeout} = NetRunner.run(~w(sleep 1000), timeout: 20)
          {:error, :timeout} = NetRunner.run(~w(sleep 1000), timeout: 20, input: Stream.cycle(["x"]))
          {:error, :timeout} = NetRunner.run(~w(yes), timeout: 20)
          {:error, {:max_output_exceeded, _}} = NetRunner.run(~w(yes), max_output_size: 1)
          {:error, {:exec, :enoent}} = NetRunner.run(["/nonexistent"], input: Stream.map(["x"], & &1))
          {:error, {:invalid_cmd, :empty}} = NetRunner.run([])
          catch_error(NetRunner.run!(sh("exit 1")))
          catch_error(NetRunner.run(~w(true), no_such: :option))
          {_, 0} = NetRunner.run(~w(head -c 1), input: Stream.cycle(["x"]))
        end)
      end
    end

    test "thousands of messages in the mailbox are no reason to be slow or to be confused" do
      for n <- 1..50_000, do: send(self(), {:select, n, make_ref(), :ready_input})
      {ms, _} = timed(fn -> for(_ <- 1..20, do: {"x", 0} = NetRunner.run(~w(cat), input: "x")) end)
      assert ms < 10_000
      assert {:message_queue_len, 50_000} = Process.info(self(), :message_queue_len)
    end

    test "in a process that has no dictionary, links or monitors to share" do
      {pid, ref} = spawn_monitor(fn -> exit(NetRunner.run(~w(echo bare))) end)
      assert_receive {:DOWN, ^ref, :process, ^pid, {"bare\n", 0}}, 30_000
    end
  end

  describe "run!" do
    test "is stdout, or raises with what it takes to understand" do
      assert "hello\n" = NetRunner.run!(~w(echo hello))
      error = assert_raise NetRunner.Error, fn -> NetRunner.run!(sh("echo why >&2; exit 3")) end
      assert %{status: 3, stderr: "why\n"} = error
      assert Exception.message(error) =~ "3"
      assert Exception.message(error) =~ "why"
    end

    test "what counts as success is up to the caller" do
      assert "" = NetRunner.run!(sh("exit 3"), success: [0, 3])
      assert "" = NetRunner.run!(sh("exit 3"), success: [1..5])
      assert "" = NetRunner.run!(sh("exit 3"), success: :any)
      assert_raise NetRunner.Error, fn -> NetRunner.run!(~w(true), success: [1]) end
      assert_raise NetRunner.Error, fn -> NetRunner.run!(sh("exit 3"), success: []) end
    end

    test "the tail of stderr is the end of it, as long as was asked for" do
      script = "head -c 100000 /dev/zero >&2; printf end >&2; exit 1"
      error = assert_raise NetRunner.Error, fn -> NetRunner.run!(sh(script)) end
      assert byte_size(error.stderr) == 8_192
      assert String.ends_with?(error.stderr, "end")
      error = assert_raise NetRunner.Error, fn -> NetRunner.run!(sh(script), stderr_tail_bytes: 3) end
      assert error.stderr == "end"
    end

    test "a timeout raises too" do
      error = assert_raise NetRunner.Error, fn -> NetRunner.run!(~w(sleep 1000), timeout: 10) end
      assert error.reason == :timeout
    end
  end

  describe "commands as values" do
    defmodule Commands do
      use NetRunner.Command
      defcommand :say, "echo", ["-n"]
      defcommand :slow, "sleep", args: ["1000"], timeout: 50
    end

    test "arguments are appended, options of the call win" do
      assert {"a b", 0} = NetRunner.run(Commands.say(["a", "b"]))
      assert {"a b", 0} = NetRunner.run(Commands.say(["a"]), args: ["b"])
      assert {:error, :timeout} = NetRunner.run(Commands.slow())

      assert {:error, {:max_output_exceeded, "y"}} =
               NetRunner.run(NetRunner.Command.new("yes", [], max_output_size: 9), max_output_size: 1)

      assert "a" = Commands.say(["a"]) |> NetRunner.stream!() |> Enum.join()
      assert {:ok, p} = Proc.start(Commands.say(["a"]))
      assert {:ok, "a"} = Proc.read(p)
      assert :ok = Proc.stop(p)
      assert [:say, :slow] = Keyword.keys(Commands.__commands__())
    end
  end
end
