defmodule NetRunner.BenchTest do
  @moduledoc false
  # That bench/ works: without what bin/bench does before (it builds for :prod, and the floor), so that it is cheap.
  use ExUnit.Case, async: true

  @run Path.expand("../bench/run.exs", __DIR__)

  test "every case can be loaded" do
    files = "../bench/cases/*.exs" |> Path.expand(__DIR__) |> Path.wildcard()
    assert {output, 0} = bench(["--list"])
    listed = for line <- String.split(output, "\n", trim: true), do: line |> String.split(":") |> hd()
    assert Enum.uniq(listed) == for(file <- files, do: Path.basename(file, ".exs"))
  end

  test "a case runs, its results are kept, and two of them can be compared" do
    directory = Path.join(System.tmp_dir!(), "net_runner-bench-test-#{System.pid()}")
    on_exit(fn -> File.rm_rf!(directory) end)
    assert {output, 0} = bench(["--results", directory, "streams"])
    assert output =~ ~r/^  a NetRunner\.stream! .*–$/m
    assert output =~ ~r/^    Port .* [\d.]+ ±[\d.]+$/m

    assert [file] = Path.wildcard(Path.join(directory, "*-quick.json"))
    assert %{"tables" => [%{"case" => "streams"}]} = file |> File.read!() |> :json.decode()
    assert {comparison, 0} = bench(["--compare", file, file])
    assert comparison =~ ~r/ NetRunner\.stream! \/ Port .* 1\.00 +±[\d.]+ +=$/m
  end

  test "what there is not is said" do
    assert {output, 1} = bench(["no-such-case"])
    assert output =~ "there is no case no-such-case"
    assert {output, 1} = bench(["--no-such-option"])
    assert output =~ "Expected: --results DIRECTORY"
  end

  defp bench(arguments) do
    ebin = Application.app_dir(:net_runner, "ebin")
    env = [{"NETRUNNER_BENCH", "quick"}, {"NETRUNNER_FLOOR", "not built"}]
    System.cmd("elixir", ["-pa", ebin, @run | arguments], env: env, stderr_to_stdout: true)
  end
end
