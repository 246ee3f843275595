defmodule NetRunner.System.SignalsTest do
  @moduledoc false
  # Issue point 7.
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Test.OddHome

  describe "after the exit" do
    test "kill is :not_running, with every form of signal, and however often" do
      {:ok, p} = Proc.start("true", [])
      assert {:ok, 0} = Proc.await_exit(p)

      for signal <- [:sigterm, :sigkill, 9, 15, :sigusr1],
          do: assert({:error, :not_running} = Proc.kill(p, signal))

      assert {:error, :not_running} = Proc.kill(p)
      # What is no signal is no signal.
      assert {:error, :unknown_signal} = Proc.kill(p, :sigfoo)
      assert :ok = Proc.stop(p)
      assert {:error, :not_running} = Proc.kill(p)
    end

    test "no process is touched: not the zombie's group, and not its leftovers" do
      {:ok, p} = Proc.start("perl", Tree.arguments(~w(exit=0 child)), leftovers: :kill, kill_timeout: 0)
      tree = Tree.read(p)
      assert {:ok, 0} = Proc.await_exit(p)
      # The child is in the command's group. USR1 would kill it.
      assert {:error, :not_running} = Proc.kill(p, :sigusr1)
      assert :ok = Proc.stop(p)
      assert OS.present(Map.values(tree)) == []

      victim =
        Victim.start("""
        {:ok, p} = Proc.start("sh", ["-c", "sleep 1000 & echo $!"], leftovers: :keep)
        {:ok, 0} = Proc.await_exit(p)
        {:ok, out} = Proc.read(p)
        say.({String.to_integer(String.trim(out)), Proc.kill(p, :sigkill), Proc.kill(p, :sigkill)})
        wait.()
        """)

      assert {job, {:error, :not_running}, {:error, :not_running}} = Victim.term(victim)
      assert OS.alive?(job)
    end

    test "a kill that races with the exit has one of the two answers, and the exit is what it was" do
      for _ <- 1..soak(200, 5_000) do
        {:ok, p} = Proc.start("true", [])
        assert Proc.kill(p, :sigusr1) in [:ok, {:error, :not_running}]
        assert {:ok, status} = Proc.await_exit(p)
        # 128 + SIGUSR1, in time.
        assert status in [0, 138]
        assert :ok = Proc.stop(p)
      end
    end
  end

  describe "when its number is used again" do
    # Forks until the child has the number of its first argument (pid_namespaces(7), ns_last_pid), which then leads a
    # group, as the command did, and answers each line.
    @stranger ~S"""
    my $wanted = shift;
    open(my $last, '+<', '/proc/sys/kernel/ns_last_pid') or die $!;
    for (1 .. 1000) {
      sysseek($last, 0, 0); syswrite($last, $wanted - 1);
      my $pid = fork;
      if ($pid == 0) {
        exit 1 if $$ != $wanted;
        setpgrp(0, 0);
        syswrite STDOUT, "stranger $$\n";
        while (<STDIN>) { syswrite STDOUT, "alive\n" }
        exit 0;
      }
      waitpid $pid, 0;
      if ($pid == $wanted) { while (<STDIN>) { syswrite STDOUT, "killed\n" } exit 0 }
    }
    syswrite STDOUT, "the number is not to be had\n";
    """

    @choose "unshare --mount --pid --fork --mount-proc sh -c 'echo 1000 >/proc/sys/kernel/ns_last_pid'"

    # How the command ends, and what its waiter is told. In both cases it is reaped, and the number is free.
    @tag skip:
           Skip.unless_root("only root can make namespaces") ||
             Skip.unless_command(@choose, "no pid can be chosen")
    test "a late kill does not hit who has it now, whether the command has exited or its shepherd was killed" do
      for {script, outcome} <- [
            {"exit 3", {:ok, 3}},
            {"kill -s KILL $PPID; sleep 1000", {:error, :shepherd_died}}
          ] do
        victim =
          OddHome.start(
            ~s(exec unshare --pid --fork --mount-proc "$0" "$@"),
            """
            {:ok, p} = Proc.start("sh", ["-c", "read _; #{script}"], kill_timeout: 100)
            os_pid = Proc.os_pid(p)
            :ok = Proc.close_stdin(p)
            answer.(Proc.await_exit(p))
            gone = fn gone -> if File.exists?("/proc/\#{os_pid}"), do: gone.(gone) end
            gone.(gone)

            perl = {:spawn_executable, System.find_executable("perl")}
            port = Port.open(perl, [:binary, line: 1_000, args: ["-e", #{inspect(@stranger)}, "\#{os_pid}"]])
            line = fn -> receive do {^port, {:data, {:eol, line}}} -> line end end
            answer.(line.() == "stranger \#{os_pid}")

            ask = fn -> Port.command(port, "\n"); line.() end
            answer.({Proc.kill(p), Proc.kill(p, :sigkill), ask.()})
            answer.({Proc.shutdown(p), ask.()})
            answer.({Proc.stop(p), Proc.kill(p, :sigkill), ask.()})
            wait.()
            """,
            namespace: true
          )

        assert OddHome.term(victim) == outcome
        assert OddHome.term(victim) == true
        assert OddHome.term(victim) == {{:error, :not_running}, {:error, :not_running}, "alive"}
        assert OddHome.term(victim) == {outcome, "alive"}
        assert OddHome.term(victim) == {:ok, {:error, :not_running}, "alive"}
      end
    end
  end

  describe "exactly once" do
    # sigsuspend(2): a signal that came right before a sleep(2) would be noticed at its end.
    @counter """
    use POSIX; my $n = 0;
    sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGUSR1, SIGUSR2));
    $SIG{USR1} = sub { $n++; syswrite STDOUT, "usr1 $n\\n" };
    $SIG{USR2} = sub { syswrite STDOUT, "total $n\\n"; exit 0 };
    syswrite STDOUT, "ready\\n";
    sigsuspend(POSIX::SigSet->new) while 1;
    """

    test "each SIGUSR1 arrives, none twice" do
      {:ok, p} = Proc.start("perl", ["-e", @counter])
      assert {:ok, "ready\n"} = Proc.read(p)

      for n <- 1..500 do
        expected = "usr1 #{n}\n"
        assert :ok = Proc.kill(p, :sigusr1)
        assert {:ok, ^expected} = Proc.read(p)
      end

      assert :ok = Proc.kill(p, :sigusr2)
      assert {:ok, "total 500\n"} = Proc.read(p)
      assert {:ok, 0} = Proc.await_exit(p)
      assert :ok = Proc.stop(p)
    end

    test "to each process of the group, and to none outside it" do
      script = """
      use POSIX;
      # Each tells of each SIGUSR1, and of their number when it gets SIGTERM.
      sub count {
        my ($who) = @_; my $n = 0; my $over = 0;
        sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGUSR1, SIGTERM));
        $SIG{USR1} = sub { $n++; syswrite STDOUT, "$who got it\n" };
        $SIG{TERM} = sub { $over = 1 };
        syswrite STDOUT, "ready\n";
        sigsuspend(POSIX::SigSet->new) until $over;
        syswrite STDOUT, "$who $n\n";
      }
      my @children;
      for my $who ("child", "own group", "own session") {
        my $pid = fork;
        if ($pid) { push @children, $pid; next }
        if ($who eq "own group") { setpgid(0, 0) }
        if ($who eq "own session") { POSIX::setsid() }
        count($who); exit 0;
      }
      count("root");
      # Those whom the signal to the group has not reached.
      kill TERM => @children; 1 while wait != -1;
      """

      {:ok, p} = Proc.start("perl", ["-e", script])
      assert ~w(ready ready ready ready) = read_lines(p, 4)
      assert :ok = Proc.kill(p, :sigusr1)
      assert ["child got it", "root got it"] = read_lines(p, 2)
      assert :ok = Proc.kill(p, :sigterm)
      assert ["child 1", "own group 0", "own session 0", "root 1"] = read_lines(p, 4)
      assert {:ok, 0} = Proc.await_exit(p)
      assert :ok = Proc.stop(p)
    end
  end

  describe "a stopped command" do
    test "is stopped and continued by kill" do
      {:ok, p} = Proc.start("cat", [])
      os_pid = Proc.os_pid(p)
      assert :ok = Proc.kill(p, :sigstop)
      OS.eventually(fn -> OS.state(os_pid) == "T" end)
      assert Proc.alive?(p)
      assert {:error, :timeout} = Proc.await_exit(p, 10)
      assert :ok = Proc.write(p, "x")
      assert :ok = Proc.kill(p, :sigcont)
      assert {:ok, "x"} = Proc.read(p)
      assert :ok = Proc.stop(p)
    end

    test "can be stopped for good: SIGCONT comes after the stop signal" do
      for call <- [&Proc.shutdown/1, &Proc.stop/1] do
        {:ok, p} = Proc.start("cat", [], kill_timeout: 30_000)
        os_pid = Proc.os_pid(p)
        identity = OS.identity(os_pid)
        assert :ok = Proc.kill(p, :sigstop)
        OS.eventually(fn -> OS.state(os_pid) == "T" end)
        {ms, result} = timed(fn -> call.(p) end)
        assert OS.gone?(identity)
        # It was SIGTERM, and not SIGKILL after 30 s.
        assert result in [:ok, {:ok, 143}]
        assert ms < 10_000
        assert :ok = Proc.stop(p)
      end
    end

    test "and with it all of a stopped tree, by timeout" do
      command = sh("sleep 1000 & kill -s STOP $! ; kill -s STOP $$")
      {ms, result} = timed(fn -> NetRunner.run(command, timeout: 500, kill_timeout: 30_000) end)
      assert result == {:error, :timeout}
      assert OS.commands() == []
      assert ms < 10_000
    end
  end

  describe "what it died of" do
    test "exit 137 and SIGKILL, exit 143 and SIGTERM, have the same status and can be told apart" do
      for {number, signal} <- [{9, :sigkill}, {15, :sigterm}] do
        status = 128 + number
        {:ok, p} = Proc.start("sh", ["-c", "exit #{status}"])
        assert {:ok, ^status} = Proc.await_exit(p)
        assert %{exit_status: ^status, signal: nil, core_dumped: false} = Proc.stats(p)
        assert :ok = Proc.stop(p)

        {:ok, p} = Proc.start("cat", [])
        assert :ok = Proc.kill(p, signal)
        assert {:ok, ^status} = Proc.await_exit(p)
        assert %{exit_status: ^status, signal: ^signal} = Proc.stats(p)
        assert :ok = Proc.stop(p)

        assert {"", ^status} = NetRunner.run(sh("kill -s #{number} $$"))
      end
    end

    test "SIGKILL reaches a command after it has ignored SIGTERM" do
      {:ok, p} = Proc.start("perl", Tree.arguments(~w(deaf)))
      Tree.read(p)
      assert :ok = Proc.kill(p)
      assert :ok = Proc.kill(p, :sigint)
      assert {:error, :timeout} = Proc.await_exit(p, 50)
      assert :ok = Proc.kill(p, :sigkill)
      assert {:ok, 137} = Proc.await_exit(p)
      assert :ok = Proc.stop(p)
    end

    test "every signal that ends a process, by name and by number" do
      # signal(7), "Term" and "Core".
      deadly =
        ~w(sighup sigint sigquit sigill sigtrap sigabrt sigbus sigfpe sigkill sigusr1 sigsegv sigusr2 sigpipe
           sigalrm sigterm sigxcpu sigxfsz sigvtalrm sigprof sigio sigsys)a

      for name <- deadly do
        {:ok, number} = NetRunner.Signal.resolve(name)

        for form <- [name, number] do
          # No core files: they take their time.
          {:ok, p} = Proc.start("sh", ["-c", "ulimit -c 0; exec cat"])
          assert :ok = Proc.write(p, "x")
          assert {:ok, "x"} = Proc.read(p)
          assert :ok = Proc.kill(p, form)
          assert {:ok, status} = Proc.await_exit(p)
          assert {form, status, Proc.stats(p).signal} == {form, 128 + number, name}
          assert :ok = Proc.stop(p)
        end
      end
    end

    test "those that do not end a process leave it running" do
      {:ok, p} = Proc.start("cat", [])

      for signal <- [:sigchld, :sigcont, :sigurg, :sigwinch] do
        assert :ok = Proc.kill(p, signal)
        assert :ok = Proc.write(p, "x")
        assert {:ok, "x"} = Proc.read(p)
      end

      assert :ok = Proc.stop(p)
    end

    test "what is not a signal" do
      {:ok, p} = Proc.start("cat", [])

      for signal <- [
            :term,
            :SIGTERM,
            :sigfoo,
            "sigterm",
            "TERM",
            0,
            -1,
            -9,
            32,
            64,
            1.0,
            nil,
            true,
            [:sigterm]
          ] do
        assert {signal, Proc.kill(p, signal)} == {signal, {:error, :unknown_signal}}
      end

      assert Proc.alive?(p)
      assert :ok = Proc.stop(p)
    end
  end

  defp read_lines(p, count, text \\ "") do
    lines = String.split(text, "\n", trim: true)

    if length(lines) >= count do
      Enum.sort(lines)
    else
      {:ok, chunk} = Proc.read(p)
      read_lines(p, count, text <> chunk)
    end
  end
end
