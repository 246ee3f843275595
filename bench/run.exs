# Runs the cases of bench/cases, or those that are named, and prints their tables and the budgets: see bin/bench.

directory = __DIR__

for file <- ~w(usage measure machine budgets table results rivals guest case),
    do: Code.require_file("#{file}.exs", directory)

alias Bench.{Budgets, Guest, Machine, Measure, Results, Table}

{options, names} =
  case OptionParser.parse(System.argv(), strict: [compare: :boolean, list: :boolean, results: :string]) do
    {options, names, []} ->
      {options, names}

    {_options, _names, invalid} ->
      raise "unknown: #{inspect(invalid)}.\nExpected: --results DIRECTORY, --list, --compare A B"
  end

if options[:compare] do
  case names do
    [before, now] -> IO.puts(Results.compare(before, now))
    _ -> raise "--compare takes two files of results.\nGot: #{inspect(names)}"
  end

  System.halt(0)
end

mode = System.get_env("NETRUNNER_BENCH", "full")
gibibyte = 1024 * 1024 * 1024
flat = with bytes when bytes != nil <- System.get_env("NETRUNNER_BENCH_BYTES"), do: String.to_integer(bytes)

rounds =
  with count when count != nil <- System.get_env("NETRUNNER_BENCH_ROUNDS"), do: String.to_integer(count)

settings =
  case mode do
    # spawns: commands one after the other; batch: of each turn of those at a time; pings: bytes of each turn;
    # lines: of seq; flat: bytes of the one long stream; idle: seconds
    "full" ->
      %{
        rounds: rounds || 9,
        spawns: 2_000,
        batch: 640,
        bytes: gibibyte,
        terminal: div(gibibyte, 32),
        lines: 5_000_000
      }
      |> Map.merge(%{pings: 10_000, flat: flat || 10 * gibibyte, idle: 5, vms: 15, at_once: 1_000})
      |> Map.merge(%{many: [1, 10, 100, 1_000, 5_000], tenth: 10_000, resident: 8 * gibibyte})

    "quick" ->
      %{
        rounds: rounds || 3,
        spawns: 200,
        batch: 64,
        bytes: div(gibibyte, 16),
        terminal: div(gibibyte, 256),
        lines: 250_000
      }
      |> Map.merge(%{pings: 1_000, flat: flat || div(gibibyte, 4), idle: 1, vms: 2, at_once: 1_000})
      |> Map.merge(%{many: [1, 10, 100], tenth: 100, resident: div(gibibyte, 8)})

    other ->
      raise "NETRUNNER_BENCH is #{inspect(other)}.\nExpected: full or quick"
  end
  |> Map.put(:floor, System.fetch_env!("NETRUNNER_FLOOR"))

cases =
  for file <- Enum.sort(Path.wildcard(Path.join(directory, "cases/*.exs"))), into: %{} do
    {Path.basename(file, ".exs"), file}
  end

names = if names == [], do: Enum.sort(Map.keys(cases)), else: names

for name <- names, not is_map_key(cases, name) do
  raise "there is no case #{name}.\nExpected: some of #{Enum.join(Map.keys(cases), ", ")}"
end

load = fn name, settings -> cases[name] |> Code.require_file() |> Bench.Case.tables(settings) end

if options[:list] do
  for name <- names,
      table <- load.(name, Map.put(settings, :guests, "")),
      do: IO.puts("#{name}: #{table.title}")

  System.halt(0)
end

{:ok, _} = Application.ensure_all_started(:net_runner)
machine = Machine.describe()
IO.puts(Machine.format(machine))

{entries, budgets} =
  Guest.with_net_runner(fn guests ->
    settings = Map.put(settings, :guests, guests)

    for name <- names, table <- load.(name, settings) do
      table = Measure.with_defaults(table)
      {statistics, ratios} = Measure.run(table)
      budgets = Budgets.measure(table, statistics, ratios)
      IO.puts(["#{name}: ", Table.format(table, statistics, ratios)])
      {Results.entry(name, table, statistics, ratios, budgets), budgets}
    end
  end)
  |> Enum.unzip()

case Budgets.sort(List.flatten(budgets)) do
  [] -> :ok
  budgets -> IO.puts(["budgets (load now #{Machine.load()})\n\n", Table.format_budgets(budgets)])
end

results = options[:results] || Path.join(directory, "results")
before = Results.latest(results, mode, names)
path = Results.write(results, mode, machine, entries)
IO.puts("results   #{path}\n")
if before, do: IO.puts(Results.compare(before, path))
