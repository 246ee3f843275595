defmodule NetRunner.Test.Chaos.Load do
  @moduledoc false
  # The victim's side of the chaos suite: starts the commands that it is told to start, kills what it is told to
  # kill inside its VM, and says what became of every caller. Requests and answers are terms, one line each.

  alias NetRunner.Test.Census
  alias NetRunner.Test.Chaos.{Faces, Targets}

  # What a caller may take longer than it was to take: deadlines of NetRunner (5 s for a spawn, twice) and a
  # busy machine. Who is not back by then hangs.
  @patience 25_000

  @doc "Does what the lines of stdin say, until they end."
  def serve do
    :logger.set_primary_config(:level, :none)
    answer(:ready)
    serve(%{callers: %{}, aimed: [], helpers: [], keeps?: false, census: Census.take_kinds()})
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
        entry = Map.put(entry, :starts, :counters.new(1, []))
        {pid, monitor} = spawn_monitor(fn -> exit({:result, Faces.call(entry, parent)}) end)
        {monitor, {pid, entry}}
      end)

    answer(:loaded)
    %{state | callers: callers, helpers: [], keeps?: Enum.any?(entries, & &1.keep)}
  end

  # The answer is what is not there.
  defp request({:aim, targets, pick}, state) do
    aimed = for target <- targets, do: Targets.aim(target, pick, Map.values(state.callers))
    answer({:missing, for({target, nil, _marks} <- aimed, do: target)})
    %{state | aimed: aimed}
  end

  # What has died of it, and the marks of the commands that must end.
  defp request(:fire, state) do
    {hit, marks, stoppers} = Targets.kill(state.aimed)
    answer({:killed, hit, marks})
    %{state | aimed: [], helpers: stoppers ++ state.helpers}
  end

  # Those commands may end that go on until they are told to.
  defp request(:release, state) do
    held = for {pid, %{held: true}} <- Map.values(state.callers), do: pid
    answer(:released)
    %{state | helpers: [spawn(fn -> Targets.release(held) end) | state.helpers]}
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
    if state.keeps?, do: end_watcher()
    answer({:settled, results, if(disturbed?, do: run_again(deadline), else: NetRunner.run(["true"]))})
    %{state | callers: %{}, helpers: []}
  end

  defp request(:census, state) do
    answer({:census, Census.difference_of_kinds(state.census)})
    state
  end

  defp end_watcher do
    if watcher = Process.whereis(NetRunner.Watcher), do: Process.exit(watcher, :kill)
  end

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
