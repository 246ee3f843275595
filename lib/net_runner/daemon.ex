defmodule NetRunner.Daemon do
  @moduledoc """
  A command as a child of a supervisor: it is started with it, ends with it, and its end is the end of the child.

      children = [
        {NetRunner.Daemon,
         cmd: ["redis-server", "--port", "7777"],
         name: MyApp.Redis,
         on_output: :log,
         ready: {:tcp, "localhost", 7777}}
      ]

      Supervisor.start_link(children, strategy: :rest_for_one)

  The next child is started when this one is ready. When the supervisor stops the child, the command gets the
  stop signal, and SIGKILL after `:kill_timeout`; nothing of it is left when the supervisor goes on. A daemon whose
  command exits by itself ends as well:

  | the command | the daemon's exit reason | restarted, where `:restart` is |
  | --- | --- | --- |
  | exits with a status among `:success` | `:normal` | `:permanent` |
  | exits with another status | `{:exit_status, status}` | `:permanent`, `:transient` |
  | is ended by a signal | `{:signal, name}` | `:permanent`, `:transient` |
  | is lost, for its shepherd was killed | `:shepherd_died` | `:permanent`, `:transient` |

  Whether a daemon that ends again and again is started again is the supervisor's to judge, by `:max_restarts`.

  ## Options

  * `:cmd` (required): the executable, a list `[executable | args]`, or a `NetRunner.Command`.
  * `:args`: arguments behind those of `:cmd`.
  #{NetRunner.Options.docs(:daemon)}

  ## Output

  `:on_output` gets stdout and, but for a function of one argument and `:discard`, stderr (`stderr: :pipe`, unless
  another is given). A regular expression as `:ready` is looked for in what it gets, and with `:discard` in stderr, too.
  It runs in a process of its own. While it is busy nothing is read: the command waits when the pipe is full, and no
  memory fills. When the command has exited, all that it has written is delivered before the daemon ends.

  With `:log` each line is one message of `Logger`, a last one without newline too. The metadata are `:os_pid`,
  `:command`, `:stream` (`:stdout` or `:stderr`) and those of `:log_metadata`. A line of more than 65,536 bytes is cut there, which its
  end says. Bytes that are not UTF-8 become U+FFFD.

  A function that raises does not stop the output: that it did is logged once.
  """

  use GenServer

  alias NetRunner.{Command, Options, Signal, Stats}
  alias NetRunner.Daemon.{Output, Readiness}
  alias NetRunner.Process, as: Proc
  alias NetRunner.Process.Server

  @type t :: GenServer.server()

  # The stop sequence, and what remains of the output.
  @shutdown_beyond_kill_timeout 2_000
  # Of that, for the output.
  @last_output 1_000

  @doc """
  A child specification. `:id` is the `:name` where there is one; `:shutdown` is `:kill_timeout` and 2 s more. To
  change `:restart` and others, see `Supervisor.child_spec/2`.

      iex> spec = NetRunner.Daemon.child_spec(cmd: ["sleep", "60"], name: :sleeper, kill_timeout: 1_000)
      iex> {spec.id, spec.restart, spec.shutdown}
      {:sleeper, :permanent, 3_000}
  """
  @spec child_spec(keyword()) :: Supervisor.child_spec()
  def child_spec(opts) do
    {_command, options} = options!(opts)

    %{
      id: options.name || __MODULE__,
      start: {__MODULE__, :start_link, [opts]},
      shutdown: options.kill_timeout + @shutdown_beyond_kill_timeout,
      restart: :permanent,
      type: :worker
    }
  end

  @doc """
  Starts the command, and returns when it is ready.

  `{:error, reason}` as of `NetRunner.Process.start/3`; `{:error, {:exited, status}}` where the command exits before
  it is ready, `{:error, :ready_timeout}` where it takes too long, or `:wait_for` does; nothing of the command is left
  then. Raises `ArgumentError` for options that are unknown or malformed.

      iex> {:ok, daemon} = NetRunner.Daemon.start_link(cmd: ["sleep", "60"])
      iex> NetRunner.Daemon.stop(daemon)
      :ok
      iex> NetRunner.Daemon.start_link(cmd: "/no/such/file")
      {:error, {:exec, :enoent}}
  """
  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(opts) do
    {command, options} = options!(opts)

    with {:ok, command} <- command, {:ok, command} <- Command.validate(command) do
      name = if options.name, do: [name: options.name], else: []
      GenServer.start_link(__MODULE__, {%{command | opts: []}, options}, name)
    end
  end

  # What is given here counts more than what the command brings along.
  defp options!(opts) do
    if not Keyword.keyword?(opts), do: raise(ArgumentError, "Expected: a keyword list\nGot: #{inspect(opts)}")
    {cmd, opts} = Keyword.pop(opts, :cmd)

    case command!(cmd) do
      {:ok, command} ->
        command = Command.extend(command, opts)
        {{:ok, command}, Options.new(:daemon, command.opts)}

      invalid ->
        {invalid, Options.new(:daemon, Keyword.delete(opts, :args))}
    end
  end

  defp command!(nil) do
    raise ArgumentError,
          "a daemon needs a command.\nExpected: cmd: an executable, a list or a NetRunner.Command\nGot: nothing"
  end

  defp command!(executable) when is_binary(executable), do: {:ok, Command.new(executable)}
  defp command!(cmd), do: Command.to_command(cmd)

  # -- what can be asked, in the caller's own process --------------------------------------------------

  @doc "The command's pid in the system, as `NetRunner.Process.os_pid/1`."
  @spec os_pid(t()) :: pos_integer() | {:error, :closed}
  def os_pid(daemon), do: with_process(daemon, &Proc.os_pid/1)

  @doc "Whether the command runs."
  @spec alive?(t()) :: boolean()
  def alive?(daemon), do: with_process(daemon, &Proc.alive?/1) == true

  @doc """
  Writes to the command's stdin, as `NetRunner.Process.write/2`. While the pipe is full the caller waits, and
  nobody else.
  """
  @spec write(t(), iodata()) :: :ok | {:error, Proc.reason()}
  def write(daemon, data), do: with_process(daemon, &Proc.write(&1, data))

  @doc "Signals the command's process group, as `NetRunner.Process.kill/2`."
  @spec kill(t(), Signal.t()) :: :ok | {:error, :not_running | :unknown_signal | Proc.reason()}
  def kill(daemon, signal \\ :sigterm) do
    with {:ok, _number} <- Signal.resolve(signal),
         {:error, :closed} <- with_process(daemon, &Proc.kill(&1, signal)),
         do: {:error, :not_running}
  end

  @doc "What the command has done so far, as `NetRunner.Process.stats/1`."
  @spec stats(t()) :: Stats.t() | {:error, :closed}
  def stats(daemon), do: with_process(daemon, &Proc.stats/1)

  @doc """
  Ends the command by the stop sequence, and the daemon with this reason. Nothing of the command is left when it
  returns. `:ok` also when the daemon has ended already.
  """
  @spec stop(t(), reason :: term()) :: :ok
  def stop(daemon, reason \\ :normal) do
    GenServer.stop(daemon, reason, :infinity)
  catch
    # It has ended before, or meanwhile, of itself.
    :exit, _reason -> :ok
  end

  defp with_process(daemon, ask) do
    case GenServer.call(daemon, :process, :infinity) do
      {:ok, process} -> ask.(process)
      :error -> {:error, :closed}
    end
  catch
    :exit, _reason -> {:error, :closed}
  end

  # -- server ------------------------------------------------------------------------------------------

  @impl true
  def init({command, options}) do
    Process.flag(:trap_exit, true)
    argv = [command.executable | command.args]
    state = %{command: argv, process: nil, output: nil, options: options}

    with :ok <- Readiness.await(options.wait_for, options.ready_timeout, &during_init(&1, state)),
         {:ok, state} <- start_command(command, state),
         :ok <- await_ready(state) do
      {:ok, state}
    end
  end

  defp start_command(command, %{options: options} = state) do
    start = %{
      command: command,
      options: %{options | owner: self(), name: nil},
      stdin: :pipe,
      start_awaited: true,
      link: false,
      spawned: nil
    }

    with {:ok, process} <- Server.start(start, []) do
      {:ok, %{state | process: process, output: Output.start_link(process, state.command, options)}}
    end
  end

  defp await_ready(%{options: options} = state) do
    ready = Readiness.await(options.ready, options.ready_timeout, &during_init(&1, state))

    with {:error, reason} <- ready do
      # What it has to say about why still comes.
      _ = end_command(state)
      {:error, reason}
    end
  end

  # What comes while the start waits. Calls are answered: a function that waits until the command is ready may ask
  # for it by the daemon's name.
  defp during_init({:"$gen_call", from, :process}, state) do
    GenServer.reply(from, if(state.process, do: {:ok, state.process}, else: :error))
    :go_on
  end

  defp during_init({:EXIT, output, reason}, %{output: output}) when is_pid(output) do
    case reason do
      {:shutdown, {:over, {:ok, status, _signal}}} -> {:error, {:exited, status}}
      {:shutdown, {:over, {:error, reason}}} -> {:error, reason}
      killed -> {:error, {:output, killed}}
    end
  end

  # Nobody waits for the answer any more.
  defp during_init({:EXIT, pid, reason}, _state) do
    # Not of :"$ancestors": a parent that has died has no name any more.
    if {:parent, pid} == Process.info(self(), :parent), do: {:error, reason}, else: :go_on
  end

  @impl true
  def handle_call(:process, _from, state), do: {:reply, {:ok, state.process}, state}

  # A stranger's mistake must not end the command.
  def handle_call(_request, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_message, state), do: {:noreply, state}

  @impl true
  def handle_info({:EXIT, output, {:shutdown, {:over, outcome}}}, %{output: output} = state) do
    {:stop, exit_reason(outcome, state.options), %{state | output: nil}}
  end

  # It was killed: nobody reads any more.
  def handle_info({:EXIT, output, reason}, %{output: output} = state) do
    {:stop, {:output, reason}, %{state | output: nil}}
  end

  def handle_info(_message, state), do: {:noreply, state}

  defp exit_reason({:ok, _status, signal}, _options) when signal != nil, do: {:signal, signal}

  defp exit_reason({:ok, status, nil}, options) do
    if Options.success?(options, status), do: :normal, else: {:exit_status, status}
  end

  defp exit_reason({:error, reason}, _options), do: reason

  @impl true
  def terminate(_reason, state), do: end_command(state)

  # All that the command says until its end is delivered, as far as there is time.
  defp end_command(%{process: nil}), do: :ok

  defp end_command(%{process: process, output: output}) do
    _ = Proc.shutdown(process)

    if output && Process.alive?(output) do
      receive do
        {:EXIT, ^output, _reason} -> :ok
      after
        @last_output -> Process.exit(output, :kill)
      end
    end

    Proc.stop(process)
  end

  @impl true
  def format_status(status) do
    # In the message about a daemon that has failed. The options may hold what is secret.
    with %{state: %{command: command}} <- status, do: %{status | state: [command: command]}
  end
end
