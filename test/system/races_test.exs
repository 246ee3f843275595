defmodule NetRunner.System.RacesTest do
  @moduledoc false
  # Issue point 11: a panic, everything at the same time, and nonsense on a control socket.
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

  describe "nonsense on a control socket" do
    # Writes to a socket of a process, the one with this inode, or the first: with a copy of its fd
    # (pidfd_getfd(2), for which one must be allowed to trace the process).
    @getfd """
    use strict; my ($pid, $inode, $bytes) = @ARGV; $bytes = pack 'H*', $bytes;
    for my $fd (sort { $a <=> $b } map { m{(\\d+)$} } glob "/proc/$pid/fd/*") {
      my $target = readlink "/proc/$pid/fd/$fd"; next unless defined $target && $target =~ /^socket:\\[(\\d+)\\]$/;
      next if $inode && $1 != $inode;
      my $pidfd = syscall(434, $pid + 0, 0); die "pidfd_open: $!" if $pidfd < 0;
      my $copy = syscall(438, $pidfd, $fd + 0, 0); die "pidfd_getfd: $!" if $copy < 0;
      open(my $socket, '>&=', $copy) or die "open: $!";
      syswrite($socket, $bytes) == length $bytes or die "write: $!";
      exit 0;
    }
    die "no such socket";
    """

    setup do
      {:ok, bystander} = Proc.start("cat", [])
      {p, shepherd, socket} = start("perl", Tree.arguments())
      tree = Tree.read(p)
      %{bystander: bystander, p: p, tree: Map.values(tree), shepherd: shepherd, socket: socket}
    end

    # A command with its shepherd and the VM's end of the socket between the two: the only one that is new.
    defp start(executable, arguments) do
      before = sockets()
      {:ok, p} = Proc.start(executable, arguments, kill_timeout: 300)
      [socket] = sockets() -- before
      {p, OS.shepherd(Proc.os_pid(p)), socket}
    end

    defp sockets, do: for({_, "socket:[" <> inode} <- OS.fds(OS.vm()), do: String.trim(inode, "]"))

    # A frame of every impossible kind (docs/protocol.md).
    @nonsense [
      unknown_tag: <<1::32-little, 200>>,
      empty: <<0::32-little>>,
      too_long: <<0xFFFF_FFFF::32-little, 1>>,
      text: "GET / HTTP/1.1\r\n\r\n",
      cut_short: <<2::32-little, 68, 9>>,
      fds_that_never_came: <<9::32-little, 65, 4711::32-little, 2::32-little>>
    ]

    for {name, bytes} <- @nonsense do
      test "to the VM: #{name}", context do
        %{p: p, shepherd: shepherd} = context
        waiter = Task.async(fn -> Proc.await_exit(p) end)
        # What the shepherd writes is what the VM reads.
        if write_to_socket_of(shepherd, nil, unquote(bytes)) do
          assert {:error, :protocol} = Task.await(waiter, 30_000)
          OS.await_gone(context.tree)
          assert_others_unharmed(context)
        end
      end
    end

    for {name, bytes} <- Keyword.take(@nonsense, [:unknown_tag, :empty, :too_long, :text]) do
      test "to the shepherd: #{name}", context do
        %{p: p, socket: socket} = context
        waiter = Task.async(fn -> Proc.await_exit(p) end)

        if write_to_socket_of(OS.vm(), socket, unquote(bytes)) do
          # The shepherd takes it for the end of the VM: the stop sequence, and its status.
          assert {:ok, 137} = Task.await(waiter, 30_000)
          OS.await_gone(context.tree)
          assert_others_unharmed(context)
        end
      end
    end

    test "to a shepherd, a stop in the middle of a frame that never ends", context do
      if write_to_socket_of(OS.vm(), context.socket, <<100::32-little, 1, 2, 3>>) do
        # It waits for the rest, and sees the end of the VM's side nevertheless.
        assert :ok = Proc.stop(context.p)
        OS.await_gone(context.tree)
        assert_others_unharmed(context, false)
      end
    end

    test "random bytes, in both directions, many times", context do
      for _ <- 1..soak(20, 1_000), direction <- [:to_vm, :to_shepherd] do
        {p, shepherd, socket} = start("cat", [])
        identity = OS.identity(Proc.os_pid(p))
        # A whole frame, of no kind that there is.
        payload = :rand.bytes(:rand.uniform(60))
        bytes = <<byte_size(payload) + 1::32-little, 128 + :rand.uniform(127), payload::binary>>

        written? =
          if direction == :to_vm,
            do: write_to_socket_of(shepherd, nil, bytes),
            else: write_to_socket_of(OS.vm(), socket, bytes)

        if written? do
          assert Proc.await_exit(p) == if(direction == :to_vm, do: {:error, :protocol}, else: {:ok, 143})
          OS.await_gone([identity])
        end

        assert :ok = Proc.stop(p)
      end

      assert_others_unharmed(context, false)
    end

    defp assert_others_unharmed(%{bystander: bystander, p: p}, stopped? \\ true) do
      assert :ok = Proc.write(bystander, "x")
      assert {:ok, "x"} = Proc.read(bystander)
      assert {"x\n", 0} = NetRunner.run(~w(echo x))
      if stopped?, do: refute(Proc.alive?(p))
      assert :ok = Proc.stop(p)
      assert :ok = Proc.stop(bystander)
    end

    defp write_to_socket_of(os_pid, inode, bytes) do
      arguments = ["-e", @getfd, "#{os_pid}", "#{inode}", Base.encode16(bytes)]

      case System.cmd("perl", arguments, stderr_to_stdout: true) do
        {"", 0} ->
          true

        {"pidfd_" <> _ = why, _} ->
          IO.puts(
            :stderr,
            "not tested: nonsense on a control socket, for this system does not let us: #{why}"
          )

          false
      end
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
