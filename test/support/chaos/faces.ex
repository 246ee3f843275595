defmodule NetRunner.Test.Chaos.Faces do
  @moduledoc false
  # How the commands of the chaos suite are started, talked to and ended: one function of NetRunner's each.

  alias NetRunner.{Daemon, Result}
  alias NetRunner.Process, as: Proc
  alias NetRunner.Test.Chaos.{Marked, Shapes}

  # No shape ends faster than this many times a second: only starts that fail use it up.
  @restarts 20

  @doc """
  Runs the command of this entry, and returns what became of it. What it starts to make calls of its own is told
  to `parent`.
  """
  def call(entry, parent), do: face(entry.face, Shapes.all()[entry.shape], entry, parent)

  defp options(shape, entry, mark) do
    leftovers = if entry.keep, do: :keep, else: :kill
    own = [kill_timeout: entry.kill_timeout, stderr: entry.stderr, leftovers: leftovers]
    shape.opts ++ own ++ [env: Map.new([Marked.of_command(mark)])]
  end

  defp face(:run, shape, entry, _parent) do
    opts = [timeout: entry.ms] ++ input(shape) ++ options(shape, entry, entry.mark)

    case NetRunner.run(shape.command, opts) do
      {:error, reason} -> {:error, reason}
      {_stdout, status} -> {:status, status}
      {_stdout, status, _stderr} -> {:status, status}
    end
  end

  defp face(:capture, shape, entry, _parent) do
    opts = [timeout: entry.ms] ++ input(shape) ++ options(shape, entry, entry.mark)

    case NetRunner.capture(shape.command, opts) do
      {:ok, result} -> {:status, result.status}
      {:error, {reason, %Result{}}} -> {:error, reason}
      error -> error
    end
  end

  defp face(:stream, shape, entry, _parent) do
    until = now() + entry.ms
    opts = [idle_timeout: entry.ms] ++ input(shape) ++ options(shape, entry, entry.mark)

    shape.command
    |> NetRunner.stream!(opts)
    |> Enum.reduce_while(:ended, fn _chunk, _ ->
      if now() < until, do: {:cont, :ended}, else: {:halt, :halted}
    end)
  rescue
    error in NetRunner.Error -> {:error, error.reason}
    error in NetRunner.Stream.AbnormalExit -> {:status, error.status}
  end

  defp face(:process, shape, entry, parent) do
    [executable | args] = shape.command

    with {:ok, server} <- Proc.start(executable, args, options(shape, entry, entry.mark)) do
      helper(parent, fn -> until_not(fn -> match?({:ok, _}, Proc.read_any(server)) end) end)
      if shape.input, do: helper(parent, fn -> until_not(fn -> Proc.write(server, "x") == :ok end) end)

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

  # In a supervisor of its own, which goes with the caller, and restarts it whenever it ends.
  defp face(:daemon, shape, entry, parent) do
    Process.flag(:trap_exit, true)
    child = %{id: Daemon, start: {__MODULE__, :start_daemon, [shape, entry]}, shutdown: :infinity}

    case Supervisor.start_link([child], strategy: :one_for_one, max_restarts: @restarts, max_seconds: 1) do
      {:ok, supervisor} ->
        if shape.input, do: helper(parent, fn -> until_not(fn -> feed(supervisor) end) end)
        end_daemon(supervisor, entry)

      {:error, {:shutdown, {:failed_to_start_child, Daemon, reason}}} ->
        {:error, reason}
    end
  end

  @doc "Each start has a mark of its own: what must end is one that was killed, not the next one."
  def start_daemon(shape, entry) do
    :ok = :counters.add(entry.starts, 1, 1)
    mark = Marked.start(entry.mark, :counters.get(entry.starts, 1))
    Daemon.start_link([cmd: shape.command] ++ options(shape, entry, mark))
  end

  # Whoever killed its command: the supervisor has started it again, or could not.
  defp end_daemon(supervisor, entry) do
    receive do
      {:EXIT, ^supervisor, :shutdown} -> {:error, :gave_up}
    after
      entry.ms ->
        monitor = Process.monitor(supervisor)
        Process.exit(supervisor, :shutdown)

        receive do
          {:DOWN, ^monitor, :process, _supervisor, _reason} -> :halted
        end
    end
  end

  defp feed(supervisor) do
    [{Daemon, daemon, :worker, _modules}] = Supervisor.which_children(supervisor)
    Daemon.write(daemon, "x") == :ok
  catch
    :exit, _supervisor_ended -> false
  end

  defp after_timeout(server, %{shutdown: true}),
    do: with({:ok, _} = ok <- Proc.shutdown(server), do: stop(server, ok))

  defp after_timeout(server, _entry), do: stop(server, :halted)

  defp stop(server, result), do: with(:ok <- Proc.stop(server), do: result)

  # A caller of a call of its own, which comes back too.
  defp helper(parent, fun) do
    spawn(fn ->
      send(parent, {:helper, self()})
      fun.()
    end)
  end

  defp until_not(fun), do: if(fun.(), do: until_not(fun), else: :ok)

  defp input(%{input: true}), do: [input: Stream.repeatedly(fn -> String.duplicate("x", 1_000) end)]
  defp input(_shape), do: []

  defp now, do: System.monotonic_time(:millisecond)
end
