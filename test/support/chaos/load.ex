defmodule NetRunner.Test.Chaos.Load do
  @moduledoc false
  # The victim's side of the chaos suite: starts the commands that it is told to start, kills what it is told to
  # kill inside its VM, and says what became of every caller. Requests and answers are terms, one line each.

  alias NetRunner.Process, as: Proc
  alias NetRunner.Table
  alias NetRunner.Test.Census
  alias NetRunner.Test.Chaos.Shapes

  # What a caller may take longer than it was to take: deadlines of NetRunner (5 s for a spawn, twice) and a
  # busy machine. Who is not back by then hangs.
  @patience 25_000

  @doc "Does what the lines of stdin say, until they end."
  def serve do
    :logger.set_primary_config(:level, :none)
    answer(:ready)
    serve(%{callers: %{}, helpers: [], keeps?: false, census: Census.take_kinds()})
  end

  defp serve(state) do
    case IO.gets("") do
      line when is_binary(line) -> line |> String.trim() |> decode() |> request(state) |> serve()
      _end_of_file -> System.halt(0)
    end
  end

  @doc "A term as a line, and back."
  def encode(term), do: term |> :erlang.term_to_binary([:compressed]) |> Base.encode64()
  def decode(line), do: line |> Base.decode64!() |> :erlang.binary_to_term()

  # A terminal shows what is typed, too: answers begin with @.
  defp answer(term), do: IO.puts("@" <> encode(term))

  # -- requests ----------------------------------------------------------------------------------------

  defp request({:load, entries}, state) do
    parent = self()

    callers =
      Map.new(entries, fn entry ->
        {pid, monitor} = spawn_monitor(fn -> exit({:result, call(entry, parent)}) end)
        {monitor, {pid, entry}}
      end)

    answer(:loaded)
    %{state | callers: callers, helpers: [], keeps?: Enum.any?(entries, & &1.keep)}
  end

  # The marks of the commands that must end of it.
  defp request({:kill, kills}, state) do
    answer({:killed, Enum.flat_map(kills, fn {what, pick} -> kill(what, pick, state) end)})
    if Enum.any?(kills, &match?({:application, _pick}, &1)), do: stop_application(state), else: state
  end

  # Commands that are known to run.
  defp request(:running, state) do
    answer(for %{os_pid: os_pid} when os_pid != nil <- NetRunner.list(), do: os_pid)
    state
  end

  defp request({:end, how}, state) do
    case how do
      :halt -> :erlang.halt(0)
      :abort -> :erlang.halt(:abort)
      :stop -> System.stop(0)
    end

    state
  end

  # All callers are back, and a new command runs. `disturbed?`: not at the first attempt, perhaps.
  defp request({:settle, disturbed?}, state) do
    deadline = now() + @patience
    results = await_callers(state.callers, deadline, [])
    Enum.each(state.helpers, &await_helper(&1, deadline))
    # The leftovers that were kept end with the one who holds them.
    if state.keeps?, do: kill_named(NetRunner.Watcher)
    answer({:settled, results, if(disturbed?, do: run_again(deadline), else: NetRunner.run(["true"]))})
    %{state | callers: %{}, helpers: []}
  end

  defp request(:census, state) do
    answer({:census, Census.difference_of_kinds(state.census)})
    state
  end

  # -- callers -----------------------------------------------------------------------------------------

  defp call(entry, parent) do
    shape = Shapes.all()[entry.shape]
    env = %{"NETRUNNER_CHAOS_COMMAND" => entry.mark}
    leftovers = if entry.keep, do: :keep, else: :kill

    opts =
      shape.opts ++ [kill_timeout: entry.kill_timeout, stderr: entry.stderr, leftovers: leftovers, env: env]

    face(entry.face, shape, opts, entry, parent)
  end

  defp face(:run, shape, opts, entry, _parent) do
    case NetRunner.run(shape.command, [timeout: entry.ms] ++ input(shape) ++ opts) do
      {:error, reason} -> {:error, reason}
      {_stdout, status} -> {:status, status}
      {_stdout, status, _stderr} -> {:status, status}
    end
  end

  defp face(:capture, shape, opts, entry, _parent) do
    case NetRunner.capture(shape.command, [timeout: entry.ms] ++ input(shape) ++ opts) do
      {:ok, result} -> {:status, result.status}
      {:error, {reason, %NetRunner.Result{}}} -> {:error, reason}
      error -> error
    end
  end

  defp face(:stream, shape, opts, entry, _parent) do
    until = now() + entry.ms

    shape.command
    |> NetRunner.stream!([idle_timeout: entry.ms] ++ input(shape) ++ opts)
    |> Enum.reduce_while(:ended, fn _chunk, _ ->
      if now() < until, do: {:cont, :ended}, else: {:halt, :halted}
    end)
  rescue
    error in NetRunner.Error -> {:error, error.reason}
    error in NetRunner.Stream.AbnormalExit -> {:status, error.status}
  end

  defp face(:process, shape, opts, entry, parent) do
    [executable | args] = shape.command

    with {:ok, server} <- Proc.start(executable, args, opts) do
      spawn(fn -> helper(parent, fn -> until_not(fn -> match?({:ok, _}, Proc.read_any(server)) end) end) end)
      write = fn -> Proc.write(server, "x") == :ok end
      if shape.input, do: spawn(fn -> helper(parent, fn -> until_not(write) end) end)

      case Proc.await_exit(server, entry.ms) do
        {:error, :timeout} -> after_timeout(server, entry)
        result -> with(:ok <- Proc.stop(server), do: result)
      end
    end
    |> case do
      {:ok, status} -> {:status, status}
      other -> other
    end
  end

  defp after_timeout(server, %{shutdown: true}),
    do: with({:ok, _} = ok <- Proc.shutdown(server), do: stop(server, ok))

  defp after_timeout(server, _entry), do: stop(server, :halted)

  defp stop(server, result), do: with(:ok <- Proc.stop(server), do: result)

  # A caller of a call of its own, which comes back too.
  defp helper(parent, fun) do
    send(parent, {:helper, self()})
    fun.()
  end

  defp until_not(fun), do: if(fun.(), do: until_not(fun), else: :ok)

  defp input(%{input: true}), do: [input: Stream.repeatedly(fn -> String.duplicate("x", 1_000) end)]
  defp input(_shape), do: []

  # -- kills -------------------------------------------------------------------------------------------

  defp kill(:caller, pick, state), do: kill_caller(pick, state, &(&1.face != :stream))
  defp kill(:consumer, pick, state), do: kill_caller(pick, state, &(&1.face == :stream))

  defp kill(:server, pick, state) do
    by_pid = Map.new(Map.values(state.callers))

    case pick(Enum.sort_by(Table.commands(), & &1.server), pick) do
      nil -> []
      row -> Process.exit(row.server, :kill) && for(%{mark: mark} <- [by_pid[row.owner]], do: mark)
    end
  end

  defp kill(:watcher, _pick, _state), do: kill_named(NetRunner.Watcher)
  defp kill(:supervisor, _pick, state), do: kill_named(NetRunner.Supervisor) ++ all_marks(state)
  defp kill(:application, _pick, state), do: all_marks(state)

  defp kill_caller(pick, state, wanted?) do
    candidates =
      for {pid, entry} <- Map.values(state.callers), wanted?.(entry), Process.alive?(pid), do: {pid, entry}

    case pick(Enum.sort(candidates), pick) do
      nil -> []
      {pid, entry} -> Process.exit(pid, :kill) && [entry.mark]
    end
  end

  defp kill_named(name) do
    if pid = Process.whereis(name), do: Process.exit(pid, :kill)
    []
  end

  defp stop_application(state) do
    stopper = spawn(fn -> Application.stop(:net_runner) end)
    %{state | helpers: [stopper | state.helpers]}
  end

  defp all_marks(state), do: for({_pid, entry} <- Map.values(state.callers), do: entry.mark)

  @doc "One of a list, by a number from 0.0 to 1.0."
  def pick([], _pick), do: nil
  def pick(list, pick), do: Enum.at(list, trunc(pick * length(list)))

  # -- the end of a round ------------------------------------------------------------------------------

  defp await_callers(callers, _deadline, results) when callers == %{}, do: await_helpers(results)

  defp await_callers(callers, deadline, results) do
    receive do
      {:DOWN, monitor, :process, _pid, reason} when is_map_key(callers, monitor) ->
        {{_pid, entry}, callers} = Map.pop(callers, monitor)
        await_callers(callers, deadline, [{entry, how(reason)} | results])
    after
      max(deadline - now(), 0) ->
        for({pid, entry} <- Map.values(callers), do: {entry, hangs(pid)}) ++ results
    end
  end

  defp how({:result, result}), do: result
  defp how(:killed), do: :killed
  defp how(other), do: {:crashed, other}

  defp hangs(pid), do: {:hangs, Process.info(pid, :current_stacktrace)}

  defp await_helpers(results) do
    receive do
      {:helper, pid} ->
        case await_helper(pid, now() + @patience) do
          :ok -> await_helpers(results)
          hangs -> await_helpers([{:helper, hangs} | results])
        end
    after
      0 -> results
    end
  end

  defp await_helper(pid, deadline) do
    monitor = Process.monitor(pid)

    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
    after
      max(deadline - now(), 0) -> hangs(pid)
    end
  end

  # After the application, the supervisor or a fork server was killed: until it is there again.
  defp run_again(deadline) do
    {:ok, _} = Application.ensure_all_started(:net_runner)

    case NetRunner.run(["true"]) do
      {:error, reason} when reason in [:not_started, :no_fork_server, :shepherd_died, :closed] ->
        if now() < deadline, do: run_again(deadline), else: {:error, reason}

      result ->
        result
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
