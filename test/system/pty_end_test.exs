defmodule NetRunner.System.PtyEndTest do
  @moduledoc false
  # How commands on terminals end, and who may die: nothing is left.
  use NetRunner.Test.SystemCase, async: false

  import NetRunner.Test.Terminal

  describe "the stop sequence" do
    test "is SIGHUP, then SIGTERM: a shell that ignores SIGTERM ends before kill_timeout" do
      {:ok, p} = bash(kill_timeout: 60_000)
      assert {:ok, status} = Proc.shutdown(p)
      assert status in [1, 129]

      script = "trap 'echo hup' HUP; trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.01; done"
      {:ok, p} = Proc.start("sh", ["-c", script], pty: true, kill_timeout: 60_000)
      assert {:ok, "ready\r\n"} = Proc.read(p)
      assert {:ok, 7} = Proc.shutdown(p)
      assert read_all(p) =~ ~r/hup\r\nterm\r\n\z/
    end

    # bash -i does so when SIGHUP comes right behind its prompt: it looks for signals, then waits for input.
    test "says SIGHUP once more to a program that has missed it and waits for input" do
      script = "$SIG{TERM} = 'IGNORE'; $SIG{HUP} = sub { $hups++ }; syswrite STDOUT, qq(ready\\n);
                select undef, undef, undef, 0.01 until $hups; sysread STDIN, $line, 100; exit $hups"

      {:ok, p} = Proc.start("perl", ["-e", script], pty: true, kill_timeout: 60_000)
      assert {:ok, "ready\r\n"} = Proc.read(p)
      assert {:ok, 2} = Proc.shutdown(p)
    end

    test "is what :stop_signal says, where it is given" do
      script = "trap '' HUP; trap 'exit 8' USR1; echo ready; while :; do sleep 0.01; done"
      {:ok, p} = Proc.start("sh", ["-c", script], pty: true, stop_signal: :sigusr1, kill_timeout: 60_000)
      assert {:ok, "ready\r\n"} = Proc.read(p)
      assert {:ok, 8} = Proc.shutdown(p)
    end

    test "a timeout, and a tree that heeds nothing, with nothing left" do
      assert {:error, :timeout} =
               NetRunner.run(sh("trap '' HUP TERM; (setsid sleep 1000 &); sleep 1000; sleep 1000"),
                 pty: true,
                 timeout: 300,
                 kill_timeout: 300
               )

      assert OS.commands() == []
    end

    # The shepherd has the leader: the terminal does not go when the VM closes its two.
    test "begins with SIGHUP, which does not come when our ends are closed" do
      path = Path.join(tmp_dir(), "signals")

      script =
        "trap '' TERM; trap 'echo usr1 >> $0' USR1; trap 'echo hup >> $0; exit 9' HUP; echo ready; while :; do sleep 0.01; done"

      {:ok, p} = Proc.start("sh", ["-c", script, path], pty: true, kill_timeout: 60_000)
      assert {:ok, "ready\r\n"} = Proc.read(p)
      :ok = Proc.close_stdin(p)
      :ok = Proc.close_stdout(p)
      :ok = Proc.kill(p, :sigusr1)
      OS.eventually(fn -> File.read(path) == {:ok, "usr1\n"} end)
      assert {:ok, 9} = Proc.shutdown(p)
      assert File.read!(path) == "usr1\nhup\n"
    end

    test "a job-control shell's background jobs, groups of their own, are found" do
      {:ok, p} = bash(kill_timeout: 500)
      tree = start_jobs(p)
      assert :ok = Proc.stop(p)
      assert OS.present(tree) == []
    end
  end

  # A shell with jobs, one of which heeds no signal: nothing of it is left.
  describe "who dies:" do
    test "the owner" do
      test = self()

      owner =
        background(fn ->
          {:ok, p} = bash(kill_timeout: 300)
          send(test, {:tree, start_jobs(p)})
          Process.sleep(:infinity)
        end)

      assert_receive {:tree, tree}, 10_000
      end_process(owner)
      OS.await_gone(tree)
    end

    test "the caller of run, and the consumer of a stream; or it stops" do
      script = "set -m; sleep 1000 & (trap '' HUP TERM; sleep 1000; sleep 1000) & echo started; wait"
      cmd = ["bash", "-c", script]
      opts = [pty: true, kill_timeout: 300]
      test = self()
      tell = fn "started" <> _ -> send(test, :started) end

      for run <- [
            fn -> NetRunner.run(cmd, [into: Tell.to(test)] ++ opts) end,
            fn -> NetRunner.stream!(cmd, opts) |> Enum.each(tell) end
          ] do
        caller = background(run)
        assert_receive started when started == :started or elem(started, 0) == :told, 10_000
        tree = whole_tree()
        end_process(caller)
        OS.await_gone(tree)
      end

      assert ["started" <> _] = NetRunner.stream!(cmd, opts) |> Enum.take(1)
      assert OS.commands() == []
    end

    test "the server of the command" do
      {:ok, p} = bash(kill_timeout: 300)
      tree = start_jobs(p)
      end_process(p)
      OS.await_gone(tree)
    end

    test "the shepherd: the command gets no time, and :shepherd_died is the answer" do
      {:ok, p} = bash()
      tree = start_jobs(p)
      OS.kill(OS.shepherd(Proc.os_pid(p)), "KILL")
      assert {:error, :shepherd_died} = Proc.await_exit(p)
      OS.await_gone(tree)
    end

    test "the fork server: the shell goes on, and ends with all that it has when it is stopped" do
      {:ok, p} = bash(kill_timeout: 300)
      tree = start_jobs(p)
      OS.kill(OS.fork_server(), "KILL")
      :ok = Proc.write(p, "echo still $((40 + 2))\n")
      read_until(p, "still 42\r\n")
      assert :ok = Proc.stop(p)
      assert OS.present(tree) == []
    end

    test "the VM: shepherd and all" do
      {victim, everything} = victim_with_jobs()
      Victim.kill(victim)
      OS.await_gone(everything)
    end

    test "the VM and the shepherd at once" do
      {victim, everything} = victim_with_jobs()

      [%{os_pid: bash}] =
        Enum.filter(OS.descendants(victim.os_pid), &(&1.name == "bash" and &1.session == &1.group))

      OS.kill([victim.os_pid, OS.shepherd(bash)], "KILL")
      OS.await_gone(everything)
    end
  end

  # What NetRunner has started here, when both jobs run.
  defp whole_tree do
    OS.eventually(fn -> Enum.count(OS.commands(), &(&1.name == "sleep")) == 2 end)
    for one <- OS.commands(), do: {one.os_pid, one.start}
  end

  defp victim_with_jobs do
    victim =
      Victim.start("""
      {:ok, p} = Proc.start("bash", ["--norc", "-i"], pty: true, kill_timeout: 500)
      Proc.write(p, "sleep 1000 & (trap '' HUP TERM; sleep 1000; sleep 1000) & echo ready\\n")
      read = fn read, text ->
        if text =~ "ready\\r\\n", do: text, else: (with {:ok, more} <- Proc.read(p), do: read.(read, text <> more))
      end
      read.(read, "")
      say.(:ready)
      wait.()
      """)

    assert :ready = Victim.term(victim)
    sleeps = fn -> Enum.count(OS.descendants(victim.os_pid), &(&1.name == "sleep")) end
    OS.eventually(fn -> sleeps.() == 2 end)
    everything = OS.tree(victim.os_pid)
    on_exit(fn -> OS.clean_up(everything) end)
    {victim, everything}
  end
end
