defmodule NetRunner.Daemon.Readiness do
  @moduledoc false
  # Waits, in the daemon's process, until something is true: a function, a port that answers, or a pattern in the
  # output, which NetRunner.Daemon.Output looks for. Each try runs in a process of its own, so that one that hangs or
  # raises does no harm.

  alias NetRunner.Daemon.Output

  @type condition :: nil | (-> term()) | {:tcp, host :: term(), :inet.port_number()} | Regex.t()
  # What else comes meanwhile: an error ends the wait.
  @type listener :: (message :: term() -> :go_on | {:error, term()})

  @pause 50
  @connect_timeout 1_000

  @spec await(condition(), timeout(), listener()) :: :ok | {:error, term()}
  def await(nil, _timeout, _listener), do: :ok

  def await(condition, timeout, listener) do
    deadline = if timeout == :infinity, do: :infinity, else: now() + timeout
    ref = make_ref()
    state = %{condition: condition, ref: ref, try: nil, deadline: deadline, listener: listener}
    result = state |> try_once() |> wait()
    flush(ref)
    result
  end

  # The output is looked at by its own process.
  defp try_once(%{condition: %Regex{}} = state), do: state

  defp try_once(%{condition: condition} = state) do
    try = fn -> exit(if attempt(condition), do: {:shutdown, :ready}, else: :normal) end
    # Linked, for the daemon may be killed meanwhile.
    %{state | try: Process.spawn(try, [:link, :monitor])}
  end

  defp attempt(function) when is_function(function, 0) do
    function.()
  catch
    # Not ready yet: it is tried again, and not logged twenty times a second.
    _kind, _reason -> false
  end

  defp attempt({:tcp, host, port}) do
    case :gen_tcp.connect(host, port, [], @connect_timeout) do
      {:ok, socket} -> :gen_tcp.close(socket) == :ok
      {:error, _reason} -> false
    end
  end

  defp wait(%{try: running, ref: ref} = state) do
    receive do
      {Output, :matched} ->
        end_try(running)

      {^ref, :again} ->
        state |> try_once() |> wait()

      {:DOWN, monitor, :process, pid, reason} when {pid, monitor} == running ->
        if reason == {:shutdown, :ready}, do: :ok, else: wait(pause(state))

      {:"$gen_call", _from, :process} = message ->
        listen(state, message)

      {:EXIT, _pid, _reason} = message ->
        listen(state, message)
    after
      remaining(state.deadline) ->
        end_try(running)
        {:error, :ready_timeout}
    end
  end

  defp listen(state, message) do
    case state.listener.(message) do
      :go_on ->
        wait(state)

      {:error, reason} ->
        end_try(state.try)
        {:error, reason}
    end
  end

  defp pause(state) do
    Process.send_after(self(), {state.ref, :again}, @pause)
    %{state | try: nil}
  end

  defp end_try(nil), do: :ok

  defp end_try({pid, monitor}) do
    Process.exit(pid, :kill)

    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
    end
  end

  defp flush(ref) do
    receive do
      {^ref, :again} -> :ok
    after
      0 -> :ok
    end
  end

  defp remaining(:infinity), do: :infinity
  defp remaining(deadline), do: max(deadline - now(), 0)

  defp now, do: System.monotonic_time(:millisecond)
end
