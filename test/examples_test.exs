defmodule NetRunner.ExamplesTest do
  # Each script of examples/ runs here, in this VM, with the arguments that are given to it below.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  @moduletag :tmp_dir

  test "no example is left out" do
    tested = ~w(backup.exs login.exs syntax.exs words.exs worker.exs)
    assert "examples/*.exs" |> Path.wildcard() |> Enum.map(&Path.basename/1) |> Enum.sort() == tested
  end

  test "words.exs counts words", %{tmp_dir: directory} do
    one = Path.join(directory, "one")
    two = Path.join(directory, "two")
    File.write!(one, String.duplicate("the cat and the dog\n", 1_000))
    File.write!(two, "The End\n")

    assert [["2001", "the"], ["1000", "and"], ["1000", "cat"], ["1000", "dog"], ["1", "end"]] =
             run("words.exs", [one, two]) |> String.split("\n", trim: true) |> Enum.map(&String.split/1)
  end

  test "backup.exs makes an archive that holds the files, and tells its hash", %{tmp_dir: directory} do
    archive = Path.join(directory, "docs.tar.gz")
    output = run("backup.exs", ["docs", archive])

    hash = :crypto.hash(:sha256, File.read!(archive)) |> Base.encode16(case: :lower)
    assert output == "#{hash}  #{archive}\n"

    assert {:ok, files} = :erl_tar.extract(archive, [:memory, :compressed])
    assert {_, text} = List.keyfind(files, ~c"docs/errors.md", 0)
    assert text == File.read!("docs/errors.md")
  end

  test "syntax.exs tells correct scripts from others", %{tmp_dir: directory} do
    good = Path.join(directory, "good")
    bad = Path.join(directory, "bad")
    File.write!(good, "echo hello\n")
    File.write!(bad, "if true; then echo\n")

    assert ["correct", error] =
             run("syntax.exs", [good, bad])
             |> String.split("\n", parts: 2)
             |> Enum.zip_with([good, bad], fn line, file -> String.replace_prefix(line, file <> ": ", "") end)

    assert error =~ ~r/^#{bad}: .*syntax error/i
  end

  test "login.exs answers what it is asked on a terminal" do
    assert run("login.exs", ["joe", "secret"]) == "logged in as joe\nexit status 0\n"
    assert run("login.exs", ["joe", "wrong"]) == "refused\nexit status 1\n"
  end

  test "worker.exs answers questions" do
    assert run("worker.exs", ["6 * 7", "2 + 2"]) == "6 * 7 = 42\n2 + 2 = 4\n"
  end

  # bin/demo without the building: in a VM of its own, since it ends its VM when a claim does not hold.
  @tag timeout: 120_000
  test "the claims of the demo hold" do
    if not File.exists?("/proc/self/environ"), do: raise("the demo looks at processes in /proc")
    path = Application.app_dir(:net_runner, "ebin")

    {output, status} =
      System.cmd(
        "elixir",
        ["-pa", path, "-e", "{:ok, _} = Application.ensure_all_started(:net_runner)"] ++
          ["-r", "examples/demo/demo.exs"],
        env: %{"NETRUNNER_DEMO_BYTES" => "#{64 * 1024 * 1024}"},
        stderr_to_stdout: true
      )

    assert status == 0, output
    assert output =~ "All 11 claims hold."
  end

  defp run(script, arguments) do
    before = System.argv()
    System.argv(arguments)

    try do
      capture_io(fn -> Code.eval_file(Path.join("examples", script)) end)
    after
      System.argv(before)
    end
  end
end
