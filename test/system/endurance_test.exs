defmodule NetRunner.System.EnduranceTest do
  @moduledoc false
  # What a VM has after many commands is what it had after a few. The long variant prints the table that stands in
  # docs/testing.md.
  use NetRunner.Test.SystemCase, async: false

  @moduletag timeout: 3_600_000

  @slices 10
  @exact [:fds, :threads, :beam_processes, :ports, :tables, :resources, :below, :fork_server_fds]
  @columns [:commands, :microseconds, :vm_rss, :vm_memory, :atoms, :fork_server_rss] ++ @exact

  test "fds, threads, processes, ports, tables and memory are the same after many commands" do
    per_slice = div(soak(3_000, 100_000), @slices)

    victim =
      Victim.start("""
      one = fn
        n when rem(n, 20) == 1 -> {"x", 0} = NetRunner.run(["cat"], input: "x")
        n when rem(n, 20) == 2 -> ["y" <> _] = NetRunner.stream!(["yes"]) |> Enum.take(1)
        n when rem(n, 20) == 3 -> {:error, {:exec, :enoent}} = NetRunner.run(["/nonexistent"])
        n when rem(n, 20) == 4 -> {:error, :timeout} = NetRunner.run(["sleep", "1000"], timeout: 1)
        n when rem(n, 20) == 5 -> {:ok, p} = Proc.start("cat"); :ok = Proc.write(p, "x"); {:ok, "x"} = Proc.read(p); :ok = Proc.stop(p)
        n when rem(n, 20) == 6 -> {"", 3, "e\\n"} = NetRunner.run(["sh", "-c", "echo e >&2; exit 3"], stderr: :capture)
        n when rem(n, 20) == 7 -> "xx" = ["x", "x"] |> Stream.map(& &1) |> NetRunner.stream!(["cat"]) |> Enum.join()
        _ -> {"", 0} = NetRunner.run(["true"])
      end

      slice = fn slice, n ->
        {microseconds, :ok} = :timer.tc(fn -> Enum.each(1..n, one) end)
        for pid <- Process.list(), do: :erlang.garbage_collect(pid)
        say.(%{commands: slice * n, microseconds: div(microseconds, n), vm_memory: :erlang.memory(:total),
          atoms: :erlang.system_info(:atom_count), beam_processes: length(Process.list()), ports: length(Port.list()),
          tables: length(:ets.all()), resources: NetRunner.Nif.resource_counts()})
        wait.()
      end

      # Until all is loaded and every allocator has what it needs.
      slice.(0, 1_000)
      for n <- 1..#{@slices}, do: slice.(n, #{per_slice})
      """)

    [_warm_up | slices] = for _ <- 0..@slices, do: look(victim)
    [first | _] = slices
    if soak?(), do: IO.puts(table(slices))

    for slice <- slices, do: assert(Map.take(slice, @exact) == Map.take(first, @exact))
    last = List.last(slices)
    assert last.vm_rss - first.vm_rss <= 8 * 1024 * 1024
    assert last.fork_server_rss - first.fork_server_rss <= 256 * 1024
    # Nothing makes an atom of what comes from outside.
    assert last.atoms == first.atoms
  end

  # Each of the four has 500 commands in the short run: that is 64 bytes for each of them.
  @most_growth 32 * 1024

  test "shepherds that have had many commands have the fds and the memory that they had after a few" do
    per_slice = soak(2_000, 100_000)

    victim =
      Victim.start("""
      # None of these is the last command of its shepherd. They take turns, four of them: 7 and 67 are no multiples.
      one = fn
        n when rem(n, 67) == 1 -> {"", 0} = NetRunner.run(["sh", "-c", "sleep 1000 & :"])
        n when rem(n, 7) == 1 -> {"x", 0} = NetRunner.run(["cat"], input: "x")
        n when rem(n, 7) == 2 -> {"", 3, "e\\n"} = NetRunner.run(["sh", "-c", "echo e >&2; exit 3"], stderr: :capture)
        n when rem(n, 7) == 3 -> {"", 0} = NetRunner.run(["true"], cd: "/", env: %{"A" => String.duplicate("a", rem(n * 997, 30_000))})
        n when rem(n, 7) == 4 -> {"", 137} = NetRunner.run(["sh", "-c", "kill -s KILL $$"])
        _ -> {"", 0} = NetRunner.run(["true"])
      end

      for n <- [1_000, #{per_slice}] do
        Enum.each(1..n, one)
        say.(:rest)
        wait.()
      end
      """)

    [few, many] = for _ <- 1..2, do: look_at_shepherds(victim)
    # On a busy machine another one may have been needed for a moment, and one of them ended instead.
    lasting = for before <- few, now <- many, before.identity == now.identity, do: {before, now}
    assert lasting != []

    for {before, now} <- lasting do
      assert now.fds == before.fds
      assert now.anonymous - before.anonymous <= @most_growth
      assert now.rss - before.rss <= 256 * 1024
    end
  end

  defp look_at_shepherds(victim) do
    :rest = Victim.term(victim, 1_800_000)

    shepherds =
      for {os_pid, _start} = identity <- Enum.sort(OS.idle_shepherds(OS.fork_server(victim.os_pid))) do
        %{identity: identity, fds: OS.fds(os_pid), rss: OS.rss(os_pid), anonymous: anonymous(os_pid)}
      end

    Victim.tell(victim, "go on")
    shepherds
  end

  # What is not of the program's file, which it shares with the others. Counted exactly, as VmRSS is not.
  defp anonymous(os_pid) do
    [_, kib] = Regex.run(~r/^Anonymous: +(\d+) kB$/m, File.read!("/proc/#{os_pid}/smaps_rollup"))
    String.to_integer(kib) * 1024
  end

  # At rest: what shepherds are still to be forked ahead is there, what has ended is reaped.
  defp look(victim) do
    inside = Victim.term(victim, 1_800_000)
    fork_server = OS.fork_server(victim.os_pid)
    OS.idle_shepherds(fork_server)

    outside = %{
      vm_rss: OS.rss(victim.os_pid),
      fork_server_rss: OS.rss(fork_server),
      fds: length(OS.fds(victim.os_pid)),
      fork_server_fds: length(OS.fds(fork_server)),
      threads: OS.status(victim.os_pid, "Threads"),
      below: victim.os_pid |> OS.descendants() |> Enum.map(& &1.name) |> Enum.sort()
    }

    Victim.tell(victim, "go on")
    Map.merge(inside, outside)
  end

  defp table(slices) do
    columns = @columns -- [:below, :resources]
    rows = for slice <- slices, do: Enum.map_join(columns, " | ", &to_string(slice[&1]))
    header = Enum.join(columns, " | ")
    Enum.map_join([header | rows], "\n", &"| #{&1} |")
  end
end
