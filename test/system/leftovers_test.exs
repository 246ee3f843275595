defmodule NetRunner.System.LeftoversTest do
  @moduledoc false
  # Issue point 3: what is still there when the command has exited.
  use NetRunner.Test.SystemCase, async: false

  # What a leftover would take by itself; far less means that it was not waited for.
  @at_once 10_000

  describe "leftovers: :kill" do
    test "the issue's own command" do
      {ms, result} = timed(fn -> NetRunner.run(sh("sleep 30 & exit 3")) end)
      assert result == {"", 3}
      assert ms < @at_once
      assert OS.commands() == []
    end

    test "a background job that holds stdout is gone, and reaped, when run returns" do
      {ms, {out, 3}} = timed(fn -> NetRunner.run(sh("sleep 30 & echo $!; exit 3")) end)
      assert ms < @at_once
      assert OS.stat(String.trim(out)) == nil
    end

    test "so are those that have left the group, the session, their parents, and that ignore SIGTERM" do
      {ms, {out, 7}} =
        timed(fn -> NetRunner.run(Tree.command(["exit=7" | Tree.shapes()]), kill_timeout: 300) end)

      # They get 100 ms of their own and then kill_timeout.
      assert ms >= 400
      assert ms < @at_once
      tree = Tree.parse(out)
      assert map_size(tree) == Tree.size()
      assert OS.present(Map.values(tree)) == []
      assert OS.commands() == []
    end

    test "those that heed SIGTERM do not take kill_timeout" do
      {ms, {_out, 0}} =
        timed(fn -> NetRunner.run(Tree.command(~w(exit=0 child group)), kill_timeout: 30_000) end)

      assert ms < @at_once
      assert OS.commands() == []
    end

    test "what they still say belongs to the output" do
      script = "trap 'echo job; exit 0' TERM; echo ready >&2; while :; do sleep 0.01; done"
      # The command exits when the job has set its trap.
      command = sh("{ #{script}; } 2>ready & until [ -s ready ]; do :; done; echo command; exit 4")
      assert {"command\njob\n", 4} = NetRunner.run(command, cd: tmp_dir())
    end

    test "a stream ends as soon, and its command's status counts" do
      {ms, out} = timed(fn -> NetRunner.stream!(sh("sleep 30 & echo $!")) |> Enum.join() end)
      assert ms < @at_once
      assert OS.stat(String.trim(out)) == nil
    end

    test "await_exit tells of the command, shutdown and stop wait for the leftovers" do
      {:ok, p} = Proc.start("perl", Tree.arguments(~w(exit=5 ignoring daemon)), kill_timeout: 300)
      tree = Tree.read(p)
      assert {:ok, 5} = Proc.await_exit(p)
      refute Proc.alive?(p)
      assert :ok = Proc.stop(p)
      assert OS.present(Map.values(tree)) == []
    end

    test "a timeout before the exit is a timeout, after it the status counts" do
      # The command exits at once; its leftover ignores SIGTERM for longer than the timeout.
      command = Tree.command(~w(exit=6 ignoring))
      result = NetRunner.run(command, timeout: 200, kill_timeout: 1_000)
      assert match?({_out, 6}, result) or result == {:error, :timeout}
      assert OS.commands() == []
    end
  end

  describe "leftovers: :keep" do
    test "run returns as fast, the job lives while the VM lives, and ends with it" do
      victim =
        Victim.start("""
        {micros, {out, 3}} = :timer.tc(fn -> NetRunner.run(["sh", "-c", "sleep 1000 & echo $!; exit 3"], leftovers: :keep) end)
        say.({div(micros, 1000), String.to_integer(String.trim(out))})
        # What comes and goes meanwhile does not touch it.
        for _ <- 1..20, do: {"", 0} = NetRunner.run(["true"])
        :erlang.garbage_collect()
        say.(:more)
        wait.()
        """)

      {ms, job} = Victim.term(victim)
      assert ms < 10_000
      kept = OS.identity(job)
      assert OS.alive?(job)
      assert :more = Victim.term(victim)
      assert OS.state(job) == "S"
      everything = OS.tree(victim.os_pid)
      assert kept in everything
      Victim.kill(victim)
      OS.await_gone(everything)
    end

    test "it survives the process that started it" do
      victim =
        Victim.start("""
        Task.await(Task.async(fn ->
          {out, 0} = NetRunner.run(["sh", "-c", "sleep 1000 & echo $!"], leftovers: :keep)
          {:ok, p} = Proc.start("sh", ["-c", "sleep 1000 & echo $!"], leftovers: :keep)
          {:ok, 0} = Proc.await_exit(p)
          {:ok, other} = Proc.read(p)
          :ok = Proc.stop(p)
          out2 = NetRunner.stream!(["sh", "-c", "sleep 1000 & echo $!"], leftovers: :keep) |> Enum.join()
          say.(for o <- [out, other, out2], do: String.to_integer(String.trim(o)))
        end))
        for pid <- Process.list(), do: :erlang.garbage_collect(pid)
        {"", 0} = NetRunner.run(["true"])
        say.(:ended)
        wait.()
        """)

      jobs = Victim.term(victim)
      assert :ended = Victim.term(victim)
      identities = Enum.map(jobs, &OS.identity/1)
      OS.eventually(fn -> Enum.map(jobs, &OS.state/1) == ["S", "S", "S"] end)
      Victim.tell(victim, "go")
      assert Victim.await_exit(victim) == 0
      OS.await_gone(identities)
    end

    test "a kept job that holds stdout does not hang the caller, and what was said before is delivered" do
      victim =
        Victim.start("""
        say.(NetRunner.run(["sh", "-c", "sleep 1000 & head -c 60000 /dev/zero; exit 2"], leftovers: :keep) |> then(fn {out, status} -> {byte_size(out), status} end))
        say.(NetRunner.run(["sh", "-c", "sleep 1000 & echo err >&2; echo out"], leftovers: :keep, stderr: :capture))
        wait.()
        """)

      assert {60_000, 2} = Victim.term(victim)
      assert {"out\n", 0, "err\n"} = Victim.term(victim)
      everything = OS.tree(victim.os_pid)
      # The shells that have exited are not reaped before their shepherds are: nobody else gets their numbers.
      OS.eventually(fn ->
        commands = for one <- OS.commands(victim.os_pid), do: {one.name, one.state}
        Enum.sort(commands) == [{"sh", "Z"}, {"sh", "Z"}, {"sleep", "S"}, {"sleep", "S"}]
      end)

      Victim.kill(victim)
      OS.await_gone(everything)
    end

    test "stopped before its exit, nothing is kept" do
      {:ok, p} =
        Proc.start("perl", Tree.arguments(~w(child ignoring daemon)), leftovers: :keep, kill_timeout: 300)

      tree = Tree.read(p)
      assert :ok = Proc.stop(p)
      assert OS.present(Map.values(tree)) == []

      assert {:error, :timeout} =
               NetRunner.run(Tree.command(~w(child daemon)),
                 leftovers: :keep,
                 timeout: 300,
                 kill_timeout: 300
               )

      assert OS.commands() == []
    end

    test "kept jobs end when the application stops" do
      victim =
        Victim.start("""
        # That an application has stopped is a notice, which would come among what is said.
        Logger.configure(level: :warning)
        {out, 0} = NetRunner.run(["sh", "-c", "sleep 1000 & echo $!"], leftovers: :keep)
        say.(String.to_integer(String.trim(out)))
        wait.()
        :ok = Application.stop(:net_runner)
        say.(:stopped)
        wait.()
        """)

      job = OS.identity(Victim.term(victim))
      refute OS.gone?(job)
      Victim.tell(victim, "stop")
      assert :stopped = Victim.term(victim)
      OS.await_gone([job])
    end
  end
end
