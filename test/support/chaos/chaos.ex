defmodule NetRunner.Test.Chaos do
  @moduledoc false
  # Plays rounds, some at a time, each in a victim that serves as long as it lives.

  alias NetRunner.Test.Chaos.{Kills, Marked, Round}
  alias NetRunner.Test.Victim

  @at_a_time 4

  # script(1) takes the command as one string.
  @in_a_terminal ~S"""
  quoted=
  for word in "$0" "$@"; do quoted="$quoted '$(printf %s "$word" | sed "s/'/'\\''/g")'"; done
  exec script -qec "$quoted" /dev/null
  """

  @doc "The results of `count` rounds, the first of which has the seed `seed`; `vm_mark` names their processes."
  def play(seed, count, vm_mark) do
    1..@at_a_time
    |> Enum.map(fn worker ->
      seeds = Enum.take_every(Enum.drop(seed..(seed + count - 1)//1, worker - 1), @at_a_time)
      Task.async(fn -> rounds(seeds, of_worker(vm_mark, worker)) end)
    end)
    |> Task.await_many(:infinity)
    |> List.flatten()
    |> Enum.sort_by(& &1.seed)
  end

  @doc "The result of one round with this plan; nothing of it is left, whatever came of it."
  def play_one(plan, vm_mark) do
    Process.flag(:trap_exit, true)
    vm_mark = of_worker(vm_mark, 1)
    {result, victim} = round(plan, nil, vm_mark)
    if victim, do: discard(victim, vm_mark)
    result
  end

  @doc "Ends what may be left of them, wherever they were interrupted."
  def clean_up(vm_mark), do: for(worker <- 1..@at_a_time, do: Marked.clean_up(of_worker(vm_mark, worker)))

  defp of_worker(vm_mark, worker), do: "#{vm_mark}.#{worker}."

  defp rounds(seeds, vm_mark) do
    # The port of a victim that dies while it is written to ends with :epipe.
    Process.flag(:trap_exit, true)
    {results, victim} = Enum.map_reduce(seeds, nil, &round(Round.plan(&1), &2, vm_mark))
    if victim, do: discard(victim, vm_mark)
    results
  end

  # What ends by itself at the moment when it is to be killed: a round in which that happens is played again.
  @attempts 5

  # Some victim, or nil.
  defp round(plan, victim, vm_mark, attempts \\ @attempts) do
    victim = if victim && not plan.terminal?, do: victim, else: replace(victim, plan.terminal?, vm_mark)

    try do
      result = Round.play(plan, victim, vm_mark)

      cond do
        result.missed != [] and attempts > 1 ->
          {:again, plan, discard(victim, vm_mark)}

        # The other one had ended by the death of the first: now he comes first.
        problems(result) == [] and not all_hit?(result) and attempts > 1 ->
          victim = if Kills.vm_ends?(plan.targets), do: discard(victim, vm_mark), else: victim
          {:again, %{plan | pick: 1.0 - plan.pick}, victim}

        Kills.vm_ends?(plan.targets) or problems(result) != [] ->
          {:played, result, discard(victim, vm_mark)}

        true ->
          {:played, result, victim}
      end
    rescue
      error ->
        what = Exception.format(:error, error, __STACKTRACE__) <> "\nthe victim: " <> Victim.rest(victim)
        {:played, failed(plan, what), discard(victim, vm_mark)}
    end
    |> case do
      {:played, result, victim} -> {result, victim}
      {:again, plan, victim} -> round(plan, victim, vm_mark, attempts - 1)
    end
  end

  defp failed(plan, what), do: %{Round.unplayed(plan) | wrong: [what]}

  defp replace(victim, terminal?, vm_mark) do
    if victim, do: discard(victim, vm_mark)
    victim = victim(vm_mark, terminal?)
    :ready = Round.answer(victim)
    victim
  end

  defp victim(vm_mark, terminal?) do
    Victim.start("NetRunner.Test.Chaos.Load.serve()",
      env: Marked.environment(vm_mark),
      shell: if(terminal?, do: @in_a_terminal, else: "exec \"$0\" \"$@\""),
      on_exit: false
    )
  end

  defp discard(_victim, vm_mark) do
    Marked.clean_up(vm_mark)
    nil
  end

  @doc "Whether all were there to be killed, and did not end before it."
  def all_hit?(result), do: result.targets -- result.hit == []

  @doc "What must not be, as texts."
  def problems(result) do
    for {what, texts} <- Map.take(result, [:survivors, :zombies, :hangs, :missed, :wrong]),
        text <- texts,
        do: "#{what}: #{text}"
  end

  @doc "A table, one line for each kind of kill."
  def summary(results) do
    lines =
      for kind <- Enum.uniq(Kills.kinds()),
          of_kind = Enum.filter(results, &(&1.kind == kind)),
          of_kind != [] do
        times = for(%{ms: ms} when ms != nil <- of_kind, do: ms) |> Enum.sort()

        row([
          kind,
          length(of_kind),
          count(of_kind, :survivors),
          count(of_kind, :zombies),
          count(of_kind, :hangs),
          Enum.at(times, div(length(times), 2), "–"),
          List.last(times) || "–"
        ])
      end

    tolerated = results |> Enum.map(& &1.tolerated) |> Enum.sum()

    Enum.join(
      [
        row(~w(killed rounds survivors zombies hangs median\u00A0ms worst\u00A0ms)),
        row(List.duplicate("---", 7)) | lines
      ],
      "\n"
    ) <> "\n\nDescendants that outlived fork server and shepherd, killed together: #{tolerated}\n"
  end

  defp row(cells), do: "| " <> Enum.map_join(cells, " | ", &to_string/1) <> " |"
  defp count(results, what), do: results |> Enum.map(&length(&1[what])) |> Enum.sum()
end
