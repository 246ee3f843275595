defmodule NetRunner.System.FilesTest do
  @moduledoc false
  # Output that goes to a file, or where the VM's own goes: no byte passes the VM, and what cannot be opened is
  # a value.
  use NetRunner.Test.SystemCase, async: false

  setup do
    directory = tmp_dir()
    %{directory: directory, path: Path.join(directory, "file")}
  end

  @both sh("echo out; echo err >&2")

  describe "a file" do
    test "gets the output, which nobody else gets", %{path: file} do
      assert {"", 0} = NetRunner.run(@both, stdout: {:file, file})
      assert File.read!(file) == "out\n"
      assert {"out\n", 0} = NetRunner.run(@both, stderr: {:file, file})
      assert File.read!(file) == "err\n"
      assert {"", 0, "err\n"} = NetRunner.run(@both, stdout: {:file, file}, stderr: :capture)
      assert "" = NetRunner.run!(@both, stdout: {:file, file})

      assert {:ok, %{stdout: "", stderr: "err\n", stats: %{bytes_out: 0}}} =
               NetRunner.capture(@both, stdout: {:file, file})

      assert [] = @both |> NetRunner.stream!(stdout: {:file, file}) |> Enum.to_list()
      {:ok, stream} = NetRunner.stream(@both, stdout: {:file, file}, stderr: :stream)
      assert [{:stderr, "err\n"}, {:exit, 0}] = Enum.to_list(stream)
      assert File.read!(file) == "out\n"
    end

    test "is the command's fd, and blocks as a program expects", %{path: file} do
      for {how, flags} <- [file: 0o1, append: 0o2001] do
        {:ok, p} = Proc.start("cat", [], stdout: {how, file}, stderr: {how, file <> "2"})
        assert [{0, _}, {1, ^file}, {2, stderr} | _] = OS.fds(Proc.os_pid(p))
        assert stderr == file <> "2"
        info = File.read!("/proc/#{Proc.os_pid(p)}/fdinfo/1")
        [_, octal] = Regex.run(~r/^flags:\s+(\d+)$/m, info)
        # O_WRONLY and O_APPEND; of the others O_NONBLOCK is not there, O_LARGEFILE may be (open(2)).
        assert Bitwise.band(String.to_integer(octal, 8), 0o6003) == flags
        assert :ok = Proc.stop(p)
      end

      # Our own copies are closed.
      refute Enum.any?(OS.fds(OS.vm()), fn {_fd, target} -> String.starts_with?(target, file) end)
    end

    test "is emptied with :file, and grows with :append", %{path: file} do
      File.write!(file, "what was there before\n")
      assert {"", 0} = NetRunner.run(~w(echo one), stdout: {:append, file})
      assert File.read!(file) == "what was there before\none\n"
      assert {"", 0} = NetRunner.run(~w(echo two), stdout: {:file, file})
      assert {"", 0} = NetRunner.run(~w(echo three), stdout: {:append, file})
      assert File.read!(file) == "two\nthree\n"
    end

    test "of many commands at once gets every line whole with :append", %{path: file} do
      line = String.duplicate("x", 1_000)

      1..20
      |> Enum.map(fn n ->
        Task.async(fn ->
          NetRunner.run(sh("for i in 1 2 3; do echo $0$1; done", ["#{line}#{n}"]), stdout: {:append, file})
        end)
      end)
      |> Task.await_many(:infinity)
      |> then(&assert Enum.all?(&1, fn result -> result == {"", 0} end))

      lines = file |> File.read!() |> String.split("\n", trim: true)
      assert length(lines) == 60
      assert lines |> Enum.uniq() |> length() == 20
    end

    test "for both: :redirect shares it, the same path twice is opened twice", %{path: file} do
      script = sh("echo 1; echo 2 >&2; echo 3")
      assert {"", 0} = NetRunner.run(script, stdout: {:file, file}, stderr: :redirect)
      assert File.read!(file) == "1\n2\n3\n"
      assert {"", 0} = NetRunner.run(script, stdout: {:append, file}, stderr: {:append, file})
      assert File.read!(file) == "1\n2\n3\n1\n2\n3\n"
      # As with >f 2>f in a shell.
      assert {"", 0} = NetRunner.run(script, stdout: {:file, file}, stderr: {:file, file})
      assert File.read!(file) == "2\n3\n"
    end

    test "has the bytes of its name, the VM's umask, and starts at the VM's directory", %{
      directory: directory
    } do
      name = Path.join(directory, <<"caf", 233>>)
      assert {"", 0} = NetRunner.run(~w(echo hi), stdout: {:file, name})
      assert {:ok, "hi\n"} = File.read(name)

      before = File.cwd!()
      on_exit(fn -> File.cd!(before) end)
      File.cd!(directory)
      assert {"", 0} = NetRunner.run(~w(echo hi), stdout: {:file, "relative"}, cd: "/", umask: 0o077)
      File.cd!(before)
      assert %{mode: mode} = File.stat!(Path.join(directory, "relative"))
      {umask, 0} = System.cmd("sh", ["-c", "umask"])
      umask = umask |> String.trim() |> String.to_integer(8)
      assert Bitwise.band(mode, 0o777) == Bitwise.band(0o666, Bitwise.bnot(umask))
    end

    test "takes more than a pipe holds, from a command that is also fed", %{path: file} do
      input = :binary.copy("0123456789", 100_000)
      assert {"", 0} = NetRunner.run(~w(cat), input: input, stdout: {:file, file})
      assert File.read!(file) == input
    end

    test "of a Process: reading it is as with :disabled", %{path: file} do
      for stdout <- [:disabled, {:file, file}] do
        {:ok, p} = Proc.start("cat", [], stdout: stdout, stderr: stdout)
        assert {:error, :closed} = Proc.read(p)
        assert {:error, :closed} = Proc.read_stderr(p)
        assert {:error, :closed} = Proc.read_any(p)
        assert {:error, :closed} = Proc.close_stdout(p)
        assert "" = Proc.stderr_tail(p)
        assert :ok = Proc.write(p, "hello")
        assert :ok = Proc.close_stdin(p)
        assert {:ok, 0} = Proc.await_exit(p)
        assert Proc.stats(p).bytes_out == 0
        assert :ok = Proc.stop(p)
      end

      assert File.read!(file) == "hello"
    end

    test "does not keep run waiting for who else has it open", %{path: file} do
      assert {"", 3} = NetRunner.run(sh("sleep 60 & exit 3"), stdout: {:file, file})
    end
  end

  describe "what cannot be opened" do
    # The same reason from every function, nothing has run, and nothing is left.
    defp assert_not_opened(options, reason) do
      assert {:error, ^reason} = NetRunner.run(~w(echo hello), options)
      assert {:error, ^reason} = NetRunner.run(~w(cat), [input: "input"] ++ options)
      assert {:error, ^reason} = NetRunner.capture(~w(echo hello), options)
      assert {:error, ^reason} = Proc.start("echo", ["hello"], options)
      error = assert_raise NetRunner.Error, fn -> NetRunner.run!(~w(echo hello), options) end
      assert error.reason == reason

      error =
        assert_raise NetRunner.Error, fn -> ~w(echo hello) |> NetRunner.stream!(options) |> Enum.to_list() end

      assert error.reason == reason
      assert {"works\n", 0} = NetRunner.run(~w(echo works))
    end

    test "has its errno and says which output", %{directory: directory, path: file} do
      census = Census.take()
      assert_not_opened([stdout: {:file, file <> "/"}], {:stdout, :eisdir})
      assert_not_opened([stdout: {:append, directory}], {:stdout, :eisdir})
      assert_not_opened([stdout: {:file, Path.join(file, "below")}], {:stdout, :enoent})
      assert_not_opened([stderr: {:append, Path.join(file, "below")}], {:stderr, :enoent})
      # The other one is open then.
      assert_not_opened([stdout: {:file, file}, stderr: {:file, directory}], {:stderr, :eisdir})
      assert_not_opened([stdout: {:file, Path.join(file, "x")}], {:stdout, :enotdir})
      File.ln_s!("loop", Path.join(directory, "loop"))
      assert_not_opened([stdout: {:file, Path.join(directory, "loop")}], {:stdout, :eloop})
      long = Path.join(directory, String.duplicate("x", 300))
      assert_not_opened([stdout: {:file, long}], {:stdout, :enametoolong})
      Census.assert_unchanged(census)
    end

    defp read_bytes(_p, missing) when missing <= 0, do: missing

    defp read_bytes(p, missing) do
      {:ok, data} = Proc.read(p)
      read_bytes(p, missing - byte_size(data))
    end

    test "is named in the message", %{directory: directory} do
      missing = Path.join(directory, "no/file")
      error = catch_error(NetRunner.run!(~w(true), stdout: {:append, missing}))

      assert Exception.message(error) =~
               "cannot open #{inspect(missing)} for stdout: no such file or directory (enoent)"
    end

    test "is emptied or made all the same when the command cannot start", %{path: file} do
      assert {:error, {:exec, :enoent}} =
               NetRunner.run(["net-runner-has-no-such-program"], stdout: {:file, file})

      assert File.read!(file) == ""
    end

    test "is, without a reader, a FIFO: nothing waits for one", %{directory: directory} do
      fifo = Path.join(directory, "fifo")
      {"", 0} = System.cmd("mkfifo", [fifo])
      assert_not_opened([stdout: {:file, fifo}], {:stdout, :enxio})

      {:ok, reader} = Proc.start("sh", ["-c", "exec 3<>\"$0\"; echo ready; exec cat <&3", fifo])
      assert {:ok, "ready\n"} = Proc.read(reader)
      # Far more than it holds: the command has to wait.
      {:ok, writer} = Proc.start("head", ~w(-c 300000 /dev/zero), stdout: {:append, fifo})
      assert read_bytes(reader, 300_000) == 0
      assert {:ok, 0} = Proc.await_exit(writer)
      assert :ok = Proc.stop(writer)
      assert :ok = Proc.stop(reader)
    end
  end

  describe "a full disk" do
    test "is an error of the command's own writes: its status tells" do
      assert {"", status} = NetRunner.run(~w(head -c 100000 /dev/zero), stdout: {:file, "/dev/full"})
      assert status != 0

      assert {"", status, stderr} =
               NetRunner.run(~w(cat), input: "x", stdout: {:file, "/dev/full"}, stderr: :capture)

      assert status != 0 and stderr =~ "No space left on device"
      assert {"", 0} = NetRunner.run(~w(echo hello), stdout: {:append, "/dev/null"})
    end

    @tag skip: Skip.unless_mounts()
    test "a file system of 64 KiB and four inodes: full, refilled, read-only, gone", %{directory: directory} do
      victim =
        Victim.start(
          """
          [file, other, log] = for name <- ["file", "other", "log"], do: Path.join(#{inspect(directory)}, name)
          fill = ["head", "-c", "1000000", "/dev/zero"]
          {"", status, stderr} = NetRunner.run(fill, stdout: {:file, file}, stderr: :capture)
          say.({status != 0, stderr =~ "No space left on device", File.stat!(file).size <= 65_536})
          # stderr has no room either, and nothing hangs.
          say.(elem(NetRunner.run(fill, stdout: {:append, file}, stderr: {:append, file}), 1) != 0)
          # Room again.
          say.({NetRunner.run(~w(echo again), stdout: {:file, file}), File.read!(file)})
          # Directory, file, other and log: no inode is left.
          {"", 0} = NetRunner.run(~w(true), stdout: {:file, other}, stderr: {:file, log})
          say.(NetRunner.run(~w(true), stdout: {:file, file <> "4"}))
          say.(NetRunner.run(~w(true), stderr: {:append, file <> "4"}))
          File.rm!(other)
          say.(NetRunner.run(~w(true), stdout: {:file, file <> "4"}))
          {_, 0} = System.cmd("mount", ["-o", "remount,ro", #{inspect(directory)}])
          say.(NetRunner.run(~w(true), stdout: {:file, file}))
          say.(NetRunner.run(~w(echo works)))
          wait.()
          """,
          shell: """
          exec unshare --mount sh -c 'mount -t tmpfs -o size=64k,nr_inodes=4 none "#{directory}" && exec "$0" "$@"' "$0" "$@"
          """
        )

      assert Victim.term(victim) == {true, true, true}
      assert Victim.term(victim) == true
      assert Victim.term(victim) == {{"", 0}, "again\n"}
      assert Victim.term(victim) == {:error, {:stdout, :enospc}}
      assert Victim.term(victim) == {:error, {:stderr, :enospc}}
      assert Victim.term(victim) == {"", 0}
      assert Victim.term(victim) == {:error, {:stdout, :erofs}}
      assert Victim.term(victim) == {"works\n", 0}
    end

    test "a limit on the size of files: SIGXFSZ", %{path: file} do
      command = ~w(head -c 100000 /dev/zero)
      assert {:ok, result} = NetRunner.capture(command, stdout: {:file, file}, rlimits: [fsize: 4096])
      assert result.status != 0
      assert File.stat!(file).size == 4096
    end
  end

  @tag skip: Skip.unless_other_user()
  test "the VM's rights count: eacces", %{directory: directory, path: file} do
    File.write!(file, "")
    File.chmod!(directory, 0o755)
    File.chmod!(file, 0o644)

    victim =
      Victim.start(
        """
        say.(NetRunner.run(~w(echo x), stdout: {:append, #{inspect(file)}}))
        say.(NetRunner.run(~w(echo x), stdout: {:file, #{inspect(Path.join(directory, "new"))}}))
        wait.()
        """,
        shell: ~S(cd / && HOME=/tmp exec setpriv --reuid 54322 --clear-groups "$0" "$@")
      )

    assert Victim.term(victim) == {:error, {:stdout, :eacces}}
    assert Victim.term(victim) == {:error, {:stdout, :eacces}}
  end

  describe ":inherit" do
    test "is where the VM's own goes: the same pipe, the same files", %{path: file} do
      code = """
      same = fn fd -> File.read_link!("/proc/self/fd/" <> to_string(fd)) end
      {:ok, p} = Proc.start("cat", [], stdout: :inherit, stderr: :inherit)
      of = fn fd -> File.read_link!("/proc/" <> to_string(Proc.os_pid(p)) <> "/fd/" <> to_string(fd)) end
      say.({of.(1) == same.(1), of.(2) == same.(2), same.(2), Proc.read(p)})
      Proc.write(p, "from the command\\n")
      Proc.close_stdin(p)
      {:ok, 0} = Proc.await_exit(p)
      say.(NetRunner.run(["sh", "-c", "echo to stderr >&2; echo through us"], stderr: :inherit))
      say.(NetRunner.run(["sh", "-c", "echo both >&2"], stdout: :inherit, stderr: :redirect))
      wait.()
      """

      victim = Victim.start(code, shell: ~s(exec "$0" "$@" 2>>"#{file}"))
      assert Victim.term(victim) == {true, true, file, {:error, :closed}}
      assert Victim.line(victim) == "from the command"
      assert Victim.term(victim) == {"through us\n", 0}
      assert Victim.line(victim) == "both"
      assert Victim.term(victim) == {"", 0}
      assert File.read!(file) =~ "to stderr\n"
    end

    test "of a VM that was started without one is /dev/null, which Erlang puts there" do
      victim =
        Victim.start(
          "say.(NetRunner.run(~w(readlink /proc/self/fd/2), stderr: :inherit)); wait.()",
          shell: ~S(exec "$0" "$@" 2>&-)
        )

      assert Victim.term(victim) == {"/dev/null\n", 0}
    end
  end
end
