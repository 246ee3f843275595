defmodule NetRunner.Test.Chaos.Round do
  @moduledoc false
  # One round: a victim is loaded, something is killed at some moment, and what is left is looked for from outside.
  # All that is a matter of chance comes from the round's seed.

  alias NetRunner.Test.{Group, OS, Victim}
  alias NetRunner.Test.Chaos.{Kills, Load, Marked, Shapes, Shots}

  @commands 1..6
  # Milliseconds from the start of the load to the kill, and how long a command runs if nothing happens.
  @moments 0..500
  @lives 200..800
  @kill_timeouts [200, 300]
  # By then everything that must end has ended, or it is a survivor.
  @patience 15_000
  # How long a command runs that is there to be aimed at, unless it is told to end.
  @held 60_000

  @typedoc """
  What became of it. `ms`: from the kill until nothing was left of what had to end; `hit`: what was
  there to be killed; `missed`: what had ended by itself; `groups`: the process groups of its commands.
  """
  @type result :: %{
          kind: atom(),
          seed: integer(),
          targets: [Kills.target()],
          hit: [Kills.target()],
          ms: non_neg_integer() | nil,
          survivors: [String.t()],
          zombies: [String.t()],
          hangs: [String.t()],
          tolerated: non_neg_integer(),
          missed: [Kills.target()],
          wrong: [String.t()],
          groups: [pos_integer()]
        }

  @doc "What happens in the round with this seed."
  def plan(seed) do
    _ = :rand.seed(:exsss, seed)
    {kind, targets} = Kills.of_round(seed)
    targets = Enum.shuffle(targets)
    entries = for(number <- 1..Enum.random(@commands), do: entry(seed, number))

    held =
      for({faces, number} <- Enum.with_index(needed(targets)), do: held(entry(seed, "held#{number}"), faces))

    %{
      seed: seed,
      kind: kind,
      targets: targets,
      entries: Enum.shuffle(entries ++ held),
      moment: Enum.random(@moments),
      pick: :rand.uniform(),
      # Whether the victim has one.
      terminal?: kind == :ctrl_c,
      # Whether descendants of a command may live on that are not of its own process.
      tolerant?: kind == :double_fault,
      patience: @patience
    }
  end

  defp needed(targets), do: for(faces when faces != nil <- Enum.map(targets, &Kills.faces/1), do: faces)

  defp entry(seed, number) do
    {name, shape} = Enum.random(Enum.sort(Shapes.all()))
    face = Enum.random(shape.faces)

    %{
      mark: "#{seed}.#{number}",
      shape: name,
      face: face,
      stderr: Enum.random([:consume, :redirect, :disabled] ++ own_stderr(face)),
      # A daemon would leave some at each new start.
      keep: :rand.uniform(6) == 1 and face != :daemon,
      shutdown: :rand.uniform(2) == 1,
      held: false,
      ms: Enum.random(@lives),
      kill_timeout: Enum.random(@kill_timeouts)
    }
  end

  # So that there is somebody to aim at, whenever it is: but for this it is as good as any other.
  defp held(entry, faces) do
    face = Enum.random(faces)
    stderr = Enum.random([:consume, :redirect, :disabled] ++ own_stderr(face))
    shape = Enum.random(Shapes.lasting())
    %{entry | shape: shape, face: face, stderr: stderr, keep: false, held: true, ms: @held}
  end

  defp own_stderr(:stream), do: [:stream]
  defp own_stderr(:process), do: [:pipe]
  defp own_stderr(:daemon), do: [:pipe]
  defp own_stderr(_run_or_capture), do: [:capture]

  @doc "Plays it, in a victim of `Chaos.victim/2`."
  @spec play(map(), Victim.t(), String.t()) :: result()
  def play(plan, victim, vm_mark) do
    round = %{
      plan: plan,
      victim: victim,
      vm_mark: vm_mark,
      result: unplayed(plan),
      seen: MapSet.new(),
      commands: [],
      # Fork servers that are.
      stopped: []
    }

    :loaded = ask(victim, {:load, plan.entries})
    {must_end, t0, round} = round |> await_moment() |> kill()

    cond do
      # It is played again.
      round.result.missed != [] -> round.result
      # All of it: the VM, the fork server, shepherds and commands.
      Kills.vm_ends?(plan.targets) -> round |> await_all_gone(t0) |> result()
      plan.tolerant? -> round |> await_commands(t0, must_end) |> settle() |> end_of_round()
      must_end == [] -> round |> settle() |> end_of_round()
      true -> round |> await_gone(t0, &Marked.of?(&1.mark, must_end)) |> settle() |> end_of_round()
    end
  end

  defp end_of_round(round), do: round |> census() |> result()

  defp result(%{result: result, vm_mark: vm_mark}) do
    groups = groups(vm_mark, fn _one -> true end)
    if result.survivors == [], do: Marked.forget(vm_mark)
    %{result | groups: groups}
  end

  @doc "The result of a round of which nothing is known."
  @spec unplayed(map()) :: result()
  def unplayed(plan) do
    %{
      kind: plan.kind,
      seed: plan.seed,
      targets: plan.targets,
      ms: nil,
      survivors: [],
      zombies: [],
      hangs: [],
      tolerated: 0,
      hit: [],
      missed: [],
      wrong: [],
      groups: []
    }
  end

  # The moment is what this suite is about: this is no waiting for something.
  defp await_moment(%{plan: %{moment: moment}} = round) when is_integer(moment) do
    receive do
    after
      moment -> round
    end
  end

  # Until a fact about what carries the victim's mark holds.
  defp await_moment(%{plan: %{moment: fact}} = round) do
    OS.eventually(fn -> fact.(Marked.living(round.vm_mark)) end)
    round
  end

  # -- kills -------------------------------------------------------------------------------------------

  # The marks of the commands that must end by it; when it was.
  defp kill(%{plan: %{targets: targets, pick: pick}} = round) do
    {inside, outside} = Enum.split_with(targets, &Kills.inside?/1)
    {round, shots} = aim(round, inside, outside, now())
    t0 = now()
    # Which comes first is a matter of chance.
    early = if pick < 0.5, do: Shots.shoot(shots, round.victim), else: []
    if inside != [], do: Victim.tell(round.victim, Load.encode(:fire))
    late = if pick >= 0.5, do: Shots.shoot(shots, round.victim), else: []
    marks = for shot <- shots, mark <- shot.marks, do: mark

    {hit, marks} =
      cond do
        inside == [] ->
          {[], marks}

        # It may answer or not: that there was something to be killed has to do.
        Kills.vm_ends?(targets) ->
          {inside, marks}

        true ->
          {:killed, hit, more} = answer(round.victim)
          {hit, Enum.uniq(marks ++ more)}
      end

    commands = for %{commands: commands} <- shots, command <- commands, do: command
    stopped = for %{target: :stopped_fork_server, os_pid: os_pid} <- shots, do: os_pid
    # It ends by NetRunner's hand when its command is to end, which has to come.
    if :stopped_shepherd in targets and not Kills.vm_ends?(targets),
      do: :released = ask(round.victim, :release)

    hit = early ++ late ++ hit
    # Of two, one may already have ended by the death of the other.
    missed = if round.plan.kind == :two and hit != [], do: [], else: targets -- hit
    result = %{round.result | hit: hit, missed: missed}
    {marks, t0, %{round | commands: commands, stopped: stopped, result: result}}
  end

  # Until there is somebody to aim at: the commands may not have started yet.
  defp aim(round, inside, outside, since) do
    {:missing, missing} =
      if inside == [], do: {:missing, []}, else: ask(round.victim, {:aim, inside, round.plan.pick})

    round = look(round)
    shots = Enum.map(outside, &{&1, Shots.aim(&1, round)})

    cond do
      missing == [] and Enum.all?(shots, fn {_target, shots} -> shots != [] end) ->
        {round, Enum.flat_map(shots, &elem(&1, 1))}

      now() - since > @patience ->
        raise "there was nobody to aim at: #{inspect(missing ++ for({target, []} <- shots, do: target))}"

      true ->
        receive do
        after
          10 -> aim(round, inside, outside, since)
        end
    end
  end

  # -- what is left ------------------------------------------------------------------------------------

  # Remembers whom it sees, for the zombies.
  defp look(round) do
    living = Marked.living(round.vm_mark)
    %{round | seen: MapSet.union(round.seen, MapSet.new(living, &Map.take(&1, [:os_pid, :start, :mark])))}
  end

  # A fork server that is stopped stays when the VM ends, and its shepherds, which it cannot reap; when it is
  # continued nothing is left.
  defp await_all_gone(%{stopped: [_ | _] = stopped} = round, t0) do
    %{result: result} = round = await_gone(round, t0, &(&1.os_pid not in stopped))
    states = Enum.map(stopped, &OS.state/1)
    Shots.signal(for os_pid <- stopped, do: {"CONT", os_pid})
    round = await_all_gone(%{round | stopped: []}, now())

    # That comes first.
    case {result.survivors, Enum.uniq(states)} do
      # A zombie that init has not reaped yet: it had ended before it was stopped.
      {[], [state]} when state in ["T", "Z"] -> put_in(round.result.ms, result.ms)
      {[], _other} -> put_in(round.result.wrong, ["the stopped fork server is #{inspect(states)}"])
      _survivors -> %{round | result: result}
    end
  end

  defp await_all_gone(round, t0), do: await_gone(round, t0, fn _one -> true end)

  # Waits until none of those is left; says how long it took since `t0`, or who survives.
  defp await_gone(round, t0, of?) do
    looked = now()
    living = Enum.filter(Marked.living(round.vm_mark), of?)
    zombies = zombies(round, of?)

    cond do
      # One that hops is seen nowhere.
      living == [] and zombies == [] and Marked.inhabited(round.vm_mark, groups(round.vm_mark, of?)) == [] ->
        put_in(round.result.ms, now() - t0)

      now() - t0 > round.plan.patience ->
        last_look(round, t0, of?)

      true ->
        # A look at all processes of the system is work: others are to have half of the time.
        receive do
        after
          max(now() - looked, 5) -> :ok
        end

        seen = MapSet.new(living, &Map.take(&1, [:os_pid, :start, :mark]))
        await_gone(%{round | seen: MapSet.union(round.seen, seen)}, t0, of?)
    end
  end

  # Groups may have nobody in them but zombies that init has not reaped yet. Whoever else is in them has had the time
  # to end: now he can be stopped, which could have helped to end him.
  defp last_look(round, t0, of?) do
    groups = groups(round.vm_mark, of?)
    stopped = Marked.stop(round.vm_mark, groups)
    living = Enum.filter(Marked.living(round.vm_mark), of?)
    members = for one <- Group.members(Marked.inhabited(round.vm_mark, groups)), do: {one.os_pid, one.start}
    of_groups = Enum.reject(Marked.zombies(members), &(&1.parent in round.stopped))
    zombies = Enum.uniq_by(zombies(round, of?) ++ of_groups, & &1.os_pid)

    case Enum.uniq_by(living ++ stopped, & &1.os_pid) do
      [] when zombies == [] -> put_in(round.result.ms, now() - t0)
      living -> left(round, living, zombies)
    end
  end

  defp groups(vm_mark, of?) do
    Enum.uniq(for {group, mark} <- Marked.groups(vm_mark), of?.(%{os_pid: group, mark: mark}), do: group)
  end

  # The double fault: the command itself dies by the kernel's hand; its descendants may live, and are ended here.
  defp await_commands(%{commands: [_ | _]} = round, t0, must_end) do
    alive =
      for {os_pid, start} <- round.commands,
          %{start: ^start, state: state} = stat when state != "Z" <- [OS.stat(os_pid)],
          do: stat

    cond do
      alive == [] ->
        ms = now() - t0
        of? = &Marked.of?(&1.mark, must_end)
        groups = groups(round.vm_mark, of?)
        stopped = Marked.stop(round.vm_mark, groups)
        left = Enum.uniq_by(stopped ++ Enum.filter(Marked.living(round.vm_mark), of?), & &1.os_pid)

        OS.eventually(fn ->
          end_all(Enum.filter(Marked.living(round.vm_mark), of?)) and Marked.end_groups(round.vm_mark, groups)
        end)

        %{round | result: %{round.result | ms: ms, tolerated: length(left)}}

      now() - t0 > round.plan.patience ->
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
    zombies = Marked.zombies(for one <- round.seen, of?.(one), do: {one.os_pid, one.start})
    Enum.reject(zombies, &(&1.parent in round.stopped))
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
    :released = ask(round.victim, :release)

    {:settled, results, again} =
      watching(round, fn ->
        ask(round.victim, {:settle, Kills.disturbs?(round.plan.targets)}, 120_000)
      end)

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

  # Commands may have started since the last look, and so may daemons meanwhile: their groups are learnt. No command
  # ends sooner than this that is not told to, but for those that end by themselves.
  @glance 100

  defp watching(round, fun) do
    watcher = spawn_link(fn -> watch(round.vm_mark) end)

    try do
      fun.()
    after
      Process.unlink(watcher)
      Process.exit(watcher, :kill)
    end
  end

  defp watch(vm_mark) do
    Marked.living(vm_mark)

    receive do
    after
      @glance -> watch(vm_mark)
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
