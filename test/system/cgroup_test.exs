defmodule NetRunner.System.CgroupTest do
  @moduledoc false
  # :cgroup_path and :cgroup, on whatever hierarchy this machine has; where it is a hybrid one it has no controllers, and
  # every limit is an error. What is left is looked for in the hierarchy itself.
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Test.Cgroups

  @skip Cgroups.skip()
  if @skip, do: IO.puts(:stderr, "not tested: control groups: #{@skip}")
  @moduletag skip: @skip || false
  # Becoming another user, mounting, delegating.
  @skip_without_root @skip || (File.stat!("/proc/self").uid != 0 && "only root can do that")

  setup do
    if @skip, do: :ok, else: %{group: Cgroups.scratch()}
  end

  # A command that says where it is.
  @where ~w(cat /proc/self/cgroup)

  defp leaf_in(text) do
    [_, leaf] = Regex.run(~r"^0::.*/(nr-[a-z2-7]{16})$"m, text)
    leaf
  end

  # A daemon of a session of its own, and its command; both say who they are.
  @daemon ~S(setsid sh -c 'trap "" TERM; echo $$; exec sleep 1000' & echo $$; exec sleep 1000)

  # Of those that have said so.
  defp identities(text) do
    for line <- String.split(text), do: OS.identity(String.to_integer(line))
  end

  defp read_lines(p, count, text \\ "") do
    if length(String.split(text, "\n")) > count do
      text
    else
      {:ok, chunk} = Proc.read(p)
      read_lines(p, count, text <> chunk)
    end
  end

  defp start_daemon(options) do
    {:ok, p} = Proc.start("sh", ["-c", @daemon], options)
    both = identities(read_lines(p, 2))
    {p, both, OS.identity(OS.shepherd(Proc.os_pid(p)))}
  end

  # Zombies are left to the fork server, which may be a new one, or to init.
  defp alive(identities), do: Enum.reject(OS.present(identities), &(&1.state == "Z"))

  # A group is empty a moment before its last process is a zombie; and these do not end by themselves.
  defp assert_dead(identities), do: OS.eventually(fn -> alive(identities) == [] end)

  @tag skip: @skip == nil && "a control group can be made here"
  test "where no group can be made, that is an error, and without a path all is well" do
    assert {:error, {:cgroup, what}} = NetRunner.run(["true"], cgroup_path: "nr_test/a")
    assert what in [{:mount, :enoent}, {:create, :eacces}, {:create, :erofs}]
    assert {"", 0} = NetRunner.run(["true"])
  end

  describe "a command" do
    test "is in a fresh leaf, whoever starts it, and what was made for it is gone", %{group: group} do
      options = [cgroup_path: "#{group}/job/1"]
      assert {out, 0} = NetRunner.run(@where, options)
      assert out =~ "/#{group}/job/1/nr-"
      assert out2 = NetRunner.run!(@where, options)
      assert {:ok, %{stdout: out3, cgroup: cgroup, stats: stats}} = NetRunner.capture(@where, options)
      assert stats.cgroup == cgroup
      assert cgroup.cpu_us >= 0
      out4 = @where |> NetRunner.stream!(options) |> Enum.join()
      {:ok, p} = Proc.start("cat", ["/proc/self/cgroup"], options)
      {:ok, out5} = Proc.read(p)
      assert {:ok, 0} = Proc.await_exit(p)
      assert {:ok, %{cgroup: nil}} = NetRunner.capture(@where)
      assert :ok = Proc.stop(p)
      test = self()

      {:ok, daemon} =
        NetRunner.Daemon.start_link(
          cmd: ["sh", "-c", "cat /proc/self/cgroup; exec sleep 1000"],
          cgroup_path: options[:cgroup_path],
          on_output: {:send, test}
        )

      assert_receive {_daemon, {:stdout, out6}}, 20_000
      GenServer.stop(daemon)
      leaves = Enum.map([out, out2, out3, out4, out5, out6], &leaf_in/1)
      assert leaves == Enum.uniq(leaves)
      assert Cgroups.below(group) == []
    end

    test "has 0, 1 and 2, and the VM nothing more than without a group", %{group: group} do
      census = Census.take()
      {:ok, p} = Proc.start("cat", [], cgroup_path: "#{group}/a")
      os_pid = Proc.os_pid(p)
      assert :ok = Proc.write(p, "x")
      assert {:ok, "x"} = Proc.read(p)
      assert [{0, _}, {1, _}, {2, _}] = OS.fds(os_pid)
      refute Enum.any?(OS.fds(OS.vm()), fn {_fd, target} -> target =~ group end)
      assert :ok = Proc.stop(p)
      Census.assert_unchanged(census)
      assert Cgroups.below(group) == []
    end

    test "that cannot be started leaves no group", %{group: group} do
      options = [cgroup_path: "#{group}/a/b"]
      assert {:error, {:exec, :enoent}} = NetRunner.run(["/nowhere"], options)
      assert {:error, {:cd, :enoent}} = NetRunner.run(["true"], [cd: "/nowhere"] ++ options)
      assert {:error, {:exec, :enoent}} = Proc.start("/nowhere", [], options)
      assert Cgroups.below(group) == []
    end

    test "may be as deep as a path can name, and not deeper", %{group: group} do
      # PATH_MAX is 4,096, and the longest name in the last level "/cgroup.subtree_control", with its NUL byte.
      room = 4_096 - 24 - byte_size(Cgroups.path(group))
      deepest = group <> String.duplicate("/" <> String.duplicate("x", 249), div(room, 250) - 1)
      rest = 4_096 - 24 - byte_size(Cgroups.path(deepest))
      # Of more than 250 and less than 500 bytes, with two slashes.
      longest = deepest <> "/" <> String.duplicate("y", 200) <> "/" <> String.duplicate("y", rest - 202)
      assert NetRunner.run(["true"], cgroup_path: longest) == {"", 0}

      assert NetRunner.run(["true"], cgroup_path: longest <> "y") ==
               {:error, {:invalid_cgroup_path, :too_long}}

      assert Cgroups.below(group) == []
    end

    test "cannot be where there is a file, or only threads may be", %{group: group} do
      assert NetRunner.run(["true"], cgroup_path: "#{group}/cgroup.procs") ==
               {:error, {:cgroup, {:create, :enotdir}}}

      File.mkdir!(Cgroups.path("#{group}/threads"))
      Cgroups.write("#{group}/threads", "cgroup.type", "threaded")

      assert NetRunner.run(["true"], cgroup_path: "#{group}/threads/a") ==
               {:error, {:cgroup, {:join, :enotsup}}}

      assert Cgroups.below(group) == ["threads"]
    end

    @tag skip: @skip_without_root
    test "of another user is there, too", %{group: group} do
      assert {out, 0} = NetRunner.run(@where, cgroup_path: "#{group}/a", user: "nobody", cd: "/")
      assert out =~ "/#{group}/a/nr-"
      assert Cgroups.below(group) == []
    end
  end

  describe "the end" do
    test "of a tree that is hard to kill: all of it, and the group", %{group: group} do
      options = [cgroup_path: "#{group}/a", timeout: 1_000, kill_timeout: 100]
      test = self()

      background(fn ->
        send(test, {:result, NetRunner.run(Tree.command(), [into: Tell.to(test)] ++ options)})
      end)

      tree = Map.values(Tree.told())
      assert_receive {:result, {:error, :timeout}}, 30_000
      assert OS.present(tree) == []
      assert Cgroups.below(group) == []
    end

    test "of a fork bomb whose processes hide", %{group: group} do
      fixture = Application.app_dir(:net_runner, "fixture")
      options = [cgroup_path: "#{group}/a", timeout: 300, kill_timeout: 0]

      assert {:error, :timeout} =
               NetRunner.run([fixture, "fork-bomb", "tree", "30", "100", "hiding"], options)

      assert Cgroups.below(group) == []
    end

    test "of one that was frozen, while it runs or before it runs", %{group: group} do
      {p, both, _shepherd} = start_daemon(cgroup_path: "#{group}/a", kill_timeout: 200)
      Cgroups.write(Cgroups.leaf(group), "cgroup.freeze", 1)
      assert :ok = Proc.stop(p)
      assert OS.present(both) == []
      assert Cgroups.below(group) == []

      File.mkdir!(Cgroups.path("#{group}/frozen"))
      Cgroups.write("#{group}/frozen", "cgroup.freeze", 1)
      options = [cgroup_path: "#{group}/frozen/a", timeout: 300, kill_timeout: 100]
      assert {:error, :timeout} = NetRunner.run(["sleep", "1000"], options)
      assert Cgroups.below(group) == ["frozen"]
    end

    test "spares strangers, and directories that were there", %{group: group} do
      File.mkdir!(Cgroups.path("#{group}/old"))
      port = Port.open({:spawn_executable, "/bin/sleep"}, args: ["1000"])
      {:os_pid, stranger} = Port.info(port, :os_pid)
      on_exit(fn -> OS.clean_up([OS.identity(stranger)]) end)
      Cgroups.write("#{group}/old", "cgroup.procs", stranger)
      {p, both, _shepherd} = start_daemon(cgroup_path: "#{group}/old", kill_timeout: 100)
      assert :ok = Proc.stop(p)
      assert OS.present(both) == []
      assert OS.alive?(stranger)
      assert Cgroups.processes("#{group}/old") == [stranger]
      assert Cgroups.below(group) == ["old"]
      Port.close(port)
      OS.kill(stranger, "KILL")
      OS.eventually(fn -> not OS.alive?(stranger) end)
    end

    test "of many at once under one path: they do not meet, and the last one cleans up", %{group: group} do
      results =
        1..soak(60, 600)
        |> Task.async_stream(&NetRunner.run(["sh", "-c", "exit #{rem(&1, 7)}"], cgroup_path: "#{group}/a/b"),
          max_concurrency: 16,
          timeout: 60_000
        )
        |> Enum.map(fn {:ok, {"", status}} -> status end)

      assert results == for(n <- 1..soak(60, 600), do: rem(n, 7))
      assert Cgroups.below(group) == []
    end
  end

  describe "a limit" do
    # As on a hybrid host.
    @controllers if(@skip, do: [], else: String.split(Cgroups.read("", "cgroup.controllers")))
    test "whose controller is not there is an error, and nothing has run", %{group: group} do
      file = Path.join(tmp_dir(), "ran")

      for {name, value} <- [memory_max: 1_000_000, pids_max: 10, cpu_max: {10_000, 100_000}, io_weight: 10],
          (name |> to_string() |> String.split("_") |> hd()) not in @controllers do
        options = [cgroup_path: "#{group}/a", cgroup: [{name, value}]]
        assert {:error, {:cgroup, {^name, :enotsup}}} = NetRunner.run(["touch", file], options)
        assert {:error, {:cgroup, {^name, :enotsup}}} = Proc.start("touch", [file], options)
        error = assert_raise NetRunner.Error, fn -> NetRunner.run!(["touch", file], options) end
        assert Exception.message(error) =~ inspect(name)
      end

      refute File.exists?(file)
      assert Cgroups.below(group) == []
    end
  end

  describe "the hierarchy" do
    @describetag skip: @skip_without_root

    test "is not mounted, or read-only: an error, and without a path all is well" do
      mount = Cgroups.mount()

      for {shell, error} <- [
            {"umount -l #{mount}", {:error, {:cgroup, {:mount, :enoent}}}},
            {"mount --bind #{mount} #{mount}; mount -o remount,bind,ro #{mount}",
             {:error, {:cgroup, {:create, :erofs}}}}
          ] do
        victim =
          Victim.start(
            """
            say.({NetRunner.run(["true"], cgroup_path: "nr_test/a"), NetRunner.run(["true"])})
            wait.()
            """,
            shell: "exec unshare --mount sh -c '#{shell}; exec \"$0\" \"$@\"' \"$0\" \"$@\""
          )

        assert Victim.term(victim) == {error, {"", 0}}
      end
    end

    test "from the root that is configured, or that is the VM's own", %{group: group} do
      File.mkdir!(Cgroups.path("#{group}/vm"))

      victim =
        Victim.start(
          """
          for root <- [#{inspect(group)}, :self, "#{group}/nowhere", "/x", 1] do
            Application.put_env(:net_runner, :cgroup_root, root)
            say.(try do NetRunner.run(#{inspect(@where)}, cgroup_path: "a/b") rescue e -> e end)
          end
          wait.()
          """,
          shell: "echo $$ > #{Cgroups.path(group)}/vm/cgroup.procs; exec \"$0\" \"$@\""
        )

      assert {out, 0} = Victim.term(victim)
      assert out =~ ~r{/#{group}/a/b/nr-}
      assert {out, 0} = Victim.term(victim)
      assert out =~ ~r{/#{group}/vm/a/b/nr-}
      assert Victim.term(victim) == {:error, {:cgroup, {:root, :enoent}}}
      for _ <- 1..2, do: assert(%ArgumentError{message: "invalid :cgroup_root" <> _} = Victim.term(victim))
      Victim.kill(victim)
      Victim.await_exit(victim)
      OS.eventually(fn -> Cgroups.processes("#{group}/vm") == [] end)
      assert Cgroups.below(group) == ["vm"]
    end
  end

  describe "without privileges" do
    @describetag skip: @skip_without_root
    @user 64_323

    # In `group`; of a user to whom the directories in `delegated` belong, with what it takes to bring processes there.
    defp unprivileged(code, group, delegated) do
      for directory <- Enum.map(delegated, &Cgroups.path/1),
          file <- ["", "cgroup.procs", "cgroup.subtree_control"] do
        File.chown!(Path.join(directory, file), @user)
      end

      Victim.start(code,
        shell:
          "echo $$ > #{Cgroups.path(group)}/cgroup.procs; cd / && HOME=/tmp exec " <>
            "setpriv --reuid=#{@user} --regid=#{@user} --clear-groups \"$0\" \"$@\""
      )
    end

    test "it is an error where nothing was delegated, or the VM is elsewhere", %{group: group} do
      File.mkdir!(Cgroups.path("#{group}/delegated"))
      File.mkdir!(Cgroups.path("#{group}/vm"))

      victim =
        unprivileged(
          """
          for path <- ["#{group}/a", "#{group}/delegated/a"], do: say.(NetRunner.run(["true"], cgroup_path: path))
          wait.()
          """,
          "#{group}/vm",
          ["#{group}/delegated"]
        )

      assert Victim.term(victim) == {:error, {:cgroup, {:create, :eacces}}}
      assert Victim.term(victim) == {:error, {:cgroup, {:join, :eacces}}}
      assert Cgroups.below(group) == ["delegated", "vm"]
    end

    # A set-user-ID program is no one's to signal, but the group's to kill.
    test "it works below what was delegated, and even what cannot be signalled ends", %{group: group} do
      File.mkdir!(Cgroups.path("#{group}/vm"))
      directory = tmp_dir()
      File.chmod!(directory, 0o755)
      fixture = Path.join(directory, "fixture")
      File.cp!(Application.app_dir(:net_runner, "fixture"), fixture)
      File.chmod!(fixture, 0o4755)

      victim =
        unprivileged(
          """
          Application.put_env(:net_runner, :cgroup_root, #{inspect(group)})
          say.(NetRunner.run(#{inspect(@where)}, cgroup_path: "a"))
          say.(NetRunner.run([#{inspect(fixture)}, "become-root"], cgroup_path: "a", timeout: 500, kill_timeout: 0))
          wait.()
          """,
          "#{group}/vm",
          [group, "#{group}/vm"]
        )

      assert {out, 0} = Victim.term(victim)
      assert out =~ "/#{group}/a/nr-"
      assert Victim.term(victim) == {:error, :timeout}
      assert Cgroups.below(group) == ["vm"]
    end
  end

  describe "killed" do
    # Fork server and shepherd: only the group tells of the daemon.
    test "shepherd, with the fork server before it or not: nothing is left when it is said", %{group: group} do
      for fork_server? <- [false, true], face <- [:stop, :await_exit, :shutdown] do
        {p, both, shepherd} = start_daemon(cgroup_path: "#{group}/a", owner: nil)
        if fork_server?, do: kill_fork_server()
        caller = Task.async(fn -> call(face, p) end)
        OS.kill(elem(shepherd, 0), "KILL")
        result = Task.await(caller, 30_000)
        assert result in [{:error, :shepherd_died}, :ok]
        assert_dead(both)
        assert Cgroups.below(group) == []
        Proc.stop(p)
      end
    end

    test "shepherd and fork server of a run, of a start", %{group: group} do
      test = self()

      background(fn ->
        options = [cgroup_path: "#{group}/a", into: Tell.to(test)]
        result = NetRunner.run(["sh", "-c", @daemon], options)
        send(test, {:result, result, Cgroups.below(group)})
      end)

      both = told_lines(2) |> identities()

      [shepherd] =
        for {os_pid, _} <- both, %{name: "shepherd"} = one <- [OS.stat(OS.stat(os_pid).parent)], do: one

      kill_fork_server()
      OS.kill(shepherd.os_pid, "KILL")
      assert_receive {:result, {:error, :shepherd_died}, []}, 30_000
      assert_dead(both)
      assert {"", 0} = NetRunner.run(["true"])
    end

    test "its server as well, or its leftovers' shepherd: the Watcher sees to it", %{group: group} do
      {p, both, shepherd} = start_daemon(cgroup_path: "#{group}/a", owner: nil, kill_timeout: 10_000)
      kill_fork_server()
      OS.kill(elem(shepherd, 0), "STOP")
      end_process(p)
      OS.kill(elem(shepherd, 0), "KILL")
      NetRunner.Watcher.await_gone(p)
      assert_dead(both)
      assert Cgroups.below(group) == []

      script = "setsid sh -c 'echo $$; exec sleep 1000' & read line"
      {:ok, p} = Proc.start("sh", ["-c", script], cgroup_path: "#{group}/a", leftovers: :keep)
      kept = identities(read_lines(p, 1))
      os_pid = Proc.os_pid(p)
      shepherd = OS.shepherd(os_pid)
      assert :ok = Proc.close_stdin(p)
      assert {:ok, _status} = Proc.await_exit(p)
      assert length(OS.present(kept)) == length(kept)
      kill_fork_server()
      OS.kill(shepherd, "KILL")
      OS.await_gone(kept)
      OS.eventually(fn -> Cgroups.below(group) == [] end)
      assert :ok = Proc.stop(p)
    end

    test "shepherd while its command is being started, again and again", %{group: group} do
      results =
        for _ <- 1..soak(10, 200) do
          run =
            Task.async(fn ->
              NetRunner.run(sh(@daemon), cgroup_path: "#{group}/a", timeout: 2_000, kill_timeout: 0)
            end)

          # Or it has had a shepherd that was killed in the round before.
          OS.eventually(fn -> Cgroups.below(group) != [] or not Process.alive?(run.pid) end)

          for %{os_pid: os_pid, name: "shepherd"} <- OS.children(OS.fork_server()),
              do: OS.clean_up([OS.identity(os_pid)])

          result = Task.await(run, 60_000)
          assert Cgroups.below(group) == []
          result
        end

      assert Enum.uniq(results) -- [error: :shepherd_died, error: :timeout] == []
    end

    test "shepherd, and its server hears of it when the application stops already", %{group: group} do
      victim =
        Victim.start("""
        Logger.configure(level: :none)
        {:ok, p} = Proc.start("sleep", ["1000"], cgroup_path: "#{group}/a", owner: nil)
        shepherd = NetRunner.Test.OS.shepherd(Proc.os_pid(p))
        :sys.suspend(p)
        NetRunner.Test.OS.kill(shepherd, "KILL")
        stop = Task.async(fn -> Application.stop(:net_runner) end)
        NetRunner.Test.OS.eventually(fn -> NetRunner.ForkServer.current() == {:error, :not_started} end)
        :sys.resume(p)
        :ok = Task.await(stop, 60_000)
        say.(:stopped)
        wait.()
        """)

      assert Victim.term(victim) == :stopped
      assert Cgroups.below(group) == []
    end

    # Its child cannot exec, and has not asked for its parent-death signal yet.
    test "shepherd of a command that is born frozen", %{group: group} do
      File.mkdir!(Cgroups.path("#{group}/frozen"))
      Cgroups.write("#{group}/frozen", "cgroup.freeze", 1)

      # Without the fork server nobody sees the end of that shepherd before a command has had its 10 s to start.
      for fork_server? <- soak([false], [false, true]) do
        run = Task.async(fn -> NetRunner.run(["sleep", "1000"], cgroup_path: "#{group}/frozen/a") end)

        OS.eventually(fn ->
          match?([_a, _leaf], Cgroups.below("#{group}/frozen")) and
            Cgroups.processes(Cgroups.leaf(group)) != []
        end)

        [child] = Cgroups.processes(Cgroups.leaf(group))
        shepherd = OS.stat(child).parent
        if fork_server?, do: kill_fork_server()
        OS.kill(shepherd, "KILL")
        assert {:error, :shepherd_died} = Task.await(run, 60_000)
        assert Cgroups.below(group) == ["frozen"]
      end
    end

    test "the VM, and whoever watches: nothing is left, at the latest after the next command", %{group: group} do
      for who <- [:vm, :shepherd_and_vm, :all] do
        victim =
          Victim.start("""
          {:ok, p} = Proc.start("sh", ["-c", #{inspect(@daemon)}], cgroup_path: "#{group}/a/b", kill_timeout: 100)
          for _ <- 1..2, do: IO.puts(elem(Proc.read(p), 1))
          wait.()
          """)

        both = two_pids(victim) |> Enum.map(&OS.identity/1)
        fork_server = OS.fork_server(victim.os_pid)
        shepherds = for %{os_pid: os_pid} <- OS.children(fork_server), do: os_pid
        everything = Enum.map([fork_server | shepherds], &OS.identity/1) ++ both

        case who do
          :vm ->
            Victim.kill(victim)

          :shepherd_and_vm ->
            OS.clean_up(Enum.map(shepherds ++ [victim.os_pid], &OS.identity/1))

          :all ->
            # Together, before one of them sees the end of another: what would act is stopped first.
            OS.kill([fork_server | shepherds], "STOP")
            OS.clean_up(Enum.map([victim.os_pid, fork_server | shepherds], &OS.identity/1))
            # The lock goes with the shepherd.
            OS.await_gone(everything -- both)
            OS.eventually(fn -> match?([_daemon], alive(both)) end)
        end

        if who != :all, do: OS.await_gone(everything)
        if who == :vm, do: OS.eventually(fn -> Cgroups.below(group) == [] end)
        assert {"", 0} = NetRunner.run(["true"], cgroup_path: "#{group}/a/b")
        assert_dead(both)
        assert Cgroups.below(group) == []
      end
    end
  end

  defp call(:stop, p), do: Proc.stop(p)
  defp call(:await_exit, p), do: Proc.await_exit(p)
  defp call(:shutdown, p), do: Proc.shutdown(p)

  defp kill_fork_server do
    fork_server = OS.fork_server()
    identity = OS.identity(fork_server)
    OS.kill(fork_server, "KILL")
    OS.await_gone([identity])
  end

  defp told_lines(count, text \\ "") do
    if length(String.split(text, "\n")) > count do
      text
    else
      receive do
        {:told, chunk} -> told_lines(count, text <> chunk)
      after
        20_000 -> flunk("only #{inspect(text)} was told")
      end
    end
  end

  defp two_pids(victim, pids \\ []) do
    if length(pids) == 2 do
      pids
    else
      line = victim |> Victim.line() |> String.trim()
      two_pids(victim, if(line =~ ~r/\A\d+\z/, do: [String.to_integer(line) | pids], else: pids))
    end
  end
end
