defmodule NetRunner.ReadmeTest do
  # Every ```elixir block of the README runs: its `iex>` examples are doctests, compared with the results that
  # the README shows. The one block of another kind, the dependency, is evaluated.
  use ExUnit.Case, async: false

  alias NetRunner.Test.OS

  # One of the examples keeps its leftovers; the tests that come next count processes.
  setup do
    on_exit(fn -> OS.eventually(fn -> OS.commands() == [] end) end)
  end

  doctest_file("README.md")

  @readme File.read!("README.md")

  test "every line of every example is part of a doctest" do
    {[{first, _lines} | _] = examples, _others} = blocks()
    assert length(examples) > 5

    tested =
      for %{tags: %{doctest_line: from, doctest_data: %{end_line: to}}} <- __ex_unit__().tests, do: {from, to}

    # Elixir 1.18 counts the lines of a file from 2.
    shift = (tested |> Enum.min() |> elem(0)) - first
    assert shift in 0..1

    for {first, lines} <- examples, {text, line} <- Enum.with_index(lines, first), text != "" do
      assert Enum.any?(tested, fn {from, to} -> (line + shift) in from..to end),
             "README.md:#{line} is in no doctest: #{text}"
    end
  end

  test "the dependency can be put into a project" do
    {_examples, [{line, lines}]} = blocks()
    module = Module.concat(__MODULE__, Project)

    Code.eval_string(
      "defmodule #{inspect(module)} do\n#{Enum.join(lines, "\n")}\ndef all, do: deps()\nend",
      [],
      file: "README.md",
      line: line
    )

    assert [{:net_runner, [path: path]}] = module.all()
    assert is_binary(path)
  end

  test "every file that the README points to is there" do
    links = Regex.scan(~r/\]\(([^)#]+)\)/, @readme, capture: :all_but_first) |> List.flatten()
    commands = Regex.scan(~r/^bin\/\w+|`(bin\/\w+)`/m, @readme) |> Enum.map(&List.last/1)
    files = Enum.reject(links, &String.starts_with?(&1, "https://")) ++ commands

    assert "docs/errors.md" in files and "bin/demo" in files
    for file <- files, do: assert(File.exists?(file), "README.md points to #{file}, which is not there")
  end

  # The ```elixir blocks as {number of the first line, lines}: those that begin with `iex>`, and the others.
  defp blocks do
    {blocks, nil} =
      @readme
      |> String.split("\n")
      |> Enum.with_index(1)
      |> Enum.reduce({[], nil}, fn
        {"```elixir", line}, {blocks, nil} -> {blocks, {line + 1, []}}
        {"```", _line}, {blocks, {first, lines}} -> {[{first, Enum.reverse(lines)} | blocks], nil}
        {text, _line}, {blocks, {first, lines}} -> {blocks, {first, [text | lines]}}
        {_text, _line}, {blocks, nil} -> {blocks, nil}
      end)

    blocks
    |> Enum.reverse()
    |> Enum.split_with(fn {_first, [text | _]} -> String.starts_with?(text, "iex>") end)
  end
end
