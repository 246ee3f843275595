ExUnit.start(formatters: [ExUnit.CLIFormatter, NetRunner.Test.SkipReport])
