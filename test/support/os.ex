defmodule NetRunner.Test.OS do
  @moduledoc false
  # The operating system's own view of processes, through /proc. Nothing here asks NetRunner.

  @typedoc "A process for good: its number, and when it was started (numbers are used again)."
  @type identity :: {os_pid :: pos_integer(), start :: pos_integer()}

  @doc "Whether a process of this number exists and is not a zombie."
  def alive?(os_pid), do: state(os_pid) not in [nil, "Z", "X"]

  @doc "The state letter of proc(5), nil when there is no such process."
  def state(os_pid), do: with(%{state: state} <- stat(os_pid), do: state)

  @doc "Start time in clock ticks: with the number it names a process for good."
  def identity(os_pid), do: with(%{start: start} <- stat(os_pid), do: {os_pid, start})

  @doc "pid, command name, state, parent, group, session, start of one process, nil when there is none."
  def stat(os_pid) do
    # A process that ends between open(2) and read(2) gives ESRCH.
    with {:ok, text} when text != "" <- File.read("/proc/#{os_pid}/stat") do
      # The name is in parentheses and may itself contain any character.
      [_, name, rest] = Regex.run(~r/\A\d+ \((.*)\) (.*)\z/s, String.trim_trailing(text))
      fields = String.split(rest)
      [state, parent, group, session] = Enum.take(fields, 4)

      %{
        os_pid: os_pid,
        name: name,
        state: state,
        parent: String.to_integer(parent),
        group: String.to_integer(group),
        session: String.to_integer(session),
        start: fields |> Enum.at(19) |> String.to_integer()
      }
    else
      _ -> nil
    end
  end

  @doc "Every process there is, zombies too."
  def all do
    for entry <- File.ls!("/proc"), {os_pid, ""} <- [Integer.parse(entry)], stat = stat(os_pid), do: stat
  end

  def children(os_pid), do: Enum.filter(all(), &(&1.parent == os_pid))

  def descendants(os_pid) do
    by_parent = Enum.group_by(all(), & &1.parent)
    below(os_pid, by_parent)
  end

  defp below(os_pid, by_parent) do
    for child <- Map.get(by_parent, os_pid, []), each <- [child | below(child.os_pid, by_parent)], do: each
  end

  @doc "The identities of a process and of all below it."
  def tree(os_pid) do
    for %{os_pid: os_pid, start: start} <- [stat(os_pid) | descendants(os_pid)], do: {os_pid, start}
  end

  @doc """
  Whether a process does not exist any more, not even as a zombie; but for one whose parent has died, too,
  which is init's to reap, when it has the time.
  """
  def gone?({os_pid, start}) do
    case stat(os_pid) do
      %{start: ^start, state: "Z", parent: 1} -> true
      %{start: ^start} -> false
      _ -> true
    end
  end

  @doc "What is there of these processes: their entries in /proc."
  def present(identities),
    do: for({os_pid, _} = one <- identities, not gone?(one), do: stat(os_pid) || os_pid)

  @doc "Waits until none of these processes exists, not even as a zombie; returns how long that took, in ms."
  def await_gone(identities, timeout \\ 10_000) do
    eventually(fn -> present(identities) == [] end, timeout)
  rescue
    ExUnit.AssertionError ->
      raise ExUnit.AssertionError, message: "still there after #{timeout} ms: #{inspect(present(identities))}"
  end

  @doc "The fds of a process with what they point at, in order."
  def fds(os_pid) do
    directory = "/proc/#{os_pid}/fd"

    for entry <- File.ls!(directory), {:ok, target} <- [File.read_link(Path.join(directory, entry))] do
      {String.to_integer(entry), target}
    end
    |> Enum.sort()
  end

  @doc "One line of /proc/PID/status."
  def status(os_pid, name) do
    [_, value] = Regex.run(~r/^#{name}:\s*(.*)$/m, File.read!("/proc/#{os_pid}/status"))
    value
  end

  @doc "How many bytes of memory are resident."
  def rss(os_pid) do
    {kib, " kB"} = os_pid |> status("VmRSS") |> Integer.parse()
    kib * 1024
  end

  @doc "Sends a signal, by its name without SIG, to one process or to several at once, as kill(1) does."
  def kill(os_pids, signal) do
    numbers = os_pids |> List.wrap() |> Enum.map(&to_string/1)
    # The shell's own kill: /bin/kill is a package that need not be there.
    {_, 0} = System.cmd("sh", ["-c", "kill -s \"$0\" \"$@\"", signal | numbers], stderr_to_stdout: true)
    :ok
  end

  @doc "SIGKILL to those of these processes that still exist, for the end of a test."
  def clean_up(identities) do
    case for({os_pid, _} = one <- identities, not gone?(one), do: os_pid) do
      [] ->
        :ok

      os_pids ->
        System.cmd("sh", ["-c", "kill -9 \"$@\"", "kill" | Enum.map(os_pids, &to_string/1)],
          stderr_to_stdout: true
        )
    end
  end

  @doc "The OS pid of this VM."
  def vm, do: String.to_integer(System.pid())

  @doc "The fork server of a VM."
  def fork_server(vm \\ vm()) do
    [%{os_pid: os_pid}] = Enum.filter(children(vm), &(&1.name == "shepherd"))
    os_pid
  end

  @doc "The shepherds when no command runs, by identity: as many as are always there. It is waited for that."
  def idle_shepherds(fork_server \\ fork_server()) do
    eventually(fn -> length(children(fork_server)) == 4 end)
    for shepherd <- children(fork_server), do: {shepherd.os_pid, shepherd.start}
  end

  @doc "The shepherd of a command."
  def shepherd(os_pid) do
    parent = stat(os_pid).parent
    %{name: "shepherd"} = stat(parent)
    parent
  end

  @doc "What runs below a VM on behalf of NetRunner: all descendants but shepherds and the VM's own helpers."
  def commands(vm \\ vm()) do
    Enum.reject(descendants(vm), &(&1.name in ["shepherd", "erl_child_setup", "inet_gethost"]))
  end

  @doc """
  Waits until a fact about the system holds, and returns how long that took, in ms.

  Only for what nobody sends a message about, such as /proc.
  """
  def eventually(fact, timeout \\ 10_000, started \\ now()) do
    waited = now() - started

    cond do
      fact.() -> waited
      waited > timeout -> raise ExUnit.AssertionError, message: "not true after #{timeout} ms"
      true -> pause() && eventually(fact, timeout, started)
    end
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp pause do
    receive do
    after
      5 -> true
    end
  end
end
