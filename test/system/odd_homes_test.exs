defmodule NetRunner.System.OddHomesTest do
  # Places where something is missing that the guarantees rest on: docs/systems.md says what holds there.
  use NetRunner.Test.SystemCase

  alias NetRunner.Test.OddHome

  # Everything that can happen to a tree: stopped, its shepherd killed, its VM killed.
  @fates """
  answer.(lacks.())
  answer.(NetRunner.run(["echo", "x"]))
  p = tree.()
  wait.()
  :ok = Proc.stop(p)
  answer.(:stopped)
  wait.()
  tree.()
  wait.()
  tree.()
  wait.()
  """

  describe "a sandbox that refuses" do
    @newer ~w(clone-pidfd close_range execveat)
    for {calls, errno, lacks} <- [
          # Linux 5.2 and before; what container runtimes refuse that do not know a call.
          {["clone3", "pidfd_open", "pidfd_send_signal" | @newer], "ENOSYS", [:pidfds]},
          {["pidfd_open", "pidfd_send_signal" | @newer], "EPERM", [:pidfds]},
          {["pidfd_send_signal"], "ENOSYS", [:pidfds]},
          {@newer, "EPERM", []},
          {["parent-death-signal"], "EPERM", [:parent_death_signal]}
        ] do
      test "#{Enum.join(calls, ", ")}, with #{errno}: nothing survives all the same" do
        victim = OddHome.start(OddHome.without(unquote(calls), unquote(errno)), @fates)
        assert_nothing_survives(victim, unquote(lacks), &OddHome.tree/1)
      end
    end

    for {calls, errno, lacks} <- [
          {["subreaper"], "ENOSYS", [:subreaper]},
          {["prctl"], "EPERM", [:parent_death_signal, :subreaper]}
        ] do
      test "#{calls}, with #{errno}: what stays in the command's session does not survive" do
        victim = OddHome.start(OddHome.without(unquote(calls), unquote(errno)), @fates)
        assert {unquote(lacks), log} = OddHome.answer(victim)
        assert Enum.any?(log, &(&1 =~ "no child subreapers"))
        assert OddHome.term(victim) == {"x\n", 0}

        stopped = OddHome.tree(victim)
        Victim.tell(victim, "on")
        on_exit(fn -> OS.clean_up(Map.values(stopped)) end)
        assert OddHome.term(victim) == :stopped
        assert OS.present(in_session(stopped)) == []

        Victim.tell(victim, "on")
        left = OddHome.tree(victim)
        on_exit(fn -> OS.clean_up(Map.values(left)) end)
        Victim.kill(victim)
        OS.await_gone(in_session(left))
      end
    end

    test "the subreaper: leftovers in the command's session end with it" do
      victim =
        OddHome.start(OddHome.without(["subreaper"], "EPERM"), """
        answer.(NetRunner.run(["sh", "-c", "sleep 1000 & perl -e 'setpgrp; sleep 1000' & echo $!"]))
        wait.()
        """)

      assert {os_pid, 0} = OddHome.term(victim)
      refute os_pid |> String.trim() |> String.to_integer() |> OS.alive?()
    end

    test "pidfds: a shepherd that hangs is given up with an error, and the next commands run" do
      victim =
        OddHome.start(OddHome.without(["pidfd_open"], "EPERM"), """
        p = tree.()
        wait.()
        answer.(Proc.stop(p))
        answer.(NetRunner.run(["echo", "x"]))
        wait.()
        """)

      %{root: {os_pid, _}} = tree = OddHome.tree(victim)
      shepherd = OS.shepherd(os_pid)
      # It may end by itself meanwhile.
      on_exit(fn -> System.cmd("kill", ["-s", "CONT", "#{shepherd}"], stderr_to_stdout: true) end)
      OS.kill(shepherd, "STOP")
      Victim.tell(victim, "on")
      assert OddHome.term(victim) == {:error, :shepherd_died}
      assert OddHome.term(victim) == {"x\n", 0}
      # It has been told to end, and does so when it can.
      OS.kill(shepherd, "CONT")
      OS.await_gone(Map.values(tree))
    end

    test "waitid: an error that says so" do
      victim =
        OddHome.start(OddHome.without(["waitid"], "ENOSYS"), """
        answer.(NetRunner.run(["true"]))
        answer.(NetRunner.run(["true"]))
        """)

      assert {:error, reason} = OddHome.term(victim)
      # What was asked before the fork server had said why it ends.
      assert reason in [:shepherd_died, {:fork_server, :eof}, {:fork_server, :enosys}]
      assert OddHome.term(victim) == {:error, {:fork_server, :enosys}}
    end
  end

  @root Skip.unless_root("only root can make namespaces")
  @namespaces @root || Skip.unless_command("unshare --mount --pid --fork --mount-proc true", "no namespaces")

  describe "a PID namespace" do
    @describetag skip: @namespaces

    for {what, unshare, lacks} <- [
          {"with its own /proc", "unshare --pid --fork --mount-proc", []},
          {"with the /proc of the system", "unshare --pid --fork", [:proc]}
        ] do
      test "#{what}, whose first process is the VM: nothing survives all the same" do
        victim = OddHome.start(~s(exec #{unquote(unshare)} "$0" "$@"), @fates, namespace: true)
        assert OS.status(victim.os_pid, "NSpid") =~ ~r/\t1$/
        assert_nothing_survives(victim, unquote(lacks), &OddHome.tree_in_namespace/1)
      end
    end

    test "orphans of others land on the VM, and leave no zombies" do
      victim =
        OddHome.start(
          ~s(exec unshare --pid --fork --mount-proc "$0" "$@"),
          """
          # The shell of System.cmd is gone before its child: an orphan that NetRunner has not started.
          {_, 0} = System.cmd("sh", ["-c", "(exec sleep 0.1) >/dev/null 2>&1 &"])
          answer.(NetRunner.run(["echo", "x"]))
          wait.()
          """,
          namespace: true
        )

      assert OddHome.term(victim) == {"x\n", 0}
      OS.eventually(fn -> OS.commands(victim.os_pid) == [] end)
    end

    test "SIGTERM to the VM as its first process: an orderly stop, and nothing survives" do
      victim = OddHome.start(~s(exec unshare --pid --fork --mount-proc "$0" "$@"), @fates, namespace: true)
      assert {[], _log} = OddHome.answer(victim)
      assert OddHome.term(victim) == {"x\n", 0}
      tree = OddHome.tree_in_namespace(victim)
      Victim.kill(victim, "TERM")
      OS.await_gone(tree)
      assert Victim.await_exit(victim) == 0
    end
  end

  describe "/proc" do
    @describetag skip: @namespaces

    test "is not there: nothing survives all the same" do
      shell = ~s(exec unshare --mount sh -c 'umount -l /proc && exec "$0" "$@"' "$0" "$@")
      victim = OddHome.start(shell, @fates)
      assert_nothing_survives(victim, [:proc], &OddHome.tree/1)
    end

    # The umask of a process is nowhere else to be read.
    test "is not there, and the VM has another umask: commands run with 022, or with what the option says" do
      for {proc, umask} <- [{"while umount -l /proc 2>/dev/null; do :; done", "0022"}, {"true", "0077"}] do
        shell = ~s(umask 077; exec unshare --mount sh -c '#{proc} && exec "$0" "$@"' "$0" "$@")

        victim =
          OddHome.start(shell, """
          for options <- [[], [umask: 0o027], []], do: answer.(NetRunner.run(["sh", "-c", "umask"], options))
          """)

        assert {{text, 0}, _log} = OddHome.answer(victim)
        assert text == umask <> "\n"
        assert OddHome.term(victim) == {"0027\n", 0}
        assert OddHome.term(victim) == {umask <> "\n", 0}
      end
    end

    @tag skip: @namespaces || Skip.unless_other_user()
    test "hides the processes of others (hidepid=2) from a user without privileges, who has no name and no home" do
      hide = "mount -t proc -o hidepid=2 proc /proc"
      become = "setpriv --reuid 64322 --regid 64322 --clear-groups env -u HOME"
      shell = ~s(exec unshare --mount --pid --fork sh -c '#{hide} && exec #{become} "$0" "$@"' "$0" "$@")
      victim = OddHome.start(shell, @fates, namespace: true)
      assert_nothing_survives(victim, [], &OddHome.tree_in_namespace/1)
    end
  end

  describe "files" do
    @describetag skip: @namespaces

    test "nowhere to write, and a /dev with nothing but null in it: commands run" do
      prepare = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mount -o remount,bind,ro /"
      shell = ~s(exec unshare --mount sh -c '#{prepare} && exec env TMPDIR=/nonexistent "$0" "$@"' "$0" "$@")

      victim =
        OddHome.start(shell, """
        answer.(NetRunner.run(["sh", "-c", "cat && touch /x"], input: "x", stderr: :disabled))
        """)

      assert {{"x", 1}, _log} = OddHome.answer(victim)
    end

    test "a /dev/null that is missing, or a file: an error that says so, logged once" do
      prepare = "mount -t tmpfs none /dev"
      shell = ~s(exec unshare --mount sh -c '#{prepare} && exec "$0" "$@"' "$0" "$@")

      victim =
        OddHome.start(shell, """
        _ = File.rm("/dev/null")
        answer.(NetRunner.run(["true"]))
        File.write!("/dev/null", "")
        for _ <- 1..3, do: answer.(NetRunner.run(["true"]))
        Logger.flush()
        answer.(:done)
        """)

      # What made the file, if there is one at the start, is some shell's `>/dev/null`.
      assert {{:error, {:dev_null, :enoent}}, log} = OddHome.answer(victim)
      assert Enum.count(log, &(&1 =~ "{:dev_null, :enoent}")) <= 1
      answers = for _ <- 1..4, do: OddHome.answer(victim)

      assert for({answer, _} <- answers, do: answer) ==
               List.duplicate({:error, {:dev_null, :enodev}}, 3) ++ [:done]

      assert answers |> Enum.flat_map(&elem(&1, 1)) |> Enum.count(&(&1 =~ "{:dev_null, :enodev}")) == 1
    end
  end

  describe "a limit of a million file descriptors" do
    # Who may not raise the limit so far tries it with what there is.
    @set_limit "ulimit -n 1048576 2>/dev/null || ulimit -n $(ulimit -H -n)"
    @limit System.cmd("sh", ["-c", @set_limit <> "; ulimit -n"])
           |> elem(0)
           |> String.trim()
           |> String.to_integer()
    if @limit < 1_048_576,
      do: IO.puts("odd homes: no more than #{@limit} file descriptors are to be had, no million")

    # Open without close-on-exec, as dup2(2) makes them: one that is low, and the highest that there is.
    @inherited [99, @limit - 1]
    @open "use POSIX; POSIX::dup2(0, $_) for #{Enum.join(@inherited, ", ")}; exec @ARGV"

    for {what, without} <- [
          {"where close_range(2) is there", ~s(exec "$0" "$@")},
          {"where it is refused, and /proc says what is open", OddHome.without(["close_range"], "EPERM")}
        ] do
      test "#{what}: neither helpers nor commands have what the VM was started with" do
        shell = ~s({ #{@set_limit}; } && exec perl -e '#{@open}' sh -c '#{unquote(without)}' "$0" "$@")

        victim =
          OddHome.start(shell, """
          answer.(NetRunner.run(["sh", "-c", "ulimit -n"]))
          {:ok, p} = Proc.start("cat", [])
          answer.(Proc.os_pid(p))
          wait.()
          """)

        assert OddHome.term(victim) == {"#{@limit}\n", 0}
        command = OddHome.term(victim)
        assert @inherited -- numbers(victim.os_pid) == []
        # Its loader opens libraries at first.
        OS.eventually(fn -> numbers(command) == [0, 1, 2] end)

        fork_server = OS.fork_server(victim.os_pid)
        helpers = [fork_server | Enum.map(OS.children(fork_server), & &1.os_pid)]
        assert OS.shepherd(command) in helpers
        # One that has just been forked has not closed it yet.
        for os_pid <- helpers, do: OS.eventually(fn -> Enum.all?(OS.fds(os_pid), &own?/1) end)
      end
    end

    defp numbers(os_pid), do: for({fd, _target} <- OS.fds(os_pid), do: fd)

    # What a fork server and a shepherd have.
    defp own?({_fd, target}), do: target == "/dev/null" or target =~ ~r/^socket:/
  end

  # The VM runs @fates.
  defp assert_nothing_survives(victim, lacks, tree) do
    assert {^lacks, log} = OddHome.answer(victim)
    assert Enum.count(log, &(&1 =~ "[warning] NetRunner: no ")) == length(lacks)
    assert OddHome.term(victim) == {"x\n", 0}

    stopped = tree.(victim)
    Victim.tell(victim, "on")
    assert OddHome.term(victim) == :stopped
    assert OS.present(identities(stopped)) == []

    Victim.tell(victim, "on")
    orphaned = victim |> tree.() |> identities()
    orphaned |> root() |> OS.shepherd() |> OS.kill("KILL")
    OS.await_gone(orphaned)

    Victim.tell(victim, "on")
    left = victim |> tree.() |> identities()
    Victim.kill(victim)
    OS.await_gone(left)
  end

  defp identities(%{} = tree), do: Map.values(tree)
  defp identities(tree), do: tree

  # The command itself: it leads a session, and its parent is the shepherd.
  defp root(identities) do
    Enum.find_value(identities, fn {os_pid, _} ->
      stat = OS.stat(os_pid)
      stat.session == os_pid and OS.stat(stat.parent).name == "shepherd" and os_pid
    end)
  end

  defp in_session(tree) do
    outside = [:session, :session_in_session, :daemon, :silent_daemon]
    tree |> Map.drop(outside) |> Map.values()
  end
end
