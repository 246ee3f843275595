defmodule Bench.Usage do
  # What processes use, as /proc says.

  # USER_HZ, the unit of times in /proc/PID/stat, is 100 on every architecture that Linux and OTP share.
  @nanoseconds_per_tick 10_000_000

  @doc """
  Nanoseconds of CPU time, user and system, of all threads of this VM so far, as the kernel counts them. The VM's schedulers
  look for work for a while before they sleep, and that counts, too.
  """
  def of_vm do
    for file <- Path.wildcard("/proc/self/task/*/schedstat"), {:ok, text} <- [File.read(file)], reduce: 0 do
      sum -> sum + (text |> String.split() |> hd() |> String.to_integer())
    end
  end

  @doc """
  The same, in ticks of 10 ms, of every process below this VM and of those that they have waited for: commands, shepherds,
  the fork server, erl_child_setup, the shells and the floor of the rivals.
  """
  def of_others do
    ticks = for process <- descendants(System.pid()), do: process.ticks
    Enum.sum(ticks) * @nanoseconds_per_tick
  end

  @doc "The same of a VM's fork server alone, in ticks, without the shepherds that it has waited for."
  def of_fork_server(vm) do
    [fork_server] = for child <- processes(), child.parent == "#{vm}", child.name == "shepherd", do: child
    fork_server.own_ticks * @nanoseconds_per_tick
  end

  @doc "The processes below one, with names and ticks."
  def descendants(pid) do
    by_parent = Enum.group_by(processes(), & &1.parent)
    below(to_string(pid), by_parent)
  end

  defp below(pid, by_parent) do
    for child <- Map.get(by_parent, pid, []), each <- [child | below(child.pid, by_parent)], do: each
  end

  defp processes do
    for entry <- File.ls!("/proc"), entry =~ ~r/^\d+$/, {:ok, text} <- [File.read("/proc/#{entry}/stat")] do
      [_, name, rest] = Regex.run(~r/\A\d+ \((.*)\) (.*)\z/s, String.trim_trailing(text))
      fields = String.split(rest)
      # utime, stime, cutime, cstime: fields 14 to 17 of proc_pid_stat(5).
      times = fields |> Enum.slice(11, 4) |> Enum.map(&String.to_integer/1)
      own = times |> Enum.take(2) |> Enum.sum()
      %{pid: entry, name: name, parent: Enum.at(fields, 1), ticks: Enum.sum(times), own_ticks: own}
    end
  end

  @doc "How often the threads of a process have been switched to and from: each wake-up is one."
  def switches(pid) do
    for file <- Path.wildcard("/proc/#{pid}/task/*/status"), {:ok, text} <- [File.read(file)], reduce: 0 do
      sum -> sum + number(text, "voluntary_ctxt_switches") + number(text, "nonvoluntary_ctxt_switches")
    end
  end

  @doc "Bytes of memory of a process, shared pages divided by those who share them."
  def pss(pid) do
    text = File.read!("/proc/#{pid}/smaps_rollup")
    number(text, "Pss") * 1024
  end

  @doc "How many fds a process has."
  def fds(pid), do: length(File.ls!("/proc/#{pid}/fd"))

  defp number(text, name) do
    [_, number] = Regex.run(~r/^#{name}:\s*(\d+)/m, text)
    String.to_integer(number)
  end
end
