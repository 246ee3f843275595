defmodule NetRunner.CollectorTest do
  use ExUnit.Case, async: true

  alias NetRunner.{Collector, Options}

  test "collects both outputs" do
    assert collect([], stdout: "a", stderr: "x", stdout: "b") == {:ok, {"ab", "x"}}
    assert collect([], []) == {:ok, {"", ""}}
  end

  test "a limit counts both outputs and cuts exactly" do
    assert collect([max_output_size: 3], stdout: "ab", stderr: "c") == {:ok, {"ab", "c"}}
    assert collect([max_output_size: 3], stdout: "ab", stderr: "cd") == {:full, {"ab", "c"}}
    assert collect([max_output_size: 3], stdout: "abc", stdout: "d") == {:full, {"abc", ""}}
    assert collect([max_output_size: 0], stdout: "a") == {:full, {"", ""}}
    assert collect([max_output_size: 0], []) == {:ok, {"", ""}}
  end

  test "collects into any collectable, in chunks or lines" do
    assert collect([into: []], stdout: "a\nb", stdout: "c") == {:ok, {["a\nb", "c"], ""}}
    assert collect([into: [], lines: 10], stdout: "a\nb", stdout: "c") == {:ok, {["a", "bc"], ""}}
    assert collect([lines: 10], stdout: "a\nb") == {:ok, {"ab", ""}}
    assert collect([into: "> "], stdout: "a") == {:ok, {"> a", ""}}
  end

  test "a chunk behind exactly 512 MiB" do
    # 2^32 bits: a VM that compares the lower half of a size with 0 takes that for empty (docs/decisions.md).
    bytes = 512 * 1024 * 1024
    chunks = [stdout: :binary.copy("a", bytes), stdout: "b"]
    {:ok, {stdout, ""}} = collect([], chunks)
    assert {byte_size(stdout), :binary.first(stdout), :binary.last(stdout)} == {bytes + 1, ?a, ?b}
  end

  defp collect(opts, chunks) do
    {result, collector} =
      Enum.reduce_while(chunks, {:ok, Collector.new(Options.new(:run, opts))}, fn {name, chunk},
                                                                                  {:ok, collector} ->
        case Collector.add(collector, name, chunk) do
          {:ok, collector} -> {:cont, {:ok, collector}}
          {:full, collector} -> {:halt, {:full, collector}}
        end
      end)

    {result, Collector.finish(collector)}
  end
end
