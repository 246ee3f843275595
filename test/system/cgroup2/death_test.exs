defmodule NetRunner.System.Cgroup2.DeathTest do
  @moduledoc false
  # Issue point cgroups: whoever is killed, no group is left, nor a process in one, once the next command under the same
  # path has run, at the latest.
  use NetRunner.Test.Cgroup2

  @limits %{pids_max: 100, memory_max: 256 * 1024 * 1024}

  defp options(group), do: [cgroup_path: "#{group}/a/b", cgroup: @limits, kill_timeout: 500]

  # A VM that runs a tree of processes in a group, and what is below it.
  defp victim(group) do
    code = """
    NetRunner.stream!(#{inspect(Tree.command())}, #{inspect(options(group))}) |> Enum.each(&IO.write/1)
    """

    victim = Victim.start(code)
    tree = Tree.from(victim)
    everything = OS.tree(victim.os_pid)
    on_exit(fn -> OS.clean_up(everything) end)
    {victim, tree, everything}
  end

  defp next_command(group), do: assert({"", 0} = NetRunner.run(["true"], options(group)))

  test "the VM: its shepherds end the group, without a next command", %{group: group} do
    {victim, _tree, everything} = victim(group)
    Victim.kill(victim)
    OS.await_gone(everything, 60_000)
    OS.eventually(fn -> not Cgroup2.exists?(group) end)
  end

  test "the shepherd", %{group: group} do
    {:ok, p} = Proc.start(Tree.executable(), Tree.arguments(), options(group))
    tree = Map.values(Tree.read(p))
    OS.kill(OS.shepherd(Proc.os_pid(p)), "KILL")
    assert {:error, :shepherd_died} = Proc.await_exit(p)
    next_command(group)
    assert OS.present(tree) == []
    refute Cgroup2.exists?(group)
    assert Proc.stop(p) == :ok
  end

  test "the VM and the shepherd", %{group: group} do
    {victim, %{root: {command, _}} = tree, _everything} = victim(group)
    OS.kill([victim.os_pid, OS.shepherd(command)], "KILL")
    OS.await_gone(Map.values(tree), 60_000)
    next_command(group)
    refute Cgroup2.exists?(group)
  end

  test "all of them: what is alive of it is ended by the next command", %{group: group} do
    {victim, tree, _everything} = victim(group)
    shepherds = for %{name: "shepherd"} = one <- OS.descendants(victim.os_pid), do: one
    os_pids = for one <- shepherds, do: one.os_pid
    # Stopped first, so that none of them sees another's end.
    OS.kill(os_pids, "STOP")
    OS.kill([victim.os_pid | os_pids], "KILL")
    OS.await_gone(for one <- shepherds, do: {one.os_pid, one.start})
    # The kernel has killed the command; the daemons below it are nobody's, but for the group.
    assert Cgroup2.all_processes(group) != []
    next_command(group)
    OS.await_gone(Map.values(tree))
    refute Cgroup2.exists?(group)
  end

  test "the shepherd of one command, while another runs under the same path", %{group: group} do
    {:ok, other} = Proc.start("cat", [], options(group))
    {:ok, p} = Proc.start(Tree.executable(), Tree.arguments(), options(group))
    tree = Map.values(Tree.read(p))
    OS.kill(OS.shepherd(Proc.os_pid(p)), "KILL")
    assert {:error, :shepherd_died} = Proc.await_exit(p)
    next_command(group)
    assert OS.present(tree) == []
    assert [_only_the_other] = Cgroup2.children("#{group}/a/b")
    assert Proc.write(other, "alive") == :ok
    assert Proc.read(other) == {:ok, "alive"}
    assert Proc.stop(other) == :ok
    assert Proc.stop(p) == :ok
    refute Cgroup2.exists?(group)
  end

  test "a foreign process beside what was left is not killed", %{group: group} do
    Cgroup2.make("#{group}/a/b/foreign")
    foreign = Cgroup2.foreign_process("#{group}/a/b/foreign")
    {:ok, p} = Proc.start("cat", [], options(group))
    OS.kill(OS.shepherd(Proc.os_pid(p)), "KILL")
    assert {:error, :shepherd_died} = Proc.await_exit(p)
    next_command(group)
    refute OS.gone?(foreign)
    assert Cgroup2.children("#{group}/a/b") == ["foreign"]
    assert Proc.stop(p) == :ok
    Cgroup2.end_foreign_process(foreign)
    Cgroup2.remove("#{group}/a/b/foreign")
  end
end
