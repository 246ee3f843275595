defmodule NetRunner.System.ShortageTest do
  @moduledoc false
  # What is missing for a while: a shepherd that can be executed, processes, memory, fds, room in pipes. Each
  # shortage is an error that says what to do, nothing hangs or is left, and when it is over all is well, without
  # a restart of the application. (test/system/resources_test.exs has RLIMIT_NOFILE and RLIMIT_NPROC.)
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Test.Faults

  # A victim speaks in terms, not in logs.
  @silent ["-e", "Application.ensure_all_started(:logger) && Logger.configure(level: :none)"]

  describe "a shepherd that cannot be executed" do
    test "missing, not executable, cut short, of another machine, another program: each is an error of its own" do
      directory = tmp_dir()
      path = Path.join(directory, "net_runner/priv/shepherd")
      flags = Faults.install(directory, &File.cp!(Faults.shepherd(), &1))

      victim =
        Victim.start(
          """
          #{restart_and_try()}
          say.(NetRunner.run(["echo", "x"]))
          try_without.(try_without)
          """,
          flags: flags ++ @silent
        )

      assert {"x\n", 0} = Victim.term(victim)
      sound = File.read!(path)
      half = binary_part(sound, 0, div(byte_size(sound), 2))

      for {spoil, errors, hint} <- [
            {fn -> :ok end, [:enoent], "it is not there"},
            {fn -> put(path, sound, 0o644) end, [:eacces], "mounted noexec"},
            {fn -> File.mkdir!(path) end, [:eacces], "may not be executed"},
            {fn -> put(path, "") end, [:enoexec], "cut short"},
            {fn -> put(path, binary_part(sound, 0, 100)) end, [:enoexec, :eio], ""},
            {fn -> put(path, half) end, [:eof, :enoexec], "cut short"},
            {fn -> put(path, other_machine(sound)) end, [:enoexec], "built for another one"},
            {fn -> put(path, "#!/bin/sh\nexit 0\n") end, [:eof], "ended before it was ready"},
            {fn -> put(path, "#!/bin/sh\nexec cat >/dev/null\n") end, [:eof], "ended before it was ready"}
          ] do
        File.rm_rf!(path)
        spoil.()
        Victim.tell(victim, "without")
        results = Victim.term(victim)
        assert [{:error, {:fork_server, reason}}] = Enum.uniq(Tuple.to_list(results))
        assert reason in errors
        message = Exception.message(%NetRunner.Error{reason: {:fork_server, reason}})
        assert message =~ "priv/shepherd"
        assert message =~ hint

        File.rm_rf!(path)
        put(path, sound)
        Victim.tell(victim, "with")
        assert {{"x\n", 0}, :same} = Victim.term(victim)
      end
    end

    # What it says, the socket being its standard input, and whether that is all.
    @never_ready [
      {"exec sleep 1000", :hangs},
      {"kill -STOP $$; exec '#{Faults.shepherd()}' \"$@\"", :hangs},
      {"printf p >&0; exec sleep 1000", :hangs},
      {"echo hello >&0; exec sleep 1000", :wrong},
      {"printf R >&0; exec sleep 1000", :wrong},
      {~S[exec perl -e 'open S, ">&=0"; syswrite S, "p" x 65536 while 1'], :wrong},
      {"exec sleep 1000 <&-", :wrong}
    ]

    test "silent, stopped, saying what it must not, ready without its fds: an error, and it is killed" do
      directory = tmp_dir()
      path = Path.join(directory, "net_runner/priv/shepherd")
      started = Path.join(directory, "started")
      flags = Faults.install(directory, &File.cp!(Faults.shepherd(), &1))

      victim =
        Victim.start(
          """
          #{count()}
          again = fn again ->
            NetRunner.Test.OS.eventually(fn -> NetRunner.ForkServer.lacks() != :error end)
            before = count.()
            {:ok, {:running, ready}} = NetRunner.Table.fork_server()
            "never ready\n" = IO.gets("")
            NetRunner.ForkServer.unresponsive(ready)
            :sys.get_state(NetRunner.ForkServer)
            runs = for _ <- 1..2, do: Task.async(fn -> NetRunner.run(["true"]) end)
            say.(:asked)
            # What the first command does that has waited for so long.
            with "too long\n" <- IO.gets(""),
                 {:ok, {:running, hung}} <- NetRunner.Table.fork_server(),
                 do: NetRunner.ForkServer.unresponsive(hung)
            say.(Task.await_many(runs, 60_000))
            "ready\n" = IO.gets("")
            say.({NetRunner.run(["echo", "x"]), same.(before)})
            again.(again)
          end
          say.(NetRunner.run(["echo", "x"]))
          again.(again)
          """,
          flags: flags ++ @silent
        )

      assert {"x\n", 0} = Victim.term(victim)

      for {script, how} <- @never_ready do
        File.rm(started)
        File.rm!(path)
        put(path, "#!/bin/sh\necho $$ >>'#{started}'\n#{script}\n")
        Victim.tell(victim, "never ready")
        assert :asked = Victim.term(victim)
        OS.eventually(fn -> File.exists?(started) end)
        left = for %{os_pid: os_pid, start: start} <- started_by(victim), do: {os_pid, start}
        on_exit(fn -> OS.clean_up(left) end)
        # With NETRUNNER_SOAK it is waited until the time is up.
        Victim.tell(victim, if(how == :hangs and not soak?(), do: "too long", else: "wait"))

        assert {script, [{:error, {:fork_server, :eof}}, {:error, {:fork_server, :eof}}]} ==
                 {script, Victim.term(victim)}

        OS.eventually(fn -> started_by(victim) == [] end)

        put(path, File.read!(Faults.shepherd()))
        Victim.tell(victim, "ready")
        assert {{"x\n", 0}, :same} = Victim.term(victim)
      end
    end

    test "silent: not left when nobody has heard of it, nor when the application stops, or is killed" do
      for stop <- [
            "Application.stop(:net_runner)",
            "Process.exit(Process.whereis(NetRunner.Supervisor), :kill)"
          ] do
        flags = Faults.install(tmp_dir(), &put(&1, "#!/bin/sh\nexec sleep 1000\n"))

        victim =
          Victim.start(
            """
            path = Application.app_dir(:net_runner, "priv/shepherd")
            start = fn -> {:ok, _} = NetRunner.Nif.fork_server_start(path, Process.whereis(:init)) end
            {pid, ref} = spawn_monitor(start)
            receive do: ({:DOWN, ^ref, :process, ^pid, reason} -> say.(reason))
            wait.()
            #{stop}
            wait.()
            """,
            flags: flags ++ @silent
          )

        assert :normal = Victim.term(victim)
        left = for %{os_pid: os_pid, start: start} <- started_by(victim), do: {os_pid, start}
        on_exit(fn -> OS.clean_up(left) end)
        # The application's.
        OS.eventually(fn -> length(started_by(victim)) == 1 end)
        Victim.tell(victim, "stop")
        OS.eventually(fn -> started_by(victim) == [] end)
      end
    end

    # Zombies too. The VM's own is there before NetRunner is.
    defp started_by(victim), do: Enum.reject(OS.children(victim.os_pid), &(&1.name == "erl_child_setup"))

    # A priv/ to be mounted over, the NIF, and the options of a VM that takes the application from there.
    defp install_elsewhere do
      directory = tmp_dir()
      flags = Faults.install(directory, fn _path -> :ok end)
      nif = Application.app_dir(:net_runner, "priv/net_runner_nif.so")
      {Path.join(directory, "net_runner/priv"), nif, flags}
    end

    @mounts Skip.unless_mounts()

    @tag skip: @mounts
    test "on a file system that is mounted noexec, until it is mounted otherwise" do
      {priv, nif, flags} = install_elsewhere()

      victim =
        namespace(
          """
          mount -t tmpfs -o noexec none '#{priv}' && ln -s '#{nif}' '#{priv}' && cp '#{Faults.shepherd()}' '#{priv}'
          """,
          """
          say.(NetRunner.run(["true"]))
          {"", 0} = System.cmd("mount", ["-o", "remount,exec", #{inspect(priv)}])
          say.(NetRunner.run(["echo", "x"]))
          wait.()
          """,
          flags
        )

      assert {:error, {:fork_server, :eacces}} = Victim.term(victim)
      assert {"x\n", 0} = Victim.term(victim)
    end

    @tag skip: @mounts
    test "and a NIF there as well: the application does not start and says why, until it can" do
      {priv, nif, flags} = install_elsewhere()

      victim =
        namespace(
          """
          mount -t tmpfs -o noexec none '#{priv}' && cp '#{nif}' '#{Faults.shepherd()}' '#{priv}'
          """,
          """
          say.(NetRunner.run(["true"]))
          {"", 0} = System.cmd("mount", ["-o", "remount,exec", #{inspect(priv)}])
          :ok = Application.start(:net_runner)
          say.(NetRunner.run(["echo", "x"]))
          wait.()
          """,
          flags,
          # In the place of the match that starts it.
          "say.(Application.ensure_all_started(:net_runner))"
        )

      assert {:error, {:net_runner, {{:nif_not_loaded, path}, _where}}} = Victim.term(victim)
      assert path == Path.join(priv, "net_runner_nif.so")
      assert {:error, :not_started} = Victim.term(victim)
      assert {"x\n", 0} = Victim.term(victim)
    end
  end

  # A user of this test alone: the quota counts all that a user has.
  @user 54_322
  # What a pipe has, and has when the quota is used up (pipe(7), "/proc files").
  @pages 16
  @usual 65_536
  @least 8_192

  @quota (case File.read("/proc/sys/fs/pipe-user-pages-soft") do
            {:ok, text} -> text |> String.trim() |> String.to_integer()
            {:error, _posix} -> 0
          end)

  @tag skip:
         if(@quota not in 1..20_000, do: "the quota of pipes is #{@quota} pages: none, or too many") ||
           Skip.unless_other_user()
  test "more pipes than the user's quota of pages: they are small, and all bytes arrive" do
    # Three pipes each. The last ones are past the quota.
    commands = div(@quota, 3 * @pages) + 20

    victim =
      Victim.start(
        """
        size = fn -> NetRunner.run(["perl", "-e", "print fcntl(STDOUT, 1032, 0)"]) end
        data = for(n <- 1..60_000, into: "", do: "\#{n} ")
        all = fn all, p, read ->
          case Proc.read(p) do
            {:ok, more} -> all.(all, p, [read, more])
            :eof -> IO.iodata_to_binary(read)
          end
        end
        converse = fn p ->
          writer = Task.async(fn -> {Proc.write(p, data), Proc.close_stdin(p)} end)
          {all.(all, p, []) == data, Task.await(writer, 60_000), Proc.await_exit(p)}
        end
        start = fn command, arguments -> Proc.start(command, arguments, owner: nil, stderr: :pipe) end

        say.(size.())
        {:ok, usual} = start.("sh", ["-c", "read line; head -c 20000000 /dev/zero"])
        # A few at a time: a shepherd that is starting has a pipe of its own, which uses up the quota and is gone then.
        started =
          for {:ok, result} <- Task.async_stream(1..#{commands}, fn _ -> start.("cat", []) end, max_concurrency: 4, timeout: 60_000),
              do: result

        say.(Enum.uniq(for result <- started, not match?({:ok, _}, result), do: result))
        say.(size.())
        # A pipe that has the usual size is not grown.
        :ok = Proc.write(usual, "\n")
        say.(byte_size(all.(all, usual, [])))
        cats = for {:ok, p} <- started, do: p
        some = Enum.take(cats, 10) ++ Enum.take(cats, -20)
        say.(Enum.uniq(Task.await_many(for(p <- some, do: Task.async(fn -> converse.(p) end)), 60_000)))
        for p <- [usual | cats], do: :ok = Proc.stop(p)
        say.(size.())
        wait.()
        """,
        shell:
          "cd / && HOME=/tmp exec prlimit --nofile=16384 setpriv --reuid #{@user} --clear-groups \"$0\" \"$@\""
      )

    assert Victim.term(victim) == {"#{@usual}", 0}
    assert Victim.term(victim) == []
    assert Victim.term(victim) == {"#{@least}", 0}
    assert Victim.term(victim) == 20_000_000
    assert Victim.term(victim) == [{true, {:ok, :ok}, {:ok, 0}}]
    assert Victim.term(victim) == {"#{@usual}", 0}
  end

  test "a pipe that is written to, and left full again and again, is grown" do
    # When our end is closed it is made smaller again, where what is in it has room.
    script =
      "do { $now = fcntl(STDIN, 1032, 0); $most = $now if $now > $most } while sysread(STDIN, $bytes, 512); print $most"

    pieces = fn count, size -> List.duplicate(String.duplicate("x", size), count) end

    for {input, size} <- [
          {pieces.(1, 100_000), 65_536},
          {pieces.(100, 100_000), 1_048_576},
          {Stream.concat([pieces.(100, 100_000)]), 1_048_576},
          # As much as a pipe holds is written whole, or not at all.
          {Stream.concat([pieces.(200, 65_536)]), 1_048_576}
        ] do
      assert NetRunner.run(["perl", "-e", script], input: input) == {"#{size}", 0}
    end
  end

  # The kernel counts the pages of a pipe as long as anybody has it open.
  test "pipes that commands keep open after their input has ended take no more than a quarter of the user's quota" do
    # Each has half a megabyte of its input in a pipe that nobody reads any more.
    script =
      "$| = 1; while ($n < 1_900_000) { $n += sysread(STDIN, $bytes, 65536) } print fcntl(STDIN, 1032, 0); sleep 600"

    input = List.duplicate(String.duplicate("x", 100_000), 24)
    {:ok, text} = File.read("/proc/sys/fs/pipe-user-pages-soft")
    pages = with 0 <- text |> String.trim() |> String.to_integer(), do: 16_384

    sizes =
      for _ <- 1..70 do
        {:ok, p} = Proc.start("perl", ["-e", script])
        writer = Task.async(fn -> Proc.write(p, input) end)
        {:ok, size} = Proc.read(p)
        # Of one that was not grown there is no room for all.
        if size == "1048576", do: :ok = Task.await(writer), else: Task.shutdown(writer, :brutal_kill)
        :ok = Proc.close_stdin(p)
        {p, size}
      end

    grown = for {_p, size} <- sizes, size == "1048576", do: size
    assert length(grown) in 1..div(pages, 4 * 240)
    for {p, _size} <- sizes, do: :ok = Proc.stop(p)
  end

  test "what a command's pipe was grown by is free when it is over, whoever still refers to the pipe" do
    # It reads more slowly than we write, and closes its input while that is full.
    script =
      "while ($n < 2_000_000) { $n += sysread(STDIN, $bytes, 65536); select undef, undef, undef, 0.001 } " <>
        "print fcntl(STDIN, 1032, 0)"

    input = List.duplicate(String.duplicate("x", 100_000), 40)
    test = self()

    for _ <- 1..24 do
      spawn_link(fn ->
        send(test, {:ran, NetRunner.run(["perl", "-e", script], input: input)})
        Process.sleep(:infinity)
      end)

      assert_receive {:ran, {"1048576", 0}}, 60_000
    end
  end

  # A VM in a mount namespace of its own.
  defp namespace(prepare, code, flags, start \\ nil) do
    shell =
      "exec unshare --mount sh -c '{ #{String.replace(prepare, "'", "'\\''")} } && exec \"$0\" \"$@\"' \"$0\" \"$@\""

    opts = [flags: flags ++ @silent, shell: shell] ++ if(start, do: [start: start], else: [])
    Victim.start(code, opts)
  end

  # Each line that the victim is told: a new fork server is started, and it says what comes of that.
  defp restart_and_try do
    """
    #{count()}
    try_without = fn again ->
      before = count.()
      case IO.gets("") do
        "without\\n" ->
          {:ok, {:running, fork_server}} = NetRunner.Table.fork_server()
          NetRunner.ForkServer.unresponsive(fork_server)
          :sys.get_state(NetRunner.ForkServer)
          once = fn -> {NetRunner.run(["true"]), NetRunner.run(["cat"], input: "x"), Proc.start("true")} end
          say.(Enum.reduce(1..5, {}, fn _, all -> List.to_tuple(Tuple.to_list(all) ++ Tuple.to_list(once.())) end))
          "with\\n" = IO.gets("")
          say.({NetRunner.run(["echo", "x"]), same.(before)})
          again.(again)
      end
    end
    """
  end

  # What the VM has, and whether it comes to have the same again.
  defp count do
    """
    count = fn ->
      for pid <- Process.list(), do: :erlang.garbage_collect(pid)
      {File.ls!("/proc/self/fd") |> length(), NetRunner.Nif.resource_counts(), length(Process.list())}
    end
    same = fn before ->
      try do
        NetRunner.Test.OS.eventually(fn -> count.() == before end)
        :same
      rescue
        _ -> {before, count.()}
      end
    end
    """
  end

  defp put(path, contents, mode \\ 0o755) do
    File.write!(path, contents)
    File.chmod!(path, mode)
  end

  # elf(5), e_machine: PA-RISC, which nothing runs here, be it emulated.
  defp other_machine(<<start::binary-18, _machine::binary-2, rest::binary>>),
    do: <<start::binary, 15, 0, rest::binary>>
end
