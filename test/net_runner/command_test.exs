defmodule NetRunner.CommandTest do
  use ExUnit.Case, async: true

  alias NetRunner.Command

  doctest Command

  defmodule Git do
    use NetRunner.Command

    @format ["--format=%h"]

    @doc "What has changed."
    defcommand :status, "git", ["status", "--porcelain"]
    defcommand :log, "git", args: ["log" | @format], timeout: 1_000, env: %{"PAGER" => ""}
    defcommand :version, "git"
    defcommand :whoami, "echo", [to_string(Process.get(:user))]
  end

  test "options that are none are an ArgumentError, wherever they come from" do
    for call <- [
          fn -> NetRunner.run(Command.new("true", [], "x")) end,
          fn -> NetRunner.stream!(Command.new("true", [], %{}), []) end,
          fn -> NetRunner.Daemon.child_spec(cmd: Command.new("true", [], [1])) end,
          fn -> NetRunner.run(["true"], "x") end
        ] do
      assert_raise ArgumentError, ~r/^invalid options\.\nExpected: a keyword list\nGot: /, call
    end
  end

  describe "to_command/1" do
    test "takes a list or a command" do
      assert Command.to_command(["ls", "-l"]) == {:ok, %Command{executable: "ls", args: ["-l"], opts: []}}
      command = Command.new("ls", ["-l"], cd: "/")
      assert Command.to_command(command) == {:ok, command}
    end

    test "returns what is not a command" do
      assert Command.to_command([]) == {:error, {:invalid_cmd, :empty}}

      for other <- ["ls -l", nil, :ls, {"ls", ["-l"]}, %{executable: "ls"}, 1] do
        assert Command.to_command(other) == {:error, {:invalid_cmd, :not_a_list}}
      end
    end
  end

  describe "validate/1" do
    test "wants an executable that is a binary, not empty, without NUL" do
      assert invalid("") == {:invalid_cmd, :empty_executable}
      assert invalid("l\0s") == {:invalid_cmd, :nul_byte}
      assert invalid("\0") == {:invalid_cmd, :nul_byte}

      for other <- [nil, :ls, ~c"ls", <<1::1>>, 1] do
        assert invalid(other) == {:invalid_cmd, :not_a_binary}
      end
    end

    test "wants arguments that are binaries without NUL, in a list" do
      assert invalid("ls", ["-l", "\0"]) == {:invalid_args, :nul_byte}
      assert invalid("ls", ["-l", :a]) == {:invalid_args, :not_a_binary}
      assert invalid("ls", [~c"-l"]) == {:invalid_args, :not_a_binary}
      assert invalid("ls", timeout: 5) == {:invalid_args, :not_a_binary}
      assert invalid("ls", "-l") == {:invalid_args, :not_a_list}
      assert invalid("ls", nil) == {:invalid_args, :not_a_list}
      assert invalid("ls", ["-l" | "-a"]) == {:invalid_args, :not_a_list}
    end

    test "lets every other byte through" do
      command = Command.new(<<255, 254>>, ["", <<1, 255>>, "--timeout", "é"])
      assert Command.validate(command) == {:ok, command}
    end

    defp invalid(executable, args \\ []) do
      assert {:error, reason} = Command.validate(Command.new(executable, args))
      reason
    end
  end

  describe "extend/2" do
    test "appends arguments" do
      assert Command.extend(Command.new("a", ["b"]), ["c", "d"]).args == ["b", "c", "d"]
    end

    test "merges options, the later win; :args are appended and no option" do
      command = Command.new("a", ["b"], timeout: 1, cd: "/")

      assert Command.extend(command, args: ["c"], timeout: 2) ==
               %Command{executable: "a", args: ["b", "c"], opts: [cd: "/", timeout: 2]}
    end

    test "leaves what are no arguments for validate/1 to find" do
      for args <- ["b", ["b" | "c"], nil] do
        assert {:error, {:invalid_args, :not_a_list}} =
                 Command.new("a", args) |> Command.extend(["d"]) |> Command.validate()
      end

      assert {:error, {:invalid_args, :not_a_list}} =
               Command.new("a", ["b"]) |> Command.extend(args: "c") |> Command.validate()
    end
  end

  describe "prepare/2" do
    test "puts command, arguments and options together and checks them" do
      assert Command.prepare(["a"], args: ["b"], cd: "/") ==
               {:ok, %Command{executable: "a", args: ["b"], opts: [cd: "/"]}}

      assert Command.prepare(["a"], args: ["b\0"]) == {:error, {:invalid_args, :nul_byte}}
      assert Command.prepare("a", []) == {:error, {:invalid_cmd, :not_a_list}}
    end

    test "takes nothing but a keyword list for options" do
      for opts <- [["-l"], :timeout, %{timeout: 1}, nil] do
        assert_raise ArgumentError, ~r/Expected: a keyword list\nGot: /, fn ->
          Command.prepare(["a"], opts)
        end
      end
    end
  end

  describe "defcommand" do
    test "makes commands with the arguments and options of the definition" do
      assert Git.status() == Command.new("git", ["status", "--porcelain"])
      assert Git.version() == Command.new("git")

      assert Git.log() ==
               Command.new("git", ["log", "--format=%h"], timeout: 1_000, env: %{"PAGER" => ""})
    end

    test "adds arguments, options or both at the call" do
      assert Git.status(["--branch"]).args == ["status", "--porcelain", "--branch"]
      assert Git.status(cd: "/") == Command.new("git", ["status", "--porcelain"], cd: "/")

      assert Git.log(args: ["-n", "1"], timeout: 2_000) ==
               Command.new("git", ["log", "--format=%h", "-n", "1"], env: %{"PAGER" => ""}, timeout: 2_000)
    end

    test "evaluates its expressions when the command is made" do
      Process.put(:user, :ann)
      assert Git.whoami().args == ["ann"]
      Process.put(:user, :bob)
      assert Git.whoami().args == ["bob"]
    end

    test "lists the module's commands in the order of their definitions" do
      assert Keyword.keys(Git.__commands__()) == [:status, :log, :version, :whoami]
      assert Git.__commands__()[:status] == Git.status()
    end

    test "wants an atom for a name" do
      code = ~s|defmodule M do use NetRunner.Command; defcommand "status", "git" end|
      assert_raise ArgumentError, ~r/Expected: an atom.*Got: "status"/s, fn -> Code.eval_string(code) end
    end
  end
end
