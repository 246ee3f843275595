defmodule NetRunner.ProcessTest do
  use NetRunner.Test.SystemCase

  doctest NetRunner.Process

  describe "start" do
    test "takes a command in any form" do
      for {:ok, server} <- [
            Proc.start("echo", ["x"]),
            Proc.start(["echo", "x"]),
            Proc.start(["echo", "x"], kill_timeout: 0),
            Proc.start(NetRunner.Command.new("echo", ["x"])),
            Proc.start(NetRunner.Command.new("echo"), args: ["x"])
          ] do
        assert Proc.read(server) == {:ok, "x\n"}
        assert Proc.stop(server) == :ok
      end

      assert_raise ArgumentError, fn -> Proc.start(["echo"], ["x"], kill_timeout: 0) end
    end

    test "returns what prevents the command from running" do
      assert Proc.start("/no/such/file") == {:error, {:exec, :enoent}}
      assert Proc.start("/etc/passwd") == {:error, {:exec, :eacces}}
      assert Proc.start("true", [], cd: "/no/such/directory") == {:error, {:cd, :enoent}}
      assert Proc.start("") == {:error, {:invalid_cmd, :empty_executable}}
      assert Proc.start("true", ["a\0b"]) == {:error, {:invalid_args, :nul_byte}}
      assert_raise ArgumentError, fn -> Proc.start("true", [], timeout: 1) end
    end

    test "start_link returns errors too, and never sends an exit signal" do
      Process.flag(:trap_exit, true)

      Mailbox.unchanged(fn ->
        assert Proc.start_link("/no/such/file") == {:error, {:exec, :enoent}}
        assert Proc.start_link("true", [], cd: "/no/such/directory") == {:error, {:cd, :enoent}}
      end)
    end

    test "registers a name" do
      {:ok, server} = Proc.start("cat", [], name: :a_named_cat)
      assert Process.whereis(:a_named_cat) == server
      assert Proc.start("cat", [], name: :a_named_cat) == {:error, {:already_started, server}}
      assert Proc.write(:a_named_cat, "x") == :ok
      assert Proc.read(:a_named_cat) == {:ok, "x"}
      assert Proc.alive?(:a_named_cat)
      assert Proc.stop(:a_named_cat) == :ok
      assert Proc.stop(:a_named_cat) == :ok
      assert Proc.read(:a_named_cat) == {:error, :closed}
      refute Proc.alive?(:a_named_cat)
    end

    test "under a supervisor, whose shutdown runs the stop sequence" do
      child = %{id: :one, start: {Proc, :start_link, [["sh", "-c", "trap 'exit 7' TERM; echo; cat"]]}}
      {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
      [{:one, server, _type, _modules}] = Supervisor.which_children(supervisor)
      {:ok, "\n"} = Proc.read(server)
      tree = OS.tree(Proc.os_pid(server))
      :ok = Supervisor.stop(supervisor)
      assert OS.present(tree) == []

      bad = %{id: :one, start: {Proc, :start_link, ["/no/such/file"]}}
      Process.flag(:trap_exit, true)

      assert {:error, {:shutdown, {:failed_to_start_child, :one, {:exec, :enoent}}}} =
               Supervisor.start_link([bad], strategy: :one_for_one)
    end
  end

  describe "reading" do
    test "goes on after the exit, to the end" do
      {:ok, server} = Proc.start("sh", ["-c", "printf 12345"])
      {:ok, 0} = Proc.await_exit(server)
      assert Proc.read(server, 2) == {:ok, "12"}
      assert Proc.read(server, 2) == {:ok, "34"}
      assert Proc.read(server, 2) == {:ok, "5"}
      assert Proc.read(server, 2) == :eof
      assert Proc.read(server, 2) == :eof
    end

    test "each byte goes to one of several readers, first come, first served" do
      {:ok, server} = Proc.start("cat")
      test = self()

      readers =
        for number <- 1..5 do
          task = Task.async(fn -> Proc.read(server, 1) end)
          OS.eventually(fn -> Process.info(task.pid, :status) == {:status, :waiting} end)
          {number, task}
        end

      # Another process still, to show that any may write.
      Task.await(Task.async(fn -> send(test, Proc.write(server, "12345")) end))
      assert_received :ok

      for {number, task} <- readers, do: assert(Task.await(task) == {:ok, "#{number}"})
    end

    test "a reader that dies while it waits takes nothing with it" do
      {:ok, server} = Proc.start("cat")
      reader = background(fn -> Proc.read(server) end)
      OS.eventually(fn -> Process.info(reader, :status) == {:status, :waiting} end)
      end_process(reader)
      :ok = Proc.write(server, "x")
      assert Proc.read(server) == {:ok, "x"}
    end

    test "stderr is drained, and its end kept" do
      {:ok, server} = Proc.start("sh", ["-c", "seq 100000 >&2; echo done"], stderr_tail_bytes: 20)
      assert Proc.read(server) == {:ok, "done\n"}
      {:ok, 0} = Proc.await_exit(server)
      assert Proc.stderr_tail(server) == "\n99998\n99999\n100000\n"
      assert Proc.stats(server).bytes_err == 588_895
      assert Proc.read_stderr(server) == {:error, :closed}
    end

    test "read_any reads both outputs, however full one of them is" do
      {:ok, server} = Proc.start("sh", ["-c", "(yes & yes err >&2)"], stderr: :pipe)

      seen =
        Stream.repeatedly(fn -> Proc.read_any(server) end) |> Stream.map(fn {:ok, {name, _data}} -> name end)

      assert :stdout in seen
      assert :stderr in seen
      :ok = Proc.stop(server)
    end

    test "read_any ends when both have ended, and leaves no message" do
      Mailbox.unchanged(fn ->
        script = "echo 1; read x; echo 2 >&2; exec >&-; read x; echo 3 >&2"
        {:ok, server} = Proc.start("sh", ["-c", script], stderr: :pipe)
        assert Proc.read_any(server) == {:ok, {:stdout, "1\n"}}
        :ok = Proc.write(server, "\n")
        assert Proc.read_any(server) == {:ok, {:stderr, "2\n"}}
        :ok = Proc.write(server, "\n")
        assert Proc.read_any(server) == {:ok, {:stderr, "3\n"}}
        assert Proc.read_any(server) == :eof
        assert Proc.read_any(server) == :eof
        :ok = Proc.stop(server)
      end)
    end

    test "without the pipe is an error" do
      {:ok, server} = Proc.start("cat", [], stdout: :disabled, stderr: :redirect)
      assert Proc.read(server) == {:error, :closed}
      assert Proc.read_stderr(server) == {:error, :closed}
      assert Proc.read_any(server) == {:error, :closed}
      assert Proc.close_stdout(server) == {:error, :closed}
    end

    test "close_stdout ends waiting reads" do
      {:ok, server} = Proc.start("cat")
      reader = Task.async(fn -> Proc.read(server) end)
      OS.eventually(fn -> Process.info(reader.pid, :status) == {:status, :waiting} end)
      assert Proc.close_stdout(server) == :ok
      assert Task.await(reader) == {:error, :closed}
      assert Proc.close_stdout(server) == :ok
      assert Proc.read(server) == {:error, :closed}
    end
  end

  describe "writing" do
    test "waits for room, and every byte arrives once" do
      {:ok, server} = Proc.start("cat")
      data = :rand.bytes(3_000_000)
      writer = Task.async(fn -> Proc.write(server, [data, [data | "end"]]) && Proc.close_stdin(server) end)
      assert read_all(server) == data <> data <> "end"
      assert Task.await(writer) == :ok
      assert %{bytes_in: 6_000_003, bytes_out: 6_000_003} = Proc.stats(server)
    end

    test "what one writes is not mixed with what another one does" do
      {:ok, server} = Proc.start("cat")
      letters = Enum.map(?a..?e, &<<&1>>)

      writer =
        Task.async(fn ->
          letters
          |> Enum.map(fn letter ->
            Task.async(fn -> Proc.write(server, List.duplicate(letter, 200_000)) end)
          end)
          |> Task.await_many()

          Proc.close_stdin(server)
        end)

      read = read_all(server)
      assert Task.await(writer) == :ok
      runs = read |> String.to_charlist() |> Enum.dedup()
      assert Enum.sort(runs) == Enum.to_list(?a..?e)
      assert byte_size(read) == 1_000_000
    end

    test "after close_stdin is closed; before the command reads, too" do
      {:ok, server} = Proc.start("sleep", ["60"])
      writer = Task.async(fn -> Proc.write(server, String.duplicate("x", 1_000_000)) end)
      OS.eventually(fn -> Process.info(writer.pid, :status) == {:status, :waiting} end)
      assert Proc.close_stdin(server) == :ok
      assert Task.await(writer) == {:error, :closed}
      assert Proc.close_stdin(server) == :ok
      assert Proc.write(server, "x") == {:error, :closed}
    end

    test "when nobody reads is an error" do
      {:ok, server} = Proc.start("true")
      {:ok, 0} = Proc.await_exit(server)
      assert Proc.write(server, "x") == {:error, :epipe}
      assert Proc.close_stdin(server) == :ok
      assert Proc.write(server, "x") == {:error, :closed}
      {:ok, server} = Proc.start("sh", ["-c", "exec <&-; echo; sleep 60"])
      {:ok, "\n"} = Proc.read(server)
      assert Proc.write(server, "x") == {:error, :epipe}
      :ok = Proc.stop(server)
    end
  end

  describe "the exit" do
    test "can be awaited by many, with and without a time limit" do
      {:ok, server} = Proc.start("cat")

      Mailbox.unchanged(fn ->
        assert Proc.await_exit(server, 0) == {:error, :timeout}
        assert Proc.await_exit(server, 1) == {:error, :timeout}
        waiting = for _ <- 1..5, do: Task.async(fn -> Proc.await_exit(server) end)
        :ok = Proc.close_stdin(server)
        assert Task.await_many(waiting) == List.duplicate({:ok, 0}, 5)
        assert Proc.await_exit(server, 0) == {:ok, 0}
      end)
    end

    test "who does not wait any longer is forgotten" do
      {:ok, server} = Proc.start("sleep", ["60"])
      for _ <- 1..1_000, do: {:error, :timeout} = Proc.await_exit(server, 0)
      assert Proc.alive?(server)
      assert :sys.get_state(server).state.pending == NetRunner.Process.Pending.new()
      :ok = Proc.stop(server)
    end

    test "of a shutdown comes when nothing is left, and output can still be read" do
      {:ok, server} =
        Proc.start("sh", ["-c", "trap 'echo bye; exit 7' TERM; echo; while :; do sleep 0.01; done"])

      {:ok, "\n"} = Proc.read(server)
      tree = OS.tree(Proc.os_pid(server))
      assert Proc.shutdown(server) == {:ok, 7}
      assert OS.present(tree) == []
      assert Proc.read(server) == {:ok, "bye\n"}
      assert Proc.read(server) == :eof
      assert Proc.shutdown(server) == {:ok, 7}
    end

    test "of a shutdown can be waited for in part only" do
      {:ok, server} = Proc.start("sh", ["-c", "trap '' TERM; echo; sleep 60"], kill_timeout: 300)
      {:ok, "\n"} = Proc.read(server)
      Mailbox.unchanged(fn -> assert Proc.shutdown(server, 10) == {:error, :timeout} end)
      assert Proc.await_exit(server) == {:ok, 137}
    end

    test "stats tell a status from a signal" do
      {:ok, server} = Proc.start("sh", ["-c", "exit 143"])
      assert Proc.await_exit(server) == {:ok, 143}
      assert %{exit_status: 143, signal: nil} = Proc.stats(server)
      {:ok, server} = Proc.start("sleep", ["60"])
      :ok = Proc.kill(server)
      assert Proc.await_exit(server) == {:ok, 143}
      assert %{exit_status: 143, signal: :sigterm} = Proc.stats(server)
    end
  end

  describe "kill" do
    test "knows the signals" do
      {:ok, server} = Proc.start("sleep", ["60"])
      assert Proc.kill(server, :nonsense) == {:error, :unknown_signal}
      assert Proc.kill(server, 0) == {:error, :unknown_signal}
      assert Proc.kill(server, 18) == :ok
      assert Proc.kill(server, :sigkill) == :ok
      {:ok, 137} = Proc.await_exit(server)
      assert Proc.kill(server) == {:error, :not_running}
      assert Proc.kill(server, :nonsense) == {:error, :unknown_signal}
    end
  end

  describe "the owner" do
    test "takes the command and the server with it" do
      test = self()

      owner =
        background(fn ->
          {:ok, server} = Proc.start("sleep", ["60"])
          send(test, {:server, server, Proc.os_pid(server)})
          Process.sleep(:infinity)
        end)

      assert_receive {:server, server, os_pid}
      monitor = Process.monitor(server)
      tree = OS.tree(os_pid)
      end_process(owner)
      assert_receive {:DOWN, ^monitor, :process, _server, :normal}, 5_000
      assert OS.present(tree) == []
    end

    test "can be nobody, or another one" do
      owner = background(fn -> Process.sleep(:infinity) end)
      {:ok, server} = Task.await(Task.async(fn -> Proc.start("cat", [], owner: nil) end))
      assert Proc.alive?(server)
      assert Proc.set_owner(server, owner) == :ok
      assert Enum.find(NetRunner.list(), &(&1.server == server)).owner == owner
      monitor = Process.monitor(server)
      end_process(owner)
      assert_receive {:DOWN, ^monitor, :process, _server, :normal}, 5_000
    end

    test "that is replaced does not matter any more" do
      owner = background(fn -> Process.sleep(:infinity) end)
      {:ok, server} = Proc.start("cat", [], owner: owner)
      assert Proc.set_owner(server, self()) == :ok
      end_process(owner)
      assert Proc.write(server, "x") == :ok
      assert Proc.read(server) == {:ok, "x"}
    end

    test "that is dead already ends it at once" do
      owner = background(fn -> Process.sleep(:infinity) end)
      end_process(owner)
      {:ok, server} = Proc.start("sleep", ["60"], owner: nil)
      monitor = Process.monitor(server)
      assert Proc.set_owner(server, owner) == :ok
      assert_receive {:DOWN, ^monitor, :process, _server, :normal}, 5_000
    end

    test "gets its commands back when it is linked, and ends in order" do
      test = self()

      background(fn ->
        {:ok, server} = Proc.start_link("sleep", ["60"])
        send(test, {:server, server, Proc.os_pid(server)})
        exit(:shutdown)
      end)

      assert_receive {:server, server, os_pid}
      OS.await_gone(OS.tree(os_pid))
      OS.eventually(fn -> not Process.alive?(server) end)
    end
  end

  describe "stop" do
    test "ends command and server, and everybody who waits" do
      {:ok, server} = Proc.start("sleep", ["60"])
      tree = OS.tree(Proc.os_pid(server))
      reader = Task.async(fn -> Proc.read(server) end)
      waiting = Task.async(fn -> Proc.await_exit(server) end)

      for task <- [reader, waiting],
          do: OS.eventually(fn -> Process.info(task.pid, :status) == {:status, :waiting} end)

      assert Proc.stop(server) == :ok
      refute Process.alive?(server)
      assert OS.present(tree) == []
      assert Task.await(reader) == {:error, :closed}
      assert Task.await(waiting) == {:ok, 143}
    end

    test "can be called by many at once" do
      {:ok, server} = Proc.start("sleep", ["60"])
      Mailbox.unchanged(fn -> assert Proc.stop(server) == :ok end)
      {:ok, server} = Proc.start("sleep", ["60"])
      stops = for _ <- 1..10, do: Task.async(fn -> Proc.stop(server) end)
      assert Task.await_many(stops) == List.duplicate(:ok, 10)
    end

    test "afterwards everything has an answer" do
      {:ok, server} = Proc.start("sleep", ["60"])
      :ok = Proc.stop(server)

      Mailbox.unchanged(fn ->
        assert Proc.read(server) == {:error, :closed}
        assert Proc.read_stderr(server) == {:error, :closed}
        assert Proc.read_any(server) == {:error, :closed}
        assert Proc.write(server, "x") == {:error, :closed}
        assert Proc.close_stdin(server) == {:error, :closed}
        assert Proc.close_stdout(server) == {:error, :closed}
        assert Proc.kill(server) == {:error, :not_running}
        assert Proc.await_exit(server) == {:error, :closed}
        assert Proc.await_exit(server, 0) == {:error, :closed}
        assert Proc.shutdown(server) == {:error, :closed}
        assert Proc.os_pid(server) == {:error, :closed}
        assert Proc.stats(server) == {:error, :closed}
        assert Proc.stderr_tail(server) == {:error, :closed}
        assert Proc.set_owner(server, nil) == {:error, :closed}
        refute Proc.alive?(server)
        assert Proc.stop(server) == :ok
      end)
    end

    test "of a process that is no server does it no harm" do
      stranger = background(fn -> Process.sleep(:infinity) end)
      assert Proc.read(stranger) == {:error, :closed}
      assert Proc.await_exit(stranger) == {:error, :closed}
      refute Proc.alive?(stranger)
      assert Process.alive?(stranger)
    end
  end

  test "a server that is killed leaves nothing, and everybody an answer" do
    {:ok, server} = Proc.start("sleep", ["60"])
    tree = OS.tree(Proc.os_pid(server))
    reader = Task.async(fn -> Proc.read(server) end)
    waiting = Task.async(fn -> Proc.await_exit(server) end)

    for task <- [reader, waiting],
        do: OS.eventually(fn -> Process.info(task.pid, :status) == {:status, :waiting} end)

    end_process(server)
    # The end of its output, if the command is dead before the Watcher has closed the pipe.
    assert Task.await(reader) in [{:error, :closed}, :eof]
    assert Task.await(waiting) == {:error, :closed}
    # Waits for the Watcher.
    assert Proc.stop(server) == :ok
    assert OS.present(tree) == []
    assert Proc.read(server) == {:error, :closed}
  end

  test "a shepherd that is killed takes the command with it, and everybody is told" do
    {:ok, server} = Proc.start("sleep", ["60"])
    os_pid = Proc.os_pid(server)
    tree = OS.tree(os_pid)
    reader = Task.async(fn -> Proc.read(server) end)
    waiting = Task.async(fn -> Proc.await_exit(server) end)

    for task <- [reader, waiting],
        do: OS.eventually(fn -> Process.info(task.pid, :status) == {:status, :waiting} end)

    OS.kill(OS.shepherd(os_pid), "KILL")
    # The end of the command's output may come first.
    assert Task.await(reader) in [:eof, {:error, :shepherd_died}]
    assert Task.await(waiting) == {:error, :shepherd_died}
    assert Proc.read(server) == {:error, :shepherd_died}
    assert Proc.shutdown(server) == {:error, :shepherd_died}
    assert Proc.kill(server) == {:error, :not_running}
    refute Proc.alive?(server)
    OS.await_gone(tree)
    assert Proc.stop(server) == :ok
  end

  test "a shepherd that hangs is killed" do
    {:ok, server} = Proc.start("sleep", ["60"], kill_timeout: 100)
    os_pid = Proc.os_pid(server)
    tree = OS.tree(os_pid)
    OS.kill(OS.shepherd(os_pid), "STOP")

    {ms, result} = ExUnit.CaptureLog.with_log(fn -> timed(fn -> Proc.shutdown(server) end) end) |> elem(0)
    assert result == {:error, :shepherd_died}
    assert ms in 1_000..5_000
    OS.await_gone(tree)
    assert Proc.stop(server) == :ok
  end

  defp read_all(server, read \\ []) do
    case Proc.read(server) do
      {:ok, data} -> read_all(server, [read | data])
      :eof -> IO.iodata_to_binary(read)
    end
  end
end
