defmodule NetRunner.Test.Chaos.Round do
  @moduledoc false
  # One round: a victim is loaded, something is killed at some moment, and what is left is looked for from outside.
  # All that is a matter of chance comes from the round's seed.

  alias NetRunner.Test.{OS, Victim}
  alias NetRunner.Test.Chaos.{Kills, Load, Marked, Shapes}

  @commands 1..6
  # Milliseconds from the start of the load to the kill, and how long a command runs if nothing happens.
  @moments 0..500
  @lives 200..800
  @kill_timeouts [200, 300]
  # By then everything that must end has ended, or it is a survivor.
  @patience 15_000
  # How long a VM is stopped that goes on then.
  @stopped 300

  @typedoc "What became of it. `ms`: from the kill until nothing was left of what had to end."
  @type result :: %{
          kind: atom(),
          seed: integer(),
          ms: non_neg_integer() | nil,
          survivors: [String.t()],
          zombies: [String.t()],
          hangs: [String.t()],
          tolerated: non_neg_integer(),
          wrong: [String.t()]
        }

  @doc "What happens in the round with this seed."
  def plan(seed) do
    _ = :rand.seed(:exsss, seed)
    kinds = Kills.kinds()
    kind = Enum.at(kinds, Integer.mod(seed, length(kinds)))

    %{
      seed: seed,
      kind: kind,
      targets: kind |> Kills.targets(&:rand.uniform/1) |> Enum.shuffle(),
      entries: for(number <- 1..Enum.random(@commands), do: entry(seed, number)),
      moment: Enum.random(@moments),
      pick: :rand.uniform(),
      # Whether the victim has one.
      terminal?: kind == :ctrl_c
    }
  end

  defp entry(seed, number) do
    {name, shape} = Enum.random(Enum.sort(Shapes.all()))
    face = Enum.random(shape.faces)

    %{
      mark: "#{seed}.#{number}",
      shape: name,
      face: face,
      stderr: Enum.random([:consume, :redirect, :disabled] ++ own_stderr(face)),
      keep: :rand.uniform(6) == 1,
      shutdown: :rand.uniform(2) == 1,
      ms: Enum.random(@lives),
      kill_timeout: Enum.random(@kill_timeouts)
    }
  end

  defp own_stderr(:stream), do: [:stream]
  defp own_stderr(:process), do: [:pipe]
  defp own_stderr(_run_or_capture), do: [:capture]

  @doc "Plays it, in a victim of `Chaos.victim/2`."
  @spec play(map(), Victim.t(), String.t()) :: result()
  def play(plan, victim, vm_mark) do
    result = Map.merge(Map.take(plan, [:kind, :seed]), empty())
    round = %{plan: plan, victim: victim, vm_mark: vm_mark, result: result, seen: MapSet.new(), commands: []}
    :loaded = ask(victim, {:load, plan.entries})
    round = round |> await_moment() |> look()
    {must_end, t0, round} = kill(round)

    cond do
      # All of it: the VM, the fork server, shepherds and commands.
      Kills.vm_ends?(plan.targets) ->
        await_gone(round, t0, fn _one -> true end).result

      must_end == [] ->
        round |> settle() |> census() |> Map.fetch!(:result)

      plan.kind == :double_fault ->
        round |> await_commands(t0, must_end) |> settle() |> census() |> Map.fetch!(:result)

      true ->
        round |> await_gone(t0, &(&1.mark in must_end)) |> settle() |> census() |> Map.fetch!(:result)
    end
  end

  defp empty, do: %{ms: nil, survivors: [], zombies: [], hangs: [], tolerated: 0, wrong: []}

  # The moment is what this suite is about: this is no waiting for something.
  defp await_moment(%{plan: plan} = round) do
    receive do
    after
      plan.moment -> round
    end
  end

  # -- kills -------------------------------------------------------------------------------------------

  # The marks of the commands that must end by it; when it was.
  defp kill(%{plan: %{targets: targets} = plan} = round) do
    {round, victims} = Enum.reduce(targets, {round, []}, &aim/2)
    inside = for target <- targets, Kills.inside?(target), do: {target, plan.pick}
    t0 = now()
    # Which comes first is a matter of chance.
    if plan.pick < 0.5, do: shoot(victims, round)
    if inside != [], do: Victim.tell(round.victim, Load.encode({:kill, inside}))
    if plan.pick >= 0.5, do: shoot(victims, round)
    aimed = for {_signal, _os_pid, marks} <- victims, mark <- marks, do: mark

    # A VM that is killed may answer or not.
    if inside == [] or Kills.vm_ends?(targets) do
      {aimed, t0, round}
    else
      {:killed, marks} = answer(round.victim)
      {Enum.uniq(aimed ++ marks), t0, round}
    end
  end

  # What is done to whom, and the marks of the commands that must end by it.
  defp aim(target, {round, victims}) do
    vm = round.victim.os_pid

    case target do
      :fork_server ->
        {round, for(one <- fork_servers(vm), do: {"KILL", one.os_pid, []}) ++ victims}

      # The command has to be known, for it has to die.
      :shepherd when round.plan.kind == :double_fault ->
        {shot, commands, round} = shepherd_and_commands(round)
        {%{round | commands: commands}, shot ++ victims}

      :shepherd ->
        {round, shepherd("KILL", round, shepherds(vm)) ++ victims}

      :stopped_shepherd ->
        {round,
         shepherd("STOP", round, Enum.reject(shepherds(round.victim.os_pid), &keeps?(&1, round))) ++ victims}

      :vm ->
        {round, [{"KILL", vm, []} | victims]}

      :crash ->
        {round, [{"SEGV", vm, []} | victims]}

      :sigterm ->
        {round, [{"TERM", vm, []} | victims]}

      stopped when stopped in [:stopped_vm_continued, :stopped_vm_killed] ->
        {round, [{"STOP", vm, []} | victims]}

      :halt ->
        {round, [{:end, :halt, []} | victims]}

      :abort ->
        {round, [{:end, :abort, []} | victims]}

      :system_stop ->
        {round, [{:end, :stop, []} | victims]}

      :ctrl_c ->
        {round, [{:ctrl_c, nil, []} | victims]}

      _inside ->
        {round, victims}
    end
  end

  defp fork_servers(vm), do: Enum.filter(OS.children(vm), &(&1.name == "shepherd"))

  # Those that have a command, with its processes.
  defp shepherds(vm) do
    for server <- fork_servers(vm),
        one <- OS.children(server.os_pid),
        one.name == "shepherd",
        [_ | _] = children <- [OS.children(one.os_pid)],
        do: {one, children}
  end

  # Whose command has exited, and left what may go on as long as the VM.
  defp keeps?({_shepherd, children}, round) do
    kept = for %{keep: true, mark: mark} <- round.plan.entries, do: mark
    marks = for child <- children, seen <- round.seen, seen.os_pid == child.os_pid, do: seen.mark
    Enum.any?(children, &(&1.state == "Z")) and Enum.any?(marks, &(&1 in kept))
  end

  defp shepherd(signal, round, shepherds) do
    case Load.pick(shepherds, round.plan.pick) do
      nil ->
        []

      {one, children} ->
        marks =
          for child <- children, seen <- round.seen, seen.os_pid == child.os_pid, seen.mark, do: seen.mark

        [{signal, one.os_pid, Enum.uniq(marks)}]
    end
  end

  defp shepherd_and_commands(round) do
    candidates = shepherds(round.victim.os_pid)
    # Those that run have their marks.
    round = look(round)
    running = ask(round.victim, :running)
    shot = shepherd("KILL", round, candidates)
    children = for {_signal, os_pid, _marks} <- shot, child <- OS.children(os_pid), do: child
    {shot, for(child <- children, child.os_pid in running, do: {child.os_pid, child.start}), round}
  end

  defp shoot(victims, round) do
    for {:end, how, _marks} <- victims, do: Victim.tell(round.victim, Load.encode({:end, how}))
    for {:ctrl_c, _none, _marks} <- victims, do: ctrl_c(round.victim)

    by_signal =
      Enum.group_by(for({s, p, _} when is_binary(s) <- victims, do: {s, p}), &elem(&1, 0), &elem(&1, 1))

    for {signal, os_pids} <- by_signal, do: signal(os_pids, signal)

    case round.plan.kind do
      :stopped_vm_continued -> after_a_while(fn -> signal([round.victim.os_pid], "CONT") end)
      :stopped_vm_killed -> after_a_while(fn -> signal([round.victim.os_pid], "KILL") end)
      _other -> :ok
    end
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

  # As OS.kill/2, but some may have ended by now.
  defp signal(os_pids, signal) do
    System.cmd("sh", ["-c", "kill -s \"$0\" \"$@\"", signal | Enum.map(os_pids, &to_string/1)],
      stderr_to_stdout: true
    )
  end

  # -- what is left ------------------------------------------------------------------------------------

  # Remembers whom it sees, for the zombies.
  defp look(round) do
    living = Marked.living(round.vm_mark)
    %{round | seen: MapSet.union(round.seen, MapSet.new(living, &Map.take(&1, [:os_pid, :start, :mark])))}
  end

  # Waits until none of those is left; says how long it took since `t0`, or who survives.
  defp await_gone(round, t0, of?) do
    living = Enum.filter(Marked.living(round.vm_mark), of?)
    zombies = zombies(round, of?)

    cond do
      living == [] and zombies == [] ->
        put_in(round.result.ms, now() - t0)

      now() - t0 > @patience ->
        left(round, living, zombies)

      true ->
        receive do
        after
          5 -> :ok
        end

        seen = MapSet.new(living, &Map.take(&1, [:os_pid, :start, :mark]))
        await_gone(%{round | seen: MapSet.union(round.seen, seen)}, t0, of?)
    end
  end

  # The double fault: the command itself dies by the kernel's hand; its descendants may live, and are ended here.
  defp await_commands(round, t0, must_end) do
    alive =
      for {os_pid, start} <- round.commands,
          %{start: ^start, state: state} = stat when state != "Z" <- [OS.stat(os_pid)],
          do: stat

    cond do
      alive == [] ->
        left = Enum.filter(Marked.living(round.vm_mark), &(&1.mark in must_end))
        OS.eventually(fn -> end_all(Enum.filter(Marked.living(round.vm_mark), &(&1.mark in must_end))) end)
        %{round | result: %{round.result | ms: now() - t0, tolerated: length(left)}}

      now() - t0 > @patience ->
        left(round, alive, [])

      true ->
        receive do
        after
          5 -> await_commands(round, t0, must_end)
        end
    end
  end

  defp end_all(left) do
    OS.clean_up(for one <- left, do: {one.os_pid, one.start})
    left == []
  end

  defp zombies(round, of?) do
    Marked.zombies(for one <- round.seen, of?.(one), do: {one.os_pid, one.start})
  end

  defp left(round, living, zombies) do
    result = %{
      round.result
      | survivors: Enum.map(living, &Marked.describe/1),
        zombies: Enum.map(zombies, &Marked.describe/1)
    }

    %{round | result: result}
  end

  # -- the VM goes on ----------------------------------------------------------------------------------

  defp settle(round) do
    {:settled, results, again} = ask(round.victim, {:settle, Kills.disturbs?(round.plan.targets)}, 120_000)
    t0 = now()
    hangs = for {entry, {:hangs, stack}} <- results, do: inspect({entry, stack}, limit: :infinity)

    wrong =
      for {entry, result} <- results,
          not match?({:hangs, _}, result),
          not Kills.documented?(result, round.plan.targets),
          do: "a caller got #{inspect(result)}: #{inspect(entry)}"

    wrong = if again == {"", 0}, do: wrong, else: ["a new command got #{inspect(again)}" | wrong]
    round = %{round | result: %{round.result | hangs: hangs, wrong: wrong}}

    # What did not have to end at once has been ended by its caller.
    case round.result do
      %{survivors: [], zombies: [], ms: nil} -> await_gone(round, t0, & &1.mark)
      %{survivors: [], zombies: [], ms: ms} -> put_in(await_gone(round, t0, & &1.mark).result.ms, ms)
      _left -> round
    end
  end

  defp census(round) do
    {:census, difference} = ask(round.victim, :census, 60_000)

    if difference == %{},
      do: round,
      else:
        update_in(
          round.result.wrong,
          &["more or less than before: #{inspect(difference, limit: :infinity)}" | &1]
        )
  end

  # -- the victim --------------------------------------------------------------------------------------

  @doc "A request and its answer."
  def ask(victim, request, timeout \\ 60_000) do
    Victim.tell(victim, Load.encode(request))
    answer(victim, timeout)
  end

  @doc "The next answer. What else is printed is an echo of a terminal, or the last words of a runtime."
  def answer(victim, timeout \\ 60_000) do
    case victim |> Victim.line(timeout) |> String.trim() do
      "@" <> line -> Load.decode(line)
      _other -> answer(victim, timeout)
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
