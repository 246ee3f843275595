missing = NetRunner.Test.Cgroup2.missing()

if missing do
  IO.puts(
    :stderr,
    "excluded: tests with the tag :cgroup2, for #{missing}; bin/test runs them in a guest kernel"
  )
end

ExUnit.start(
  exclude: if(missing, do: [:cgroup2], else: []),
  formatters: [ExUnit.CLIFormatter, NetRunner.Test.SkipReport]
)
