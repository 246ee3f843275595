defmodule NetRunner.Stream.AbnormalExitTest do
  use ExUnit.Case, async: true

  alias NetRunner.Command
  alias NetRunner.Stream.AbnormalExit

  doctest AbnormalExit

  test "says how the command ended, what it said, and which it was" do
    error = %AbnormalExit{
      status: 143,
      signal: :sigterm,
      stderr: "bye\n",
      command: Command.new("sleep", ["9"])
    }

    assert Exception.message(error) ==
             "the command was ended by SIGTERM\nits stderr ends with:\n    bye\nthe command was: [\"sleep\", \"9\"]"
  end
end
