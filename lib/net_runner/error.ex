defmodule NetRunner.Error do
  @moduledoc """
  Why a command could not be run, or did not end as it should.

  The functions that return `{:error, reason}` return the reason; those that raise raise this, with the reason
  and what is known beside it.

  | field | |
  | --- | --- |
  | `reason` | see `t:reason/0` |
  | `command` | the `NetRunner.Command`, without its `:input`, `:into` and `:env`, or `nil` |
  | `status` | the exit status, `nil` if it has not exited by itself |
  | `stderr` | the end of what it wrote to stderr, `""` where that was not kept |
  | `path` | the `PATH` that an executable was looked up in, `nil` if it has none |
  """

  alias NetRunner.{Cgroup, Command, Result, Signal}

  defexception [:reason, :command, :status, :path, stderr: ""]

  @typedoc """
  The reason of a failure.

  | reason | |
  | --- | --- |
  | `{:exit_status, status}`, `{:signal, name}` | the command ran, and its exit is not among `:success` |
  | `:timeout`, `{:timeout, result}` | it did not end in time, and was stopped |
  | `:idle_timeout`, `{:idle_timeout, result}` | it wrote nothing for too long, and was stopped |
  | `{:max_output_exceeded, partial}` | it wrote too much, and was stopped |
  | `{:invalid_cmd, why}`, `{:invalid_args, why}` | see `NetRunner.Command` |
  | `{:exec, posix}` | the executable could not be executed, such as `:enoent`, `:eacces`, `:enoexec`, `:e2big` |
  | `{:cd, posix}` | the directory could not be entered |
  | `{:stdout, posix}`, `{:stderr, posix}` | the file for the output could not be opened |
  | `{:user, posix}`, `{:group, posix}`, `{:groups, posix}` | the name could not be found, such as `:enoent` |
  | `{:credentials, posix}` | user and groups could not be set, such as `:eperm` |
  | `{:nice, posix}` | the niceness could not be set, such as `:eacces` |
  | `{:invalid_cgroup_path, why}` | `:cgroup_path` is none, see `docs/errors.md` |
  | `{:cgroup, {what, posix}}` | the control group, or a limit of it, could not be had, such as `{:memory_max, :enotsup}` |
  | `{:rlimits, {limit, posix}}` | this limit could not be set, such as `{:nofile, :eperm}` |
  | `{stage, posix}` | something else failed before the command ran: `:fork_server`, `:dev_null`, `:socket`, `:send`, `:fds`, `:pipe`, `:fork`, `:setup` |
  | `{:kill, posix}` | the system refused a signal, such as `:eperm` |
  | `:shepherd_died` | the process that watches the command was killed; so was the command |
  | `:no_fork_server` | the process that makes shepherds is gone and has not come back yet |
  | `:protocol` | what the shepherd said makes no sense; the command was ended |
  | `{:unkillable, os_pids}` | these are alive five seconds after SIGKILL |
  | `:closed` | the pipe or the process has been closed |
  | `:epipe` | nobody reads what is written any more |
  | `:line_too_long` | a line of more than 4,095 bytes was to be written to a terminal that is not in raw mode |
  | `:not_canonical` | a terminal in raw mode has no end-of-file character |
  | `:not_a_pty` | there is no terminal whose size could be set |
  | `:invalid_window_size` | rows and columns are integers from 1 to 65535 |
  | `:not_running` | there is no command to signal: it has exited |
  | `:unknown_signal` | see `NetRunner.Signal` |
  | `:not_started` | the application `:net_runner` is not started |
  | a POSIX error, such as `:eio` | reading or writing failed |
  """
  @type reason ::
          {:exit_status, 0..255}
          | {:signal, Signal.name()}
          | :timeout
          | {:timeout, Result.t()}
          | :idle_timeout
          | {:idle_timeout, Result.t()}
          | {:max_output_exceeded, partial :: Collectable.t() | Result.t()}
          | Command.invalid()
          | {stage :: atom(), posix()}
          | {:rlimits, {limit :: atom(), posix()}}
          | {:invalid_cgroup_path, Cgroup.why()}
          | {:cgroup, {what :: atom(), posix()}}
          | :shepherd_died
          | :no_fork_server
          | :protocol
          | {:unkillable, [os_pid :: pos_integer()]}
          | :closed
          | :epipe
          | :line_too_long
          | :not_canonical
          | :not_a_pty
          | :invalid_window_size
          | :not_running
          | :unknown_signal
          | :not_started
          | posix()

  @typedoc "An errno as a lower-case atom, such as `:enoent`."
  @type posix :: atom()

  @type t :: %__MODULE__{
          reason: reason(),
          command: Command.t() | nil,
          status: 0..255 | nil,
          path: binary() | nil,
          stderr: binary()
        }

  @doc """
  What happened, and where to look.

      iex> Exception.message(%NetRunner.Error{reason: :not_started})
      "the application :net_runner is not started: start it with Application.ensure_all_started(:net_runner), " <>
        "or list it among the applications of your project"
  """
  @impl true
  def message(%__MODULE__{} = error), do: text(error.reason, error) <> command_text(error.command)

  defp text({:exit_status, status}, error), do: exit_text(status, nil) <> stderr_text(error.stderr)

  defp text({:signal, name}, error), do: exit_text(error.status, name) <> stderr_text(error.stderr)

  defp text(:timeout, error) do
    "the command did not end within its :timeout and was stopped; nothing of it is left" <>
      stderr_text(error.stderr)
  end

  defp text({:timeout, %Result{}}, error), do: text(:timeout, error)

  defp text(:idle_timeout, error) do
    "the command wrote nothing for the time of its :idle_timeout and was stopped; nothing of it is left" <>
      stderr_text(error.stderr)
  end

  defp text({:idle_timeout, %Result{}}, error), do: text(:idle_timeout, error)

  defp text({:max_output_exceeded, partial}, error) do
    "the command wrote more than its :max_output_size#{size_text(partial)} and was stopped; nothing of it is left" <>
      stderr_text(error.stderr)
  end

  defp text({:invalid_cmd, why}, _error), do: "not a command: " <> invalid_cmd_text(why)
  defp text({:invalid_args, why}, _error), do: "invalid arguments: " <> invalid_args_text(why)

  defp text({:unkillable, os_pids}, _error) do
    "#{Enum.map_join(os_pids, ", ", &to_string/1)} still alive five seconds after SIGKILL: a process of another " <>
      "user (a setuid program), or one that waits in the kernel (state D in `ps`, often a dead disk or NFS server)"
  end

  defp text({:exec, posix}, error),
    do: "cannot execute #{executable_text(error)}: " <> exec_text(posix, error)

  defp text({:cd, posix}, error) do
    directory = if error.command, do: " " <> inspect(error.command.opts[:cd] || "."), else: ""

    "cannot run in the directory#{directory}#{user_text(posix, error)}: #{posix_text(posix)}#{hint_text(posix)}"
  end

  defp text({output, posix}, error) when output in [:stdout, :stderr] do
    "cannot open #{output_text(output, option(error, output))}: #{posix_text(posix)}#{open_text(posix)}"
  end

  defp text({:input, :line_too_long}, error), do: "the input has " <> text(:line_too_long, error)

  defp text({:pty, :eagain}, _error),
    do: "cannot make a terminal: there are too many (/proc/sys/kernel/pty/max)"

  defp text({:user, posix}, error), do: name_text(:user, posix, error, "getent passwd")

  # The user's own group, which nobody has named.
  defp text({:group, :enoent}, error) do
    case {option(error, :group), option(error, :user)} do
      {nil, user} when user != nil ->
        "the user #{inspect(user)} has no passwd entry, which would name its group: give :group, too"

      _named_or_unknown ->
        name_text(:group, :enoent, error, "getent group")
    end
  end

  defp text({:group, posix}, error), do: name_text(:group, posix, error, "getent group")
  defp text({:groups, posix}, error), do: name_text(:groups, posix, error, "getent group")

  defp text({:rlimits, {limit, posix}}, error) do
    wanted =
      case option(error, :rlimits) do
        nil -> ""
        rlimits -> " to #{inspect(rlimits[limit])}"
      end

    "cannot set the limit #{inspect(limit)}#{wanted}: #{posix_text(posix)}#{limit_text(posix)}"
  end

  defp text({:invalid_cgroup_path, why}, error) do
    "not a path for a control group#{wanted_text(option(error, :cgroup_path))}: " <> cgroup_path_text(why)
  end

  defp text({:cgroup, {:mount, :enoent}}, _error) do
    "there is no control group: no cgroup2 file system is mounted (see /proc/self/mountinfo)"
  end

  defp text({:cgroup, {:root, posix}}, _error) do
    "cannot open the control group that :cgroup_root names, or the VM's own: #{posix_text(posix)}"
  end

  defp text({:cgroup, {step, posix}}, error) when step in [:create, :enable, :join] do
    where = wanted_text(option(error, :cgroup_path))
    "cannot #{cgroup_step_text(step)}#{where}: #{posix_text(posix)}#{cgroup_hint_text(step, posix)}"
  end

  defp text({:cgroup, {limit, posix}}, _error) do
    "cannot have the limit #{inspect(limit)} of a control group: #{posix_text(posix)}#{cgroup_limit_text(posix)}"
  end

  defp text({:kill, posix}, _error), do: "the system refused the signal: #{posix_text(posix)}"

  defp text({:fork_server, :enosys}, _error) do
    "cannot start the fork server: a sandbox (seccomp?) refuses it waitid(2), without which nothing can be watched"
  end

  defp text({:fork_server, posix}, _error),
    do: "cannot start the fork server, #{shepherd_path()}" <> fork_server_text(posix)

  defp text({:dev_null, :enodev}, _error) do
    "cannot start the fork server: /dev/null is no device (was it removed, and written to?)"
  end

  defp text({stage, posix}, _error) when is_atom(stage) and is_atom(posix) do
    "#{stage_text(stage)}: #{posix_text(posix)}#{privilege_text(stage, posix)}#{hint_text(posix)}"
  end

  defp text(:shepherd_died, _error) do
    "the shepherd, the process that watches the command, was killed; the command was killed with it, and how far " <>
      "it came is not known (was it the out-of-memory killer? see `dmesg`)"
  end

  defp text(:no_fork_server, _error) do
    "the fork server of NetRunner is gone and has not come back: is priv/shepherd there, executable, and on a " <>
      "file system that is not mounted noexec? (`NetRunner.ForkServer` logs why it cannot be started)"
  end

  defp text(:protocol, _error) do
    "the shepherd and the VM do not understand each other, and the command was ended: do priv/shepherd and " <>
      "priv/net_runner_nif.so come from the same build?"
  end

  defp text(:closed, _error), do: "it is closed: by close_stdin, by stop, or because its server has ended"

  defp text(:epipe, _error),
    do: "nobody reads what is written: the command has closed its stdin, or has exited"

  defp text(:line_too_long, _error) do
    "a line of more than 4,095 bytes: a terminal that is not in raw mode would drop the rest of it"
  end

  defp text(:not_canonical, _error) do
    "the terminal is in raw mode, in which it has no end-of-file character: what ends its input is the program's own " <>
      "matter"
  end

  defp text(:not_a_pty, _error), do: "there is no terminal: the command was started without :pty"

  defp text(:invalid_window_size, _error),
    do: "rows and columns of a terminal are integers from 1 to 65535"

  defp text(:not_running, _error), do: "the command is not running any more; nothing was signalled"
  defp text(:unknown_signal, _error), do: "unknown signal; NetRunner.Signal has #{Signal.expected()}"

  defp text(:not_started, _error) do
    "the application :net_runner is not started: start it with Application.ensure_all_started(:net_runner), " <>
      "or list it among the applications of your project"
  end

  defp text(posix, _error) when is_atom(posix), do: posix_text(posix) <> hint_text(posix)

  # -- Parts, shared with NetRunner.Stream.AbnormalExit ------------------------------------------------

  @doc false
  @spec exit_text(0..255 | nil, Signal.name() | nil) :: String.t()
  def exit_text(_status, :sigkill) do
    "the command was killed by SIGKILL (was it the out-of-memory killer? see `dmesg`)"
  end

  def exit_text(_status, signal) when signal != nil do
    "the command was ended by #{signal |> to_string() |> String.upcase()}"
  end

  def exit_text(126, nil), do: exit_status_text(126, "in a shell: a command was found but cannot be executed")
  def exit_text(127, nil), do: exit_status_text(127, "in a shell: a command was not found")

  def exit_text(status, nil) when status in 129..159 do
    signal = (status - 128) |> Signal.name() |> to_string() |> String.upcase()
    exit_status_text(status, "in a shell: a command was ended by #{signal}")
  end

  def exit_text(status, nil), do: "the command exited with status #{status}"

  defp exit_status_text(status, hint), do: "the command exited with status #{status} (#{hint})"

  @doc false
  @spec stderr_text(binary()) :: String.t()
  def stderr_text(stderr) do
    case stderr |> String.replace_invalid() |> String.trim_trailing() do
      "" -> ""
      text -> "\nits stderr ends with:\n" <> indent(text)
    end
  end

  @doc false
  @spec command_text(Command.t() | nil) :: String.t()
  def command_text(nil), do: ""

  def command_text(%Command{executable: executable, args: args}) do
    command = if is_list(args), do: [executable | args], else: {executable, args}
    text = inspect(command, limit: 50, printable_limit: 1_000)
    shown = String.slice(text, 0, 1_000)
    "\nthe command was: " <> shown <> if(shown == text, do: "", else: "…")
  end

  defp indent(text), do: text |> String.split("\n") |> Enum.map_join("\n", &("    " <> &1))

  defp size_text(%Result{stdout: partial}), do: size_text(partial)
  defp size_text(partial) when is_binary(partial), do: " of #{byte_size(partial)} bytes"
  defp size_text(_collected), do: ""

  defp invalid_cmd_text(:empty), do: "the list is empty; it must start with the executable"
  defp invalid_cmd_text(:not_a_list), do: "neither a list [executable | arguments] nor a NetRunner.Command"
  defp invalid_cmd_text(:not_a_binary), do: "the executable is not a binary"
  defp invalid_cmd_text(:empty_executable), do: "the executable is \"\""
  defp invalid_cmd_text(:nul_byte), do: "the executable contains a NUL byte"

  defp invalid_args_text(:not_a_list), do: "they are not a proper list"
  defp invalid_args_text(:not_a_binary), do: "one of them is not a binary"
  defp invalid_args_text(:nul_byte), do: "one of them contains a NUL byte"

  defp executable_text(%{command: nil}), do: "the command"
  defp executable_text(%{command: command}), do: inspect(command.executable)

  defp exec_text(:enoent, %{command: %Command{executable: executable}} = error) when is_binary(executable) do
    cond do
      String.contains?(executable, "/") ->
        "no such file, or the interpreter of its #! line or its loader is missing"

      error.path == nil ->
        "no such file in the PATH"

      true ->
        "no such file (PATH was #{error.path})"
    end
  end

  defp exec_text(:eacces, _error),
    do: "permission denied: it is not executable, or is a directory, or its file system is mounted noexec"

  defp exec_text(:enoexec, _error),
    do: "the system does not know the format: a script without a #! line, or a program for another machine"

  defp exec_text(:e2big, error),
    do: "the arguments#{args_size_text(error.command)} and the environment are too long"

  defp exec_text(posix, _error), do: posix_text(posix) <> hint_text(posix)

  # Also of an application that is not loaded.
  defp shepherd_path do
    case :code.priv_dir(:net_runner) do
      {:error, :bad_name} -> "priv/shepherd"
      priv -> Path.join(List.to_string(priv), "shepherd")
    end
  end

  defp fork_server_text(:enoent),
    do:
      ": it is not there, or its dynamic loader is not (enoent); was priv/ left out of a release or an image?"

  defp fork_server_text(:eacces),
    do: ": it may not be executed (eacces); look at its mode, and whether its file system is mounted noexec"

  defp fork_server_text(:enoexec),
    do: ": it is no program for this machine (enoexec); was it cut short, or built for another one?"

  defp fork_server_text(:eof) do
    ": it ended before it was ready, or hung and was killed; was it stopped, cut short, kept from something by a " <>
      "sandbox, or short of file descriptors or memory?"
  end

  defp fork_server_text(posix), do: ", or hand it a socket: #{posix_text(posix)}#{hint_text(posix)}"

  # execve(2), "Limits on size of arguments and environment".
  defp args_size_text(%Command{args: args}) when is_list(args) do
    sizes = Enum.map(args, &byte_size/1)
    " (#{Enum.sum(sizes)} bytes, the longest #{Enum.max(sizes, fn -> 0 end)})"
  end

  defp args_size_text(_command), do: ""

  defp stage_text(:dev_null), do: "cannot start the fork server: /dev/null cannot be used"
  defp stage_text(:socket), do: "cannot make a control socket"
  defp stage_text(:send), do: "cannot send the request to the shepherd"
  defp stage_text(:fds), do: "cannot hand the file descriptors of the command over"
  defp stage_text(:pty), do: "cannot make a terminal"
  defp stage_text(:pipe), do: "cannot make a pipe"
  defp stage_text(:fork), do: "cannot make a process"
  defp stage_text(:setup), do: "cannot set the new process up"
  defp stage_text(:credentials), do: "cannot run the command as this user, with these groups"
  defp stage_text(:nice), do: "cannot set this niceness"
  defp stage_text(stage), do: "failed before the command ran (#{stage})"

  defp privilege_text(:credentials, :eperm), do: " (only root may become another user)"
  defp privilege_text(:nice, :eacces), do: " (only root may lower it)"
  defp privilege_text(_stage, _posix), do: ""

  # -- What the options have asked for, where they are known --------------------------------------------

  defp option(%{command: %Command{opts: opts}}, name) when is_list(opts), do: opts[name]
  defp option(_error, _name), do: nil

  defp output_text(output, {_file_or_append, path}), do: "#{inspect(path)} for #{output}"
  defp output_text(output, :inherit), do: "the VM's own #{output}"
  defp output_text(output, _unknown), do: "the file for #{output}"

  defp open_text(:enxio), do: " (a FIFO that nobody reads, or a socket)"
  defp open_text(:ebadf), do: " (with :inherit: the VM has none)"
  defp open_text(posix), do: hint_text(posix)

  defp name_text(name, :enoent, error, where) do
    "there is no such #{name}#{wanted_text(option(error, name))}: see `#{where}`"
  end

  defp name_text(name, posix, error, _where) do
    "cannot look up #{name}#{wanted_text(option(error, name))}: #{posix_text(posix)}#{hint_text(posix)}"
  end

  defp wanted_text(nil), do: ""
  defp wanted_text(wanted), do: " " <> inspect(wanted)

  defp user_text(:eacces, error) do
    case option(error, :user) do
      nil -> ""
      user -> " as the user #{inspect(user)}"
    end
  end

  defp user_text(_posix, _error), do: ""

  defp cgroup_path_text(:empty), do: "it is empty"
  defp cgroup_path_text(:absolute), do: "it begins with /, and must be relative"
  defp cgroup_path_text(:empty_part), do: "a part of it is empty"
  defp cgroup_path_text(:dot), do: "a part of it is \".\""
  defp cgroup_path_text(:dot_dot), do: "a part of it is \"..\""
  defp cgroup_path_text(:nul_byte), do: "it contains a NUL byte"
  defp cgroup_path_text(:newline), do: "it contains a newline"
  defp cgroup_path_text(:too_long), do: "a part of it has more than 255 bytes, or all of it nearly 4,096"

  defp cgroup_path_text(:reserved),
    do: "a part of it looks like a group that NetRunner has made for one command"

  defp cgroup_step_text(:create), do: "make the control group"
  defp cgroup_step_text(:enable), do: "have controllers for the control group"
  defp cgroup_step_text(:join), do: "start the command in the control group"

  defp cgroup_hint_text(:enable, :ebusy),
    do:
      " (a group with processes in it can have no controllers for those below it: they must be in one of these)"

  defp cgroup_hint_text(:join, :eacces),
    do: " (the VM may not leave its own group: it must have been started inside of what was delegated to it)"

  defp cgroup_hint_text(_step, posix) when posix in [:eacces, :eperm, :erofs],
    do: " (has the system delegated a control group to this user? see :cgroup_root)"

  defp cgroup_hint_text(_step, _posix), do: ""

  defp cgroup_limit_text(:enotsup), do: " (the controller is not available here, or does not know it)"
  defp cgroup_limit_text(_posix), do: ""

  defp limit_text(:eperm), do: " (only root may raise a hard limit; no :nofile is above /proc/sys/fs/nr_open)"
  defp limit_text(_posix), do: ""

  defp hint_text(:emfile), do: " (the limit of this VM, `ulimit -n`, is reached)"

  defp hint_text(:enfile) do
    " (a limit of the whole system, /proc/sys/fs/file-max, or on the pipes of this user, " <>
      "/proc/sys/fs/pipe-user-pages-hard, is reached)"
  end

  defp hint_text(:eagain), do: " (a limit of processes is reached: `ulimit -u`, or pids.max of the cgroup)"

  defp hint_text(:etoomanyrefs),
    do: " (too many file descriptors are on their way between this user's processes)"

  defp hint_text(:enomem), do: " (memory is short, or a limit on it is reached)"
  defp hint_text(_posix), do: ""

  defp posix_text(posix) do
    case to_string(:file.format_error(posix)) do
      "unknown POSIX error" <> _ -> inspect(posix)
      text -> "#{text} (#{posix})"
    end
  end
end
