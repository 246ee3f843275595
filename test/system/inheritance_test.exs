defmodule NetRunner.System.InheritanceTest do
  @moduledoc false
  # Issue point 9: what a command has from the start, and what it has not.
  use NetRunner.Test.SystemCase, async: false

  describe "fds" do
    test "0, 1, 2 and no other, in every arrangement of them" do
      for options <- [[], [stderr: :pipe], [stderr: :redirect], [stderr: :disabled], [stdout: :disabled]] do
        {:ok, p} = Proc.start("cat", [], options)
        # It opens libraries and its locale at first; then it waits for input.
        os_pid = Proc.os_pid(p)
        OS.eventually(fn -> OS.state(os_pid) == "S" and length(OS.fds(os_pid)) == 3 end)
        assert [{0, stdin}, {1, stdout}, {2, stderr}] = OS.fds(os_pid)
        assert stdin =~ "pipe:"
        assert stdout =~ if(options[:stdout] == :disabled, do: ~r{^/dev/null$}, else: ~r/pipe:/)

        case options[:stderr] do
          :redirect -> assert stderr == stdout
          :disabled -> assert stderr == "/dev/null"
          _ -> assert stderr =~ "pipe:" and stderr != stdout
        end

        assert :ok = Proc.stop(p)
      end
    end

    test "without input, stdin is /dev/null" do
      assert {"/dev/null\n", 0} = NetRunner.run(~w(readlink /proc/self/fd/0))
      assert {"", 0} = NetRunner.run(~w(cat))
    end

    test "its ends of the pipes block, as a program expects" do
      {:ok, p} = Proc.start("cat", [], stderr: :pipe)

      for fd <- 0..2 do
        [_, flags] = Regex.run(~r/^flags:\s+(\d+)$/m, File.read!("/proc/#{Proc.os_pid(p)}/fdinfo/#{fd}"))
        # O_NONBLOCK (open(2)).
        assert Bitwise.band(String.to_integer(flags, 8), 0o4000) == 0
      end

      assert :ok = Proc.stop(p)
    end

    test "not those of other commands: each sees the end of its own input" do
      first = for _ <- 1..10, do: elem(Proc.start("cat", []), 1)
      others = for _ <- 1..10, do: elem(Proc.start("cat", []), 1)

      for p <- first do
        assert :ok = Proc.close_stdin(p)
        assert :eof = Proc.read(p)
        assert {:ok, 0} = Proc.await_exit(p)
      end

      for p <- first ++ others, do: assert(:ok = Proc.stop(p))
    end

    test "not those that the VM was started with, nor does the fork server keep them" do
      victim =
        Victim.start(
          """
          {:ok, p} = Proc.start("cat", [])
          say.(Proc.os_pid(p))
          wait.()
          """,
          shell: ~S(exec 7</etc/passwd 8>/dev/null 9<>/dev/zero; exec "$0" "$@")
        )

      command = Victim.term(victim)
      OS.eventually(fn -> Enum.map(OS.fds(command), &elem(&1, 0)) == [0, 1, 2] end)
      fork_server = OS.fork_server(victim.os_pid)

      for %{os_pid: os_pid} <- [OS.stat(fork_server) | OS.children(fork_server)] do
        targets = Enum.map(OS.fds(os_pid), &elem(&1, 1))
        refute Enum.any?(targets, &(&1 =~ "passwd" or &1 =~ "zero"))
      end
    end

    test "shepherds and fork server hold exactly what the documentation says" do
      {:ok, p} = Proc.start("cat", [], stderr: :pipe)
      {:ok, other} = Proc.start("cat", [])
      fork_server = OS.fork_server()

      null_and_socket = fn [{0, "/dev/null"}, {1, "/dev/null"}, {2, "/dev/null"}, {_, "socket:" <> _}] ->
        true
      end

      # An idle shepherd that has just been forked still tidies up.
      OS.eventually(fn ->
        OS.fds(fork_server) |> Enum.map(&elem(&1, 1)) |> Enum.map(&String.replace(&1, ~r/\d/, "")) ==
          ["/dev/null", "/dev/null", "/dev/null", "socket:[]", "socket:[]"]
      end)

      for %{os_pid: shepherd} <- OS.children(fork_server) do
        OS.eventually(fn -> length(OS.fds(shepherd)) == 4 end)
        assert null_and_socket.(OS.fds(shepherd))
      end

      assert :ok = Proc.stop(p)
      assert :ok = Proc.stop(other)
    end
  end

  describe "signals" do
    @mask ~w(SigBlk SigIgn SigCgt)

    test "nothing ignored, nothing blocked" do
      assert {out, 0} = NetRunner.run(~w(cat /proc/self/status))
      for line <- @mask, do: assert(out =~ ~r/^#{line}:\s+0{16}$/m)
      assert {"", 141} = NetRunner.run(sh("kill -s PIPE $$"))
    end

    test "whatever the VM was started with" do
      victim =
        Victim.start(
          """
          {out, 0} = NetRunner.run(["cat", "/proc/self/status"])
          say.(out)
          wait.()
          """,
          # Ignored, and some blocked, which only another program can do.
          shell: """
          exec perl -e 'use POSIX; $SIG{$_} = "IGNORE" for qw(HUP INT QUIT PIPE ALRM USR2 TTIN TTOU CHLD WINCH);
            sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGUSR1, SIGXCPU, SIGTSTP)); exec @ARGV' "$0" "$@"
          """
        )

      out = Victim.term(victim)
      for line <- @mask, do: assert(out =~ ~r/^#{line}:\s+0{16}$/m)
      # The VM itself does have them.
      refute OS.status(victim.os_pid, "SigIgn") == "0000000000000000"
    end

    test "the command leads its own session and group, without a terminal" do
      {:ok, p} = Proc.start("cat", [])
      os_pid = Proc.os_pid(p)
      assert %{group: ^os_pid, session: ^os_pid} = OS.stat(os_pid)

      assert {"", 1} =
               NetRunner.run(sh("exec 2>/dev/null; : </dev/tty || exit 1"))
               |> then(fn {out, status} -> {out, min(status, 1)} end)

      assert :ok = Proc.stop(p)
    end
  end

  describe "environment" do
    test "the empty string sets a variable, nil unsets it" do
      System.put_env("NET_RUNNER_TEST_SET", "there")
      on_exit(fn -> System.delete_env("NET_RUNNER_TEST_SET") end)
      show = sh(~S(printf '%s|' "${K+set}" "${K-unset}" "${NET_RUNNER_TEST_SET-unset}"))
      assert {"|unset|there|", 0} = NetRunner.run(show)
      assert {"set||there|", 0} = NetRunner.run(show, env: %{"K" => ""})
      assert {"set|v|unset|", 0} = NetRunner.run(show, env: [{"K", "v"}, {"NET_RUNNER_TEST_SET", nil}])
      assert {"|unset||", 0} = NetRunner.run(show, env: %{"NET_RUNNER_TEST_SET" => ""})
      assert {"set|last|there|", 0} = NetRunner.run(show, env: [{"K", "first"}, {"K", "last"}])
    end

    test "{:replace, env} is all of it" do
      path = System.get_env("PATH")
      assert {out, 0} = NetRunner.run(~w(env -0), env: {:replace, [{"PATH", path}, {"A", "1"}, {"B", ""}]})
      assert Enum.sort(String.split(out, "\0", trim: true)) == Enum.sort(["A=1", "B=", "PATH=#{path}"])
      assert {"", 0} = NetRunner.run([System.find_executable("env")], env: {:replace, %{}})
    end

    test "what System.put_env did a moment ago counts" do
      name = "NET_RUNNER_TEST_#{System.unique_integer([:positive])}"
      on_exit(fn -> System.delete_env(name) end)
      show = sh("printf %s \"${#{name}-unset}\"")

      for value <- ["one", "", "two äöü €", "three"] do
        System.put_env(name, value)
        assert {^value, 0} = NetRunner.run(show)
        assert {:ok, p} = Proc.start("sh", tl(show))
        assert Proc.read(p) == if(value == "", do: :eof, else: {:ok, value})
        assert :ok = Proc.stop(p)
      end

      System.delete_env(name)
      assert {"unset", 0} = NetRunner.run(show)
    end

    test "bytes are as they are: newlines, other encodings, equals signs" do
      for value <- ["a\nb", "=", "a=b=c", <<233, 255, 1>>, "ä€", " "] do
        assert {^value, 0} =
                 NetRunner.run(["printenv", "K"], env: %{"K" => value})
                 |> then(fn {out, s} -> {String.replace_suffix(out, "\n", ""), s} end)
      end

      assert {out, 0} = NetRunner.run(["env", "-0"], env: %{<<"N", 233>> => "x"})
      assert <<"N", 233, "=x">> in String.split(out, "\0")
    end

    test "what the VM was started with keeps its bytes" do
      victim =
        Victim.start(
          """
          {out, 0} = NetRunner.run(["env", "-0"])
          say.(out |> String.split(<<0>>) |> Enum.filter(&String.starts_with?(&1, "RAW")) |> Enum.sort())
          wait.()
          """,
          shell:
            ~S[RAW1=$(printf '\351') RAW2=$(printf 'a\377b') RAW3=$(printf '\303\251') RAW4= exec "$0" "$@"]
        )

      assert Victim.term(victim) == [<<"RAW1=", 233>>, <<"RAW2=a", 255, "b">>, "RAW3=é", "RAW4="]
    end
  end

  describe "no environment at all" do
    test "without SHELL, HOME, USER and TERM, and with a SHELL that is none, commands run" do
      for environment <- ["", "SHELL=/nonexistent"] do
        victim =
          Victim.start(
            """
            say.(System.get_env() |> Map.keys() |> Enum.filter(&(&1 in ~w(SHELL HOME USER TERM))))
            say.(NetRunner.run(["sh", "-c", "echo works"]))
            say.(NetRunner.stream!(["cat"], input: "works") |> Enum.join())
            wait.()
            """,
            shell: ~s(exec env -i PATH="$PATH" #{environment} "$0" "$@")
          )

        assert Victim.term(victim) -- ["SHELL"] == []
        assert {"works\n", 0} = Victim.term(victim)
        assert "works" = Victim.term(victim)
      end
    end
  end

  describe "directory, umask and limits" do
    test "what File.cd! did a moment ago counts" do
      before = File.cwd!()
      on_exit(fn -> File.cd!(before) end)
      [one, two] = for _ <- 1..2, do: tmp_dir()

      for directory <- [one, two] do
        File.cd!(directory)
        assert {out, 0} = NetRunner.run(~w(pwd -P))
        assert Path.basename(String.trim(out)) == Path.basename(directory)
        # And a relative :cd is relative to it.
        File.mkdir!("below")
        assert {out, 0} = NetRunner.run(~w(pwd -P), cd: "below")
        assert String.ends_with?(out, Path.basename(directory) <> "/below\n")
      end

      File.cd!(before)
      assert {out, 0} = NetRunner.run(~w(pwd -P))
      assert String.trim(out) == System.cmd("pwd", ["-P"]) |> elem(0) |> String.trim()
    end

    test "a current directory that has been removed is no reason to fail" do
      victim =
        Victim.start("""
        directory = Path.join(System.tmp_dir!(), "net_runner-removed-" <> System.pid())
        File.mkdir!(directory)
        File.cd!(directory)
        File.rmdir!(directory)
        say.(NetRunner.run(["readlink", "/proc/self/cwd"]))
        say.(NetRunner.run(["sh", "-c", "echo works"], cd: "/"))
        wait.()
        """)

      assert {out, 0} = Victim.term(victim)
      assert out =~ "(deleted)"
      assert {"works\n", 0} = Victim.term(victim)
    end

    test "umask: the VM's, or the option's" do
      victim =
        Victim.start(
          """
          say.(NetRunner.run(["sh", "-c", "umask"]))
          say.(NetRunner.run(["sh", "-c", "umask"], umask: 0o077))
          say.(NetRunner.run(["sh", "-c", "umask"]))
          wait.()
          """,
          shell: ~S(umask 027; exec "$0" "$@")
        )

      for expected <- ["0027\n", "0077\n", "0027\n"], do: assert({^expected, 0} = Victim.term(victim))
    end

    test "the VM's limits, user, groups and priority" do
      victim =
        Victim.start(
          """
          say.(NetRunner.run(["sh", "-c", "ulimit -Sn; ulimit -Hn; nice; id -u; id -G"]))
          say.(System.cmd("sh", ["-c", "ulimit -Sn; ulimit -Hn; nice; id -u; id -G"]))
          wait.()
          """,
          shell: ~S(ulimit -n 333; exec nice -n 3 "$0" "$@")
        )

      ours = Victim.term(victim)
      assert {"333\n333\n" <> _, 0} = ours
      assert Victim.term(victim) == ours
    end

    test "no memory of ours is locked or kept: the command is nobody's thread" do
      assert {out, 0} = NetRunner.run(~w(cat /proc/self/status))
      assert out =~ ~r/^Threads:\s+1$/m
      assert out =~ ~r/^VmLck:\s+0 kB$/m
    end
  end
end
