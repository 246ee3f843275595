defmodule NetRunner.Test.OddHome do
  @moduledoc false
  # VMs in places where something is missing: system calls (seccomp), /proc, a PID namespace of the system. What
  # they say comes between what they log; each answer is a line of its own.

  alias NetRunner.Test.{OS, Tree, Victim}

  @prelude """
  answer = fn term -> IO.puts("=> " <> inspect(term, limit: :infinity, printable_limit: :infinity)) end
  read = fn read, p, text ->
    if text =~ ~r/^ready$/m, do: text, else: ({:ok, chunk} = Proc.read(p); read.(read, p, text <> chunk))
  end
  # A tree of processes that are hard to kill.
  tree = fn ->
    {:ok, p} = Proc.start("perl", #{inspect(Tree.arguments())}, kill_timeout: 100, owner: nil)
    answer.(read.(read, p, ""))
    p
  end
  # When the fork server has come up, which the warnings come before.
  lacks = fn lacks -> with(:error <- NetRunner.ForkServer.lacks(), do: lacks.(lacks)) end
  lacks = fn -> {:ok, list} = lacks.(lacks); Logger.flush(); list end
  _ = {answer, read, tree, lacks}
  """

  @doc "Starts a VM by a shell, whose `$0` and `$@` are its command."
  def start(shell, code, opts \\ []), do: Victim.start(@prelude <> code, [shell: shell] ++ opts)

  @doc "A shell's words that run a program with these system calls refused."
  def without(calls, errno) do
    "exec #{Application.app_dir(:net_runner, "fixture")} without #{errno} #{Enum.join(calls, ",")} \"$0\" \"$@\""
  end

  @doc "The next answer, and the lines before it."
  def answer(victim, log \\ []) do
    case Victim.line(victim) do
      "=> " <> text -> {text |> Code.eval_string() |> elem(0), Enum.reverse(log)}
      "" -> answer(victim, log)
      line -> answer(victim, [line | log])
    end
  end

  @doc "The next answer alone."
  def term(victim), do: victim |> answer() |> elem(0)

  @doc "The processes of the tree that the victim has started, by shape; by our pids, whatever its own are."
  def tree(victim) do
    tree = Tree.parse(term(victim))
    true = map_size(tree) == Tree.size()
    tree
  end

  @doc "The processes of the tree of a VM in a PID namespace."
  def tree_in_namespace(victim) do
    _ = term(victim)
    perls = fn -> Enum.filter(OS.commands(victim.os_pid), &(&1.name == "perl")) end
    # The parent of a daemon may still be on its way out.
    OS.eventually(fn -> length(perls.()) == Tree.size() end)
    for %{os_pid: os_pid, start: start} <- perls.(), do: {os_pid, start}
  end
end
