defmodule NetRunner.System.Cgroup2.DelegationTest do
  @moduledoc false
  # Issue point cgroups: a VM without privileges, to which a part of the hierarchy has been delegated (cgroup-v2.rst,
  # "Delegation"), or has not.
  use NetRunner.Test.Cgroup2

  # In no passwd(5).
  @user 64_325

  # What has been built, where every user can read it.
  setup_all do
    directory = "/tmp/net_runner-#{System.pid()}-delegation"
    File.mkdir!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)

    {_, 0} = System.cmd("cp", ["-RL", Application.app_dir(:net_runner), directory])
    {_, 0} = System.cmd("chmod", ["-R", "a+rX", directory])
    %{ebin: "#{directory}/net_runner/ebin"}
  end

  # A VM of this user, in this group.
  defp victim(code, group, context) do
    Victim.start(code,
      code_path: [context.ebin],
      shell: """
      echo $$ >#{Cgroup2.path(group)}/cgroup.procs && cd / &&
        HOME=/tmp exec setpriv --reuid #{@user} --regid #{@user} --clear-groups "$0" "$@"
      """
    )
  end

  # As systemd delegates: the group and three of its files.
  defp delegate(group) do
    for file <- ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] do
      File.chown!(Path.join(Cgroup2.path(group), file), @user)
    end
  end

  # `group/user`, delegated, with the VM in `group/user/vm`.
  defp delegated(%{group: group}) do
    Cgroup2.make("#{group}/user/vm", ~w(cpu memory pids))
    :ok = Cgroup2.write("#{group}/user", "cgroup.subtree_control", "-cpu -memory -pids")
    delegate("#{group}/user")
    delegate("#{group}/user/vm")
    "#{group}/user"
  end

  defp end_victim(victim) do
    Victim.tell(victim, "")
    assert Victim.await_exit(victim) == 0
  end

  @hog ["perl", "-e", "$x = 'x' x (64 << 20)"]
  @limits %{memory_max: 32 * 1024 * 1024, memory_swap_max: 0, pids_max: 10, cpu_weight: 50}

  test "with a delegated group, and the VM in one below it, limits hold, and all is removed", context do
    user = delegated(context)

    victim =
      victim(
        """
        {hog, limits} = #{inspect({@hog, @limits})}
        limited = fn path ->
          {:ok, result} = NetRunner.capture(hog, cgroup_path: path, cgroup: limits)
          say.({result.signal, result.stats.cgroup.oom_kill})
        end

        path = #{inspect(user)} <> "/job/1"
        say.(NetRunner.run(["cat", "/proc/self/cgroup"], cgroup_path: path))
        limited.(path)
        say.(NetRunner.run(["sh", "-c", "setsid sleep 1000 & :"], cgroup_path: path))
        say.(NetRunner.run(["true"], cgroup_path: path, cgroup: %{io_weight: 50}))

        Application.put_env(:net_runner, :cgroup_root, #{inspect(user)})
        say.(NetRunner.run(["cat", "/proc/self/cgroup"], cgroup_path: "job/1"))
        limited.("job/1")

        Application.put_env(:net_runner, :cgroup_root, :self)
        say.(NetRunner.run(["cat", "/proc/self/cgroup"], cgroup_path: "job/1"))
        say.(NetRunner.run(["true"], cgroup_path: "job/1", cgroup: limits))
        say.(NetRunner.run(["true"], cgroup_path: "job/1", cgroup: %{pids_max: 10}))
        say.(NetRunner.run(["true"], cgroup_path: "job/1"))

        Application.put_env(:net_runner, :cgroup_root, #{inspect(user)} <> "/nowhere")
        say.(NetRunner.run(["true"], cgroup_path: "job/1"))
        wait.()
        """,
        "#{user}/vm",
        context
      )

    assert {"0::/" <> group, 0} = Victim.term(victim)
    assert group =~ "#{user}/job/1/nr-"
    assert {:sigkill, 1} = Victim.term(victim)
    assert {"", 0} = Victim.term(victim)
    # The controller io was not delegated.
    assert {:error, {:cgroup, {_step, posix}}} = Victim.term(victim)
    assert posix in [:eacces, :enotsup]

    assert {"0::/" <> group, 0} = Victim.term(victim)
    assert group =~ "#{user}/job/1/nr-"
    assert {:sigkill, 1} = Victim.term(victim)

    # `:self` is the group that the VM is in, which, since it is, can have no controllers for others.
    assert {"0::/" <> group, 0} = Victim.term(victim)
    assert group =~ "#{user}/vm/job/1/nr-"
    assert {:error, {:cgroup, {:enable, :ebusy}}} = Victim.term(victim)
    assert {:error, {:cgroup, {:enable, :ebusy}}} = Victim.term(victim)
    assert {"", 0} = Victim.term(victim)

    assert {:error, {:cgroup, {:root, :enoent}}} = Victim.term(victim)

    assert OS.commands(victim.os_pid) == []
    assert Cgroup2.tree(user) == ["#{user}/vm", user]
    end_victim(victim)
    Cgroup2.remove("#{user}/vm")
  end

  test "where nothing is delegated to it nothing runs, and the error says so", context do
    user = delegated(context)
    elsewhere = "#{context.group}/elsewhere"
    Cgroup2.make(elsewhere)
    marker = "/tmp/net_runner-#{System.pid()}-ran"

    victim =
      victim(
        """
        run = fn opts -> say.(NetRunner.run(["touch", #{inspect(marker)}], opts)) end
        # To bring a process from one group into another one must be allowed to write to cgroup.procs of the group above
        # both (cgroup-v2.rst, "Delegation Containment"), and that of the VM is not below what is delegated.
        run.(cgroup_path: #{inspect(user)} <> "/job")
        for path <- [#{inspect(elsewhere)}, #{inspect(elsewhere)} <> "/a", "net_runner-other"] do
          run.(cgroup_path: path)
        end
        run.(cgroup_path: "net_runner-other", cgroup: %{pids_max: 10})
        {:error, reason} = NetRunner.run(["true"], cgroup_path: "net_runner-other")
        say.(Exception.message(NetRunner.Error.exception(reason: reason)))
        say.(NetRunner.run(["echo", "outside"], []))
        wait.()
        """,
        elsewhere,
        context
      )

    assert {:error, {:cgroup, {:join, :eacces}}} = Victim.term(victim)
    assert Cgroup2.tree(user) == ["#{user}/vm", user]

    for _ <- 1..4 do
      assert {:error, {:cgroup, {step, :eacces}}} = Victim.term(victim)
      assert step in [:create, :enable]
    end

    assert Victim.term(victim) =~ "has the system delegated a control group to this user?"
    assert {"outside\n", 0} = Victim.term(victim)
    refute File.exists?(marker)
    end_victim(victim)
    Cgroup2.remove("#{user}/vm")
    Cgroup2.remove(elsewhere)
  end

  # As in a container: a cgroup namespace, whose root is not the kernel's.
  test "where the VM is in the root that it sees, limits can be had when it has gone one level down",
       context do
    Cgroup2.make("#{context.group}/container", Cgroup2.controllers())
    mount = Cgroup2.path("")

    victim =
      Victim.start(
        """
        limits = #{inspect(@limits)}
        say.(NetRunner.run(["cat", "/proc/self/cgroup"], cgroup_path: "job"))
        say.(NetRunner.run(["true"], cgroup_path: "job", cgroup: limits))
        File.mkdir!("#{mount}/vm")
        # Until there is none, for a shepherd may be forked meanwhile.
        move = fn move ->
          case String.split(File.read!("#{mount}/cgroup.procs")) do
            [] -> :ok
            os_pids -> Enum.each(os_pids, &File.write("#{mount}/vm/cgroup.procs", &1)) && move.(move)
          end
        end
        move.(move)
        {:ok, result} = NetRunner.capture(#{inspect(@hog)}, cgroup_path: "job", cgroup: limits)
        say.({result.signal, result.stats.cgroup.oom_kill})
        say.(File.exists?("#{mount}/job"))
        wait.()
        """,
        shell: """
        echo $$ >#{Cgroup2.path(context.group)}/container/cgroup.procs &&
          exec unshare --cgroup --mount sh -c 'umount #{mount} && mount -t cgroup2 none #{mount} && exec "$0" "$@"' "$0" "$@"
        """
      )

    assert {"0::/job/nr-" <> _, 0} = Victim.term(victim)
    assert {:error, {:cgroup, {:enable, :ebusy}}} = Victim.term(victim)
    assert {:sigkill, 1} = Victim.term(victim)
    assert Victim.term(victim) == false
    end_victim(victim)
    Cgroup2.remove("#{context.group}/container/vm")
  end
end
