defmodule NetRunner.Process.Launch do
  @moduledoc false
  # How a command gets to run: the request for the NIF, a fork server that takes it, and the row by which
  # everybody finds the pipes.
  #
  # `spawn/1` is called by the server, or by the caller of `run`, whose command then starts while its server
  # does; `announce/2` by the server. Between the two nobody but the NIF watches over the command.

  alias NetRunner.{Cgroup, Environment, ForkServer, Nif, Table, Watcher}
  alias NetRunner.Process.Server

  @typedoc "What has been spawned: not yet known to run."
  @type spawned :: %{
          fork_server: ForkServer.t(),
          control: Nif.control(),
          stdin: Nif.pipe() | nil,
          stdout: Nif.pipe() | nil,
          stderr: Nif.pipe() | nil,
          # To be swept if the shepherd dies.
          cgroup: Cgroup.t() | nil,
          # Milliseconds of System.monotonic_time/1.
          started: integer()
        }

  # A fork server that is found dead is replaced, and may be killed again.
  @attempts 5

  @spec spawn(Server.start()) :: {:ok, spawned()} | {:error, term()}
  def spawn(%{options: %{owner: owner} = options} = start) do
    # One that dies from here on is noticed by the NIF.
    if owner == nil or Process.alive?(owner) do
      with {:ok, cgroup} <- Cgroup.locate(options), do: attempt(start, cgroup, @attempts)
    else
      {:error, :closed}
    end
  end

  defp attempt(start, cgroup, attempts) do
    with {:ok, {resource, _counts} = fork_server} <- ForkServer.current() do
      case spawn_now(resource, request(start, cgroup), start.options.owner) do
        {:ok, control, stdin, stdout, stderr} ->
          {:ok,
           %{
             fork_server: fork_server,
             control: control,
             stdin: stdin,
             stdout: stdout,
             stderr: stderr,
             cgroup: cgroup,
             started: System.monotonic_time(:millisecond)
           }}

        {:error, :no_fork_server} when attempts > 1 ->
          with {:ok, _new} <- ForkServer.renew(fork_server), do: attempt(start, cgroup, attempts - 1)

        {:error, :no_fork_server} ->
          {:error, if(ForkServer.came_up?(fork_server), do: :no_fork_server, else: {:fork_server, :eof})}

        {:error, reason} ->
          {:error, reason}
      end
    end
  end

  # Files may be slow to open, users to look up.
  defp spawn_now(resource, %{stdout: stdout, stderr: stderr, credentials: nil} = request, owner)
       when is_atom(stdout) and is_atom(stderr),
       do: Nif.spawn(resource, request, owner)

  defp spawn_now(resource, request, owner), do: Nif.spawn_dirty(resource, request, owner)

  defp request(%{command: command, options: options} = start, cgroup) do
    %{
      executable: command.executable,
      argv: [options.arg0 || command.executable | command.args],
      env: Environment.block(options.env),
      cd: options.cd,
      umask: options.umask,
      stdin: start.stdin,
      stdout: stdio(options.stdout),
      stderr: stdio(options.stderr),
      kill_timeout: options.kill_timeout,
      stop_signals: List.wrap(options.stop_signal),
      leftovers: options.leftovers,
      start_awaited: start.start_awaited,
      nice: options.nice,
      rlimits: options.rlimits,
      credentials: credentials(options),
      pty: options.pty,
      cgroup: cgroup
    }
  end

  defp stdio(where) when where in [:pipe, :consume, :capture, :stream], do: :pipe
  defp stdio(:redirect), do: :stdout
  defp stdio(:disabled), do: :null
  defp stdio(elsewhere), do: elsewhere

  defp credentials(%{user: nil, group: nil, groups: nil}), do: nil
  defp credentials(options), do: Map.take(options, [:user, :group, :groups])

  @doc "Gives up what was spawned, where there is no server: our ends are closed, and the stop sequence begins."
  @spec abandon(spawned()) :: :ok
  def abandon(spawned) do
    for pipe <- [spawned.stdin, spawned.stdout, spawned.stderr], pipe, do: Nif.close(pipe)
    Nif.control_close(spawned.control)
  end

  @doc """
  Puts the row of the calling server into the table.

  The Watcher is told first, so that there is no moment in which the server could be killed and its row stay. A
  Watcher that is replaced meanwhile reads the table when it starts, or is told again.
  """
  @spec announce(spawned(), Server.start()) :: :ok
  def announce(spawned, %{command: command, options: options}) do
    watcher = Watcher.watch(self())

    Table.insert(%{
      server: self(),
      control: spawned.control,
      stdin: spawned.stdin,
      stdout: spawned.stdout,
      stderr: spawned.stderr,
      readable_stderr: if(options.stderr != :consume, do: spawned.stderr),
      owner: options.owner,
      os_pid: nil,
      exited: false,
      writer: nil,
      info: %{
        command: [command.executable | command.args],
        kill_timeout: options.kill_timeout,
        cgroup: spawned.cgroup,
        started: spawned.started
      }
    })

    Watcher.watch_again(self(), watcher)
  end
end
