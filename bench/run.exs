# Runs the cases of bench/cases, or those that are named, and prints a table for each: see bin/bench.

directory = __DIR__
for file <- ~w(measure machine table), do: Code.require_file("#{file}.exs", directory)

settings =
  case System.get_env("NETRUNNER_BENCH", "full") do
    "full" -> %{spawns: 2_000, bytes: 1024 * 1024 * 1024, rounds: 9}
    "quick" -> %{spawns: 200, bytes: 64 * 1024 * 1024, rounds: 3}
    other -> raise "NETRUNNER_BENCH is #{inspect(other)}.\nExpected: full or quick"
  end
  |> Map.put(:floor, System.fetch_env!("NETRUNNER_FLOOR"))

cases =
  for file <- Enum.sort(Path.wildcard(Path.join(directory, "cases/*.exs"))), into: %{} do
    {Path.basename(file, ".exs"), file}
  end

names = if System.argv() == [], do: Enum.sort(Map.keys(cases)), else: System.argv()

for name <- names, not is_map_key(cases, name) do
  raise "there is no case #{name}.\nExpected: some of #{Enum.join(Map.keys(cases), ", ")}"
end

IO.puts(Bench.Machine.describe())

for name <- names do
  {module, _bytecode} =
    cases[name] |> Code.require_file() |> Enum.find(fn {module, _} -> function_exported?(module, :new, 1) end)

  bench = module.new(settings)
  IO.puts(["\n", Bench.Table.format(bench, Bench.Measure.run(bench))])
end
