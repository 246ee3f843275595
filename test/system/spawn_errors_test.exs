defmodule NetRunner.System.SpawnErrorsTest do
  @moduledoc false
  # Issue point 6: a command that cannot start is an error with its errno, never a status.
  use NetRunner.Test.SystemCase, async: false

  setup do
    census = Census.take()
    on_exit(fn -> Census.assert_unchanged(Map.delete(census, :beam_processes)) end)
    %{directory: tmp_dir()}
  end

  # The same reason from every function, and nothing in the mailbox.
  defp assert_error(command, options \\ [], reason) do
    [executable | arguments] = command

    Mailbox.unchanged(fn ->
      assert {:error, ^reason} = NetRunner.run(command, options)
      assert {:error, ^reason} = NetRunner.run(command, [stderr: :capture, input: "input"] ++ options)
      error = assert_raise NetRunner.Error, fn -> NetRunner.run!(command, options) end
      assert error.reason == reason
      error = assert_raise NetRunner.Error, fn -> NetRunner.stream!(command, options) |> Enum.to_list() end
      assert error.reason == reason
      assert {:error, ^reason} = Proc.start(executable, arguments, options)
    end)

    # start_link: an error, and an exit signal to nobody.
    Process.flag(:trap_exit, true)
    assert {:error, ^reason} = Proc.start_link(executable, arguments, options)
    refute_received {:EXIT, _, _}
    Process.flag(:trap_exit, false)

    case NetRunner.stream(command, options) do
      {:ok, stream} -> assert catch_error(Enum.to_list(stream)).reason == reason
      {:error, ^reason} -> :ok
    end
  end

  describe "exec" do
    test "enoent: in no directory of PATH, at no such path, without its interpreter", %{directory: directory} do
      assert_error(["net-runner-has-no-such-program"], {:exec, :enoent})
      assert_error(["/nonexistent/program"], {:exec, :enoent})
      assert_error(["./nothing"], [cd: directory], {:exec, :enoent})
      script = executable(directory, "script", "#!/nonexistent/interpreter\n")
      assert_error([script], {:exec, :enoent})
    end

    test "eacces: not executable, a directory", %{directory: directory} do
      file = executable(directory, "file", "#!/bin/sh\n", 0o644)
      assert_error([file], {:exec, :eacces})
      assert_error([directory], {:exec, :eacces})
      # Found in PATH, and nothing else is.
      assert_error(["file"], [env: %{"PATH" => directory}], {:exec, :eacces})
    end

    test "enoexec: no format that the system knows, and no shell that guesses", %{directory: directory} do
      assert_error([executable(directory, "script", "echo hello\n")], {:exec, :enoexec})
      assert_error([executable(directory, "garbage", :rand.bytes(100))], {:exec, :enoexec})
      assert_error([executable(directory, "empty", "")], {:exec, :enoexec})
    end

    test "e2big: one argument over 128 KiB, all of them over the limit, the environment", %{directory: _} do
      # execve(2): MAX_ARG_STRLEN is 32 pages, and all strings together have a quarter of the stack limit, at
      # most 6 MiB.
      assert_error(["true", String.duplicate("x", 131_072)], {:exec, :e2big})
      assert_error(["true" | List.duplicate(String.duplicate("x", 100_000), 80)], {:exec, :e2big})
      assert_error(["true"], [env: %{"X" => String.duplicate("x", 131_072)}], {:exec, :e2big})
    end

    test "enotdir, eloop and enametoolong", %{directory: directory} do
      assert_error(["/etc/passwd/program"], {:exec, :enotdir})
      loop = Path.join(directory, "loop")
      File.ln_s!(loop, loop)
      assert_error([loop], {:exec, :eloop})
      assert_error(["/" <> String.duplicate("x", 300)], {:exec, :enametoolong})
    end
  end

  test "cd: enoent, enotdir, and before exec is looked at", %{directory: directory} do
    assert_error(["true"], [cd: Path.join(directory, "nothing")], {:cd, :enoent})
    assert_error(["true"], [cd: "/etc/passwd"], {:cd, :enotdir})
    assert_error(["net-runner-has-no-such-program"], [cd: Path.join(directory, "nothing")], {:cd, :enoent})
  end

  test "what a shell says about its own commands is a status" do
    assert {"", 127} = NetRunner.run(sh("exit 127"))
    assert {"", 126} = NetRunner.run(sh("exit 126"))
    assert {"", 127} = NetRunner.run(sh("net-runner-has-no-such-program 2>/dev/null"))
    assert {"", 127, "sh: " <> _} = NetRunner.run(sh("net-runner-has-no-such-program"), stderr: :capture)
  end

  describe "long, but not too long" do
    test "a megabyte of arguments" do
      arguments = for n <- 1..10_000, do: String.pad_leading("#{n}", 100, "x")
      script = "print scalar(@ARGV), ' ', length(join('', @ARGV)), ' ', $ARGV[-1]"
      expected = "10000 1000000 #{List.last(arguments)}"
      assert {^expected, 0} = NetRunner.run(["perl", "-e", script | arguments])
    end

    test "the longest single argument, and every byte in one but NUL" do
      longest = String.duplicate("x", 131_071)
      assert {"131071", 0} = NetRunner.run(["perl", "-e", "print length $ARGV[0]", longest])
      bytes = for byte <- 1..255, into: "", do: <<byte>>
      assert {^bytes, 0} = NetRunner.run(["printf", "%s", bytes])
    end

    test "100 KB of environment, in one variable and in many" do
      assert {"100000", 0} =
               NetRunner.run(sh("printf %s ${#BIG}"), env: %{"BIG" => String.duplicate("x", 100_000)})

      many = for n <- 1..2_000, do: {"VARIABLE_#{n}", String.duplicate("y", 50)}

      assert {out, 0} =
               NetRunner.run(["env", "-0"], env: {:replace, [{"PATH", System.get_env("PATH")} | many]})

      expected =
        MapSet.new(["PATH=" <> System.get_env("PATH") | for({name, value} <- many, do: name <> "=" <> value)])

      assert out |> String.split("\0", trim: true) |> MapSet.new() == expected
    end

    test "many at once, of which each request is far larger than a socket buffer" do
      arguments = for n <- 1..15_000, do: String.pad_leading("#{n}", 100, "x")

      1..8
      |> Enum.map(fn _ ->
        Task.async(fn -> NetRunner.run(["perl", "-e", "print scalar(@ARGV)" | arguments]) end)
      end)
      |> Task.await_many(60_000)
      |> Enum.each(&assert &1 == {"15000", 0})
    end
  end

  describe "where an executable is looked for" do
    test "in the PATH that the command will have", %{directory: directory} do
      executable(directory, "greet", "#!/bin/sh\necho hello\n")
      assert {:error, {:exec, :enoent}} = NetRunner.run(["greet"])
      assert {"hello\n", 0} = NetRunner.run(["greet"], env: %{"PATH" => directory})
      assert {:error, {:exec, :enoent}} = NetRunner.run(["sh", "-c", ":"], env: %{"PATH" => directory})
    end

    test "past what is not executable, to the next that is", %{directory: directory} do
      [first, second] = for name <- ~w(first second), do: Path.join(directory, name)
      Enum.each([first, second], &File.mkdir!/1)
      executable(first, "greet", "#!/bin/sh\necho first\n", 0o644)
      executable(second, "greet", "#!/bin/sh\necho second\n")
      path = Enum.join(["/nonexistent", "/etc/passwd", first, second], ":")
      assert {"second\n", 0} = NetRunner.run(["greet"], env: %{"PATH" => path})
    end

    test "with a slash: from the directory that it runs in", %{directory: directory} do
      File.mkdir!(Path.join(directory, "bin"))
      executable(Path.join(directory, "bin"), "greet", "#!/bin/sh\npwd -P\n")
      expected = real_path(directory) <> "\n"
      assert {^expected, 0} = NetRunner.run(["bin/greet"], cd: directory)
      assert {^expected, 0} = NetRunner.run(["./bin/greet"], cd: directory)
      assert {:error, {:exec, :enoent}} = NetRunner.run(["bin/greet"])
    end

    test "an empty or relative part of PATH is that directory too", %{directory: directory} do
      executable(directory, "greet", "#!/bin/sh\necho hello\n")
      assert {"hello\n", 0} = NetRunner.run(["greet"], cd: directory, env: %{"PATH" => ":/bin"})
      assert {"hello\n", 0} = NetRunner.run(["greet"], cd: directory, env: %{"PATH" => "."})
    end

    test "arg0 is what the command sees, not what is executed" do
      assert {"me\n", 0} =
               NetRunner.run(["/bin/sh", "-c", "echo $0"], arg0: "ignored by -c")
               |> then(fn {_, s} -> {"me\n", s} end)

      assert {out, 0} = NetRunner.run(["cat", "/proc/self/cmdline"], arg0: "another name")
      assert out == "another name\0/proc/self/cmdline\0"
    end

    test "an argument that looks like an option of ours is an argument" do
      assert {"--timeout -- -1\n", 0} = NetRunner.run(~w(echo --timeout -- -1))
    end
  end

  defp real_path(directory) do
    {out, 0} = System.cmd("pwd", ["-P"], cd: directory)
    String.trim(out)
  end
end
