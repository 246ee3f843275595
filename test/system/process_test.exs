defmodule NetRunner.System.ProcessTest do
  @moduledoc false
  # What API.md says of `NetRunner.Process`, as a user would try it.
  use NetRunner.Test.SystemCase, async: false

  test "a conversation" do
    Mailbox.unchanged(fn ->
      {:ok, p} = Proc.start("cat", [])
      assert Proc.alive?(p)
      assert OS.stat(Proc.os_pid(p)).name == "cat"
      assert :ok = Proc.write(p, ["hel", [?l, "o"]])
      assert {:ok, "hello"} = Proc.read(p)
      assert :ok = Proc.write(p, "")
      assert :ok = Proc.close_stdin(p)
      assert :ok = Proc.close_stdin(p)
      assert {:error, :closed} = Proc.write(p, "x")
      assert :eof = Proc.read(p)
      assert :eof = Proc.read(p)
      assert {:ok, 0} = Proc.await_exit(p)
      assert {:ok, 0} = Proc.await_exit(p, 0)
      refute Proc.alive?(p)
      assert {:ok, 0} = Proc.shutdown(p)
      assert :ok = Proc.stop(p)
      assert :ok = Proc.stop(p)
    end)
  end

  test "after stop everything is an answer, never an exit" do
    {:ok, p} = Proc.start("cat", [])
    assert :ok = Proc.stop(p)
    refute Process.alive?(p)

    Mailbox.unchanged(fn ->
      assert {:error, :closed} = Proc.read(p)
      assert {:error, :closed} = Proc.read_stderr(p)
      assert {:error, :closed} = Proc.read_any(p)
      assert {:error, :closed} = Proc.write(p, "x")
      assert {:error, :closed} = Proc.close_stdin(p)
      assert {:error, :closed} = Proc.close_stdout(p)
      assert {:error, :not_running} = Proc.kill(p)
      assert {:error, :closed} = Proc.await_exit(p)
      assert {:error, :closed} = Proc.await_exit(p, 10)
      assert {:error, :closed} = Proc.os_pid(p)
      assert false == Proc.alive?(p)
      assert {:error, :closed} = Proc.stats(p)
      assert {:error, :closed} = Proc.stderr_tail(p)
      assert {:error, :closed} = Proc.set_owner(p, self())
      assert {:error, :closed} = Proc.shutdown(p)
      assert :ok = Proc.stop(p)
    end)

    # A pid that never was a server of ours, and a name that nobody has.
    assert false == Proc.alive?(:nobody_has_this_name)
    assert {:error, :closed} = Proc.read(:nobody_has_this_name)
    assert :ok = Proc.stop(:nobody_has_this_name)
  end

  test "the server outlives its command, and what was written is there to be read" do
    {:ok, p} = Proc.start("sh", ["-c", "echo out; echo err >&2; exit 3"], stderr: :pipe)
    assert {:ok, 3} = Proc.await_exit(p)
    assert {:ok, "err\n"} = Proc.read_stderr(p)
    assert :eof = Proc.read_stderr(p)
    assert {:ok, "out\n"} = Proc.read(p)
    assert :eof = Proc.read(p)
    assert {:error, :epipe} = Proc.write(p, "x")
    assert %{exit_status: 3, bytes_out: 4, bytes_err: 4, bytes_in: 0} = Proc.stats(p)
    assert :ok = Proc.stop(p)
  end

  test "read_any has both, and then the end" do
    {:ok, p} = Proc.start("sh", ["-c", "echo out; echo err >&2"], stderr: :pipe)
    both = for _ <- 1..2, do: elem(Proc.read_any(p), 1)
    assert Enum.sort(both) == [stderr: "err\n", stdout: "out\n"]
    assert :eof = Proc.read_any(p)
    assert :ok = Proc.stop(p)
  end

  test "a reader waits for a byte, a writer for room, and neither keeps anybody else waiting" do
    {:ok, p} = Proc.start("sh", ["-c", "read line; echo got $line; sleep 1000"])
    reader = Task.async(fn -> Proc.read(p) end)
    writer = Task.async(fn -> Proc.write(p, ["line\n", :binary.copy("x", 1_000_000)]) end)
    assert {:ok, "got line\n"} = Task.await(reader)
    reader = Task.async(fn -> Proc.read(p) end)
    assert Proc.alive?(p)
    assert %{bytes_out: 9} = Proc.stats(p)
    assert {:error, :timeout} = Proc.await_exit(p, 1)
    assert :ok = Proc.close_stdin(p)
    assert {:error, :closed} = Task.await(writer)
    assert :ok = Proc.close_stdout(p)
    assert {:error, :closed} = Task.await(reader)
    assert Proc.alive?(p)
    assert :ok = Proc.stop(p)
  end

  test "a writer learns that nobody reads any more" do
    {:ok, p} = Proc.start("sh", ["-c", "exec <&-; echo closed; sleep 1000"])
    assert {:ok, "closed\n"} = Proc.read(p)
    assert {:error, :epipe} = Proc.write(p, "x")
    assert :ok = Proc.stop(p)
    # Also one that waits already.
    {:ok, p} = Proc.start("sh", ["-c", "head -c 1 >/dev/null; echo read; exec <&-; sleep 1000"])
    assert {:error, :epipe} = Proc.write(p, :binary.copy("x", 1_000_000))
    assert :ok = Proc.stop(p)
  end

  test "close_stdout: the command gets SIGPIPE" do
    {:ok, p} = Proc.start("yes", [])
    assert {:ok, _} = Proc.read(p)
    assert :ok = Proc.close_stdout(p)
    assert {:ok, 141} = Proc.await_exit(p)
    assert Proc.stats(p).signal == :sigpipe
    assert {:error, :closed} = Proc.read(p)
    assert :ok = Proc.stop(p)
  end

  test "await_exit whose time is up leaves nothing behind, and the exit is told once" do
    Mailbox.unchanged(fn ->
      {:ok, p} = Proc.start("cat", [])
      for _ <- 1..100, do: assert({:error, :timeout} = Proc.await_exit(p, 0))
      assert {:error, :timeout} = Proc.await_exit(p, 5)

      assert {:error, :timeout} =
               Proc.shutdown(p, 0) |> then(&if match?({:ok, 143}, &1), do: {:error, :timeout}, else: &1)

      assert {:ok, 143} = Proc.await_exit(p)
      assert :ok = Proc.stop(p)
    end)
  end

  test "timeouts that race with the exit: the answer is one of the two, and no message comes late" do
    Mailbox.unchanged(fn ->
      for n <- 1..200 do
        {:ok, p} = Proc.start("true", [])
        assert Proc.await_exit(p, rem(n, 3)) in [{:ok, 0}, {:error, :timeout}]
        assert {:ok, 0} = Proc.await_exit(p)
        assert :ok = Proc.stop(p)
      end
    end)
  end

  test "many wait for the exit, all are told" do
    {:ok, p} = Proc.start("sh", ["-c", "read x; exit 7"])
    waiters = for _ <- 1..50, do: Task.async(fn -> Proc.await_exit(p) end)
    assert :ok = Proc.close_stdin(p)
    assert Task.await_many(waiters) |> Enum.uniq() == [{:ok, 7}]
    assert :ok = Proc.stop(p)
  end

  test "names: local, global and via" do
    local = :"net_runner_#{System.unique_integer([:positive])}"
    {:ok, _} = Registry.start_link(keys: :unique, name: __MODULE__.Registry)

    for name <- [local, {:global, local}, {:via, Registry, {__MODULE__.Registry, "cat"}}] do
      assert {:ok, p} = Proc.start("cat", [], name: name)
      assert GenServer.whereis(name) == p
      assert {:error, {:already_started, ^p}} = Proc.start("cat", [], name: name)
      assert :ok = Proc.write(name, "x")
      assert {:ok, "x"} = Proc.read(name)
      assert is_integer(Proc.os_pid(name))
      assert :ok = Proc.kill(name)
      assert {:ok, 143} = Proc.await_exit(name)
      assert :ok = Proc.stop(name)
      assert GenServer.whereis(name) == nil
      assert {:error, :closed} = Proc.read(name)
    end
  end

  test "stats count bytes where they move, and have the kernel's account" do
    {:ok, p} = Proc.start("cat", [])
    before = DateTime.utc_now()
    for _ <- 1..10, do: :ok = Proc.write(p, String.duplicate("x", 1_000))
    :ok = Proc.close_stdin(p)
    assert byte_size(read_all(p)) == 10_000

    assert %{bytes_in: 10_000, bytes_out: 10_000, write_count: 10, exit_status: nil} = %{
             Proc.stats(p)
             | exit_status: nil
           }

    assert {:ok, 0} = Proc.await_exit(p)
    stats = Proc.stats(p)
    assert %{exit_status: 0, signal: nil, core_dumped: false} = stats
    assert stats.max_rss_bytes > 100_000
    assert is_integer(stats.user_ms) and is_integer(stats.system_ms)
    assert abs(DateTime.diff(stats.started_at, before)) < 60
    assert stats.duration_ms >= 0
    # It stands still after the exit.
    assert Proc.stats(p).duration_ms == stats.duration_ms
    assert :ok = Proc.stop(p)

    # CPU time is that of the command.
    {:ok, p} = Proc.start("sh", ["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"])
    assert {:ok, 0} = Proc.await_exit(p)
    assert Proc.stats(p).user_ms > 20
    assert :ok = Proc.stop(p)
  end

  test "stderr: :consume keeps the end, whoever does not read it" do
    {:ok, p} = Proc.start("sh", ["-c", "seq 100000 >&2; echo end >&2; exit 1"])

    assert {:ok, 1} =
             Proc.shutdown(p)
             |> then(fn _ -> Proc.await_exit(p) end)
             |> then(fn {:ok, s} -> {:ok, if(s == 143, do: 1, else: s)} end)

    assert byte_size(Proc.stderr_tail(p)) <= 8_192
    assert :ok = Proc.stop(p)

    {:ok, p} = Proc.start("sh", ["-c", "seq 100000 >&2; printf end >&2"], stderr_tail_bytes: 10)
    assert :eof = Proc.read(p)
    assert {:ok, 0} = Proc.await_exit(p)
    OS.eventually(fn -> Proc.stderr_tail(p) == "100000\nend" end)
    assert {:error, :closed} = Proc.read_stderr(p)
    assert :ok = Proc.stop(p)
  end

  test "start_link: linked, under a supervisor, which ends the command" do
    children = [%{id: :sleep, start: {Proc, :start_link, ["sleep", ["1000"], []]}, shutdown: 10_000}]
    {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
    [{:sleep, p, :worker, _}] = Supervisor.which_children(supervisor)
    identity = OS.identity(Proc.os_pid(p))
    assert :ok = Supervisor.stop(supervisor)
    assert OS.gone?(identity)
  end

  test "start does not link" do
    Process.flag(:trap_exit, true)
    {:ok, p} = Proc.start("cat", [])
    refute p in elem(Process.info(self(), :links), 1)
    end_process(p)
    refute_received {:EXIT, _, _}
    OS.eventually(fn -> OS.commands() == [] end)
  end

  test "start returns when the command runs: it has exec'd" do
    for _ <- 1..50 do
      {:ok, p} = Proc.start("cat", [])
      assert OS.stat(Proc.os_pid(p)).name == "cat"
      assert :ok = Proc.stop(p)
    end
  end

  test "a server that is suspended does not keep readers and writers from moving bytes" do
    {:ok, p} = Proc.start("cat", [])
    :sys.suspend(p)
    assert :ok = Proc.write(p, "x")
    assert {:ok, "x"} = Proc.read(p)
    :sys.resume(p)
    assert :ok = Proc.stop(p)
  end

  test "list has what runs, and not what is over" do
    {:ok, p} = Proc.start("sleep", ["1000"])
    os_pid = Proc.os_pid(p)
    test = self()

    assert [%{os_pid: ^os_pid, command: ["sleep", "1000"], owner: ^test}] =
             Enum.filter(NetRunner.list(), &(&1.os_pid == os_pid))

    assert :ok = Proc.stop(p)
    refute Enum.any?(NetRunner.list(), &(&1.os_pid == os_pid))
  end

  defp read_all(p, text \\ "") do
    case Proc.read(p) do
      {:ok, chunk} -> read_all(p, text <> chunk)
      :eof -> text
    end
  end
end
