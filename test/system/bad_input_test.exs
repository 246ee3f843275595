defmodule NetRunner.System.BadInputTest do
  @moduledoc false
  # Issue point 12: bad options raise and name what is allowed; bad commands are the documented values.
  use NetRunner.Test.SystemCase, async: false

  # Nothing is started by a call that is wrong: there is no command, and no server.
  setup do
    census = Census.take()
    on_exit(fn -> Census.assert_unchanged(Map.drop(census, [:beam_processes])) end)
  end

  @functions [
    run: {&__MODULE__.run/2, ~w(input timeout max_output_size kill_timeout stderr env cd leftovers success)a},
    run!: {&__MODULE__.run!/2, ~w(input timeout kill_timeout stderr env cd leftovers success)a},
    stream: {&__MODULE__.stream/2, ~w(input kill_timeout stderr env cd leftovers success)a},
    stream!: {&__MODULE__.stream!/2, ~w(input kill_timeout stderr env cd leftovers success)a},
    start: {&__MODULE__.start/2, ~w(owner name kill_timeout stderr env cd leftovers)a},
    start_link: {&__MODULE__.start_link/2, ~w(owner name kill_timeout stderr env cd leftovers)a}
  ]

  def run(command, options), do: NetRunner.run(command, options)
  def run!(command, options), do: NetRunner.run!(command, options)
  def stream(command, options), do: NetRunner.stream(command, options)
  def stream!(command, options), do: NetRunner.stream!(command, options)
  def start([executable | arguments], options), do: Proc.start(executable, arguments, options)
  def start_link([executable | arguments], options), do: Proc.start_link(executable, arguments, options)

  describe "options" do
    for {name, {fun, allowed}} <- @functions do
      test "of #{name}: an unknown one raises, and says which there are" do
        for unknown <- [:no_such_option, :timout, :kill_time] do
          error = assert_raise ArgumentError, fn -> unquote(fun).(~w(true), [{unknown, 1}]) end
          assert error.message =~ inspect(unknown)
          for option <- unquote(allowed), do: assert(error.message =~ inspect(option))
        end
      end

      test "of #{name}: a value that is none raises, and says what would be one" do
        for {option, values, expected} <- bad_values(), option in unquote(allowed), value <- values do
          message =
            try do
              {:no_error, option, value, unquote(fun).(~w(true), [{option, value}])}
            rescue
              error in ArgumentError -> error.message
            end

          assert is_binary(message), "no ArgumentError: #{inspect(message)}"
          assert message =~ inspect(option)
          assert message =~ expected
        end
      end
    end

    defp bad_values do
      [
        {:timeout, [-1, 1.5, "1", nil, :never, 0x1_0000_0000], ":infinity"},
        {:kill_timeout, [-1, 1.5, "1", nil, :infinity], "integer"},
        {:max_output_size, [-1, 1.5, "1", nil], ":infinity"},
        {:stderr, [nil, true, "consume", :stdout, :nonsense, [:consume]], ":redirect"},
        {:env,
         [
           nil,
           "K=v",
           [:k],
           [{"K", 1}],
           [{:k, "v"}],
           [{"", "v"}],
           [{"A=B", "v"}],
           [{"K", "a\0b"}],
           [{"K\0", "v"}],
           {:replace, nil},
           {:other, []}
         ], "{:replace,"},
        {:cd, [nil, "", :tmp, ~c"/tmp", "a\0b", 1], "path"},
        {:owner, [:me, "pid", 1, self_ref()], "pid"},
        {:leftovers, [nil, true, :keep_all, "kill"], ":keep"},
        {:success, [nil, 0, [-1], [256], ["0"], [0..256], :all], ":any"},
        {:name, ["name", 1, {:local}, {:global}], "atom"},
        {:input, [1, :atom, 1.0, {:file, 1}, {:file, ""}, fn -> :no end], "enumerable"}
      ]
    end

    defp self_ref, do: make_ref()

    test "stderr modes that belong to another function raise" do
      for {fun, mode} <- [
            run: :pipe,
            run: :stream,
            stream: :capture,
            stream: :pipe,
            start: :capture,
            start: :stream
          ] do
        {call, _} = @functions[fun]
        error = assert_raise ArgumentError, fn -> call.(~w(true), stderr: mode) end
        assert error.message =~ ":consume"
      end
    end

    test "options that belong to another function raise" do
      for {fun, option} <- [
            run: :owner,
            run: :name,
            stream: :timeout,
            stream: :max_output_size,
            start: :timeout,
            start: :input
          ] do
        {call, _} = @functions[fun]
        assert_raise ArgumentError, ~r/#{inspect(option)}/, fn -> call.(~w(true), [{option, 1}]) end
      end
    end

    test "what is no keyword list raises" do
      for {_, {call, _}} <- @functions, options <- [:timeout, %{timeout: 1}, [{"timeout", 1}], [1], "x"] do
        assert_raise ArgumentError, fn -> call.(~w(true), options) end
      end
    end

    test "combinations that mean nothing raise" do
      assert_raise ArgumentError, fn -> NetRunner.run(~w(true), stdout: :disabled, max_output_size: 1) end
      assert_raise ArgumentError, fn -> NetRunner.run(~w(true), stdout: :disabled, into: []) end
    end

    test "an improper element in iodata raises in the caller, and nothing is left" do
      assert_raise ArgumentError, fn -> NetRunner.run(~w(cat), input: ["a", :b]) end
      assert OS.commands() == []
      {:ok, p} = Proc.start("cat", [])
      assert_raise ArgumentError, fn -> Proc.write(p, ["a", :b]) end
      assert :ok = Proc.write(p, "c")
      assert {:ok, "c"} = Proc.read(p)
      assert :ok = Proc.stop(p)
    end
  end

  describe "commands" do
    @bad [
      {[], {:invalid_cmd, :empty}},
      {[""], {:invalid_cmd, :empty_executable}},
      {[:cat], {:invalid_cmd, :not_a_binary}},
      {[~c"cat"], {:invalid_cmd, :not_a_binary}},
      {[nil], {:invalid_cmd, :not_a_binary}},
      {["ca\0t"], {:invalid_cmd, :nul_byte}},
      {["cat", "a\0b"], {:invalid_args, :nul_byte}},
      {["cat", :a], {:invalid_args, :not_a_binary}},
      {["cat", 1], {:invalid_args, :not_a_binary}},
      {["cat", ["a"]], {:invalid_args, :not_a_binary}},
      {["cat", "a", <<1::1>>], {:invalid_args, :not_a_binary}}
    ]

    test "are values, of run and stream" do
      Mailbox.unchanged(fn ->
        for {command, reason} <- @bad do
          assert {command, NetRunner.run(command)} == {command, {:error, reason}}
          assert {command, NetRunner.stream(command)} == {command, {:error, reason}}
          assert assert_raise(NetRunner.Error, fn -> NetRunner.run!(command) end).reason == reason
          assert assert_raise(NetRunner.Error, fn -> NetRunner.stream!(command) end).reason == reason
        end

        for command <- ["cat", :cat, nil, 1, %{}, {"cat", []}] do
          assert {command, NetRunner.run(command)} == {command, {:error, {:invalid_cmd, :not_a_list}}}
        end

        assert {:error, {:invalid_args, :not_a_list}} = NetRunner.run(["cat" | "a"])
      end)
    end

    test "are values, of Process" do
      Mailbox.unchanged(fn ->
        for {[executable | arguments], reason} <- @bad do
          assert {executable, Proc.start(executable, arguments)} == {executable, {:error, reason}}
        end

        assert {:error, {:invalid_args, :not_a_list}} = Proc.start("cat", ["a" | "b"])
        assert {:error, {:invalid_cmd, :empty_executable}} = Proc.start("", [])
        assert {:error, {:invalid_cmd, :not_a_binary}} = Proc.start(:cat, [])
      end)
    end

    test "are values, as %Command{}" do
      for {[executable | arguments], reason} <- @bad do
        command = %NetRunner.Command{executable: executable, args: arguments}
        assert {:error, ^reason} = NetRunner.run(command)
      end
    end
  end

  describe "stream! with two arguments" do
    test "the second says what they are" do
      assert "b\n" = ["b\n"] |> NetRunner.stream!(["cat"]) |> Enum.join()
      assert "b\n" = ["b\n"] |> NetRunner.stream!(NetRunner.Command.new("cat")) |> Enum.join()
      assert "b\n" = "b\n" |> NetRunner.stream!(["cat"]) |> Enum.join()
      assert "" = ["true"] |> NetRunner.stream!([]) |> Enum.join()
      assert "" = ["true"] |> NetRunner.stream!(stderr: :disabled) |> Enum.join()
    end

    test "anything else, and input given twice, raise" do
      for second <- [nil, :cat, "cat", 1, %{}, [:cat], [1]] do
        assert_raise ArgumentError, fn -> NetRunner.stream!(["x"], second) end
      end

      assert_raise ArgumentError, fn -> NetRunner.stream!(["x"], ["cat"], input: "y") end

      assert_raise ArgumentError, fn ->
        NetRunner.stream!(["x"], NetRunner.Command.new("cat", [], input: "y"))
      end

      assert_raise ArgumentError, fn -> NetRunner.stream!(["x"], ["cat"], :no_options) end
    end
  end
end
