defmodule NetRunner.System.PtyTest do
  @moduledoc false
  # Terminals: what programs see of them, what is written to them and read from them.
  use NetRunner.Test.SystemCase, async: false

  import NetRunner.Test.Terminal

  describe "what a program sees" do
    test "a terminal as 0, 1 and 2, of 24 by 80, the controlling one of a session of its own" do
      {"/dev/pts/" <> _, 0} = NetRunner.run(~w(tty), pty: true)
      assert {"24 80\r\n", 0} = NetRunner.run(~w(stty size), pty: true)

      script = "for fd in 0 1 2; do test -t $fd && echo $fd; done; echo tty > /dev/tty"
      assert {"0\r\n1\r\n2\r\ntty\r\n", 0} = NetRunner.run(sh(script), pty: true)

      {:ok, p} = Proc.start("cat", [], pty: true)
      os_pid = Proc.os_pid(p)
      assert %{session: ^os_pid, group: ^os_pid} = OS.stat(os_pid)
      # proc(5): the foreground process group of the controlling terminal.
      fields = File.read!("/proc/#{os_pid}/stat") |> String.split(") ") |> List.last() |> String.split()
      assert Enum.at(fields, 5) == to_string(os_pid)
    end

    test "the size and the echo that were asked for, from the first byte" do
      assert {"7 9\r\n", 0} = NetRunner.run(~w(stty size), pty: [rows: 7, cols: 9])
      assert {"x\r\nx\r\n", 0} = NetRunner.run(~w(cat), pty: true, input: "x\n")
      assert {"x\r\n", 0} = NetRunner.run(~w(cat), pty: [echo: false], input: "x\n")
    end

    test "TERM and the rest of the environment as they are given" do
      assert {"vt100\r\n", 0} = NetRunner.run(sh("echo $TERM"), pty: true, env: [{"TERM", "vt100"}])
    end

    test "the same through capture, stream and Daemon" do
      assert {:ok, %{stdout: "24 80\r\n", stderr: ""}} = NetRunner.capture(~w(stty size), pty: true)
      assert ["24 80"] = NetRunner.stream!(~w(stty size), pty: true, lines: 100) |> Enum.map(&String.trim/1)
      test = self()

      {:ok, daemon} =
        NetRunner.Daemon.start_link(
          cmd: sh("stty size; cat"),
          pty: [echo: false],
          on_output: &send(test, {&1, &2})
        )

      assert_receive {:stdout, "24 80\r\n"}, 10_000
      :ok = NetRunner.Daemon.write(daemon, "hello\n")
      assert_receive {:stdout, "hello\r\n"}, 10_000
      :ok = NetRunner.Daemon.stop(daemon)
    end

    @tag skip: Skip.unless_root("only root can become another user")
    test "another user may open it" do
      assert {"again\r\n", 0} = NetRunner.run(sh("echo again > $(tty)"), pty: true, user: "nobody", cd: "/")
    end
  end

  describe "output" do
    test "none is lost, however fast the command exits" do
      1..soak(500, 3_000)
      |> Task.async_stream(
        fn number ->
          lines = rem(number, 3) * 100 + 1
          {output, 0} = NetRunner.run(["seq", "#{number}", "#{number + lines - 1}"], pty: true)
          assert output == Enum.map_join(number..(number + lines - 1), &"#{&1}\r\n")
        end,
        max_concurrency: 8,
        timeout: :infinity
      )
      |> Enum.each(fn {:ok, true} -> :ok end)
    end

    test "what is unread when the command exits can be read, and then :eof, never :eio" do
      # More than has arrived (4 KiB): some is on the way. Without blocking, so that it exits by itself.
      script =
        "use Fcntl; fcntl(STDOUT, F_SETFL, O_NONBLOCK|O_WRONLY); $n += $w while $w = syswrite STDOUT, 'x' x 100;
                open F, '>', $ARGV[0]; print F $n"

      path = Path.join(tmp_dir(), "written")
      {:ok, p} = Proc.start("perl", ["-e", script, path], pty: true)
      assert {:ok, 0} = Proc.await_exit(p)
      written = path |> File.read!() |> String.to_integer()
      assert written > 4_096
      assert byte_size(read_all(p)) == written
      assert :eof = Proc.read(p)
      assert :eof = Proc.read(p)
    end

    test "megabytes" do
      assert {output, 0} = NetRunner.run(~w(head -c 3000000 /dev/zero), pty: true)
      assert output == :binary.copy(<<0>>, 3_000_000)
    end

    test "leftovers: :keep: what is there at the exit, then :eof, though a job holds the terminal" do
      script = "trap '' HUP; sleep 60 & head -c 9000 /dev/zero"
      {output, 0} = NetRunner.run(sh(script), pty: true, leftovers: :keep)
      assert byte_size(output) == 9_000
      for %{os_pid: os_pid} <- OS.commands(), do: OS.kill(os_pid, "KILL")
    end

    test "nobody reads it: the command waits, and the memory does not grow" do
      {:ok, p} = Proc.start("yes", [], pty: true)
      # All that a terminal takes, and no more: it waits in write(2).
      OS.eventually(fn -> OS.state(Proc.os_pid(p)) == "S" end)
      before = :erlang.memory(:total)
      assert {:error, :timeout} = Proc.await_exit(p, 300)
      assert :erlang.memory(:total) - before < 8 * 1024 * 1024
      assert {:ok, "y\r\n" <> _} = Proc.read(p)
      assert :ok = Proc.stop(p)
    end
  end

  describe "the end of the input" do
    test "ends cat, with a line, with an unfinished one, with none, and from an enumerable" do
      off = [pty: [echo: false]]
      assert {"x\r\n", 0} = NetRunner.run(~w(cat), [input: "x\n"] ++ off)
      assert {"x\r\nab", 0} = NetRunner.run(~w(cat), [input: "x\nab"] ++ off)
      assert {"", 0} = NetRunner.run(~w(cat), off)
      assert {"", 0} = NetRunner.run(~w(cat), [input: ""] ++ off)
      assert {"1\r\n2", 0} = NetRunner.run(~w(cat), [input: Stream.map(["1\n", "2"], & &1)] ++ off)
      assert "1\r\n2" = ["1\n", "2"] |> NetRunner.stream!(~w(cat), off) |> Enum.join()
    end

    test "is the terminal's own character, and comes behind all that was written" do
      lines = String.duplicate("0123456789\n", 20_000)
      {:ok, p} = Proc.start("sh", ["-c", "stty eof ^A -echo; echo; exec wc -c"], pty: true)
      assert {:ok, "\r\n"} = Proc.read(p)
      assert :ok = Proc.write(p, lines)
      assert :ok = Proc.close_stdin(p)
      assert :ok = Proc.close_stdin(p)
      assert {:error, :closed} = Proc.write(p, "more")
      assert {:ok, 0} = Proc.await_exit(p)
      assert String.trim(read_all(p)) == "220000"
    end

    test "waits for writes that wait" do
      {:ok, p} = Proc.start("sh", ["-c", "read go; wc -c"], pty: [echo: false])
      :ok = Proc.write(p, "go\n")
      writer = Task.async(fn -> Proc.write(p, String.duplicate("0123456789\n", 10_000)) end)
      OS.eventually(fn -> Proc.stats(p).bytes_in > 3 end)
      assert :ok = Proc.close_stdin(p)
      assert :ok = Task.await(writer)
      assert {:ok, 0} = Proc.await_exit(p)
      assert String.trim(read_all(p)) == "110000"
    end

    test "does not hang the terminal up" do
      {:ok, p} = Proc.start("sh", ["-c", "cat; echo still here; stty size"], pty: [echo: false])
      :ok = Proc.close_stdin(p)
      assert {:ok, 0} = Proc.await_exit(p)
      assert read_all(p) == "still here\r\n24 80\r\n"
    end

    test "there is none in raw mode, and writing goes on" do
      {:ok, p} = Proc.start("sh", ["-c", "stty raw -echo; echo ready; head -c 6000 | wc -c"], pty: true)
      assert {:ok, "ready\n"} = Proc.read(p)
      assert {:error, :not_canonical} = Proc.close_stdin(p)
      # No lines, so none that is too long.
      assert :ok = Proc.write(p, String.duplicate("x", 6_000))
      assert {:ok, 0} = Proc.await_exit(p)
      assert read_all(p) == "6000\n"
    end
  end

  describe "a line that is too long" do
    test "is refused as a whole, and those before it are not; 4,095 bytes are not too many" do
      {:ok, p} = Proc.start("wc", ["-c"], pty: [echo: false])
      assert :ok = Proc.write(p, [String.duplicate("x", 4_095), "\n"])
      assert {:error, :line_too_long} = Proc.write(p, ["a\n", String.duplicate("x", 4_096), "\n"])
      assert :ok = Proc.write(p, String.duplicate("y", 4_000))
      assert {:error, :line_too_long} = Proc.write(p, String.duplicate("y", 96))
      assert :ok = Proc.write(p, String.duplicate("y", 95))
      assert :ok = Proc.close_stdin(p)
      assert {:ok, 0} = Proc.await_exit(p)
      assert String.trim(read_all(p)) == "#{4_096 + 2 + 4_095}"
    end

    test "is an error of run, which stops the command, and is raised from an enumerable" do
      long = String.duplicate("x", 5_000)
      assert {:error, {:input, :line_too_long}} = NetRunner.run(~w(cat), pty: true, input: long)

      assert_raise NetRunner.Error, ~r/4,095 bytes/, fn ->
        NetRunner.run(~w(cat), pty: true, input: Stream.map([long], & &1))
      end
    end
  end

  describe "the window" do
    test "is resized while the command runs, which gets SIGWINCH" do
      {:ok, p} = Proc.start("sh", ["-c", "trap 'stty size' WINCH; echo; while :; do read x; done"], pty: true)
      assert {:ok, "\r\n"} = Proc.read(p)
      assert :ok = Proc.set_window_size(p, 50, 132)
      assert {:ok, "50 132\r\n"} = Proc.read(p)
      # By the end that is left.
      :ok = Proc.close_stdin(p)
      assert :ok = Proc.set_window_size(p, 51, 132)
      assert {:ok, "51 132\r\n"} = Proc.read(p)
    end

    test "what is no size, no terminal, no server" do
      {:ok, p} = Proc.start("cat", [], pty: true)

      for {rows, cols} <- [{0, 80}, {24, 65_536}, {24.0, 80}, {:rows, 80}],
          do: assert({:error, :invalid_window_size} = Proc.set_window_size(p, rows, cols))

      :ok = Proc.stop(p)
      assert {:error, :closed} = Proc.set_window_size(p, 24, 80)
      {:ok, p} = Proc.start("cat")
      assert {:error, :not_a_pty} = Proc.set_window_size(p, 24, 80)
    end
  end

  describe "file descriptors" do
    test "the command has 0, 1 and 2; the shepherd the leader; the VM two, and none is left of many commands" do
      before = Census.take()
      {:ok, p} = Proc.start("cat", [], pty: true)
      os_pid = Proc.os_pid(p)
      OS.eventually(fn -> OS.stat(os_pid).name == "cat" end)
      assert [{0, tty}, {1, tty}, {2, tty}] = OS.fds(os_pid)
      assert "/dev/pts/" <> _ = tty
      leaders = fn of -> Enum.count(OS.fds(of), fn {_fd, target} -> target =~ "ptmx" end) end
      assert leaders.(OS.shepherd(os_pid)) == 1
      assert leaders.(OS.vm()) == 2
      refute Enum.any?(OS.fds(OS.vm()), fn {_fd, target} -> target == tty end)
      :ok = Proc.stop(p)

      for _ <- 1..50, do: NetRunner.run(~w(cat), pty: true, input: "x\n")
      assert {:error, {:exec, :enoent}} = NetRunner.run(~w(no-such-program), pty: true)
      {:ok, p} = Proc.start("cat", [], pty: true)
      :ok = Proc.close_stdin(p)
      :ok = Proc.close_stdout(p)
      :ok = Proc.stop(p)
      Census.assert_unchanged(before)
    end
  end

  describe "options" do
    test "that mean nothing with a terminal, or are malformed, raise" do
      for opts <- [
            [stderr: :capture],
            [stderr: :consume],
            [stdout: :disabled],
            [stderr_tail_bytes: 1]
          ],
          do: assert_raise(ArgumentError, fn -> NetRunner.run(~w(true), [pty: true] ++ opts) end)

      for pty <- [:yes, 1, [rows: 0], [cols: 65_536], [echo: 1], [colour: true], [:rows]],
          do: assert_raise(ArgumentError, ~r/:pty/, fn -> NetRunner.run(~w(true), pty: pty) end)

      assert {"", 0} = NetRunner.run(~w(true), pty: false)
      assert {"", 0} = NetRunner.run(~w(true), pty: true, stderr: :redirect)
    end
  end
end
