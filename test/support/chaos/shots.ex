defmodule NetRunner.Test.Chaos.Shots do
  @moduledoc false
  # What the chaos suite does to a victim from outside: signals to processes of the system, and the ends that a VM
  # can come to.

  alias NetRunner.Test.{OS, Victim}
  alias NetRunner.Test.Chaos.{Kills, Load, Round, Targets}

  # How long a VM is stopped that goes on then.
  @stopped 300

  @typedoc """
  `how`: a signal, or what else is done. `marks`: of the commands that must end of it; `commands`: the processes
  that are these commands.
  """
  @type t :: %{
          target: Kills.target(),
          how: String.t() | {:end, atom()} | :ctrl_c,
          os_pid: pos_integer(),
          marks: [String.t()],
          commands: [OS.identity()]
        }

  @vm %{
    vm: "KILL",
    crash: "SEGV",
    sigterm: "TERM",
    stopped_vm_continued: "STOP",
    stopped_vm_killed: "STOP",
    halt: {:end, :halt},
    abort: {:end, :abort},
    system_stop: {:end, :stop},
    ctrl_c: :ctrl_c
  }

  @doc "What is done to whom; nothing where there is nobody."
  @spec aim(Kills.target(), map()) :: [t()]
  def aim(:fork_server, round), do: fork_servers("KILL", :fork_server, round)
  def aim(:stopped_fork_server, round), do: fork_servers("STOP", :stopped_fork_server, round)

  # The command itself has to be known, for it has to die. One that has exited may have left what goes on as long as
  # the VM: its shepherd is no candidate, or it would be picked again and again.
  def aim(:shepherd, %{plan: %{kind: :double_fault}} = round) do
    running = Round.ask(round.victim, :running)

    candidates =
      for {one, children} <- shepherds(round),
          commands = Enum.filter(children, &(&1.os_pid in running)),
          commands != [] and marks(commands, round) != [],
          do: {one, commands}

    shepherd("KILL", :shepherd, round, candidates)
  end

  def aim(:shepherd, round), do: shepherd("KILL", :shepherd, round, shepherds(round))

  # Leftovers that are kept may go on as long as the VM.
  def aim(:stopped_shepherd, round) do
    shepherd("STOP", :stopped_shepherd, round, Enum.reject(shepherds(round), &keeps?(&1, round)))
  end

  def aim(target, round), do: [shot(target, Map.fetch!(@vm, target), round.victim.os_pid)]

  defp shot(target, how, os_pid, marks \\ [], commands \\ []) do
    %{target: target, how: how, os_pid: os_pid, marks: marks, commands: commands}
  end

  defp fork_servers(signal, target, round) do
    for one <- fork_servers(round.victim.os_pid), do: shot(target, signal, one.os_pid)
  end

  defp fork_servers(vm), do: for(one <- OS.children(vm), one.name == "shepherd", one.state != "Z", do: one)

  # Those that have a command, with its processes.
  defp shepherds(round) do
    all = OS.all()
    children = Enum.group_by(all, & &1.parent)

    for server <- Map.get(children, round.victim.os_pid, []),
        server.name == "shepherd",
        one <- Map.get(children, server.os_pid, []),
        one.name == "shepherd" and one.state != "Z",
        [_ | _] = commands <- [Map.get(children, one.os_pid, [])],
        do: {one, commands}
  end

  # Whose command has exited, and left what may go on as long as the VM.
  defp keeps?({_shepherd, commands}, round) do
    kept = for %{keep: true, mark: mark} <- round.plan.entries, do: mark
    Enum.any?(commands, &(&1.state == "Z")) and Enum.any?(marks(commands, round), &(&1 in kept))
  end

  defp shepherd(signal, target, round, shepherds) do
    for {one, commands} <- List.wrap(Targets.pick(shepherds, round.plan.pick)) do
      shot(target, signal, one.os_pid, marks(commands, round), for(c <- commands, do: {c.os_pid, c.start}))
    end
  end

  defp marks(commands, round) do
    Enum.uniq(for c <- commands, seen <- round.seen, seen.os_pid == c.os_pid, seen.mark, do: seen.mark)
  end

  # -- what is done ------------------------------------------------------------------------------------

  @doc "Does all of it at once. Returns the targets that were there."
  @spec shoot([t()], Victim.t()) :: [Kills.target()]
  def shoot(shots, victim) do
    for %{how: {:end, how}} <- shots, do: Victim.tell(victim, Load.encode({:end, how}))
    for %{how: :ctrl_c} <- shots, do: ctrl_c(victim)
    missed = signal(for %{how: signal, os_pid: os_pid} when is_binary(signal) <- shots, do: {signal, os_pid})

    for %{target: target, os_pid: os_pid} <- shots do
      case target do
        :stopped_vm_continued -> after_a_while(fn -> signal([{"CONT", os_pid}]) end)
        :stopped_vm_killed -> after_a_while(fn -> signal([{"KILL", os_pid}]) end)
        _other -> :ok
      end
    end

    Enum.uniq(for shot <- shots, shot.os_pid not in missed, do: shot.target)
  end

  # The first one stops the VM and asks what is to be done, the second one ends it.
  defp ctrl_c(victim) do
    Victim.type(victim, "\x03")
    await_text(victim, "BREAK")
    Victim.type(victim, "\x03")
  end

  defp await_text(victim, text), do: Victim.line(victim) =~ text || await_text(victim, text)

  defp after_a_while(fun) do
    receive do
    after
      @stopped -> fun.()
    end
  end

  @doc "Signals, one right after the other. Returns those whom they did not reach, for they have ended."
  @spec signal([{signal :: String.t(), os_pid :: pos_integer()}]) :: [pos_integer()]
  def signal([]), do: []

  def signal(signals) do
    script = ~S(while [ $# -gt 0 ]; do kill -s "$1" "$2" 2>/dev/null || echo "$2"; shift 2; done)
    words = Enum.flat_map(signals, fn {signal, os_pid} -> [signal, "#{os_pid}"] end)
    {missed, 0} = System.cmd("sh", ["-c", script, "sh" | words])
    missed |> String.split() |> Enum.map(&String.to_integer/1)
  end
end
