defmodule NetRunner.System.CredentialsTest do
  @moduledoc false
  # :user, :group and :groups, as the kernel shows them. Most of it takes root's rights.
  use NetRunner.Test.SystemCase, async: false

  @moduletag skip: Skip.unless_root("only root can become another user")

  # A user and a group that no table names.
  @nameless 64_301

  # {users, groups, supplementary groups} of a command: real, effective, saved and that of the file system.
  defp ids(options) do
    with {out, 0} <- NetRunner.run(~w(cat /proc/self/status), [cd: "/"] ++ options) do
      line = fn name ->
        [_, numbers] = Regex.run(~r/^#{name}:[ \t]*(.*)$/m, out)
        numbers |> String.split() |> Enum.map(&String.to_integer/1)
      end

      for set <- ~w(CapInh CapPrm CapEff CapAmb), options[:user] not in [nil, 0, "root"] do
        assert out =~ ~r/^#{set}:\s+0+$/m
      end

      {line.("Uid"), line.("Gid"), line.("Groups")}
    end
  end

  defp id(flag, user \\ "nobody") do
    {numbers, 0} = System.cmd("id", [flag, user])
    numbers |> String.split() |> Enum.map(&String.to_integer/1)
  end

  defp four(number), do: List.duplicate(number, 4)

  describe "a user" do
    test "by name or number has all four ids, its group, its supplementary groups, no capabilities" do
      [uid] = id("-u")
      [gid] = id("-g")
      expected = {four(uid), four(gid), Enum.sort(id("-G"))}
      assert ids(user: "nobody") == expected
      assert ids(user: uid) == expected
    end

    test "has the supplementary groups of a login, and only those", %{} do
      directory = tmp_dir()
      {:ok, groups} = File.read("/etc/group")
      file = Path.join(directory, "group")

      File.write!(
        file,
        groups <> "netrunner1:x:64311:nobody\nnetrunner2:x:64312:nobody,root\nnetrunner3:x:64313:root\n"
      )

      victim =
        Victim.start(
          """
          for options <- [[], [groups: []], [groups: ["netrunner3", 7]], [group: "netrunner3"]] do
            {out, 0} = NetRunner.run(["cat", "/proc/self/status"], [user: "nobody", cd: "/"] ++ options)
            [gid] = Regex.run(~r/^Gid:\\s+(\\d+)/m, out, capture: :all_but_first)
            [groups] = Regex.run(~r/^Groups:[ \\t]*(.*)$/m, out, capture: :all_but_first)
            say.({String.to_integer(gid), groups |> String.split() |> Enum.map(&String.to_integer/1)})
          end
          wait.()
          """,
          shell:
            ~s(exec unshare --mount sh -c 'mount --bind "#{file}" /etc/group && exec "$0" "$@"' "$0" "$@")
        )

      [gid] = id("-g")
      assert Victim.term(victim) == {gid, Enum.sort([64_311, 64_312 | id("-G")])}
      assert Victim.term(victim) == {gid, []}
      assert Victim.term(victim) == {gid, [7, 64_313]}
      # As initgroups(3): the group in the place of the user's own.
      assert Victim.term(victim) == {64_313, Enum.sort([64_311, 64_312, 64_313])}
    end

    test "without a passwd entry needs a group, and has no others" do
      assert {:error, {:group, :enoent}} = ids(user: @nameless)
      assert ids(user: @nameless, group: 7) == {four(@nameless), four(7), [7]}
      assert ids(user: @nameless, group: 7, groups: [9, 8]) == {four(@nameless), four(7), [8, 9]}
      error = catch_error(NetRunner.run!(~w(true), user: @nameless))
      assert Exception.message(error) =~ "the user #{@nameless} has no passwd entry"
    end

    test "in every function" do
      options = [user: "nobody", cd: "/"]
      out = Enum.map_join(id("-u"), &"#{&1}\n")
      assert {^out, 0} = NetRunner.run(~w(id -u), options)
      assert ^out = NetRunner.run!(~w(id -u), options)
      assert {:ok, %{stdout: ^out}} = NetRunner.capture(~w(id -u), options)
      assert [^out] = ~w(id -u) |> NetRunner.stream!(options) |> Enum.to_list()
      {:ok, p} = Proc.start("id", ["-u"], options)
      assert {:ok, ^out} = Proc.read(p)
      assert :ok = Proc.stop(p)
    end

    test "cannot become root again" do
      regain = ~S"""
      use POSIX; my @tried = (POSIX::setuid(0), POSIX::setgid(0)); $> = 0; $) = "0 0"; $< = 0; $( = 0;
      print join(" ", map { $_ ? "got it" : "refused" } @tried), " $< $>"
      """

      [uid] = id("-u")
      expected = "refused refused #{uid} #{uid}"
      assert {^expected, 0} = NetRunner.run(["perl", "-e", regain], user: "nobody", cd: "/")
    end

    test "root is root, with all capabilities" do
      assert {[0, 0, 0, 0], [0, 0, 0, 0], groups} = ids(user: "root")
      assert groups == Enum.sort(id("-G", "root"))
    end
  end

  describe "groups alone" do
    test "leave the user, and each other, as they are" do
      {uids, gids, groups} = ids([])
      assert ids(group: 7) == {uids, four(7), groups}
      assert ids(group: "daemon") == {uids, four(hd(gid_of("daemon"))), groups}
      assert ids(groups: [7, "daemon"]) == {uids, gids, Enum.sort([7 | gid_of("daemon")])}
      assert ids(groups: []) == {uids, gids, []}
    end

    defp gid_of(name) do
      {line, 0} = System.cmd("getent", ["group", name])
      [line |> String.split(":") |> Enum.at(2) |> String.to_integer()]
    end
  end

  describe "an unknown name" do
    test "is a value, from every function, and nothing has run" do
      name = "net-runner-nobody"
      census = Census.take()

      for {options, reason} <- [
            {[user: name], {:user, :enoent}},
            {[group: name], {:group, :enoent}},
            {[user: "nobody", group: name], {:group, :enoent}},
            {[groups: ["daemon", name]], {:groups, :enoent}},
            {[user: <<255, 254>>], {:user, :enoent}},
            # Digits are a name, too.
            {[user: "65534"], {:user, :enoent}}
          ] do
        assert {:error, ^reason} = NetRunner.run(~w(true), options)
        assert {:error, ^reason} = Proc.start("true", [], options)
        error = catch_error(NetRunner.run!(~w(true), options))
        assert error.reason == reason
      end

      Census.assert_unchanged(census)
      error = catch_error(NetRunner.run!(~w(true), user: name))
      assert Exception.message(error) =~ ~s(there is no such user "#{name}")
    end

    test "or what is no name raises" do
      for bad <- ["", "a\0b", -1, 0xFFFF_FFFF, :nobody, nil, 1.0] do
        assert_raise ArgumentError, ~r/:user/, fn -> NetRunner.run(~w(true), user: bad) end
        assert_raise ArgumentError, ~r/:groups/, fn -> NetRunner.run(~w(true), groups: [bad]) end
      end

      assert_raise ArgumentError, ~r/:groups/, fn -> NetRunner.run(~w(true), groups: "daemon") end
    end
  end

  describe "the rights of the command" do
    test "count for its directory and its executable, those of the VM for files and niceness" do
      secret = tmp_dir()
      File.chmod!(secret, 0o700)
      tool = executable(secret, "tool", "#!/bin/sh\necho ran\n")
      user = [user: "nobody"]
      assert {"ran\n", 0} = NetRunner.run([tool])
      assert {:error, {:exec, :eacces}} = NetRunner.run([tool], [cd: "/"] ++ user)
      assert {:error, {:cd, :eacces}} = NetRunner.run(~w(pwd), [cd: secret] ++ user)
      error = catch_error(NetRunner.run!(~w(pwd), [cd: secret] ++ user))
      assert Exception.message(error) =~ ~s("#{secret}" as the user "nobody": permission denied)

      before = File.cwd!()
      on_exit(fn -> File.cd!(before) end)
      File.cd!(secret)
      assert {:error, {:cd, :eacces}} = NetRunner.run(~w(pwd), user)
      assert {"/\n", 0} = NetRunner.run(~w(pwd), [cd: "/"] ++ user)

      file = Path.join(secret, "file")
      assert {"", 0} = NetRunner.run(~w(id -un), [cd: "/", stdout: {:file, file}] ++ user)
      assert File.read!(file) == "nobody\n"
      File.cd!(before)

      assert {"-4\n", 0} = NetRunner.run(~w(nice), [cd: "/", nice: -4] ++ user)
    end

    test "a limit of processes counts those of the user, before anything runs" do
      options = [user: @nameless, group: @nameless, cd: "/"]
      {:ok, p} = Proc.start("cat", [], options)
      {:ok, q} = Proc.start("cat", [], options)
      assert {:error, {:exec, :eagain}} = NetRunner.run(~w(true), [rlimits: [nproc: 1]] ++ options)
      assert {"", 0} = NetRunner.run(~w(true), [rlimits: [nproc: 2]] ++ options)
      assert :ok = Proc.stop(p)
      assert :ok = Proc.stop(q)
    end

    test "the environment is still the VM's" do
      home = System.get_env("HOME", "")
      assert {^home, 0} = NetRunner.run(sh("printf %s \"$HOME\""), user: "nobody", cd: "/")
    end
  end

  describe "another user's command" do
    @tree "trap '' TERM; sleep 60 & setsid sleep 60 & (setsid sh -c 'trap \"\" TERM; sleep 60 & wait' &) ; echo ready; wait; sleep 60"

    test "is signalled, stopped and left nothing of" do
      {:ok, p} = Proc.start("sh", ["-c", @tree], user: "nobody", cd: "/", kill_timeout: 200)
      assert {:ok, "ready\n"} = Proc.read(p)
      tree = OS.tree(Proc.os_pid(p))
      assert :ok = Proc.kill(p, :sigcont)
      assert :ok = Proc.stop(p)
      assert OS.present(tree) == []

      assert {:error, :timeout} =
               NetRunner.run(["sh", "-c", @tree], user: "nobody", cd: "/", timeout: 300, kill_timeout: 200)
    end

    test "ends with its shepherd" do
      {:ok, p} = Proc.start("sleep", ["60"], user: "nobody", cd: "/")
      command = OS.identity(Proc.os_pid(p))
      OS.kill(OS.shepherd(Proc.os_pid(p)), "KILL")
      assert {:error, :shepherd_died} = Proc.await_exit(p)
      OS.await_gone([command])
      assert :ok = Proc.stop(p)
    end

    test "can be started many times at once" do
      [uid] = id("-u")
      out = "#{uid}\n"

      1..50
      |> Task.async_stream(fn _ -> NetRunner.run(~w(id -u), user: "nobody", cd: "/") end,
        max_concurrency: 16,
        timeout: :infinity
      )
      |> Enum.each(&assert(&1 == {:ok, {out, 0}}))
    end
  end

  describe "without root's rights" do
    @tag skip: Skip.if_root("root may")
    test "eperm" do
      assert {:error, {:credentials, :eperm}} = NetRunner.run(~w(true), user: "root", cd: "/")
      assert {:error, {:credentials, :eperm}} = NetRunner.run(~w(true), user: @nameless, group: 7, cd: "/")
      assert {:error, {:credentials, :eperm}} = NetRunner.run(~w(true), groups: ["root"])
      assert {:error, {:user, :enoent}} = NetRunner.run(~w(true), user: "net-runner-nobody")

      # But for the user that one is already.
      with {name, 0} <- System.cmd("id", ["-un"], stderr_to_stdout: true) do
        assert {^name, 0} = NetRunner.run(~w(id -un), user: String.trim(name))
      end
    end

    test "eperm, but for the user that one is already" do
      victim =
        Victim.start(
          """
          run = fn options -> say.(NetRunner.run(["id", "-u"], [cd: "/"] ++ options)) end
          run.(user: "nobody")
          run.(user: 54_324, group: 54_324)
          run.(user: 54_324, group: 54_324, groups: [])
          run.(user: 0)
          run.(group: 7)
          run.(groups: [7])
          run.(groups: [])
          run.(user: "net-runner-nobody")
          run.([])
          say.(Exception.message(%NetRunner.Error{reason: {:credentials, :eperm}}))
          wait.()
          """,
          shell: ~S(cd / && HOME=/tmp exec setpriv --reuid 54324 --regid 54324 --clear-groups "$0" "$@")
        )

      eperm = {:error, {:credentials, :eperm}}
      own = {"54324\n", 0}
      assert Victim.term(victim) == eperm
      # Its supplementary groups are those that it has: none, or the group itself.
      assert Victim.term(victim) == own
      assert Victim.term(victim) == own
      assert Victim.term(victim) == eperm
      assert Victim.term(victim) == eperm
      assert Victim.term(victim) == eperm
      assert Victim.term(victim) == own
      assert Victim.term(victim) == {:error, {:user, :enoent}}
      assert Victim.term(victim) == own
      assert Victim.term(victim) =~ "only root may become another user"
    end
  end
end
