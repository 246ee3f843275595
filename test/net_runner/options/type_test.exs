defmodule NetRunner.Options.TypeTest do
  use ExUnit.Case, async: true

  alias NetRunner.Options.Type

  # {type, {value, what it is cast to}, values that are none}
  @cases [
    {{:integer, 1..3, "bytes"}, [1, 3], [0, 4, 1.0, "1", nil, :infinity]},
    {{:or, {:integer, 1..3, "bytes"}, :infinity}, [1, :infinity], [0, nil, :infinite]},
    {{:one_of, [:a, :b]}, [:a, :b], [:c, "a", nil, []]},
    {:path, ["/tmp", ".", <<255>>], ["", "a\0b", ~c"/tmp", :tmp, nil]},
    {:c_string, ["", "a"], ["\0", nil, ~c"a", <<1::1>>]},
    {:owner, [nil], [:pid, "pid", 1]},
    {:server_name, [:server, {:global, "a"}, {:via, Registry, {R, 1}}],
     [nil, true, :undefined, "a", {:via, "m", 1}, {:local, :a}]},
    {:statuses, [:any, [], [0], [0, 255, 1..3], [3..1//-1]],
     [0, 1..3, [256], [-1], [0..256], [:a], [0 | 1], nil]},
    {:collectable, ["", [], %{}, MapSet.new()], [nil, :a, 1, {}]},
    {{:output, [:a]}, [:a, {:file, "p"}, {:append, <<255>>}],
     [:b, :file, {:file, ""}, {:file, "\0"}, {:append, nil}, {:write, "p"}, {:file, "p", []}, "p", nil]},
    {:principal, ["root", "0", <<255>>, 0, 4_294_967_294],
     ["", "a\0", -1, 4_294_967_295, :root, ~c"root", nil, 1.0]},
    {:principals, [[], ["root", 0]], ["root", 0, nil, [""], [-1], [:root], ["a" | "b"]]}
  ]

  for {type, good, bad} <- @cases do
    test "#{inspect(type)} takes what it says, and no more" do
      type = unquote(Macro.escape(type))
      for value <- unquote(Macro.escape(good)), do: assert(Type.cast(type, value) == {:ok, value})
      for value <- unquote(Macro.escape(bad)), do: assert({value, Type.cast(type, value)} == {value, :error})
      assert is_binary(Type.expected(type))
    end
  end

  test "a signal becomes its number" do
    assert Type.cast(:signal, :sigint) == {:ok, 2}
    assert Type.cast(:signal, 9) == {:ok, 9}
    for bad <- [:int, 0, 32, "sigint", nil], do: assert(Type.cast(:signal, bad) == :error)
  end

  test "limits become a list of names with soft and hard limits, nil for none" do
    assert Type.cast(:rlimits, []) == {:ok, []}
    assert Type.cast(:rlimits, nofile: 1, cpu: {2, 3}) == {:ok, [{:nofile, 1, 1}, {:cpu, 2, 3}]}
    assert Type.cast(:rlimits, as: :infinity, cpu: {2, :infinity}) == {:ok, [{:as, nil, nil}, {:cpu, 2, nil}]}
    assert Type.cast(:rlimits, as: 2 ** 64 - 2) == {:ok, [{:as, 2 ** 64 - 2, 2 ** 64 - 2}]}
    assert Type.cast(:rlimits, core: 0, core: 1) == {:ok, [{:core, 0, 0}]}

    for bad <- [
          %{as: 1},
          [:as],
          [{"as", 1}],
          [as: -1],
          [as: 1.0],
          [as: nil],
          [as: 2 ** 64 - 1],
          [as: {2, 1}],
          [as: {:infinity, 1}],
          [as: {1}],
          [as: {1, 2, 3}],
          [as: :unlimited],
          [vmem: 1],
          [core: 0, core: -1],
          nil
        ] do
      assert {bad, Type.cast(:rlimits, bad)} == {bad, :error}
    end
  end

  test "an owner is a process of this node" do
    assert Type.cast(:owner, self()) == {:ok, self()}
    # Pid of the node `other@host`, in the external term format.
    remote = :erlang.binary_to_term(<<131, 88, 100, 10::16, "other@host", 38::32, 0::32, 1::32>>)
    assert is_pid(remote)
    assert Type.cast(:owner, remote) == :error
  end

  describe ":input" do
    test "is iodata, an enumerable, a file or a function of one argument" do
      function = fn sink -> sink end

      for good <- [
            "",
            "a",
            [],
            ["a", ?b, [~c"c"]],
            1..3,
            Stream.map(1..3, &to_string/1),
            MapSet.new(),
            function
          ] do
        assert Type.cast(:input, good) == {:ok, good}
      end

      assert Type.cast(:input, {:file, "/etc/passwd"}) == {:ok, {:file, "/etc/passwd"}}
    end

    test "is nothing else" do
      for bad <- [
            nil,
            :stdin,
            1,
            {:file, ""},
            {:file, nil},
            {:fd, 0},
            <<1::1>>,
            fn -> "a" end,
            fn _, _, _ -> 1 end
          ] do
        assert Type.cast(:input, bad) == :error
      end
    end
  end

  describe ":environment" do
    test "becomes a list" do
      assert Type.cast(:environment, %{"A" => "1"}) == {:ok, [{"A", "1"}]}
      assert Type.cast(:environment, [{"A", "1"}, {"B", nil}]) == {:ok, [{"A", "1"}, {"B", nil}]}
      assert Type.cast(:environment, {:replace, %{"A" => "1"}}) == {:ok, {:replace, [{"A", "1"}]}}
      assert Type.cast(:environment, {:replace, []}) == {:ok, {:replace, []}}
    end

    test "takes bytes as they are, and \"=\" in a value" do
      env = [{<<255>>, <<254>>}, {"A", "b=c"}, {"EMPTY", ""}, {"a b", "\n"}]
      assert Type.cast(:environment, env) == {:ok, env}
    end

    test "takes no name that setenv(3) would not take, and nothing with a NUL" do
      for bad <- [
            [{"", "1"}],
            [{"A=B", "1"}],
            [{"A\0", "1"}],
            [{"A", "\0"}],
            [{:a, "1"}],
            [a: "1"],
            [{"A", 1}],
            [{"A", :b}],
            [{"A", ~c"b"}],
            [{~c"A", "b"}],
            ["A=1"],
            [{"A", "1"} | {"B", "2"}],
            "A=1",
            nil,
            :inherit,
            {:replace, nil},
            {:replace, [{"", "1"}]},
            {:extend, []},
            URI.parse("a://b")
          ] do
        assert {bad, Type.cast(:environment, bad)} == {bad, :error}
      end
    end
  end
end
