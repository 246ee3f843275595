defmodule NetRunner.Process do
  @moduledoc """
  A running command, to be read from, written to and signalled as one likes.

      alias NetRunner.Process, as: Proc

      {:ok, cat} = Proc.start("cat", [])
      :ok = Proc.write(cat, "hello")
      {:ok, "hello"} = Proc.read(cat)
      :ok = Proc.close_stdin(cat)
      :eof = Proc.read(cat)
      {:ok, 0} = Proc.await_exit(cat)
      :ok = Proc.stop(cat)

  Where a command is only to be run, or its output to be gone through, `NetRunner.run/2` and
  `NetRunner.stream/2` are simpler.

  ## The server and its owner

  `start/3` returns the pid of a *server*. It outlives its command, so that output and status can be had as long
  as they are wanted: it ends with `stop/1`, or with its *owner*, the process that called `start/3` unless the
  option `:owner` says otherwise. When the owner dies, or the server itself, in whatever way, the command gets the
  stop sequence: its `:stop_signal`, then, after `:kill_timeout`, SIGKILL, for all processes that came from it.

  Any process may call the functions here. Of several readers each byte goes to one, first come, first served;
  what one `write/2` writes is not mixed with what another one does.

  A server that has ended is no reason to exit: `alive?/1` is `false`, `kill/2` returns
  `{:error, :not_running}`, `stop/1` is `:ok`, and everything else `{:error, :closed}`. No function has a timeout
  but those that take one.

  ## Reading

  Nothing is read ahead: what nobody reads stays in the pipe, and the command waits when the pipe is full. Only
  stderr is drained with `stderr: :consume`, the default, and its end kept for `stderr_tail/1`. The exit of the
  command is no end of its output: first comes all that was written before, then `:eof`.

  ## In a supervision tree

  `start_link/3` returns only when the command runs, and `{:error, reason}` when it cannot. A supervisor's
  shutdown runs the stop sequence:

      %{id: :ticker, start: {NetRunner.Process, :start_link, ["vmstat", ["1"], []]}, shutdown: 7_000}

  The exit of the *command* does not end the server, so the supervisor does not see it.

  ## Options

  #{NetRunner.Options.docs(:process)}
  """

  alias NetRunner.{Command, Nif, Options, Pipe, Signal, Stats, Table, Watcher}
  alias NetRunner.Process.Server

  @typedoc "A server, by its pid or the name it was started with."
  @type t :: pid() | GenServer.name()

  @type reason :: NetRunner.Error.reason()

  @doc """
  Starts a command and returns its server when the command runs.

  A command that cannot run is `{:error, reason}`, such as `{:error, {:exec, :enoent}}`. The command can also be
  given as a list or a `NetRunner.Command`, followed by the options.

      iex> {:ok, server} = NetRunner.Process.start("sh", ["-c", "exit 3"])
      iex> NetRunner.Process.await_exit(server)
      {:ok, 3}
      iex> NetRunner.Process.start("/no/such/file")
      {:error, {:exec, :enoent}}
  """
  @spec start(binary() | [binary()] | Command.t(), [binary()] | keyword(), keyword()) ::
          {:ok, pid()} | {:error, reason() | {:already_started, pid()}}
  def start(executable, args \\ [], opts \\ []), do: start_server(executable, args, opts, false)

  @doc """
  As `start/3`, with the server linked to the caller.

      iex> {:ok, server} = NetRunner.Process.start_link("true")
      iex> NetRunner.Process.await_exit(server)
      {:ok, 0}
      iex> NetRunner.Process.start_link("/no/such/file")
      {:error, {:exec, :enoent}}
  """
  @spec start_link(binary() | [binary()] | Command.t(), [binary()] | keyword(), keyword()) ::
          {:ok, pid()} | {:error, reason() | {:already_started, pid()}}
  def start_link(executable, args \\ [], opts \\ []), do: start_server(executable, args, opts, true)

  defp start_server(executable, args, opts, link?) do
    with {:ok, command} <- prepare(executable, args, opts) do
      {command, options} = Options.split(:process, command)

      start = %{
        command: command,
        options: options,
        stdin: :pipe,
        start_awaited: true,
        link: link?,
        spawned: nil
      }

      Server.start(start, if(options.name, do: [name: options.name], else: []))
    end
  end

  defp prepare(command, opts, []) when is_list(command) or is_struct(command, Command),
    do: Command.prepare(command, opts)

  defp prepare(command, args, opts) when is_list(command) or is_struct(command, Command) do
    raise ArgumentError,
          "a command that has its arguments with it is followed by its options.\n" <>
            "Expected: start(#{inspect(command)}, options)\nGot: #{inspect({command, args, opts})}"
  end

  defp prepare(executable, args, opts), do: executable |> Command.new(args) |> Command.prepare(opts)

  # -- stdin, stdout and stderr: in the caller's own process -------------------------------------------

  @doc """
  Reads from stdout: waits until there is something, and returns at most `max_bytes` of it.

  `:eof` at the end. `{:error, :closed}` after `close_stdout/1`, and where stdout is not a pipe;
  `{:error, :shepherd_died}` when the process that watches the command was killed.

      iex> {:ok, server} = NetRunner.Process.start("echo", ["hello"])
      iex> NetRunner.Process.read(server)
      {:ok, "hello\\n"}
      iex> NetRunner.Process.read(server)
      :eof
  """
  @spec read(t(), pos_integer()) :: {:ok, binary()} | :eof | {:error, reason()}
  def read(process, max_bytes \\ Pipe.read_size()) when is_integer(max_bytes) and max_bytes > 0 do
    with {:ok, pipe} <- pipe(process, :stdout), do: Pipe.read(pipe, max_bytes)
  end

  @doc """
  As `read/2`, from stderr, which must have been started with `stderr: :pipe`; else it is `{:error, :closed}`.

      iex> {:ok, server} = NetRunner.Process.start("sh", ["-c", "echo oops >&2"], stderr: :pipe)
      iex> NetRunner.Process.read_stderr(server)
      {:ok, "oops\\n"}
  """
  @spec read_stderr(t(), pos_integer()) :: {:ok, binary()} | :eof | {:error, reason()}
  def read_stderr(process, max_bytes \\ Pipe.read_size()) when is_integer(max_bytes) and max_bytes > 0 do
    with {:ok, pipe} <- pipe(process, :readable_stderr), do: Pipe.read(pipe, max_bytes)
  end

  @doc """
  Reads from stdout or stderr, whichever has something first; `:eof` when both have ended. Without
  `stderr: :pipe` it is stdout alone.

      iex> {:ok, server} = NetRunner.Process.start("sh", ["-c", "echo oops >&2"], stderr: :pipe)
      iex> NetRunner.Process.read_any(server)
      {:ok, {:stderr, "oops\\n"}}
      iex> NetRunner.Process.read_any(server)
      :eof
  """
  @spec read_any(t(), pos_integer()) :: {:ok, {:stdout | :stderr, binary()}} | :eof | {:error, reason()}
  def read_any(process, max_bytes \\ Pipe.read_size()) when is_integer(max_bytes) and max_bytes > 0 do
    both = [stdout: pipe(process, :stdout), stderr: pipe(process, :readable_stderr)]

    case for({name, {:ok, pipe}} <- both, do: {name, pipe}) do
      [] -> {:error, :closed}
      pipes -> Pipe.read_any(pipes, max_bytes)
    end
  end

  @doc """
  Writes iodata to stdin; returns `:ok` when every byte is in the pipe, so it waits while the pipe is full.

  `{:error, :closed}` after `close_stdin/1`; `{:error, :epipe}` when nobody reads any more.

  To a terminal (`:pty`) that is not in raw mode, a line of more than 4,095 bytes, counted from what was written before, is
  `{:error, :line_too_long}`; lines before it have been written, and nothing of it.

      iex> {:ok, server} = NetRunner.Process.start("cat")
      iex> NetRunner.Process.write(server, ["hello", ?\\n])
      :ok
      iex> NetRunner.Process.read(server)
      {:ok, "hello\\n"}
  """
  @spec write(t(), iodata()) :: :ok | {:error, reason()}
  def write(process, data) do
    with {:ok, pipe} <- pipe(process, :stdin), do: Pipe.write(pipe, data)
  end

  @doc """
  Closes stdin: the command reads its end once it has read what was written. A write that is waiting ends with
  `{:error, :closed}`. `:ok` also when it is closed already.

  A terminal (`:pty`) stays open; it gets its end-of-file character, Ctrl-D for most, behind all that was written, for
  which it may have to be waited until there is room. In raw mode a terminal has none, which is `{:error, :not_canonical}`,
  and nothing happens: what ends its input is the program's own matter.

      iex> {:ok, server} = NetRunner.Process.start("cat")
      iex> NetRunner.Process.close_stdin(server)
      :ok
      iex> NetRunner.Process.await_exit(server)
      {:ok, 0}
  """
  @spec close_stdin(t()) :: :ok | {:error, :closed | :not_canonical}
  def close_stdin(process) do
    with {:ok, pipe} <- pipe(process, :stdin), do: Pipe.end_input(pipe)
  end

  @doc """
  Closes our end of stdout: a command that goes on writing gets SIGPIPE. A read that is waiting ends with
  `{:error, :closed}`. `:ok` also when it is closed already.

  A terminal (`:pty`) stays open: a command that goes on writing to it waits when it is full.

      iex> {:ok, server} = NetRunner.Process.start("yes")
      iex> NetRunner.Process.close_stdout(server)
      :ok
      iex> NetRunner.Process.await_exit(server)
      {:ok, 141}
  """
  @spec close_stdout(t()) :: :ok | {:error, :closed}
  def close_stdout(process) do
    with {:ok, pipe} <- pipe(process, :stdout), do: Nif.close(pipe)
  end

  @doc """
  Sets the size of the terminal of a command with `:pty`, which then gets SIGWINCH.

  `{:error, :not_a_pty}` where there is none; `{:error, :invalid_window_size}` for what is no integer from 1 to 65535;
  `{:error, :closed}` on a dead server.

      iex> {:ok, server} = NetRunner.Process.start("sh", ["-c", "read x; stty size"], pty: [echo: false])
      iex> NetRunner.Process.set_window_size(server, 50, 132)
      :ok
      iex> NetRunner.Process.write(server, "\\n")
      iex> NetRunner.Process.read(server)
      {:ok, "50 132\\r\\n"}
  """
  @spec set_window_size(t(), rows :: pos_integer(), cols :: pos_integer()) ::
          :ok | {:error, :not_a_pty | :invalid_window_size | reason()}
  def set_window_size(process, rows, cols) when rows in 1..0xFFFF and cols in 1..0xFFFF do
    # Each can be closed alone.
    with {:ok, stdin} <- pipe(process, :stdin),
         {:error, :closed} <- Nif.set_window_size(stdin, rows, cols),
         {:ok, stdout} <- pipe(process, :stdout),
         do: Nif.set_window_size(stdout, rows, cols)
  end

  def set_window_size(_process, _rows, _cols), do: {:error, :invalid_window_size}

  @doc false
  # Of a command, by its name in NetRunner.Table.
  @spec pipe(t(), Table.pipe_name()) :: {:ok, Nif.pipe()} | {:error, :closed}
  def pipe(process, name) do
    with pid when is_pid(pid) <- locate(process), {:ok, pipe} when pipe != nil <- Table.pipe(pid, name) do
      {:ok, pipe}
    else
      _no_server_or_no_pipe -> {:error, :closed}
    end
  end

  # -- the command -------------------------------------------------------------------------------------

  @doc """
  Signals the command's process group, once. `:ok` when the signal was delivered; `{:error, :not_running}` after
  the exit, and nothing is signalled; `{:error, :unknown_signal}`, see `NetRunner.Signal`.

      iex> {:ok, server} = NetRunner.Process.start("sleep", ["60"])
      iex> NetRunner.Process.kill(server, :sigusr1)
      :ok
      iex> NetRunner.Process.await_exit(server)
      {:ok, 138}
      iex> NetRunner.Process.kill(server)
      {:error, :not_running}
  """
  @spec kill(t(), Signal.t()) :: :ok | {:error, :not_running | :unknown_signal | reason()}
  def kill(process, signal \\ :sigterm) do
    with {:ok, number} <- Signal.resolve(signal),
         {:error, :closed} <- call(process, {:signal, number}),
         do: {:error, :not_running}
  end

  @doc """
  Waits for the exit of the command and returns its status: 0..255, or 128 + the number of the signal that ended
  it. (`stats/1` tells the two apart.) `{:error, :timeout}` after `timeout` milliseconds; the command goes on.

      iex> {:ok, server} = NetRunner.Process.start("sleep", ["60"])
      iex> NetRunner.Process.await_exit(server, 10)
      {:error, :timeout}
      iex> NetRunner.Process.kill(server, :sigkill)
      iex> NetRunner.Process.await_exit(server)
      {:ok, 137}
  """
  @spec await_exit(t(), timeout()) :: {:ok, 0..255} | {:error, :timeout | reason()}
  def await_exit(process, timeout \\ :infinity), do: call_within(process, :await_exit, timeout!(timeout))

  @doc """
  Runs the stop sequence, and returns the status when nothing of the command is left. Output can still be read.
  After `timeout` milliseconds it is `{:error, :timeout}`, and the stop sequence goes on.

      iex> {:ok, server} = NetRunner.Process.start("sleep", ["60"])
      iex> NetRunner.Process.shutdown(server)
      {:ok, 143}
  """
  @spec shutdown(t(), timeout()) :: {:ok, 0..255} | {:error, :timeout | reason()}
  def shutdown(process, timeout \\ :infinity), do: call_within(process, :shutdown, timeout!(timeout))

  @doc """
  Ends the command, if it still runs, by the stop sequence, and then the server. Nothing of the command is left
  when it returns `:ok`, and the server is gone. Nothing can be read during the stop sequence.

  `{:error, {:unkillable, os_pids}}`: these cannot be killed. `{:error, :shepherd_died}`: the shepherd hangs and could not
  be killed, as where there are no pidfds; what it watches ends when it goes on, or with it.

      iex> {:ok, server} = NetRunner.Process.start("sleep", ["60"])
      iex> NetRunner.Process.stop(server)
      :ok
      iex> NetRunner.Process.stop(server)
      :ok
  """
  @spec stop(t()) :: :ok | {:error, reason()}
  def stop(process) do
    with server when is_pid(server) <- locate(process), true <- Table.member?(server) do
      monitor = Process.monitor(server)
      answer = call(server, :stop)

      receive do
        {:DOWN, ^monitor, :process, _server, _reason} when answer != {:error, :closed} -> answer
        # It has died before, or meanwhile; the Watcher does its work.
        {:DOWN, ^monitor, :process, _server, _reason} -> Watcher.await_gone(server)
      end
    else
      # Not a server, or not any more.
      _no_server -> :ok
    end
  end

  @doc """
  Whether the command runs. Descendants that it has left do not count.

      iex> {:ok, server} = NetRunner.Process.start("sleep", ["60"])
      iex> NetRunner.Process.alive?(server)
      true
      iex> NetRunner.Process.stop(server)
      iex> NetRunner.Process.alive?(server)
      false
  """
  @spec alive?(t()) :: boolean()
  def alive?(process), do: call(process, :alive?) == true

  @doc """
  The command's pid in the system. Not one to send signals to: when the command has exited, it may be that of
  another process. See `kill/2`.

      iex> {:ok, server} = NetRunner.Process.start("sh", ["-c", "echo $$"])
      iex> os_pid = NetRunner.Process.os_pid(server)
      iex> NetRunner.Process.read(server) == {:ok, "\#{os_pid}\\n"}
      true
  """
  @spec os_pid(t()) :: pos_integer() | {:error, :closed}
  def os_pid(process) do
    with pid when is_pid(pid) <- locate(process), {:ok, os_pid} when os_pid != nil <- Table.os_pid(pid) do
      os_pid
    else
      _no_server -> {:error, :closed}
    end
  end

  @doc """
  What the command has done so far.

      iex> {:ok, server} = NetRunner.Process.start("echo", ["hello"])
      iex> NetRunner.Process.read(server)
      iex> NetRunner.Process.await_exit(server)
      iex> stats = NetRunner.Process.stats(server)
      iex> {stats.bytes_out, stats.exit_status, stats.signal}
      {6, 0, nil}
  """
  @spec stats(t()) :: Stats.t() | {:error, :closed}
  def stats(process), do: call(process, :stats)

  @doc """
  The end of what the command has written to stderr, at most `:stderr_tail_bytes`; `""` where stderr is not
  consumed. Complete when `await_exit/2` has returned; with what descendants write, when `shutdown/2` has.

      iex> {:ok, server} = NetRunner.Process.start("sh", ["-c", "echo oops >&2"])
      iex> NetRunner.Process.await_exit(server)
      iex> NetRunner.Process.stderr_tail(server)
      "oops\\n"
  """
  @spec stderr_tail(t()) :: binary() | {:error, :closed}
  def stderr_tail(process), do: call(process, :stderr_tail)

  @doc """
  From now on this local process is the owner; `nil` is none. There is no moment without the old or the new one.

  `{:error, :closed}` on a dead server, and where it is too late: the owner before is dead, and the stop sequence has
  begun. To make a dead process the owner begins it.

      iex> {:ok, server} = NetRunner.Process.start("sleep", ["60"])
      iex> NetRunner.Process.set_owner(server, nil)
      :ok
      iex> NetRunner.Process.stop(server)
      :ok
  """
  @spec set_owner(t(), pid() | nil) :: :ok | {:error, :closed}
  def set_owner(process, owner) when is_nil(owner) or (is_pid(owner) and node(owner) == node()),
    do: call(process, {:set_owner, owner})

  def set_owner(_process, owner) do
    raise ArgumentError, "invalid owner.\nExpected: a local pid or nil\nGot: #{inspect(owner)}"
  end

  # -- calls -------------------------------------------------------------------------------------------

  # erlang(3), "receive": longer than that is no timeout, and as good as for ever.
  @longest_timeout 4_294_967_295

  defp timeout!(:infinity), do: :infinity
  defp timeout!(timeout) when is_integer(timeout) and timeout > @longest_timeout, do: :infinity
  # A deadline that has passed.
  defp timeout!(timeout) when is_integer(timeout), do: max(timeout, 0)

  defp timeout!(timeout) do
    raise ArgumentError, "invalid timeout.\nExpected: milliseconds or :infinity\nGot: #{inspect(timeout)}"
  end

  # gen_server's own call: it does not search a long mailbox, and drops an answer that comes too late.
  defp call(process, request, timeout \\ :infinity) do
    # Only what has a row is a server of ours: a call would crash any other process.
    with pid when is_pid(pid) <- locate(process), true <- Table.member?(pid) do
      :gen_server.call(pid, request, timeout)
    else
      _no_server -> {:error, :closed}
    end
  catch
    :exit, {:timeout, _call} -> :timeout
    :exit, _reason -> {:error, :closed}
  end

  # A caller who does not wait any longer says so: else the server would keep it, and polling would make the
  # server grow. If it has been answered meanwhile, the answer is known, and had at once.
  defp call_within(process, kind, timeout) do
    reference = make_ref()

    with :timeout <- call(process, {kind, reference}, timeout) do
      case call(process, {:withdraw, reference}) do
        :withdrawn -> {:error, :timeout}
        :answered -> call(process, {kind, reference})
        {:error, :closed} -> {:error, :closed}
      end
    end
  end

  defp locate(pid) when is_pid(pid), do: if(node(pid) == node(), do: pid)

  defp locate(name) do
    case GenServer.whereis(name) do
      pid when is_pid(pid) -> locate(pid)
      _none_or_elsewhere -> nil
    end
  end
end
