defmodule NetRunner.DocsTest do
  # docs/errors.md against the code: each reason has a message, and each stage of native/ is there. And
  # docs/testing.md against the tests.
  use ExUnit.Case, async: true

  @errors File.read!("docs/errors.md")

  # The first cells of the rows of all tables whose header begins with `header`, without their backquotes.
  defp first_cells(header) do
    for "| " <> ^header <> _ = table <- String.split(@errors, "\n\n"),
        row <- table |> String.split("\n", trim: true) |> Enum.drop(2) do
      [_, cell] = Regex.run(~r/^\| `(.*?)` \|/, row)
      cell
    end
  end

  test "each reason has a message of its own" do
    reasons =
      for cell <- first_cells("reason") do
        {reason, []} = Code.eval_string(cell)
        reason
      end

    assert length(reasons) > 30
    assert reasons == Enum.uniq(reasons)

    messages = for reason <- reasons, do: Exception.message(%NetRunner.Error{reason: reason})
    assert Enum.all?(messages, &(String.length(&1) > 10))
    assert messages == Enum.uniq(messages)
  end

  test "each reason that NetRunner.Error and NetRunner.Command know is in the table" do
    {:ok, types} = Code.Typespec.fetch_types(NetRunner.Error)

    [{:type, {:reason, {:type, _, :union, alternatives}, []}}] =
      for {_, {:reason, _, _}} = type <- types, do: type

    documented = first_cells("reason") |> Enum.map(&(&1 |> Code.eval_string() |> elem(0)))

    atoms = for {:atom, _, atom} <- alternatives, do: atom
    assert :shepherd_died in atoms
    assert atoms -- documented == []

    # {:timeout, result} is :timeout with what had come until then.
    tags = for {:type, _, :tuple, [{:atom, _, tag} | _]} <- alternatives, uniq: true, do: tag
    assert :unkillable in tags

    assert tags -- for(reason <- documented, do: if(is_tuple(reason), do: elem(reason, 0), else: reason)) ==
             []

    {:ok, types} = Code.Typespec.fetch_types(NetRunner.Command)
    [{:type, {:why, {:type, _, :union, whys}, []}}] = for {_, {:why, _, _}} = type <- types, do: type

    documented =
      for {invalid, why} <- documented, invalid in [:invalid_cmd, :invalid_args], uniq: true, do: why

    assert Enum.sort(for {:atom, _, why} <- whys, do: why) == Enum.sort(documented)
  end

  test "so is each that NetRunner.Cgroup knows, and each step towards a cgroup" do
    documented = first_cells("reason") |> Enum.map(&(&1 |> Code.eval_string() |> elem(0)))
    {:ok, types} = Code.Typespec.fetch_types(NetRunner.Cgroup)
    [{:type, {:why, {:type, _, :union, whys}, []}}] = for {_, {:why, _, _}} = type <- types, do: type

    assert Enum.sort(for {:atom, _, why} <- whys, do: why) ==
             Enum.sort(for {:invalid_cgroup_path, why} <- documented, do: why)

    source = File.read!("native/protocol/src/cgroup.rs")

    [_, steps] = Regex.run(~r/const STEPS.*?= \[\n(.*?)\];/s, source)
    steps = Regex.scan(~r/"(\w+)"/, steps, capture: :all_but_first) |> List.flatten()
    [_, limits] = Regex.run(~r/const LIMITS.*?= \[\n(.*?)\];/s, source)
    limits = Regex.scan(~r/, "(\w+)", /, limits, capture: :all_but_first) |> List.flatten()
    {whats, posixes} = Enum.unzip(for {:cgroup, {what, posix}} <- documented, do: {to_string(what), posix})

    assert length(steps) == 4 and length(limits) == 9
    # The mount is looked for in the VM.
    assert Enum.sort(["mount" | steps]) == whats |> Enum.uniq() |> Enum.reject(&(&1 in limits)) |> Enum.sort()
    for limit <- limits, do: assert(NetRunner.Cgroup.Limits.expected() =~ inspect(String.to_atom(limit)))
    names = File.read!("native/nif/src/error.rs")
    for posix <- posixes, do: assert(names =~ ~s(=> "#{posix}"))
  end

  test "the stages are those of native/" do
    source = File.read!("native/nif/src/error.rs")
    [_, function] = Regex.run(~r/fn name\(self\)(.*?)\n    \}\n\}/s, source)
    stages = Regex.scan(~r/=> "(\w+)"/, function, capture: :all_but_first) |> List.flatten()

    assert "exec" in stages
    assert Enum.sort(first_cells("stage")) == Enum.sort(stages)
  end

  test "each errno that is named has a name in native/" do
    source = File.read!("native/nif/src/error.rs")
    names = Regex.scan(~r/=> "(e[a-z0-9]+)"/, source, capture: :all_but_first) |> List.flatten()

    for {stage, "e" <> _ = name} <-
          Regex.scan(~r/^\| `\{:(\w+), :(e\w+)\}`/m, @errors, capture: :all_but_first)
          |> Enum.map(&List.to_tuple/1),
        stage not in ["invalid_cmd", "invalid_args", "invalid_cgroup_path"] do
      # No errno: the end of the fork server.
      assert name in names or name == "eof"
    end
  end

  # docs/testing.md, the table of faults: `file` "name of the test".
  test "each test that docs/testing.md names is there" do
    rows =
      Regex.scan(~r/^\| .* \| `(.+)` "(.+)" \|$/m, File.read!("docs/testing.md"), capture: :all_but_first)

    assert length(rows) > 30

    for [file, name] <- rows do
      # An ExUnit test, one of a table of them, or a Rust test.
      forms = [~s(test "#{name}"), "\n      #{name}: ", "\nfn #{name}()"]
      assert String.contains?(File.read!(file), forms), "#{file} has no test #{inspect(name)}"
    end
  end
end
