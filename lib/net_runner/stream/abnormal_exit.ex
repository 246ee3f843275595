defmodule NetRunner.Stream.AbnormalExit do
  @moduledoc """
  Raised by `NetRunner.stream!/2`, after the last chunk, when the status is not among `:success`.

  | field | |
  | --- | --- |
  | `status` | 0..255, or 128 + signal |
  | `signal` | the name of the signal that ended the command, `nil` if none did |
  | `stderr` | the end of what it wrote to stderr, `""` where that was not kept |
  | `command` | the `NetRunner.Command`, without its `:input` and `:env` |
  """

  alias NetRunner.{Command, Error, Signal}

  defexception [:status, :signal, :command, stderr: ""]

  @type t :: %__MODULE__{
          status: 0..255,
          signal: Signal.name() | nil,
          stderr: binary(),
          command: Command.t() | nil
        }

  @doc """
  How the command ended, and what it said.

      iex> Exception.message(%NetRunner.Stream.AbnormalExit{status: 2, stderr: "grep: nope: No such file\\n"})
      "the command exited with status 2\\nits stderr ends with:\\n    grep: nope: No such file"
  """
  @impl true
  def message(%__MODULE__{} = error) do
    Error.exit_text(error.status, error.signal) <>
      Error.stderr_text(error.stderr) <> Error.command_text(error.command)
  end
end
