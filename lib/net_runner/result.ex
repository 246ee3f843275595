defmodule NetRunner.Result do
  @moduledoc """
  What came of a command: its output and how it ended.

  | field | |
  | --- | --- |
  | `stdout` | what it wrote to stdout, in the form that `:into` says |
  | `stderr` | what it wrote to stderr with `stderr: :capture`, else the end of it, else `""` |
  | `status` | 0..255, or 128 + signal; `nil` in a partial result, when it was ended by us |
  | `signal` | the name of the signal that ended it, `nil` if none did |
  | `duration_ms` | from the start to the exit |
  | `rusage` | the kernel's account: CPU times in microseconds, memory in bytes, and more |
  | `cgroup` | with `:cgroup_path`, what its group has used: `t:NetRunner.Stats.cgroup/0`; else `nil` |
  | `stats` | all of it, with the counts of bytes: `NetRunner.Stats` |
  """

  alias NetRunner.{Nif, Signal, Stats}

  defstruct stdout: "",
            stderr: "",
            status: nil,
            signal: nil,
            duration_ms: 0,
            rusage: nil,
            cgroup: nil,
            stats: nil

  @type t :: %__MODULE__{
          stdout: Collectable.t(),
          stderr: binary(),
          status: 0..255 | nil,
          signal: Signal.name() | nil,
          duration_ms: non_neg_integer(),
          rusage: Nif.rusage() | nil,
          cgroup: Stats.cgroup() | nil,
          stats: Stats.t()
        }

  @doc false
  @spec new(Collectable.t(), binary(), Stats.t(), Nif.rusage() | nil) :: t()
  def new(stdout, stderr, %Stats{} = stats, rusage) do
    %__MODULE__{
      stdout: stdout,
      stderr: stderr,
      status: stats.exit_status,
      signal: stats.signal,
      duration_ms: stats.duration_ms,
      rusage: rusage,
      cgroup: stats.cgroup,
      stats: stats
    }
  end
end
