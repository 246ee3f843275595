defmodule NetRunner.System.RacesTest do
  @moduledoc false
  # Issue point 11: a panic, and everything at the same time.
  use NetRunner.Test.SystemCase, async: false

  test "a panic in the NIF is an Elixir error, and all goes on" do
    # In a VM of its own, for what Rust prints about it.
    victim =
      Victim.start(
        """
        {:ok, p} = Proc.start("cat", [])
        errors = for _ <- 1..100, do: (try do NetRunner.Nif.panic() rescue error -> error end)
        :ok = Proc.write(p, "x")
        {:ok, "x"} = Proc.read(p)
        :ok = Proc.stop(p)
        IO.puts("panicked")
        say.(Enum.uniq(errors))
        say.(NetRunner.run(["echo", "x"]))
        wait.()
        """,
        env: [{~c"RUST_BACKTRACE", ~c"0"}]
      )

    assert Enum.find(Stream.repeatedly(fn -> Victim.line(victim) end), &(&1 == "panicked"))
    assert [%ErlangError{original: :nif_panicked}] = Victim.term(victim)
    assert {"x\n", 0} = Victim.term(victim)
  end

  describe "from several processes at once" do
    # What each of them may be answered, whatever the others do.
    @calls [
      read: {&Proc.read/1, [:ok, :eof, :closed]},
      read_stderr: {&Proc.read_stderr/1, [:ok, :eof, :closed]},
      read_any: {&Proc.read_any/1, [:ok, :eof, :closed]},
      write: {&__MODULE__.write/1, [:ok, :closed, :epipe]},
      close_stdin: {&Proc.close_stdin/1, [:ok, :closed]},
      close_stdout: {&Proc.close_stdout/1, [:ok, :closed]},
      kill: {&__MODULE__.harmless_kill/1, [:ok, :not_running]},
      sigkill: {&__MODULE__.sigkill/1, [:ok, :not_running]},
      await_exit: {&__MODULE__.await_exit/1, [:ok, :timeout, :closed]},
      stats: {&Proc.stats/1, [:ok, :closed]},
      os_pid: {&Proc.os_pid/1, [:ok, :closed]},
      alive?: {&Proc.alive?/1, [:ok]},
      set_owner: {&__MODULE__.set_owner/1, [:ok, :closed]},
      shutdown: {&Proc.shutdown/1, [:ok, :closed]},
      stop: {&Proc.stop/1, [:ok]}
    ]

    def write(p), do: Proc.write(p, :binary.copy("x", 100_000))
    def harmless_kill(p), do: Proc.kill(p, :sigcont)
    def sigkill(p), do: Proc.kill(p, :sigkill)
    def await_exit(p), do: Proc.await_exit(p, 1)
    def set_owner(p), do: Proc.set_owner(p, nil)

    test "closing, reading, writing, killing, stopping: each call has an answer of its own, nothing is left" do
      census = Census.take()
      deadline = System.monotonic_time(:millisecond) + soak(3_000, 60_000)
      rounds = round_until(deadline, 0)
      assert rounds > 0
      Census.assert_unchanged(census)
    end

    defp round_until(deadline, rounds) do
      {:ok, p} = Proc.start("sh", ["-c", "yes >&2 & cat"], stderr: :pipe, kill_timeout: 200, owner: nil)
      # Those that end it are rare, and not at the beginning, so that the others meet each other too.
      mild = Keyword.drop(@calls, [:sigkill, :shutdown, :stop, :close_stdout, :close_stdin])

      workers =
        for n <- 1..8 do
          Task.async(fn ->
            for _ <- 1..20, do: call(p, Enum.random(if(n == 8, do: @calls, else: mild)))
          end)
        end

      # Readers and writers may wait for ever for a command that nobody ends.
      stopper =
        Task.async(fn ->
          for _ <- 1..20, do: call(p, Enum.random(Keyword.take(@calls, [:stats, :os_pid, :alive?])))
        end)

      Task.await(stopper, 30_000)
      assert :ok = Proc.stop(p)
      Task.await_many(workers, 30_000)
      refute Process.alive?(p)
      assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}

      if System.monotonic_time(:millisecond) < deadline,
        do: round_until(deadline, rounds + 1),
        else: rounds + 1
    end

    defp call(p, {name, {fun, allowed}}) do
      answer = fun.(p)
      assert {name, kind(answer)} in for(one <- allowed, do: {name, one})
      # Whoever has its answer has no message more.
      assert {:messages, []} = Process.info(self(), :messages)
    end

    defp kind(:ok), do: :ok
    defp kind(:eof), do: :eof
    defp kind({:ok, _}), do: :ok
    defp kind({:error, reason}), do: reason
    defp kind(%NetRunner.Stats{}), do: :ok
    defp kind(value) when is_integer(value) or is_boolean(value), do: :ok
    defp kind(other), do: other

    test "readers and writers that are killed while they wait: their places go to others, no byte is lost" do
      {:ok, p} = Proc.start("cat", [])
      deadline = System.monotonic_time(:millisecond) + soak(1_000, 30_000)
      rounds = kill_waiting_readers(p, deadline, 0)
      assert rounds > 0
      assert :ok = Proc.close_stdin(p)
      assert :eof = Proc.read(p)
      assert :ok = Proc.stop(p)
    end

    defp kill_waiting_readers(p, deadline, round) do
      # They all wait: nothing has been written.
      doomed = for _ <- 1..5, do: spawn(fn -> Proc.read(p) end)
      OS.eventually(fn -> Enum.all?(doomed, &(Process.info(&1, :status) == {:status, :waiting})) end)
      survivor = Task.async(fn -> Proc.read(p) end)
      OS.eventually(fn -> Process.info(survivor.pid, :status) == {:status, :waiting} end)
      Enum.each(doomed, &end_process/1)
      bytes = "round #{round}"
      assert :ok = Proc.write(p, bytes)
      assert {:ok, ^bytes} = Task.await(survivor)

      if System.monotonic_time(:millisecond) < deadline,
        do: kill_waiting_readers(p, deadline, round + 1),
        else: round + 1
    end

    test "whoever is killed in the middle of a run takes its command along, whenever it is" do
      census = Census.take()
      deadline = System.monotonic_time(:millisecond) + soak(2_000, 60_000)
      kill_runners(deadline, 0)
      Census.assert_unchanged(census)
    end

    defp kill_runners(deadline, step) do
      runners =
        for _ <- 1..8 do
          spawn(fn ->
            case rem(step, 3) do
              0 -> NetRunner.run(~w(sleep 1000), input: Stream.cycle(["x"]))
              1 -> NetRunner.stream!(~w(yes)) |> Stream.run()
              2 -> Proc.start("cat", []) && receive(do: (:never -> :ok))
            end
          end)
        end

      # From "not yet begun" to "running", in steps of 20 µs.
      busy_until(System.monotonic_time(:microsecond) + rem(step, 100) * 20)
      Enum.each(runners, &end_process/1)
      if System.monotonic_time(:millisecond) < deadline, do: kill_runners(deadline, step + 1)
    end

    defp busy_until(moment), do: if(System.monotonic_time(:microsecond) < moment, do: busy_until(moment))

    test "a name is given to one only" do
      name = :"net_runner_test_#{System.unique_integer([:positive])}"
      test = self()

      winners =
        for _ <- 1..10 do
          Task.async(fn -> Proc.start("cat", [], name: name, owner: test) end)
        end
        |> Task.await_many(30_000)

      assert [{:ok, p}] = Enum.filter(winners, &match?({:ok, _}, &1))
      assert Enum.all?(winners -- [{:ok, p}], &(&1 == {:error, {:already_started, p}}))
      assert length(OS.commands()) == 1
      assert :ok = Proc.stop(name)
    end
  end

  test "many commands started and ended by many processes at once" do
    census = Census.take()
    deadline = System.monotonic_time(:millisecond) + soak(2_000, 60_000)

    workers =
      for n <- 1..16 do
        Task.async(fn -> run_until(deadline, n, 0) end)
      end

    counts = Task.await_many(workers, 120_000)
    assert Enum.all?(counts, &(&1 > 0))
    Census.assert_unchanged(census)
  end

  defp run_until(deadline, n, count) do
    text = "#{n} #{count}\n"

    case rem(count, 3) do
      0 -> assert {^text, 0} = NetRunner.run(~w(cat), input: text)
      1 -> assert {"", 7} = NetRunner.run(sh("exit 7"))
      2 -> assert {:error, {:exec, :enoent}} = NetRunner.run(["/nonexistent"])
    end

    if System.monotonic_time(:millisecond) < deadline, do: run_until(deadline, n, count + 1), else: count + 1
  end
end
