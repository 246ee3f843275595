defmodule NetRunner.Test.SystemCase do
  @moduledoc false
  # For tests on real processes. When a test has ended, nothing that it started may be left: the test process
  # is gone by then, and with it, by NetRunner's promise, every command that it owned.

  use ExUnit.CaseTemplate

  alias NetRunner.Test.{Group, OS}

  using do
    quote do
      import NetRunner.Test.SystemCase

      alias NetRunner.Process, as: Proc
      alias NetRunner.Test.{Census, Mailbox, OS, Skip, Tell, Tree, Victim}

      @moduletag :system
      # Rather the name of the test that hangs than a suite that hangs.
      @moduletag timeout: soak(120_000, :infinity)
      unless File.exists?("/proc/self/stat"), do: @moduletag(skip: "what there is, is seen in /proc")
    end
  end

  setup do
    on_exit(&assert_nothing_left/0)
  end

  defp assert_nothing_left do
    OS.eventually(fn -> OS.commands() == [] end, 15_000)
  rescue
    ExUnit.AssertionError ->
      left = OS.commands()
      OS.clean_up(for one <- left, do: {one.os_pid, one.start})

      # One that forks the next and exits has another number by now, and the same group. A command leads its session.
      Group.clean_up(Enum.uniq(for one <- left, one.group == one.session, do: one.group))
      reraise "the test has left processes behind: #{inspect(left)}", __STACKTRACE__
  end

  @doc "How long a call takes, in ms, and what it returns."
  def timed(fun) do
    {microseconds, result} = :timer.tc(fun)
    {div(microseconds, 1000), result}
  end

  @doc "A shell command."
  def sh(script, arguments \\ []), do: ["sh", "-c", script, "sh" | arguments]

  @doc "A process that runs `fun`, unlinked, monitored by nobody; the test says when it ends."
  def background(fun) do
    pid = spawn(fun)
    on_exit(fn -> Process.exit(pid, :kill) end)
    pid
  end

  @doc "Ends a process, and returns when it has ended."
  def end_process(pid, reason \\ :kill) do
    ref = Process.monitor(pid)
    Process.exit(pid, reason)

    receive do
      {:DOWN, ^ref, :process, ^pid, _reason} -> :ok
    end
  end

  @doc "A directory of this test, removed when it ends."
  def tmp_dir do
    path = Path.join(System.tmp_dir!(), "net_runner-#{System.pid()}-#{System.unique_integer([:positive])}")
    File.mkdir_p!(path)
    on_exit(fn -> File.rm_rf!(path) end)
    path
  end

  @doc "An executable file with these contents."
  def executable(directory, name, contents, mode \\ 0o755) do
    path = Path.join(directory, name)
    File.write!(path, contents)
    File.chmod!(path, mode)
    path
  end

  @doc "Whether the long variants run: NETRUNNER_SOAK=1."
  def soak?, do: System.get_env("NETRUNNER_SOAK") == "1"

  @doc "`usual`, or `long` in a soak."
  def soak(usual, long), do: if(soak?(), do: long, else: usual)
end
