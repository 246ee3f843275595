defmodule NetRunner.Test.Terminal do
  @moduledoc false
  # Programs on terminals, and their screens.

  import ExUnit.Assertions

  alias NetRunner.Pipe
  alias NetRunner.Process, as: Proc
  alias NetRunner.Test.OS

  @doc "An interactive shell at its first prompt, `$ `."
  def bash(opts \\ []) do
    env = [{"PS1", "$ "}, {"TERM", "dumb"}]
    {:ok, p} = Proc.start("bash", ["--norc", "-i"], [pty: [echo: false], env: env] ++ opts)
    read_until(p, "$ ")
    {:ok, p}
  end

  @doc "Gives a shell two background jobs, groups of their own, one of which heeds no signal but SIGKILL."
  def start_jobs(p) do
    :ok = Proc.write(p, "sleep 1000 & (trap '' HUP TERM; sleep 1000; sleep 1000) & echo started\n")
    read_until(p, "started\r\n")
    sleeps = fn -> p |> Proc.os_pid() |> OS.descendants() |> Enum.count(&(&1.name == "sleep")) end
    OS.eventually(fn -> sleeps.() == 2 end)
    tree = OS.tree(Proc.os_pid(p))
    assert tree |> Enum.map(fn {os_pid, _} -> OS.stat(os_pid).group end) |> Enum.uniq() |> length() == 3
    tree
  end

  @doc "What has come when it matches; after a minute the test fails and says what there was."
  def read_until(p, pattern, seen \\ "") do
    if seen =~ pattern, do: seen, else: read_until(p, pattern, seen <> more(p, pattern, seen))
  end

  # Less than the time of a test.
  @patience 60_000

  defp more(p, pattern, seen) do
    {:ok, pipe} = Proc.pipe(p, :stdout)
    now = System.monotonic_time(:millisecond)

    case Pipe.read_within(pipe, Pipe.read_size(), now + @patience) do
      {:ok, more} ->
        more

      nothing ->
        state = OS.state(Proc.os_pid(p))
        unread = Pipe.read_within(pipe, Pipe.read_size(), now)
        flunk("no #{inspect(pattern)}: #{nothing}, #{state}, #{inspect(unread)}, after #{inspect(seen)}")
    end
  end

  @doc "All up to the end."
  def read_all(p) do
    case Proc.read(p) do
      {:ok, data} -> data <> read_all(p)
      :eof -> ""
    end
  end

  @doc """
  Waits until a program sleeps. One that has written its screen, or a prompt, may not have begun to read: a signal that comes
  in between is noted by most, and waits with them for the next key.
  """
  def await_sleep(p), do: OS.eventually(fn -> OS.state(Proc.os_pid(p)) == "S" end)
end
