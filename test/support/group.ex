defmodule NetRunner.Test.Group do
  @moduledoc false
  # Process groups as a whole. Who forks the next process and exits, again and again, is gone before a look at /proc
  # comes to it; a signal to its group misses nobody, for a fork(2) under way is begun again after it.

  alias NetRunner.Test.OS

  @doc "Those of these groups that have a member, be it a zombie, which may be signalled."
  def inhabited(groups) do
    run(groups, ~S(for group do kill -s 0 -- "-$group" 2>/dev/null && echo "$group"; done; true))
    |> String.split()
    |> Enum.map(&String.to_integer/1)
  end

  @doc "Sends a signal, by its name without SIG, to all members of these groups."
  def signal(groups, signal) do
    run(groups, ~s(for group do kill -s #{signal} -- "-$group" 2>/dev/null; done; true))
    :ok
  end

  @doc "The members of these groups that are there now, zombies too; of those that hop, hardly one."
  def members(groups), do: Enum.filter(OS.all(), &(&1.group in groups))

  @doc "The members of these groups that live. They are stopped, so nobody hops on."
  def stop(groups) do
    case inhabited(groups) do
      [] ->
        []

      groups ->
        signal(groups, "STOP")
        stopped(groups, 400)
    end
  end

  # One that has not acted on it yet may be about to exit.
  defp stopped(groups, attempts) do
    living = Enum.filter(members(groups), &(&1.state not in ["Z", "X"]))

    if attempts == 0 or Enum.all?(living, &(&1.state in ["T", "t"])) do
      living
    else
      receive do
      after
        5 -> stopped(groups, attempts - 1)
      end
    end
  end

  @doc "SIGKILL to all members, for the end of a test."
  def clean_up(groups), do: signal(groups, "KILL")

  # kill(2) takes 0 and -1 for others than these groups, and the own one would be ourselves.
  defp run(groups, script) do
    case Enum.filter(groups, &(&1 > 1 and &1 != OS.stat(OS.vm()).group)) do
      [] ->
        ""

      groups ->
        {text, 0} = System.cmd("sh", ["-c", script, "sh" | Enum.map(groups, &to_string/1)])
        text
    end
  end
end
