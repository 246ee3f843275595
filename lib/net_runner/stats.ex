defmodule NetRunner.Stats do
  @moduledoc """
  What a command has done so far, or, when it has exited, in all.

  Bytes are counted where they move, so they are right whoever reads. Times and memory are the kernel's
  account (getrusage(2)) of the command and of the children that it has waited for; there is none before the
  exit.

  | field | |
  | --- | --- |
  | `bytes_in` | bytes written to the command's stdin |
  | `bytes_out`, `bytes_err` | bytes read from its stdout and stderr (0 where they do not come to us) |
  | `read_count`, `write_count` | system calls that moved them |
  | `started_at` | when it was started, a `DateTime` (UTC) |
  | `duration_ms` | from the start to the exit, or to now |
  | `exit_status` | 0..255, or 128 + signal; `nil` while it runs |
  | `signal` | the name of the signal that ended it, such as `:sigkill`; `nil` if none did |
  | `core_dumped` | whether that signal left a core dump |
  | `user_ms`, `system_ms` | CPU time in the command and in the kernel for it |
  | `max_rss_bytes` | the most memory it, or the largest of those children, had at a time |
  | `minor_faults`, `major_faults` | page faults without and with I/O |
  | `blocks_in`, `blocks_out` | reads from and writes to file systems |
  | `voluntary_switches`, `involuntary_switches` | context switches |
  | `cgroup` | with `:cgroup_path`, what its group has used, see `t:cgroup/0`; else, and before the end, `nil` |
  """

  alias NetRunner.{Nif, Signal}

  defstruct bytes_in: 0,
            bytes_out: 0,
            bytes_err: 0,
            read_count: 0,
            write_count: 0,
            started_at: nil,
            duration_ms: 0,
            exit_status: nil,
            signal: nil,
            core_dumped: false,
            user_ms: nil,
            system_ms: nil,
            max_rss_bytes: nil,
            minor_faults: nil,
            major_faults: nil,
            blocks_in: nil,
            blocks_out: nil,
            voluntary_switches: nil,
            involuntary_switches: nil,
            cgroup: nil

  @type t :: %__MODULE__{
          bytes_in: non_neg_integer(),
          bytes_out: non_neg_integer(),
          bytes_err: non_neg_integer(),
          read_count: non_neg_integer(),
          write_count: non_neg_integer(),
          started_at: DateTime.t() | nil,
          duration_ms: non_neg_integer(),
          exit_status: 0..255 | nil,
          signal: Signal.name() | nil,
          core_dumped: boolean(),
          user_ms: non_neg_integer() | nil,
          system_ms: non_neg_integer() | nil,
          max_rss_bytes: non_neg_integer() | nil,
          minor_faults: non_neg_integer() | nil,
          major_faults: non_neg_integer() | nil,
          blocks_in: non_neg_integer() | nil,
          blocks_out: non_neg_integer() | nil,
          voluntary_switches: non_neg_integer() | nil,
          involuntary_switches: non_neg_integer() | nil,
          cgroup: cgroup() | nil
        }

  @typedoc """
  What the group of a command, all that has lived in it, has used. `nil` is what this kernel does not count, or the group
  has no controller for: without a limit of memory there need be no `memory_peak_bytes`.

  | key | |
  | --- | --- |
  | `memory_peak_bytes` | the most memory that was in use at a time |
  | `oom` | how often the limit was reached and nothing could be freed |
  | `oom_kill` | processes that the OOM killer has killed: more than 0, and it was the limit that ended them |
  | `cpu_us`, `cpu_user_us`, `cpu_system_us` | CPU time in microseconds |
  | `throttled`, `throttled_us` | periods in which `:cpu_max` was used up, and for how long it was held back |
  | `pids_peak` | the most processes and threads at a time |
  | `pids_max` | forks that `:pids_max` has refused |
  """
  @type cgroup :: %{
          memory_peak_bytes: non_neg_integer() | nil,
          oom: non_neg_integer() | nil,
          oom_kill: non_neg_integer() | nil,
          cpu_us: non_neg_integer() | nil,
          cpu_user_us: non_neg_integer() | nil,
          cpu_system_us: non_neg_integer() | nil,
          throttled: non_neg_integer() | nil,
          throttled_us: non_neg_integer() | nil,
          pids_peak: non_neg_integer() | nil,
          pids_max: non_neg_integer() | nil
        }

  @typedoc "How a command has ended, as the shepherd says it."
  @type exit :: {:status, 0..255} | {:signal, 1..64, core_dumped :: boolean()}

  @typedoc "What `NetRunner.Nif.counters/1` says of a pipe; `nil` where there is no pipe."
  @type counters ::
          {read_bytes :: non_neg_integer(), reads :: non_neg_integer(), written_bytes :: non_neg_integer(),
           writes :: non_neg_integer()}
          | nil

  @doc """
  The status of an exit: a signal is 128 + its number, as in a shell.

      iex> NetRunner.Stats.exit_status({:status, 3})
      3
      iex> NetRunner.Stats.exit_status({:signal, 9, false})
      137
  """
  @spec exit_status(exit()) :: 0..255
  def exit_status({:status, status}), do: status
  def exit_status({:signal, number, _core_dumped}), do: 128 + number

  @doc """
  The name of the signal of an exit, `nil` if it was none.

      iex> NetRunner.Stats.signal({:status, 137})
      nil
      iex> NetRunner.Stats.signal({:signal, 9, false})
      :sigkill
  """
  @spec signal(exit()) :: Signal.name() | nil
  def signal({:status, _status}), do: nil
  def signal({:signal, number, _core_dumped}), do: Signal.name(number)

  @doc false
  # The statistics of a command: the counters of its three pipes, when it was started, how long it has run,
  # and, when it has exited, how, with the kernel's account, and with that of its group.
  @spec new(
          {stdin :: counters(), stdout :: counters(), stderr :: counters()},
          DateTime.t(),
          non_neg_integer(),
          {exit(), Nif.rusage()} | nil,
          cgroup() | nil
        ) :: t()
  def new({stdin, stdout, stderr}, started_at, duration_ms, exited \\ nil, cgroup \\ nil) do
    {_, _, bytes_in, write_count} = stdin || {0, 0, 0, 0}
    {bytes_out, out_reads, _, _} = stdout || {0, 0, 0, 0}
    {bytes_err, err_reads, _, _} = stderr || {0, 0, 0, 0}

    put_exited(
      %__MODULE__{
        bytes_in: bytes_in,
        bytes_out: bytes_out,
        bytes_err: bytes_err,
        read_count: out_reads + err_reads,
        write_count: write_count,
        started_at: started_at,
        duration_ms: duration_ms,
        cgroup: cgroup
      },
      exited
    )
  end

  defp put_exited(stats, nil), do: stats

  defp put_exited(stats, {exit, rusage}) do
    %{
      stats
      | exit_status: exit_status(exit),
        signal: signal(exit),
        core_dumped: match?({:signal, _number, true}, exit),
        user_ms: round(rusage.user_us / 1_000),
        system_ms: round(rusage.system_us / 1_000),
        max_rss_bytes: rusage.max_rss_bytes,
        minor_faults: rusage.minor_faults,
        major_faults: rusage.major_faults,
        blocks_in: rusage.blocks_in,
        blocks_out: rusage.blocks_out,
        voluntary_switches: rusage.voluntary_switches,
        involuntary_switches: rusage.involuntary_switches
    }
  end
end
