defmodule NetRunner.Test.Tree do
  @moduledoc false
  # Trees of processes that are hard to kill (tree.pl says which), and who is in them.

  alias NetRunner.Process, as: Proc
  alias NetRunner.Test.{OS, Victim}

  # Not beside this file: what is compiled may be run from a copy, where that cannot be read.
  defp script, do: Path.expand("test/support/tree.pl")

  @doc "Every shape that stays the same process."
  def shapes, do: ~w(child ignoring grandchild group session daemon silent_daemon stopped)

  @doc "How many processes a tree of all shapes has."
  def size, do: 11

  @doc "A command with these processes below it."
  def command(shapes \\ ["trap" | shapes()]), do: ["perl", script() | shapes]

  @doc "The same as executable and arguments."
  def executable, do: "perl"
  def arguments(shapes \\ ["trap" | shapes()]), do: [script() | shapes]

  @doc "The processes of the tree that a `NetRunner.Process` runs, by shape, when all are there."
  def read(server, text \\ "") do
    if complete?(text) do
      parse(text)
    else
      {:ok, chunk} = Proc.read(server)
      read(server, text <> chunk)
    end
  end

  @doc "The same from `NetRunner.Test.Tell`."
  def told(text \\ "") do
    if complete?(text) do
      parse(text)
    else
      receive do
        {:told, chunk} -> told(text <> chunk)
        # What the process that runs the tree says in the end.
        {:result, result} -> raise "the tree was over before it was complete: #{inspect(result)}"
      after
        30_000 -> raise "the tree was not complete after 30 s: #{inspect(text)}"
      end
    end
  end

  @doc "The same from a victim that prints what the tree does."
  def from(victim, text \\ "") do
    if complete?(text), do: parse(text), else: from(victim, text <> Victim.line(victim) <> "\n")
  end

  @doc "Whether all processes of the tree have said that they are there."
  def complete?(text), do: text =~ ~r/^ready$/m

  @doc "The identities of the processes, by shape."
  def parse(text) do
    for [_, shape, os_pid] <- Regex.scan(~r/^(\w+) (\d+)$/m, text), into: %{} do
      os_pid = String.to_integer(os_pid)
      {String.to_atom(shape), OS.identity(os_pid) || {os_pid, :gone}}
    end
  end
end
