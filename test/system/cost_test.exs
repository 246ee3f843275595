defmodule NetRunner.System.CostTest do
  @moduledoc false
  # What a command, a chunk and doing nothing cost, in counts that do not depend on how fast the machine is. A bound is what
  # was measured, and a little more where it depends on who is first. Who makes something cheaper lowers it; who makes something
  # dearer sees it here.
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Test.{Costs, Faults}

  # Rust's standard library makes system calls of its own where it is compiled with assertions: bin/sanitize excludes this.
  @moduletag :cost

  # -- the bounds --------------------------------------------------------------------------------------

  # System calls of one run(["/bin/true"]). In the VM: the mean of each; what its threads say to each other (futex)
  # and what is for memory does not count. How often it wakes up (epoll_wait, read, timerfd_settime, write) depends on who
  # comes first, and on how long a run takes: from 3.5, 5.7, 2.6 and 1.2 on a quiet machine to 6.7, 9.9, 6.3 and 2.7.
  @vm_calls %{
    "close" => 9,
    "epoll_ctl" => 7.8,
    "epoll_wait" => 9,
    "fcntl" => 2.1,
    "ioctl" => 2.1,
    "open" => 1.1,
    "pidfd_send_signal" => 1.1,
    "pipe2" => 2.1,
    "read" => 12,
    "recvfrom" => 2.1,
    "recvmsg" => 5.8,
    "sendmsg" => 2.1,
    "timerfd_settime" => 8.5,
    "waitid" => 1.5,
    "write" => 4
  }
  # A shepherd before it waits for its first command.
  @new_shepherd_calls 6
  # A shepherd for each command: all together; and without those that depend on who comes first.
  @shepherd_calls 22
  @shepherd_steady_calls 10
  @waiting ~w(ppoll recvmsg rt_sigreturn sendmsg waitid)
  # A command from clone to execve.
  @command_calls 17

  # In this VM, of all its processes. A run is two of them, one of which is there already. (How often a heap is asked for
  # depends on which messages come while their receiver runs: 24 to 80. Reductions are 1,010 to 1,100; once, among all tests,
  # they were 1,281, of which nobody knows whose they were.)
  @per_run %{spawned: 1, messages: 7.5, reductions: 1_600, binaries: 4.2, heaps: 120}
  # Mostly the next chunk is there already.
  @per_fast_chunk %{spawned: 0.001, messages: 1, reductions: 80, binaries: 1.1, heaps: 1.5}
  # With one for each part that the command writes they would be of about 9 KiB.
  @fast_chunk_bytes 32 * 1024
  # With the byte that is written to have it.
  @per_slow_chunk %{spawned: 0, messages: 1, reductions: 160, binaries: 0.05, heaps: 2.6}

  # Per command: its control, its pipes, the pidfds of itself and of its shepherd.
  @vm_fds %{"socket" => 1, "pipe" => 3, "anon_inode:[pidfd]" => 2}
  @shepherd_fds %{"/dev/null" => 3, "socket" => 1}
  @fork_server_fds %{"/dev/null" => 3, "socket" => 2}

  # How often a shepherd reads for the stop of a command that has no descendants, and ignores SIGTERM.
  @stop_reads 32

  # How much is measured.
  @runs 50
  @chunks 200
  @others 100
  @beside 200
  @idle 10
  @idle_ms soak(2_000, 10_000)

  # -- system calls ------------------------------------------------------------------------------------

  @missing Faults.missing()
  if @missing, do: IO.puts(:stderr, "not tested: counts of system calls: #{@missing}")

  describe "system calls of run" do
    @describetag skip: @missing || false

    test "in the VM" do
      directory = tmp_dir()
      Faults.plan(directory, "trace")
      # Of one scheduler, so that there is little to say between threads.
      flags = ["--erl", "+S 1:1 +SDio 1 +SDcpu 1 +A 1"]
      victim = Costs.start(shell: Faults.shell(directory), flags: flags)
      calls = Costs.vm_calls(victim, directory)
      assert Costs.above(calls, @vm_calls) == []
    end

    test "in the fork server, in a shepherd, in what becomes the command" do
      directory = tmp_dir()
      flags = Faults.install_faulty(directory)
      Faults.plan(directory, "trace")
      victim = Costs.start(flags: flags)

      log = Costs.runs(victim, directory, @runs)
      # Shepherds are used again: it has nothing to do.
      assert for({"root", _pid, name} <- log, do: name) == []

      calls = for {"shepherd", _pid, name} <- log, do: name
      assert length(calls) / @runs <= @shepherd_calls
      assert Enum.count(calls, &(&1 not in @waiting)) / @runs <= @shepherd_steady_calls

      log = Costs.log(directory)

      begun =
        for calls <- Costs.lives(log, "shepherd", "recvmsg"), do: Enum.find_index(calls, &(&1 == "recvmsg"))

      assert Enum.max(begun) <= @new_shepherd_calls
      assert log |> Costs.lives("child", "execve") |> Enum.map(&length/1) |> Enum.max() <= @command_calls
    end
  end

  test "a stop takes as long with one command as with thousands: it does not look at every process there is" do
    {:ok, others} = Proc.start("sh", ["-c", "for n in $(seq #{@others}); do sleep 600 & done; echo; wait"])
    assert {:ok, "\n"} = Proc.read(others)

    script = "$| = 1; $SIG{TERM} = 'IGNORE'; print 1; sleep"
    {:ok, server} = Proc.start("perl", ["-e", script], kill_timeout: :timer.minutes(10))
    assert {:ok, "1"} = Proc.read(server)

    os_pid = Proc.os_pid(server)
    shepherd = OS.shepherd(os_pid)
    before = Costs.reads(shepherd)
    stop = Task.async(fn -> Proc.stop(server) end)
    # It has looked, and waits.
    OS.eventually(fn -> Costs.reads(shepherd) > before and OS.state(shepherd) == "S" end)
    assert Costs.reads(shepherd) - before <= @stop_reads

    OS.kill(os_pid, "KILL")
    assert :ok = Task.await(stop)
    assert :ok = Proc.stop(others)
  end

  # -- in the VM ---------------------------------------------------------------------------------------

  test "a run, and as much beside hundreds of commands" do
    run = fn ->
      for _ <- 1..@runs, do: {"", 0} = NetRunner.run(["/bin/true"])
      @runs
    end

    assert Costs.above(Costs.of(run), @per_run) == []
    others = for _ <- 1..@beside, do: with({:ok, server} <- Proc.start("sleep", ["600"]), do: server)
    assert Costs.above(Costs.of(run), @per_run) == []
    for server <- others, do: :ok = Proc.stop(server)
  end

  test "a chunk of a command that writes as fast as it can" do
    bytes = 64 * 1024 * 1024
    head = ["head", "-c", to_string(bytes), "/dev/zero"]

    cost =
      Costs.of(fn ->
        {chunks, ^bytes} =
          Enum.reduce(NetRunner.stream!(head), {0, 0}, fn chunk, {chunks, bytes} ->
            {chunks + 1, bytes + byte_size(chunk)}
          end)

        chunks
      end)

    assert Costs.above(cost, @per_fast_chunk) == []
  end

  test "how much is in such a chunk" do
    bytes = 16 * 1024 * 1024
    head = ["head", "-c", to_string(bytes), "/dev/zero"]
    # The largest mean: who has to wait for the processor finds the pipe empty more often.
    means = for _ <- 1..10, do: div(bytes, Enum.count(NetRunner.stream!(head)))
    assert Enum.max(means) >= @fast_chunk_bytes
  end

  # With one the reader has emptied the pipe before the command writes again.
  @one_processor System.schedulers_online() == 1 && "with one processor each reader waits"

  @tag skip: @one_processor
  test "a pipe that is read without waiting is not watched by epoll(7), which each write would call" do
    {:ok, server} = Proc.start("perl", ["-e", "<STDIN>; print 'x' x 65536 while 1"])
    os_pid = Proc.os_pid(server)
    {1, "pipe:[" <> inode} = List.keyfind(OS.fds(os_pid), 1, 0)
    watched? = fn -> String.to_integer(String.trim_trailing(inode, "]")) in Costs.watched() end

    read? = fn -> match?({:ok, _data}, Proc.read(server)) end
    first = Task.async(read?)
    OS.eventually(watched?)
    :ok = Proc.write(server, "\n")
    assert Task.await(first)
    OS.eventually(fn -> Enum.all?(1..64, fn _ -> read?.() end) and not watched?.() end)

    # It is again when there is nothing.
    OS.kill(os_pid, "STOP")
    rest = Task.async(fn -> read? |> Stream.repeatedly() |> Enum.find(&(not &1)) end)
    OS.eventually(watched?)
    OS.kill(os_pid, "CONT")
    OS.eventually(fn -> not watched?.() end)
    assert :ok = Proc.stop(server)
    Task.await(rest)
  end

  test "a chunk that is waited for" do
    # What is not there for a millisecond, nobody finds at once.
    script = "$| = 1; while (<STDIN>) { select undef, undef, undef, 0.001; print $_ }"
    {:ok, server} = Proc.start("perl", ["-e", script])

    cost =
      Costs.of(fn ->
        for _ <- 1..@chunks do
          :ok = Proc.write(server, "\n")
          {:ok, "\n"} = Proc.read(server)
        end

        @chunks
      end)

    assert Costs.above(cost, @per_slow_chunk) == []
    assert :ok = Proc.stop(server)
  end

  # -- while nothing happens ---------------------------------------------------------------------------

  test "fds of an idle command with three pipes: in the VM, in its shepherd, in the fork server" do
    Census.take()
    before = kinds(OS.vm())
    servers = start_idle()
    Census.take()

    more = Map.merge(kinds(OS.vm()), before, fn _kind, now, before -> now - before end)

    assert Map.filter(more, fn {_kind, count} -> count != 0 end) ==
             Map.new(@vm_fds, fn {kind, count} -> {kind, count * @idle} end)

    for server <- servers, do: assert(kinds(OS.shepherd(Proc.os_pid(server))) == @shepherd_fds)
    assert kinds(OS.fork_server()) == @fork_server_fds
    for server <- servers, do: assert(:ok = Proc.stop(server))
  end

  defp kinds(os_pid),
    do: Enum.frequencies(for {_fd, target} <- OS.fds(os_pid), do: Regex.replace(~r/:\[\d+\]$/, target, ""))

  test "idle commands: no shepherd, not the fork server, and no process of ours in the VM wakes up" do
    servers = start_idle()
    # At rest, the shepherds that are forked ahead, too.
    Census.take()
    fork_server = OS.fork_server()
    outside = for %{os_pid: os_pid, name: "shepherd"} <- OS.descendants(fork_server), do: os_pid
    assert length(outside) >= @idle

    inside =
      for name <- [NetRunner.Supervisor, NetRunner.Watcher, NetRunner.ForkServer], do: Process.whereis(name)

    wake_ups = fn ->
      {for(os_pid <- [fork_server | outside], do: {os_pid, Costs.switches(os_pid)}),
       for(pid <- inside ++ servers, do: {pid, Process.info(pid, :reductions)})}
    end

    # The VM itself looks through all processes when a literal is released, as of a purged module, once.
    assert Enum.any?(1..3, fn _ ->
             before = wake_ups.()
             nothing_for(@idle_ms)
             wake_ups.() == before
           end)

    for server <- servers, do: assert(:ok = Proc.stop(server))
  end

  defp start_idle do
    for _ <- 1..@idle do
      {:ok, server} = Proc.start("cat", [], stderr: :pipe)
      server
    end
  end

  # It is time that is measured.
  defp nothing_for(ms) do
    receive do
    after
      ms -> :ok
    end
  end
end
