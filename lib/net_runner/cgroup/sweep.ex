defmodule NetRunner.Cgroup.Sweep do
  @moduledoc false
  # Ends what a shepherd that has died has left in its command's control group: another shepherd kills it and removes
  # the group.
  #
  # A process of its own, so that neither a server nor the Watcher waits. It ends, at the latest after
  # some seconds, whether that has worked or not; then a log line says so.

  alias NetRunner.{Cgroup, ForkServer, Nif}

  require Logger

  # A shepherd gives up after five seconds; a fork server may have to be replaced.
  @patience 7_000
  @attempts 5

  @doc "Its end says that it is over."
  @spec start(Cgroup.t()) :: monitor :: reference()
  def start(group) do
    {_pid, monitor} = spawn_monitor(fn -> run(group) end)
    monitor
  end

  @spec run(Cgroup.t()) :: :ok
  def run(group) do
    case attempt(group, now() + @patience, @attempts) do
      :ok ->
        :ok

      {:error, reason} ->
        Logger.error(
          "the cgroup #{Path.join([group.root | group.parts] ++ [group.leaf])} of a shepherd that has died could not be " <>
            "removed (#{inspect(reason)}); the next command with this :cgroup_path tries it again"
        )
    end
  end

  defp attempt(group, deadline, attempts) do
    with {:ok, {resource, _counts} = fork_server} <- ForkServer.last() do
      case Nif.sweep(resource, group) do
        {:ok, control} ->
          with :again <- await(control, make_ref(), deadline), do: again(group, deadline, attempts)

        {:error, :no_fork_server} ->
          with {:ok, _new} <- ForkServer.renew(fork_server), do: again(group, deadline, attempts)

        {:error, reason} ->
          {:error, reason}
      end
    end
  end

  defp again(group, deadline, attempts) do
    if attempts > 1 and now() < deadline,
      do: attempt(group, deadline, attempts - 1),
      else: {:error, :shepherd_died}
  end

  defp await(control, ref, deadline) do
    case Enum.find_value(Nif.control_read(control, ref), &over/1) do
      nil ->
        receive do
          {:select, _control, ^ref, _what} -> await(control, ref, deadline)
        after
          max(deadline - now(), 0) ->
            _ = Nif.control_kill(control)
            Nif.control_close(control)
            {:error, :timeout}
        end

      over ->
        Nif.control_close(control)
        over
    end
  end

  defp over(:done), do: :ok
  # Killed, too.
  defp over(:eof), do: :again
  defp over({:unkillable, os_pids}), do: {:error, {:unkillable, os_pids}}
  defp over({:failed, reason}), do: {:error, reason}
  defp over({:error, reason}), do: {:error, reason}
  defp over(_forked), do: nil

  defp now, do: System.monotonic_time(:millisecond)
end
