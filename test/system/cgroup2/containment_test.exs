defmodule NetRunner.System.Cgroup2.ContainmentTest do
  @moduledoc false
  # Issue point cgroups: what is in the group, what of it is made and removed, and that everything in it ends with the
  # command.
  use NetRunner.Test.Cgroup2

  alias NetRunner.Daemon

  @moduletag :capture_log

  # As on a machine that is used: everything below has controllers and a limit.
  @limits %{pids_max: 100, memory_max: 256 * 1024 * 1024}

  defp options(group, opts \\ []), do: opts ++ [cgroup_path: group, cgroup: @limits, kill_timeout: 500]

  # The group that a process is in.
  defp group_of(os_pid) do
    [_, group] = Regex.run(~r"^0::/(.*)$"m, File.read!("/proc/#{os_pid}/cgroup"))
    group
  end

  # The tree says who is in it.
  defp start_tree(group, opts \\ []) do
    {:ok, p} = Proc.start(Tree.executable(), Tree.arguments(), options(group, opts))
    {p, Tree.read(p)}
  end

  describe "in the group" do
    test "are the command and all its descendants, from their first moment; not the shepherd", %{group: group} do
      {p, tree} = start_tree(group)
      [leaf] = Cgroup2.children(group)
      assert leaf =~ ~r/\Anr-/
      everybody = for {os_pid, _} <- Map.values(tree), do: os_pid
      assert Enum.uniq(for(os_pid <- everybody, do: group_of(os_pid))) == ["#{group}/#{leaf}"]
      assert Enum.sort(Cgroup2.processes("#{group}/#{leaf}")) == Enum.sort(everybody)
      refute group_of(OS.shepherd(Proc.os_pid(p))) =~ group
      assert Proc.stop(p) == :ok
      assert OS.present(Map.values(tree)) == []
      refute Cgroup2.exists?(group)
    end

    test "is a command that runs as another user", %{group: group} do
      opts = options(group, user: 64_321, group: 64_321, groups: [], cd: "/")
      assert {text, 0} = NetRunner.run(sh("id -u; cat /proc/self/cgroup"), opts)
      assert text =~ ~r"\A64321\n0::/#{group}/nr-"
    end

    test "is one with a terminal", %{group: group} do
      assert {text, 0} = NetRunner.run(["cat", "/proc/self/cgroup"], options(group, pty: true))
      assert text =~ ~r"\A0::/#{group}/nr-"
    end
  end

  describe "with the command end" do
    test "a daemon that has left its session and its parent", %{group: group} do
      fixture = Application.app_dir(:net_runner, "fixture")
      # It says the pid of the daemon, and exits.
      assert {os_pid, 0} = NetRunner.run([fixture, "daemonize"], options(group))
      refute OS.alive?(String.trim(os_pid))
      refute Cgroup2.exists?(group)
    end

    test "all of a tree that does not want to, when its consumer halts", %{group: group} do
      tree =
        NetRunner.stream!(Tree.command(), options(group))
        |> Enum.reduce_while("", fn chunk, text ->
          text = text <> chunk
          if Tree.complete?(text), do: {:halt, Tree.parse(text)}, else: {:cont, text}
        end)

      assert map_size(tree) == Tree.size()
      assert OS.present(Map.values(tree)) == []
      refute Cgroup2.exists?(group)
    end

    test "groups that it has made in its own, with what is in them", %{group: group} do
      script = """
      own=#{Cgroup2.path("")}/$(sed -n 's/^0:://p' /proc/self/cgroup)
      mkdir -p $own/a/b $own/c
      sleep 1000 & echo $! >$own/a/b/cgroup.procs
      setsid sleep 1000 & echo $! >$own/c/cgroup.procs
      echo ready
      wait
      """

      # Without controllers, for the command is in its group itself.
      {:ok, p} = Proc.start("sh", ["-c", script], cgroup_path: group, kill_timeout: 500)
      assert {:ok, "ready\n"} = Proc.read(p)
      [leaf] = Cgroup2.children(group)
      sleeping = Enum.flat_map(["a/b", "c"], &Cgroup2.processes("#{group}/#{leaf}/#{&1}"))
      assert length(sleeping) == 2
      assert Proc.stop(p) == :ok
      refute Enum.any?(sleeping, &OS.alive?/1)
      refute Cgroup2.exists?(group)
    end

    test "a job under leftovers: :keep goes on in the group, and with the VM's holder", %{group: group} do
      opts = options(group, leftovers: :keep)
      assert {os_pid, 0} = NetRunner.run(sh("sleep 1000 & echo $!"), opts)
      os_pid = String.trim(os_pid)
      assert group_of(os_pid) =~ ~r"\A#{group}/nr-"
      OS.kill(os_pid, "KILL")
      OS.eventually(fn -> not Cgroup2.exists?(group) end)
    end
  end

  describe "a command that wants to leave its group" do
    # It says where it is then, and the pid of what it leaves behind.
    defp leave,
      do:
        sh(~S(echo $$ >"$1"/cgroup.procs; cat /proc/self/cgroup; setsid sleep 1000 & echo $!), [
          Cgroup2.path("")
        ])

    test "can as root, and ends, with what it has started, as one without a group", %{group: group} do
      assert {"0::/\n" <> os_pid, 0} = NetRunner.run(leave(), options(group))
      refute OS.alive?(String.trim(os_pid))
      refute Cgroup2.exists?(group)
    end

    test "cannot as another user", %{group: group} do
      opts = options(group, user: 64_321, group: 64_321, groups: [], cd: "/", stderr: :redirect)
      assert {text, 0} = NetRunner.run(leave(), opts)
      assert [refused, "0::/" <> still, os_pid] = String.split(text, "\n", trim: true)
      assert refused =~ "ermission denied"
      assert still =~ "#{group}/nr-"
      refute OS.alive?(os_pid)
    end
  end

  describe "the stop sequence" do
    test "begins with SIGTERM, and what the command does then counts", %{group: group} do
      script = "trap 'echo flushed; exit 7' TERM; echo ready; while :; do sleep 1; done"
      {:ok, p} = Proc.start("sh", ["-c", script], options(group, kill_timeout: 60_000))
      assert {:ok, "ready\n"} = Proc.read(p)
      assert {:ok, 7} = Proc.shutdown(p)
      assert {:ok, "flushed\n"} = Proc.read(p)
      assert Proc.stop(p) == :ok
      refute Cgroup2.exists?(group)
    end

    test "ends a command that has frozen its own group, which can still act on SIGTERM", %{group: group} do
      script = """
      own=#{Cgroup2.path("")}/$(sed -n 's/^0:://p' /proc/self/cgroup)
      trap 'echo flushed; exit 7' TERM
      echo ready
      echo 1 >$own/cgroup.freeze
      while :; do sleep 1; done
      """

      {:ok, p} = Proc.start("sh", ["-c", script], options(group, kill_timeout: 60_000))
      assert {:ok, "ready\n"} = Proc.read(p)
      [leaf] = Cgroup2.children(group)
      OS.eventually(fn -> Cgroup2.read("#{group}/#{leaf}", "cgroup.events") =~ "frozen 1" end)
      assert {:ok, 7} = Proc.shutdown(p)
      assert {:ok, "flushed\n"} = Proc.read(p)
      assert Proc.stop(p) == :ok
      refute Cgroup2.exists?(group)
    end

    test "ends one that freezes itself whenever it goes on", %{group: group} do
      script = """
      own=#{Cgroup2.path("")}/$(sed -n 's/^0:://p' /proc/self/cgroup)
      trap '' TERM
      echo ready
      while :; do echo 1 >$own/cgroup.freeze; done
      """

      {:ok, p} = Proc.start("sh", ["-c", script], options(group))
      assert {:ok, "ready\n"} = Proc.read(p)
      assert {:ok, 137} = Proc.shutdown(p)
      assert Proc.stop(p) == :ok
      refute Cgroup2.exists?(group)
    end
  end

  describe "levels" do
    test "that are missing are made, and removed", %{group: group} do
      command = ["cat", "/proc/self/cgroup"]
      assert {text, 0} = NetRunner.run(command, options("#{group}/a/b/c"))
      assert text =~ ~r"\A0::/#{group}/a/b/c/nr-"
      refute Cgroup2.exists?(group)
    end

    test "that were there before stay, those below them that were made do not", %{group: group} do
      Cgroup2.make("#{group}/before")
      assert {"", 0} = NetRunner.run(["true"], options("#{group}/before/a/b"))
      assert Cgroup2.tree(group) == ["#{group}/before", group]
      assert {"", 0} = NetRunner.run(["true"], options("#{group}/before"))
      assert Cgroup2.tree(group) == ["#{group}/before", group]
      Cgroup2.remove("#{group}/before")
    end

    test "in which somebody else has made a group meanwhile stay", %{group: group} do
      {:ok, p} = Proc.start("cat", [], options("#{group}/a"))
      Cgroup2.make("#{group}/a/foreign")
      assert Proc.stop(p) == :ok
      assert Cgroup2.tree(group) == ["#{group}/a/foreign", "#{group}/a", group]
      Cgroup2.remove("#{group}/a/foreign")
    end

    test "in the names of which there are spaces, dots and letters of all kinds", %{group: group} do
      for name <- ["a b", "x.slice", "…", "-", "nr-1", String.duplicate("x", 200)] do
        assert {text, 0} = NetRunner.run(["cat", "/proc/self/cgroup"], options("#{group}/#{name}"))
        assert text =~ "0::/#{group}/#{name}/nr-"
      end
    end
  end

  describe "who else is there" do
    test "a foreign process in the same directory is not killed, whatever ends", %{group: group} do
      Cgroup2.make(group)
      foreign = Cgroup2.foreign_process(group)
      # Controllers cannot be had beside a process; the rest can.
      opts = [cgroup_path: group, kill_timeout: 200]
      assert {"", 0} = NetRunner.run(sh("sleep 1000 &"), opts)
      assert {:error, :timeout} = NetRunner.run(Tree.command(), [timeout: 500] ++ opts)
      refute OS.gone?(foreign)
      assert Cgroup2.tree(group) == [group]
      Cgroup2.end_foreign_process(foreign)
      Cgroup2.remove(group)
    end

    test "nor is one in another group beside ours, also with limits", %{group: group} do
      Cgroup2.make("#{group}/foreign")
      foreign = Cgroup2.foreign_process("#{group}/foreign")
      # At once with SIGKILL, which is cgroup.kill.
      assert {"", 0} = NetRunner.run(sh("sleep 1000 &"), options(group, kill_timeout: 0))
      refute OS.gone?(foreign)
      Cgroup2.end_foreign_process(foreign)
      Cgroup2.remove("#{group}/foreign")
    end

    test "two commands under one path do not meet", %{group: group} do
      {:ok, one} = Proc.start("cat", [], options(group, cgroup: %{pids_max: 11}, kill_timeout: 0))
      {:ok, two} = Proc.start("cat", [], options(group, cgroup: %{pids_max: 12}))
      leaves = for p <- [one, two], do: group_of(Proc.os_pid(p))
      assert Enum.sort(leaves) == Enum.sort(for leaf <- Cgroup2.children(group), do: "#{group}/#{leaf}")
      assert Enum.map(leaves, &Cgroup2.read(&1, "pids.max")) == ["11", "12"]

      assert Proc.stop(one) == :ok
      assert Proc.write(two, "alive") == :ok
      assert Proc.read(two) == {:ok, "alive"}
      assert Cgroup2.tree(group) == [List.last(leaves), group]
      assert Proc.stop(two) == :ok
      refute Cgroup2.exists?(group)
    end

    test "many at once, that come and go, find and leave nothing of each other", %{group: group} do
      one = fn n -> NetRunner.run(["echo", "#{n}"], options("#{group}/#{rem(n, 2)}")) end
      results = Task.async_stream(1..soak(16, 1_000), one, max_concurrency: 4, timeout: :infinity)
      for {{:ok, result}, n} <- Enum.zip(results, 1..1_000), do: assert(result == {"#{n}\n", 0})
      refute Cgroup2.exists?(group)
    end
  end

  describe "through" do
    test "stream!, halted and to its end", %{group: group} do
      assert ["y\n" <> _] = NetRunner.stream!(["yes"], options(group)) |> Enum.take(1)
      refute Cgroup2.exists?(group)

      assert ["x"] = NetRunner.stream!("x", ["cat"], options(group)) |> Enum.to_list()
      refute Cgroup2.exists?(group)
    end

    test "Daemon, killed, restarted and shut down", %{group: group} do
      Process.flag(:trap_exit, true)
      test = self()

      daemon =
        {Daemon,
         options(group,
           cmd: ["sh", "-c", "sleep 1000 & echo $$; wait"],
           name: :net_runner_cgroup2,
           on_output: &send(test, {:said, &1})
         )}

      {:ok, supervisor} = Supervisor.start_link([daemon], strategy: :one_for_one)
      assert_receive {:said, first}, 60_000
      first_group = group_of(String.trim(first))
      assert Daemon.kill(:net_runner_cgroup2, :sigkill) == :ok

      assert_receive {:said, second}, 60_000
      second_group = group_of(String.trim(second))
      assert first_group != second_group
      assert Cgroup2.tree(group) == [second_group, group]

      assert Supervisor.stop(supervisor) == :ok
      refute Cgroup2.exists?(group)
    end
  end
end
