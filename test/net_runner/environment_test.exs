defmodule NetRunner.EnvironmentTest do
  # Changes the environment of the VM.
  use ExUnit.Case, async: false

  alias NetRunner.Environment

  doctest Environment

  @name "NET_RUNNER_ENVIRONMENT_TEST"

  setup do
    on_exit(fn -> System.delete_env(@name) end)
  end

  defp entries(env), do: env |> Environment.block() |> split()

  defp split(block), do: String.split(block, <<0>>, trim: true)

  describe "block/1" do
    test "is the environment of the VM as other programs see it" do
      {env, 0} = System.cmd("env", ["-0"])
      # The port program of the VM adds nothing, `env` neither.
      assert Enum.sort(split(env)) == Enum.sort(entries([]))
    end

    test "is that of the moment of the call" do
      # A VM of ISO 8859-1 (LANG=C) takes no "€" at all.
      text = if :file.native_name_encoding() == :utf8, do: "é€", else: "e"

      for value <- ["1", text, "", "a=b\n"] do
        System.put_env(@name, value)
        assert Environment.variable(Environment.block([]), @name) == value
      end

      # Asked for so often that it has settled.
      for _ <- 1..200, do: assert(Environment.variable(Environment.block([]), @name) == "a=b\n")
      System.put_env(@name, "2")
      for _ <- 1..200, do: assert(Environment.variable(Environment.block([]), @name) == "2")

      System.delete_env(@name)
      assert Environment.variable(Environment.block([]), @name) == nil
    end

    test "that changes again and again is seldom a term that is replaced" do
      term = fn -> with {_shown, block, _asked} <- :persistent_term.get(Environment, nil), do: block end

      terms =
        for number <- 1..2_000 do
          System.put_env(@name, "#{rem(number, 2)}")
          Environment.block([])
          term.()
        end

      # Each takes twice as many calls as the one before.
      assert terms |> Enum.dedup() |> length() <= 6
    end

    test "is changed by the option, whose last value of a name counts" do
      System.put_env(@name, "1")
      before = entries([])

      assert entries([{@name, "2"}, {@name, "3"}]) == (before -- [@name <> "=1"]) ++ [@name <> "=3"]
      assert entries([{@name, nil}]) == before -- [@name <> "=1"]
      assert entries([{@name, ""}]) == (before -- [@name <> "=1"]) ++ [@name <> "="]
      assert entries([{@name, "2"}, {@name, nil}]) == before -- [@name <> "=1"]
      # A name that another one starts with is another name.
      assert entries([{String.slice(@name, 0..-2//1), nil}]) == before
    end

    test "is replaced by the option" do
      assert entries({:replace, []}) == []
      assert entries({:replace, [{"A", "1"}, {"B", nil}, {"A", "2"}]}) == ["A=2"]
      assert entries({:replace, [{"A", "1"}, {"A", nil}]}) == []
    end

    test "takes bytes that are no text" do
      assert entries({:replace, [{<<255>>, <<254>>}]}) == [<<255, ?=, 254>>]
    end
  end

  describe "encode/3" do
    test "keeps the bytes that the VM was started with, whatever the encoding" do
      boot = [
        <<"LATIN=caf", 0xE9>>,
        "UTF=café",
        "EMPTY=",
        "EQ=a=b",
        <<"MIX=caf", 0xC3, 0xA9, 0xFF>>,
        "UNSET=1"
      ]

      shown = [
        {~c"LATIN", [?c, ?a, ?f, 0xE9]},
        {~c"UTF", ~c"café"},
        {~c"EMPTY", ~c""},
        {~c"EQ", ~c"a=b"},
        {~c"MIX", [?c, ?a, ?f, 0xC3, 0xA9, 0xFF]}
      ]

      assert Environment.encode(shown, boot, :utf8) == List.delete(boot, "UNSET=1")
    end

    test "encodes what has changed since" do
      assert Environment.encode([{~c"A", ~c"é"}], [<<"A=", 0xE8>>], :utf8) == ["A=é"]
      assert Environment.encode([{~c"A", ~c"é"}], [<<"A=", 0xE8>>], :latin1) == [<<"A=", 0xE9>>]
    end

    test "in a VM of ISO 8859-1 UTF-8 is two characters, and stays the same bytes" do
      assert Environment.encode([{~c"A", [0xC3, 0xA9]}], ["A=é"], :latin1) == ["A=é"]
    end

    test "passes over what is no variable" do
      assert Environment.encode([{~c"A", ~c"1"}], ["NOTHING", "A=1"], :utf8) == ["A=1"]
    end

    test "of a name that is there twice, keeps the value that the VM shows" do
      assert Environment.encode([{~c"A", ~c"2"}], ["A=1", "A=2"], :utf8) == ["A=2"]
    end
  end
end
