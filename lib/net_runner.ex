defmodule NetRunner do
  @moduledoc """
  Runs operating-system processes so that nothing it starts can outlive it, no byte is lost, and no mailbox
  floods.

      iex> NetRunner.run(["echo", "hello"])
      {"hello\\n", 0}

      iex> NetRunner.run(["sort"], input: ["pear\\n", "apple\\n"])
      {"apple\\npear\\n", 0}

      iex> NetRunner.run(["sleep", "60"], timeout: 50)
      {:error, :timeout}

      iex> ["b\\n", "a\\n", "b\\n"]
      ...> |> NetRunner.stream!(["sort"])
      ...> |> NetRunner.stream!(["uniq", "-c"])
      ...> |> Enum.join()
      "      1 a\\n      2 b\\n"

  | to | use |
  | --- | --- |
  | run a command and have its output and status | `run/2`, `run!/2`, `capture/2` |
  | go through its output while it runs, or make it a part of a pipeline | `stream/2`, `stream!/2` |
  | talk with it | `NetRunner.Process`, `expect/3` |
  | name a command and run it often | `NetRunner.Command` |

  ## Commands

  A command is a list `[executable | args]` of binaries, or a `NetRunner.Command`. No shell is involved: arguments
  arrive as they are. An executable without a `/` is looked up in the `PATH` that the command will have; one with a
  `/` is relative to the directory in which the command will run.

  ## What is promised

  * When a function here returns, whether by the end of the command, a time limit or an exception, every process
    that came from the command is dead: also those that it has left in the background, those that have made
    themselves daemons, and those that ignore SIGTERM. (The option `:leftovers` can keep what a command leaves.)
  * The same is true when the calling process dies, and when the VM does, even by SIGKILL.
  * Output is complete, however fast the command exits; and what nobody reads waits in the kernel, not in the VM.
  * The calling process is linked to nothing, and finds no message in its mailbox.

  A command ends by the *stop sequence*: `:stop_signal` to all its processes, and, to those that are still there
  after `:kill_timeout`, SIGKILL.

  ## Files

  With `stdout: {:file, path}` the command writes into the file by itself: no byte passes the VM. The same goes for
  `{:append, path}` and `:inherit`, and for `:stderr`.

      iex> path = Path.join(System.tmp_dir!(), "net_runner-" <> System.pid())
      iex> NetRunner.run(["sh", "-c", "echo out; echo err >&2"], stdout: {:file, path}, stderr: :redirect)
      {"", 0}
      iex> File.read!(path)
      "out\\nerr\\n"
      iex> File.rm!(path)

  * The VM opens the file, with its own rights and its own umask (not the `:user` and the `:umask` of the command),
    before the command starts; a relative path starts at the VM's directory, not at `:cd`. What cannot be opened is
    `{:error, {:stdout, posix}}`. As in a shell, the file is emptied or made also when the command cannot start then.
  * A FIFO must have its reader already, else it is `{:error, {:stdout, :enxio}}`: nothing waits for one.
  * The same path for stdout and stderr is opened twice, and the two overwrite each other, as with `>f 2>f` in a
    shell; use `stderr: :redirect`, or `:append` for both.
  * A full disk is what the command's own writes meet: its status tells.
  * `:inherit` passes the VM's own fd 1 or 2 as it is. The VM's own output, `IO.puts/1`, may come earlier or later.

  ## Terminals

  With `pty: true`, or `pty: [rows: 24, cols: 80, echo: true]`, stdin, stdout and stderr are one terminal, of that size
  from the start, and the controlling one of the command's session: programs ask for passwords, show prompts, colours and
  full screens, and Ctrl-C is a byte, `"\\x03"`.

      iex> NetRunner.run(["sh", "-c", "test -t 1 && stty size"], pty: [rows: 50, cols: 132])
      {"50 132\\r\\n", 0}
      iex> NetRunner.run(["cat"], pty: [echo: false], input: "hello\\n")
      {"hello\\r\\n", 0}

  * What comes out is what a terminal would show: lines end in `\\r\\n`, and with `:echo` the input is there, too, until
    the program changes that. stderr is in it; `:stdout`, and `:stderr` but for `:redirect`, cannot be given.
  * The end of the input is the terminal's end-of-file character (Ctrl-D), which a terminal in raw mode does not have:
    `NetRunner.Process.close_stdin/1` is `{:error, :not_canonical}` then, and `run` and `stream` do nothing at the end
    of `:input`.
  * Not in raw mode, a line has at most 4,095 bytes. A longer one is not written: `{:error, :line_too_long}`, from `run`
    `{:error, {:input, :line_too_long}}`.
  * The stop sequence begins with SIGHUP, then SIGTERM, which interactive shells ignore; SIGHUP comes once more after a second.
  * `TERM` is that of the environment: give `env: [{"TERM", "xterm-256color"}]` where programs depend on it.
  * What a command leaves with `leftovers: :keep` may write to the terminal until that is full; nobody reads it any more.

  See `NetRunner.Process.set_window_size/3`.

  ## Control groups

  With `cgroup_path: "job/123"` (Linux, cgroups v2) the command is born in a fresh group `job/123/nr-…`, below the cgroup2 mount
  or below what the application's environment names: `config :net_runner, cgroup_root: "my_app"`, a path below the mount, or
  `:self`, the VM's own group. What it starts is in there, too. Only who may write to the hierarchy can leave: root, and in a
  part that was delegated to the VM's user a command of that user (give it another `:user`). At the end, at
  `:kill_timeout`, everything in the group gets SIGKILL at once, also what cannot be signalled (a set-user-ID program), what forks
  faster than it is found, and what a shepherd and a fork server that were killed together have left.

      NetRunner.capture(["make", "-j8"], cgroup_path: "build", cgroup: %{memory_max: 1_073_741_824, pids_max: 200})

  * Levels that are missing are made, and go with the last command in them. A directory that was there before stays, and so does who
    lives in it; what is in the fresh group is the command's, and ends with it.
  * What cannot be had is `{:error, {:cgroup, {what, posix}}}`, and nothing runs: a limit whose controller is not there
    (`{:memory_max, :enotsup}`), a hierarchy that the VM may not write to (`{:create, :eacces}`). A path that is none is
    `{:error, {:invalid_cgroup_path, why}}`. See `docs/errors.md`.
  * Controllers that the limits need are enabled on the way down from the root, and stay so. The kernel does not allow that for a
    group with processes in it (`{:enable, :ebusy}`).
  * What the group has used, and whether the OOM killer has struck (`oom_kill`), is in `NetRunner.Result` and
    `NetRunner.Stats` as `:cgroup`: `t:NetRunner.Stats.cgroup/0`. There is none for leftovers that are kept.
  * When VM, fork server and shepherds are killed together, daemons may live on in the group, until the next command with the same
    `:cgroup_path` runs: it ends them first, and removes what they were in.
  * Elsewhere than on Linux `:cgroup_path` does nothing, with one warning, and `:cgroup` is an error.

  ## Users

  With `:user`, which takes root's rights (CAP_SETUID and CAP_SETGID), the command has that user as its real,
  effective and saved one, the group and the supplementary groups of a login of that user (unless `:group` and
  `:groups` say otherwise), no capabilities, and no way back; that is checked, and what cannot be had is
  `{:error, {:credentials, posix}}`. A number without a passwd entry needs a `:group`, and has no other groups.
  With `:group` or `:groups` alone only these change.

  * Names are looked up in the VM, where the VM looks them up (NSS). An unknown one is `{:error, {:user, :enoent}}`.
  * Directory and executable are found with the rights of the command: `:user` and the VM's own directory do not go
    together when it may not be entered (`{:error, {:cd, :eacces}}`); give `:cd`.
  * `:nice` and `:rlimits` are set before, with the rights of the VM. `rlimits: [nproc: n]` counts all processes of the
    user; when there are more already, the command is `{:error, {:exec, :eagain}}`.
  * Nothing else changes: `HOME`, `USER` and the rest of the environment are the VM's, unless `:env` says otherwise.

  ## Errors

  What goes wrong at run time is `{:error, reason}`, see `t:NetRunner.Error.reason/0`; the functions with a `!`
  raise `NetRunner.Error`. A status other than 0 is a result, not an error. Unknown and malformed options are
  mistakes in the program and raise `ArgumentError`.
  """

  alias NetRunner.{Command, Error, Expect, Nif, Options, Result, Run, Stats, Table}

  @type cmd :: [binary()] | Command.t()

  @doc """
  Runs a command to its end and returns its output and exit status.

  The result is `{stdout, status}`, with `stderr: :capture` `{stdout, status, stderr}`, or `{:error, reason}`. The
  status is 0..255, or 128 + the number of the signal that ended the command.

      iex> NetRunner.run(["sh", "-c", "echo out; echo err >&2; exit 3"], stderr: :capture)
      {"out\\n", 3, "err\\n"}
      iex> NetRunner.run(["no-such-command"])
      {:error, {:exec, :enoent}}
      iex> NetRunner.run(["yes"], max_output_size: 4)
      {:error, {:max_output_exceeded, "y\\ny\\n"}}

  With `stderr: :capture`, the partial output of `:max_output_exceeded` is stdout followed by stderr; `capture/2`
  has them apart. Where `:into` is no binary, it is what was collected of stdout.

  `{:error, :closed}` means that the server of the command was killed.

  ## Options

  #{Options.docs(:run)}
  """
  @spec run(cmd(), keyword()) ::
          {Collectable.t(), 0..255} | {Collectable.t(), 0..255, stderr :: binary()} | {:error, Error.reason()}
  defdelegate run(cmd, opts \\ []), to: Run

  @doc """
  As `run/2`, but returns stdout, and raises `NetRunner.Error` when the command fails: when it cannot be run, or
  its status is not among `:success`.

      iex> NetRunner.run!(["echo", "hello"])
      "hello\\n"
      iex> NetRunner.run!(["sh", "-c", "echo oops >&2; exit 3"])
      ** (NetRunner.Error) the command exited with status 3
      its stderr ends with:
          oops
      the command was: ["sh", "-c", "echo oops >&2; exit 3"]
  """
  @spec run!(cmd(), keyword()) :: Collectable.t()
  defdelegate run!(cmd, opts \\ []), to: Run

  @doc """
  As `run/2`, with all that is known about the command as a `NetRunner.Result`.

  A time limit and too much output return what there is: `{:error, {:timeout, result}}`,
  `{:error, {:idle_timeout, result}}`, `{:error, {:max_output_exceeded, result}}`.

      iex> {:ok, result} = NetRunner.capture(["sh", "-c", "echo out; kill -9 $$"])
      iex> {result.stdout, result.status, result.signal}
      {"out\\n", 137, :sigkill}
      iex> {:error, {:timeout, result}} = NetRunner.capture(["sh", "-c", "echo out; sleep 60"], timeout: 200)
      iex> result.stdout
      "out\\n"

  ## Options

  #{Options.docs(:capture)}
  """
  @spec capture(cmd(), keyword()) :: {:ok, Result.t()} | {:error, Error.reason()}
  defdelegate capture(cmd, opts \\ []), to: Run

  @doc """
  The output of a command as an enumerable, `{:ok, enumerable}`, or `{:error, reason}` for what cannot be a command.

  The command starts when the enumeration starts, in and owned by the enumerating process, and anew each time.
  Halting ends it before the call returns. The elements are binaries as the system delivers them, or lines with
  `:lines`; with `stderr: :stream` they are `{:stdout, binary}`, `{:stderr, binary}` and at last
  `{:exit, status}`. An exit status never raises. What prevents the command from running, or ends it before its
  time, raises `NetRunner.Error`.

  The input can be given first, to be piped in; see `stream!/2`.

      iex> {:ok, stream} = NetRunner.stream(["sh", "-c", "echo out; echo err >&2; exit 3"], stderr: :stream)
      iex> stream |> Enum.sort()
      [exit: 3, stderr: "err\\n", stdout: "out\\n"]
      iex> NetRunner.stream([])
      {:error, {:invalid_cmd, :empty}}

  ## Options

  #{Options.docs(:stream)}
  """
  @spec stream(cmd()) :: {:ok, Enumerable.t()} | {:error, Error.reason()}
  def stream(cmd), do: new_stream([cmd])

  @doc "`stream(cmd, opts)`, or, with the input piped in, `stream(input, cmd)`; see `stream/1`."
  @spec stream(cmd() | Enumerable.t(), keyword() | cmd()) :: {:ok, Enumerable.t()} | {:error, Error.reason()}
  def stream(cmd_or_input, opts_or_cmd), do: new_stream([cmd_or_input, opts_or_cmd])

  @doc "With the input piped in, and options; see `stream/1`."
  @spec stream(Enumerable.t(), cmd(), keyword()) :: {:ok, Enumerable.t()} | {:error, Error.reason()}
  def stream(input, cmd, opts), do: new_stream([input, cmd, opts])

  defp new_stream(args) do
    with {:ok, stream} <- NetRunner.Stream.new(args, false), do: {:ok, stream}
  end

  @doc """
  The output of a command as an enumerable.

  As `stream/2`, but returns the enumerable itself. What cannot be a command raises `NetRunner.Error`. When the
  command has ended with a status that is not among `:success`, `NetRunner.Stream.AbnormalExit` is raised after
  the last element; not when the enumeration was halted before.

      iex> NetRunner.stream!(["seq", "3"], lines: 1_024) |> Enum.map(&String.to_integer/1)
      [1, 2, 3]
      iex> NetRunner.stream!(["yes"]) |> Stream.map(&binary_part(&1, 0, 1)) |> Enum.take(1)
      ["y"]

  The input can be given first, to be piped in: any enumerable of iodata, another stream among them. Then come the
  command and, if there are any, options:

      iex> ["2\\n", "1\\n"] |> NetRunner.stream!(["sort"]) |> Enum.join()
      "1\\n2\\n"
  """
  @spec stream!(cmd()) :: Enumerable.t()
  def stream!(cmd), do: new_stream!([cmd])

  @doc "`stream!(cmd, opts)`, or, with the input piped in, `stream!(input, cmd)`; see `stream!/1`."
  @spec stream!(cmd() | Enumerable.t(), keyword() | cmd()) :: Enumerable.t()
  def stream!(cmd_or_input, opts_or_cmd), do: new_stream!([cmd_or_input, opts_or_cmd])

  @doc "With the input piped in, and options; see `stream!/1`."
  @spec stream!(Enumerable.t(), cmd(), keyword()) :: Enumerable.t()
  def stream!(input, cmd, opts), do: new_stream!([input, cmd, opts])

  defp new_stream!(args) do
    case NetRunner.Stream.new(args, true) do
      {:ok, stream} -> stream
      {:error, reason} -> raise Error, reason: reason
    end
  end

  @doc """
  Reads the output of a command (a `NetRunner.Process`, mostly with `:pty`) until it matches: a binary, a regular
  expression, or one of a list of them.

  Returns `{:ok, found}`, a `NetRunner.Expect` with what came before, what has matched, and which pattern it was: the one that
  begins first, of several that begin at the same place the first in the list. What comes behind is kept, for the next
  call or for `NetRunner.Process.read/2`.

  `:eof`: the output has ended without a match; `:timeout`: it has not come in time. In both cases what was read is
  kept, too. `{:error, reason}` as of `NetRunner.Process.read/2`.

      iex> {:ok, server} = NetRunner.Process.start("sh", ["-c", "printf 'login: '; read name; echo Hello, $name."], pty: true)
      iex> {:ok, %{index: 0}} = NetRunner.expect(server, ["login: ", ~r/denied/], timeout: 10_000)
      iex> NetRunner.Process.write(server, "joe\\n")
      iex> {:ok, found} = NetRunner.expect(server, ~r/Hello, (\\w+)\\./, timeout: 10_000)
      iex> {found.before, found.match, found.captures}
      {"joe\\r\\n", "Hello, joe.", ["joe"]}
      iex> NetRunner.expect(server, "login: ")
      :eof

  A pattern is looked for whenever more has come: `~r/\\d+/` matches the first digits of a number that is not complete yet, so
  let it say what comes behind. With the modifier `u` it matches nothing while the output is not UTF-8.

  ## Options

  * `:timeout` (default `:infinity`): milliseconds.
  * `:max_bytes` (default `65536`): so much of the end of the output is looked at and kept; what came earlier, and did not
    match, is dropped, and is not in `:before`.
  """
  @spec expect(NetRunner.Process.t(), Expect.pattern() | [Expect.pattern(), ...], keyword()) ::
          {:ok, Expect.t()} | :eof | :timeout | {:error, Error.reason()}
  def expect(process, pattern, opts \\ []), do: Expect.expect(process, pattern, opts)

  @doc """
  Every command that runs under this VM, with the pid of its server, its pid in the system (`nil` while it is being
  started), its owner, its age in milliseconds, and what it has done so far.

      iex> {:ok, server} = NetRunner.Process.start("sleep", ["60"])
      iex> command = Enum.find(NetRunner.list(), &(&1.server == server))
      iex> {command.command, command.owner == self(), command.stats.exit_status}
      {["sleep", "60"], true, nil}
  """
  @spec list() :: [
          %{
            server: pid(),
            os_pid: pos_integer() | nil,
            command: [binary(), ...],
            owner: pid() | nil,
            age_ms: non_neg_integer(),
            stats: Stats.t()
          }
        ]
  def list do
    now = System.monotonic_time(:millisecond)
    system_now = System.system_time(:millisecond)

    for %{exited: false} = row <- Table.commands() do
      age = now - row.info.started
      started_at = DateTime.from_unix!(system_now - age, :millisecond)
      counters = {counters(row.stdin), counters(row.stdout), counters(row.stderr)}

      %{
        server: row.server,
        os_pid: row.os_pid,
        command: row.info.command,
        owner: row.owner,
        age_ms: age,
        stats: Stats.new(counters, started_at, age)
      }
    end
  end

  defp counters(nil), do: nil
  defp counters(pipe), do: Nif.counters(pipe)
end
