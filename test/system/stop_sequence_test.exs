defmodule NetRunner.System.StopSequenceTest do
  @moduledoc false
  # Issue point 4: the stop signal, then SIGKILL, to everything, and not back before it is reaped.
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Test.Chaos.Marked
  alias NetRunner.Test.Group

  @everything ["trap" | Tree.shapes()]

  test "a timeout: at timeout + kill_timeout all of a stubborn tree is dead and reaped" do
    {ms, result} =
      timed(fn ->
        NetRunner.run(Tree.command(@everything), timeout: 500, kill_timeout: 700, into: Tell.to(self()))
      end)

    # Nothing is waited for here: this is the moment at which run has returned.
    left = OS.commands()
    assert result == {:error, :timeout}
    assert ms >= 1_200
    # kill_timeout is 5,000 where it is not set.
    assert ms < 4_500
    assert left == []
    tree = Tree.told()
    assert map_size(tree) == Tree.size()
  end

  test "the command that traps SIGTERM, its grandchild that does, and one that called setsid twice, by name" do
    {:ok, p} = Proc.start("perl", Tree.arguments(~w(trap grandchild session)), kill_timeout: 400)
    tree = Tree.read(p)
    shepherd = OS.identity(OS.shepherd(elem(tree.root, 0)))
    sessions = for {_, {os_pid, _}} <- tree, uniq: true, do: OS.stat(os_pid).session
    assert length(sessions) == 3

    {ms, result} = timed(fn -> Proc.shutdown(p) end)
    assert OS.present(Map.values(tree)) == []
    assert {:ok, 137} = result
    assert ms >= 400
    # As above.
    assert ms < 4_500
    # It caught the first signal, and went on; and what it said then is there.
    assert {:ok, "caught TERM\n"} = Proc.read(p)
    assert :eof = Proc.read(p)
    assert Proc.stats(p).signal == :sigkill
    assert :ok = Proc.stop(p)
    OS.await_gone([shepherd])
  end

  test "who heeds the signal is not waited for any longer" do
    {ms, result} =
      timed(fn ->
        NetRunner.run(Tree.command(~w(child group stopped)), timeout: 300, kill_timeout: 30_000)
      end)

    assert OS.commands() == []
    assert result == {:error, :timeout}
    assert ms < 10_000
  end

  test "kill_timeout: 0 is SIGKILL with nothing before it" do
    {:ok, p} = Proc.start("perl", Tree.arguments(@everything), kill_timeout: 0)
    tree = Tree.read(p)
    assert {:ok, 137} = Proc.shutdown(p)
    assert OS.present(Map.values(tree)) == []
    # No "caught TERM".
    assert :eof = Proc.read(p)
    assert :ok = Proc.stop(p)
  end

  test "the stop signal of the options is the one that is sent" do
    script = "trap 'echo USR1; exit 9' USR1; trap 'echo TERM' TERM; echo ready; while :; do sleep 0.01; done"
    {:ok, p} = Proc.start("sh", ["-c", script], stop_signal: :sigusr1, kill_timeout: 30_000)
    assert "ready\n" = read_lines(p, 1)
    assert {:ok, 9} = Proc.shutdown(p)
    assert "USR1\n" = read_lines(p, 1)
    assert :eof = Proc.read(p)
    assert :ok = Proc.stop(p)
  end

  test "each process gets the stop signal exactly once, also in a group of its own" do
    script = """
    use POSIX; pipe(my $r, my $w);
    sub count { my ($terms) = @_; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGTERM)); $SIG{TERM} = sub { $$terms++ } }
    for my $who ("in group", "own group", "own session") {
      next if fork;
      close $w; my $terms = 0; count(\\$terms);
      if ($who eq "own group") { setpgid(0, 0) }
      if ($who eq "own session") { POSIX::setsid() }
      syswrite STDOUT, "ready\n";
      sigsuspend(POSIX::SigSet->new) until $terms;
      # Every other one has come when the root has ended.
      sigprocmask(SIG_SETMASK, POSIX::SigSet->new);
      while (1) { my $read = sysread $r, my $byte, 1; last if defined $read && $read == 0 }
      syswrite STDOUT, "$who $terms\n"; exit 0;
    }
    close $r; my $terms = 0; count(\\$terms);
    syswrite STDOUT, "ready\n";
    sigsuspend(POSIX::SigSet->new) until $terms;
    sigprocmask(SIG_SETMASK, POSIX::SigSet->new);
    # Half a second is time enough for a second one.
    select(undef, undef, undef, 0.5);
    syswrite STDOUT, "root $terms\n";
    """

    {:ok, p} = Proc.start("perl", ["-e", script], kill_timeout: 30_000)
    assert "ready\nready\nready\nready\n" = read_lines(p, 4)
    assert {:ok, 0} = Proc.shutdown(p)

    assert Enum.sort(String.split(read_lines(p, 4), "\n", trim: true)) == [
             "in group 1",
             "own group 1",
             "own session 1",
             "root 1"
           ]

    assert :ok = Proc.stop(p)
  end

  test "a command that flushes when it is told to end can do so, on timeout and on shutdown" do
    script = "trap 'head -c 300000 /dev/zero; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
    {:ok, p} = Proc.start("sh", ["-c", script], kill_timeout: 30_000)
    assert "ready\n" = read_lines(p, 1)
    reader = Task.async(fn -> byte_size(read_all(p)) end)
    assert {:ok, 3} = Proc.shutdown(p)
    assert Task.await(reader, 30_000) == 300_000
    assert :ok = Proc.stop(p)

    {ms, result} = timed(fn -> NetRunner.run(sh(script), timeout: 300, kill_timeout: 30_000) end)
    assert result == {:error, :timeout}
    assert ms < 10_000
  end

  test "an overflow ends the tree too, with exactly as many bytes" do
    ["perl", script] = Tree.command([])
    command = sh("perl \"$1\" trap daemon ignoring & exec yes", [script])

    assert {:error, {:max_output_exceeded, partial}} =
             NetRunner.run(command, max_output_size: 100_000, kill_timeout: 300)

    assert byte_size(partial) == 100_000
    assert OS.commands() == []
  end

  test "the limit itself is no overflow, one byte more is" do
    assert {out, 0} = NetRunner.run(~w(head -c 1000 /dev/zero), max_output_size: 1_000)
    assert byte_size(out) == 1_000

    assert {:error, {:max_output_exceeded, partial}} =
             NetRunner.run(~w(head -c 1001 /dev/zero), max_output_size: 1_000)

    assert byte_size(partial) == 1_000
    assert {"", 0} = NetRunner.run(~w(true), max_output_size: 0)
    assert {:error, {:max_output_exceeded, ""}} = NetRunner.run(~w(echo), max_output_size: 0)
  end

  test "timeout: 0 is no time at all, and leaves nothing" do
    assert {:error, :timeout} = NetRunner.run(~w(sleep 1000), timeout: 0)
    assert OS.commands() == []
  end

  test "a process that is never the same for long is caught" do
    {:ok, p} = Proc.start("perl", Tree.arguments(~w(hopping hopping)), kill_timeout: 300)
    %{root: {group, _start}} = Tree.read(p)
    assert Group.inhabited([group]) == [group]

    {ms, result} = timed(fn -> Proc.shutdown(p) end)

    # No look at /proc comes to see it: but it is in the command's group, which has nobody in it, no zombie either.
    left = Group.inhabited([group])
    Group.clean_up(left)
    assert left == []
    assert result == {:ok, 143}
    assert ms < 10_000
    assert :ok = Proc.stop(p)
  end

  test "shutdown, stop and await_exit from many processes at once all return when it is over" do
    {:ok, p} = Proc.start("perl", Tree.arguments(@everything), kill_timeout: 300)
    tree = Tree.read(p)

    tasks =
      for n <- 1..12 do
        Task.async(fn ->
          case rem(n, 3) do
            0 -> {:stop, Proc.stop(p)}
            1 -> {:shutdown, Proc.shutdown(p)}
            2 -> {:await_exit, Proc.await_exit(p)}
          end
        end)
      end

    for {call, result} <- Task.await_many(tasks, 30_000) do
      # stop may be first, and end the server before the others have asked; and it closes stdout, so that what
      # the command says about SIGTERM may end it by SIGPIPE.
      assert result in if(call == :stop, do: [:ok], else: [{:ok, 137}, {:ok, 141}, {:error, :closed}])
    end

    assert OS.present(Map.values(tree)) == []
  end

  # A program of another user, which holds stdout: the output has no end by itself.
  @tag skip: Skip.unless_other_user()
  test "what cannot be killed is the result five seconds after SIGKILL, and does not hang the caller" do
    directory = tmp_dir()
    fixture = Path.join(directory, "fixture")
    File.cp!(Application.app_dir(:net_runner, "fixture"), fixture)
    File.chmod!(fixture, 0o4755)

    mark = "unkillable.#{System.pid()}"
    # What the shepherd must not kill, this process may.
    on_exit(fn -> Marked.clean_up(mark) end)

    victim =
      Victim.start(
        """
        for call <- [&NetRunner.run/2, &NetRunner.capture/2] do
          spawn(fn -> say.(call.([#{inspect(fixture)}, "become-root"], timeout: 1_000, kill_timeout: 0)) end)
        end
        wait.()
        """,
        shell: ~S(exec setpriv --reuid=64322 --regid=64322 --clear-groups env HOME=/nonexistent "$0" "$@"),
        env: Marked.environment(mark)
      )

    for _ <- 1..2 do
      assert {:error, {:unkillable, [os_pid]}} = unkillable(victim)
      OS.clean_up([OS.identity(os_pid)])
    end
  end

  # Or what is logged about it.
  defp unkillable(victim) do
    case Victim.line(victim, 30_000) do
      "{:error, " <> _ = line -> line |> Code.eval_string() |> elem(0)
      _log -> unkillable(victim)
    end
  end

  defp read_lines(p, count, text \\ "") do
    if length(String.split(text, "\n")) > count do
      text
    else
      {:ok, chunk} = Proc.read(p)
      read_lines(p, count, text <> chunk)
    end
  end

  defp read_all(p, text \\ "") do
    case Proc.read(p) do
      {:ok, chunk} -> read_all(p, text <> chunk)
      :eof -> text
    end
  end
end
