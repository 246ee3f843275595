defmodule NetRunner.System.PtyProgramsTest do
  @moduledoc false
  # Interactive programs on terminals: keys, windows, dialogues.
  use NetRunner.Test.SystemCase, async: false

  import NetRunner.Test.Terminal

  describe "keys" do
    test "Ctrl-C interrupts, Ctrl-\\ quits, Ctrl-D ends the input" do
      for {key, result} <- [{"\x03", {:ok, 130}}, {"\x1c", {:ok, 131}}, {"\x04", {:ok, 0}}] do
        {:ok, p} = Proc.start("sh", ["-c", "ulimit -c 0; stty -echo; echo ready; exec cat"], pty: true)
        assert {:ok, "ready\r\n"} = Proc.read(p)
        :ok = Proc.write(p, key)
        assert Proc.await_exit(p) == result
      end
    end

    @tag :capture_log
    test "Ctrl-C right after the start is not lost" do
      for _ <- 1..soak(50, 2_000) do
        {:ok, p} = Proc.start("cat", [], pty: true)
        :ok = Proc.write(p, "\x03")
        assert {:ok, 130} = Proc.await_exit(p)
        :ok = Proc.stop(p)
      end

      Process.flag(:trap_exit, true)
      {:ok, daemon} = NetRunner.Daemon.start_link(cmd: ~w(cat), pty: true, on_output: :discard)
      :ok = NetRunner.Daemon.write(daemon, "\x03")
      assert_receive {:EXIT, ^daemon, {:signal, :sigint}}, 10_000
    end

    test "Ctrl-C drops the output that is still on its way, unless the terminal has noflsh" do
      program = "$SIG{INT} = sub { exit 3 }; use Fcntl; fcntl(STDOUT, F_SETFL, O_NONBLOCK|O_WRONLY);
                 $n += $w while $w = syswrite STDOUT, 'x' x 100;
                 open F, '>', $ARGV[0]; print F $n; close F; rename $ARGV[0], $ARGV[1]; sleep 1 while 1"

      for {mode, complete?} <- [{"-noflsh", false}, {"noflsh", true}] do
        files = Enum.map(["writing", "written"], &Path.join(tmp_dir(), &1))
        script = "stty -echo #{mode}; exec perl -e \"$0\" \"$@\""
        {:ok, p} = Proc.start("sh", ["-c", script, program | files], pty: true)
        OS.eventually(fn -> File.exists?(List.last(files)) end)
        written = files |> List.last() |> File.read!() |> String.to_integer()
        :ok = Proc.write(p, "\x03")
        assert {:ok, 3} = Proc.await_exit(p)
        assert byte_size(read_all(p)) == written == complete?
      end
    end

    test "Ctrl-Z stops what runs in a shell with jobs, and fg goes on with it" do
      {:ok, p} = bash()
      :ok = Proc.write(p, "cat\n")
      OS.eventually(fn -> "cat" in names() end)
      :ok = Proc.write(p, "\x1a")
      assert read_until(p, "Stopped") =~ "Stopped"
      :ok = Proc.write(p, "fg\n")
      read_until(p, "cat\r\n")
      :ok = Proc.write(p, "again\n")
      read_until(p, "again\r\n")
      :ok = Proc.write(p, "\x04")
      read_until(p, "$ ")
      :ok = Proc.write(p, "exit 5\n")
      assert {:ok, 5} = Proc.await_exit(p)
    end
  end

  describe "programs, whose window is resized while they run" do
    test "bash -i, and what it runs" do
      {:ok, p} = bash()
      :ok = Proc.write(p, "echo size: $(stty size) $LINES.$COLUMNS\n")
      read_until(p, "size: 24 80 24.80\r\n$ ")
      await_sleep(p)
      :ok = Proc.set_window_size(p, 30, 100)
      :ok = Proc.write(p, "stty size\n")
      read_until(p, "30 100\r\n$ ")
      :ok = Proc.write(p, "echo size: $LINES.$COLUMNS\n")
      read_until(p, "size: 30.100\r\n$ ")
      :ok = Proc.write(p, "exit 7\n")
      assert {:ok, 7} = Proc.await_exit(p)
    end

    test "python3 -i: a dialogue" do
      {:ok, p} = Proc.start("python3", ["-i", "-q"], pty: true, env: [{"TERM", "dumb"}])
      read_until(p, ">>> ")
      :ok = Proc.write(p, "6 * 7\n")
      assert read_until(p, ~r/42\r\n.*>>> /s)
      :ok = Proc.write(p, "import os; print(os.get_terminal_size())\n")
      read_until(p, ~r/columns=80, lines=24.*>>> /s)
      :ok = Proc.set_window_size(p, 30, 100)
      :ok = Proc.write(p, "print(os.get_terminal_size())\n")
      read_until(p, ~r/columns=100, lines=30.*>>> /s)
      :ok = Proc.write(p, "\x04")
      assert {:ok, 0} = Proc.await_exit(p)
    end

    test "less: a full screen, another one when the window gets larger, and q" do
      path = file_of_lines()
      {:ok, p} = Proc.start("less", [path], pty: true, env: [{"TERM", "xterm"}, {"LESS", ""}])
      screen = read_until(p, "line 23")
      refute screen =~ "line 24"
      # SIGWINCH makes it draw again.
      await_sleep(p)
      :ok = Proc.set_window_size(p, 41, 80)
      screen = read_until(p, "line 40")
      refute screen =~ "line 41"
      :ok = Proc.write(p, "q")
      assert {:ok, 0} = Proc.await_exit(p)
    end

    @vim Enum.find(["vim", "vim.tiny"], &System.find_executable/1)
    @tag skip: unless(@vim, do: "there is no vim")
    test "vim: draws the lines of a larger window, edits, saves" do
      # A message that does not fit its line must be answered with ENTER; these are shortened.
      path = file_of_lines(String.duplicate("long", 30))
      args = ~w(-u NONE -N -n --cmd) ++ ["set shortmess=aotT", path]
      {:ok, p} = Proc.start(@vim, args, pty: true, env: [{"TERM", "vt100"}, {"EXINIT", nil}])
      screen = read_until(p, "line 23")
      refute screen =~ "line 24"
      await_sleep(p)
      :ok = Proc.set_window_size(p, 41, 80)
      screen = read_until(p, "line 40")
      refute screen =~ "line 41"
      :ok = Proc.write(p, "1GAhello\e:wq\r")
      assert {:ok, 0} = Proc.await_exit(p)
      assert "line 1hello\nline 2\n" <> _ = File.read!(path)
    end

    @tag skip: unless(System.find_executable("top"), do: "there is no top")
    test "top: fills the window that it has" do
      env = [{"TERM", "vt100"}, {"HOME", tmp_dir()}]
      {:ok, p} = Proc.start("top", ["-d", "0.2"], pty: [rows: 12, cols: 60], env: env)
      # A line of its table is as wide as the window, and padded to it.
      read_until(p, ~r/PID USER/)
      await_sleep(p)
      :ok = Proc.set_window_size(p, 12, 132)
      read_until(p, ~r/PID USER[^\r\n\e]{90,}/)
      :ok = Proc.write(p, "q")
      assert {:ok, 0} = Proc.await_exit(p)
    end
  end

  defp file_of_lines(name \\ "lines") do
    path = Path.join(tmp_dir(), name)
    File.write!(path, Enum.map_join(1..1_000, "\n", &"line #{&1}"))
    path
  end

  defp names, do: Enum.map(OS.commands(), & &1.name)
end
