defmodule NetRunner.Test.Costs do
  @moduledoc false
  # Counts of what something costs: system calls of a victim, and what happens in this VM.

  alias NetRunner.Test.{OS, Victim}

  @doc "What is more than its bound, or has none."
  def above(costs, bounds) do
    for {what, cost} <- costs, cost > Map.get(bounds, what, 0), do: {what, cost, bounds[what]}
  end

  # -- system calls ------------------------------------------------------------------------------------

  # The first runs load what there is to load, and see that there is a log.
  @warm_up 20

  @doc "Starts a VM that runs /bin/true as often as it is told, again and again."
  def start(options) do
    victim =
      Victim.start(
        """
        runs = fn runs ->
          count = wait.() |> String.trim() |> String.to_integer()
          for _ <- 1..count//1, do: {"", 0} = NetRunner.run(["/bin/true"])
          say.(:done)
          runs.(runs)
        end
        runs.(runs)
        """,
        options
      )

    run(victim, @warm_up)
    victim
  end

  defp run(victim, count) do
    Victim.tell(victim, to_string(count))
    :done = Victim.term(victim)
  end

  @doc "The lines that so many runs add to the log of `NetRunner.Test.Faults`, as {role, pid, name}."
  def runs(victim, directory, count) do
    log = Path.join(directory, "log")
    before = File.stat!(log).size
    run(victim, count)
    log(directory, before)
  end

  @doc "All lines of the log, or those behind so many bytes."
  def log(directory, before \\ 0) do
    text = directory |> Path.join("log") |> File.read!() |> binary_slice(before..-1//1)

    # The last line may still be on its way.
    for line <- String.split(text, "\n", trim: true),
        [role, pid, name] <- [String.split(line)],
        do: {role, pid, name}
  end

  # Between threads, and for memory: how often depends on the machine.
  @left_out ~w(brk futex madvise mmap mprotect mremap munmap sched_yield)
  # On other architectures.
  @names %{"openat" => "open", "epoll_pwait" => "epoll_wait"}

  @rounds 5
  @many 20

  @doc """
  The calls of the VM per run, by name: what many runs make more than none, for to be told and to answer takes some,
  too. Of several such means the least: who has to wait for the processor makes more of them.
  """
  def vm_calls(victim, directory) do
    1..@rounds
    |> Enum.map(fn _ ->
      none = victim |> runs(directory, 0) |> of_vm()
      many = victim |> runs(directory, @many) |> of_vm()
      Map.new(many, fn {name, count} -> {name, (count - Map.get(none, name, 0)) / @many} end)
    end)
    # What a round has none of, has a mean of 0.
    |> Enum.reduce(&Map.intersect(&1, &2, fn _name, a, b -> min(a, b) end))
    |> Map.filter(fn {_name, mean} -> mean >= 0.1 end)
  end

  defp of_vm(log) do
    Enum.frequencies(for {"root", _pid, name} <- log, name not in @left_out, do: Map.get(@names, name, name))
  end

  @doc "The calls of each process of a role, in order, of those whose last one is this."
  def lives(log, role, last) do
    lives = Enum.group_by(log, fn {role, pid, _name} -> {role, pid} end, fn {_role, _pid, name} -> name end)
    for {{^role, _pid}, names} <- lives, List.last(names) == last, do: names
  end

  # -- in this VM --------------------------------------------------------------------------------------

  # Whoever has a part in every command.
  @servers [NetRunner.Watcher, NetRunner.ForkServer]

  @doc """
  What `fun` costs, divided by what it returns, a number of runs or chunks:

    * reductions of all processes
    * binaries, heaps: how often memory for a binary (of more than 64 bytes), or for the heap of a process, was asked for
    * spawned, messages: by whom `fun` spawns, by the Watcher and the fork server's process as well

  Of several such measurements the least: a message that comes while its receiver runs, say, takes a piece of heap of its own.
  """
  def of(fun) do
    # All is loaded, all tables have grown.
    fun.()

    quiet =
      for(_ <- 1..@rounds, do: quiet(fun)) |> Enum.reduce(&Map.merge(&1, &2, fn _what, a, b -> min(a, b) end))

    Map.merge(quiet, traced(fun))
  end

  defp quiet(fun) do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    before = totals()
    count = fun.()
    Map.new(totals(), fn {what, total} -> {what, (total - before[what]) / count} end)
  end

  defp totals do
    {reductions, _since_last} = :erlang.statistics(:exact_reductions)
    %{reductions: reductions, binaries: asked(:binary_alloc), heaps: asked(:eheap_alloc)}
  end

  # Of all schedulers.
  defp asked(allocator) do
    Enum.sum(
      for {:instance, _n, info} <- :erlang.system_info({:allocator, allocator}),
          {^allocator, billions, calls} <- info[:calls],
          do: billions * 1_000_000_000 + calls
    )
  end

  defp traced(fun) do
    test = self()

    pid =
      spawn_link(fn ->
        receive do: (:go -> send(test, {:count, fun.()}))
        receive do: (:end -> :ok)
      end)

    traced = [pid | Enum.map(@servers, &Process.whereis/1)]
    for one <- traced, do: :erlang.trace(one, true, [:receive, :procs, :set_on_spawn])
    send(pid, :go)
    count = receive do: ({:count, count} -> count)
    for one <- traced, do: :erlang.trace(one, false, [:all])
    delivered = :erlang.trace_delivered(:all)
    receive do: ({:trace_delivered, :all, ^delivered} -> :ok)
    send(pid, :end)
    # The first message was :go.
    Map.new(count_traces(%{spawned: 0, messages: -1}), fn {what, total} -> {what, total / count} end)
  end

  defp count_traces(totals) do
    receive do
      {:trace, _pid, :receive, _message} -> totals |> Map.update!(:messages, &(&1 + 1)) |> count_traces()
      {:trace, _pid, :spawn, _new, _call} -> totals |> Map.update!(:spawned, &(&1 + 1)) |> count_traces()
      trace when elem(trace, 0) == :trace -> count_traces(totals)
    after
      0 -> totals
    end
  end

  # -- reading -----------------------------------------------------------------------------------------

  @doc "How often a process has read (proc_pid_io(5), syscr)."
  def reads(os_pid) do
    [_, count] = Regex.run(~r/^syscr: (\d+)$/m, File.read!("/proc/#{os_pid}/io"))
    String.to_integer(count)
  end

  @doc "The inodes of all that this VM watches by epoll(7) (proc_pid_fdinfo(5))."
  def watched do
    for {fd, "anon_inode:[eventpoll]"} <- OS.fds(OS.vm()),
        [_, inode] <- Regex.scan(~r/\bino:([0-9a-f]+)/, File.read!("/proc/self/fdinfo/#{fd}")),
        do: String.to_integer(inode, 16)
  end

  # -- doing nothing -----------------------------------------------------------------------------------

  @doc "How often the threads of a process have given the processor back, or had to: each wake-up is one."
  def switches(os_pid) do
    for file <- Path.wildcard("/proc/#{os_pid}/task/*/status"),
        [_, count] <- Regex.scan(~r/^(?:non)?voluntary_ctxt_switches:\s*(\d+)$/m, File.read!(file)),
        reduce: 0 do
      sum -> sum + String.to_integer(count)
    end
  end
end
