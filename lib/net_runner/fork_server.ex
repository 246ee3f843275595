defmodule NetRunner.ForkServer do
  @moduledoc false
  # Keeps one fork server of the system running: the process from which shepherds are forked.
  #
  # * What it is at the moment stands in NetRunner.Table, so that a spawn needs no call.
  # * A fork server that has come up and ends is replaced at once, by this same process: no restart of a
  #   supervised child is used up by it. One that cannot be started, or ends or hangs before it came up, is an error
  #   that is kept until somebody needs a fork server: then it is tried again. So nothing here can loop.
  # * Running commands do not need it. This process can die too: the next one takes the fork server over. Only
  #   when the supervisor dies, and the table with it, it is closed, by the NIF.

  use GenServer

  require Logger

  alias NetRunner.{Nif, Table}

  @typedoc """
  A fork server, and two counts: of the spawns that it has answered, for the users to add to, and whether it has
  come up.
  """
  @type t :: {Nif.fork_server(), :counters.counters_ref()}

  @typep state :: %{
           # What the table has, too, unless `stopped?`.
           fork_server: t() | nil,
           reference: reference() | nil,
           # It has come up.
           ready?: boolean(),
           # What it has said that the system lacks.
           lacks: [Nif.lacking()],
           # Why there is none.
           error: term(),
           stopped?: boolean()
         }

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_arg), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @doc "The fork server to spawn with."
  @spec current() :: {:ok, t()} | {:error, term()}
  def current do
    case Table.fork_server() do
      {:ok, {:running, fork_server}} -> {:ok, fork_server}
      {:ok, {:failed, _reason}} -> renew(nil)
      {:ok, :stopped} -> {:error, :not_started}
      :error -> {:error, :not_started}
    end
  end

  @doc "The fork server in the place of this one, which seems to be dead, or nil, which is one that is missing."
  @spec renew(t() | nil) :: {:ok, t()} | {:error, term()}
  def renew(dead), do: call({:renew, dead})

  @doc "As `current/0`, to end what is left: the one that is there serves while the application stops, too."
  @spec last() :: {:ok, t()} | {:error, term()}
  def last do
    with {:error, :not_started} <- current(), do: renew(nil)
  end

  @doc "This fork server does not answer: it is killed, and another one started, at once or when it is needed."
  @spec unresponsive(t()) :: :ok
  def unresponsive(fork_server), do: GenServer.cast(__MODULE__, {:unresponsive, fork_server})

  @answered 1
  @came_up 2

  @doc "It has answered one more spawn."
  @spec answer(t()) :: :ok
  def answer({_resource, counts}), do: :counters.add(counts, @answered, 1)

  @doc "How many spawns it has answered: one that does not answer this one but others is slow, not dead."
  @spec answered(t()) :: non_neg_integer()
  def answered({_resource, counts}), do: :counters.get(counts, @answered)

  @doc "To be asked of a dead one. False: it died before it was ready, so it has run nothing."
  @spec came_up?(t()) :: boolean()
  def came_up?({_resource, counts} = fork_server) do
    # What it has said last may not have been heard yet.
    :counters.get(counts, @came_up) > 0 or call({:listen, fork_server}) != :ok or
      :counters.get(counts, @came_up) > 0
  end

  @doc """
  What this system does not have, of what NetRunner's guarantees rest on: found out by the fork server when it
  starts. Empty on a Linux of these years; docs/systems.md says what does not hold without it. `:error` before
  that is known.
  """
  @spec lacks() :: {:ok, [Nif.lacking()]} | :error
  defdelegate lacks, to: Table

  @doc "From now on nothing is spawned any more: `current/0` is `{:error, :not_started}`."
  @spec stop_spawning() :: :ok
  def stop_spawning, do: GenServer.call(__MODULE__, :stop_spawning, :infinity)

  @doc "Takes `stop_spawning/0` back."
  @spec resume_spawning() :: :ok
  def resume_spawning, do: GenServer.cast(__MODULE__, :resume_spawning)

  defp call(request) do
    GenServer.call(__MODULE__, request, :infinity)
  catch
    # It is being restarted, or stopped.
    :exit, _reason -> {:error, :no_fork_server}
  end

  # -- server ------------------------------------------------------------------------------------------

  @impl true
  def init([]) do
    Process.flag(:trap_exit, true)
    {:ok, take_over_or_start()}
  end

  @impl true
  def handle_call({:renew, dead}, _from, state) do
    state =
      case state.fork_server do
        # It is replaced if its end is heard, and only then: others may be served by it.
        ^dead when dead != nil -> listen(state)
        _missing_or_renewed -> state
      end

    # What the system does not let it do, it does not let it do the next time.
    hopeless? = state.error == {:fork_server, :enosys}
    state = if state.fork_server || hopeless?, do: state, else: start(state)

    case state do
      %{fork_server: nil, error: reason} -> {:reply, {:error, reason}, state}
      %{fork_server: fork_server} -> {:reply, {:ok, fork_server}, state}
    end
  end

  def handle_call({:listen, fork_server}, _from, %{fork_server: fork_server} = state) do
    case listen(state) do
      # It lives, has not said that it is ready, and has lost a socket that it was sent: it is something else.
      %{fork_server: ^fork_server, ready?: false} = state ->
        {:reply, :ok, state |> kill() |> failed({:fork_server, :eof})}

      state ->
        {:reply, :ok, state}
    end
  end

  def handle_call({:listen, _replaced}, _from, state), do: {:reply, :ok, state}

  def handle_call(:stop_spawning, _from, state) do
    Table.put_fork_server(:stopped)
    {:reply, :ok, %{state | stopped?: true}}
  end

  @impl true
  def handle_cast({:unresponsive, fork_server}, %{fork_server: fork_server} = state) do
    Logger.error("the fork server of NetRunner does not answer; it is killed")

    case listen(state) do
      %{fork_server: ^fork_server, ready?: true} = state -> {:noreply, state |> kill() |> start()}
      %{fork_server: ^fork_server} = state -> {:noreply, state |> kill() |> failed({:fork_server, :eof})}
      # It has ended meanwhile.
      state -> {:noreply, state}
    end
  end

  # It has been replaced in the meantime.
  def handle_cast({:unresponsive, _other}, state), do: {:noreply, state}

  def handle_cast(:resume_spawning, %{stopped?: true} = state) do
    {:noreply, %{state | stopped?: false} |> kill() |> start()}
  end

  def handle_cast(:resume_spawning, state), do: {:noreply, state}

  @impl true
  def handle_info({:select, _fork_server, reference, _what}, %{reference: reference} = state)
      when is_reference(reference) do
    {:noreply, listen(state)}
  end

  # There is room again for what a spawn could not send.
  def handle_info({:select, fork_server, :undefined, _what}, %{fork_server: {fork_server, _answered}} = state) do
    {:noreply, listen(state)}
  end

  # Of one that was killed meanwhile.
  def handle_info({:select, _fork_server, _reference, _what}, state), do: {:noreply, state}
  def handle_info({:EXIT, _pid, _reason}, state), do: {:noreply, state}

  def handle_info(message, state) do
    Logger.error("NetRunner.ForkServer has received an unexpected message: #{inspect(message)}")
    {:noreply, state}
  end

  @impl true
  def terminate(reason, state) do
    # A crash leaves the fork server to the next one. It goes with the application, but not before it has
    # ended what shepherds have left that were killed.
    with {resource, _counts} <- state.fork_server,
         true <- orderly?(reason),
         do: Nif.fork_server_close(resource)
  end

  defp orderly?(:normal), do: true
  defp orderly?(:shutdown), do: true
  defp orderly?({:shutdown, _reason}), do: true
  defp orderly?(_crash), do: false

  @spec take_over_or_start() :: state()
  defp take_over_or_start do
    state = %{fork_server: nil, reference: nil, ready?: false, lacks: [], error: nil, stopped?: false}

    case Table.fork_server() do
      {:ok, {:running, fork_server}} ->
        # Whether it had come up is not known; it is given the benefit of the doubt once.
        listen(%{state | fork_server: fork_server, reference: make_ref(), ready?: true})

      _none ->
        start(state)
    end
  end

  @spec listen(state()) :: state()
  defp listen(%{fork_server: {resource, _counts}} = state) do
    resource |> Nif.fork_server_read(state.reference) |> Enum.reduce(state, &said/2)
  end

  defp said({:lacks, lacking}, state), do: %{state | lacks: [lacking | state.lacks]}

  defp said(:ready, %{fork_server: {_resource, counts}} = state) do
    :counters.add(counts, @came_up, 1)
    lacks = Enum.sort(state.lacks)
    # Not again for each fork server.
    if Table.lacks() != {:ok, lacks}, do: Enum.each(lacks, &warn/1)
    Table.put_lacks(lacks)
    %{state | ready?: true}
  end

  defp said(:eof, %{ready?: true} = state), do: state |> kill() |> start()

  # Of what it can lack, it ends for this one only.
  defp said(:eof, state) do
    reason = if :waitid in state.lacks, do: :enosys, else: :eof
    state |> kill() |> failed({:fork_server, reason})
  end

  defp warn(lacking) do
    Logger.warning("NetRunner: #{weakened(lacking)}; see docs/systems.md")
  end

  defp weakened(:subreaper), do: "no child subreapers here: a daemon that a command starts may outlive it"

  defp weakened(:parent_death_signal),
    do: "no parent-death signal here: a command outlives its shepherd when the fork server is killed as well"

  defp weakened(:pidfds), do: "no pidfds here: a shepherd that hangs cannot be killed"

  defp weakened(:proc),
    do:
      "no /proc of this PID namespace here: daemons get no stop signal, only SIGKILL when their parents are gone"

  @spec start(state()) :: state()
  defp start(%{stopped?: true} = state), do: %{state | error: :not_started}

  defp start(state) do
    reference = make_ref()

    # It goes with the table, in which the next process would find it.
    keeper = Process.whereis(NetRunner.Supervisor) || self()

    case Nif.fork_server_start(shepherd_path(), keeper) do
      {:ok, resource} ->
        fork_server = {resource, :counters.new(2, [:write_concurrency])}
        Table.put_fork_server({:running, fork_server})
        # It is listened to, which makes it stay, when the next process would find it.
        send(self(), {:select, resource, reference, :ready_input})
        %{state | fork_server: fork_server, reference: reference, ready?: false, lacks: [], error: nil}

      {:error, reason} ->
        failed(state, reason)
    end
  end

  defp failed(state, reason) do
    # It is tried again for each command: the same reason is said once.
    if state.error != reason do
      Logger.error("the fork server of NetRunner, #{shepherd_path()}, cannot be started: #{inspect(reason)}")
    end

    Table.put_fork_server({:failed, reason})
    %{state | fork_server: nil, reference: nil, ready?: false, error: reason}
  end

  @spec kill(state()) :: state()
  defp kill(%{fork_server: nil} = state), do: state

  defp kill(%{fork_server: {resource, _counts}} = state) do
    Nif.fork_server_kill(resource)
    %{state | fork_server: nil, reference: nil}
  end

  defp shepherd_path, do: Application.app_dir(:net_runner, "priv/shepherd")
end
