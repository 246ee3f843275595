defmodule NetRunner.Test.Chaos.Marked do
  @moduledoc false
  # The processes of a victim, wherever they are in the tree of processes by now: each has inherited a variable that
  # names its victim, and each command one that names the command.

  alias NetRunner.Test.OS

  @vm "NETRUNNER_CHAOS_VM"
  @command "NETRUNNER_CHAOS_COMMAND"

  @doc "The environment that marks a VM."
  def environment(mark), do: [{String.to_charlist(@vm), String.to_charlist(mark)}]

  @doc "What marks a command, as a variable of its environment."
  def of_command(mark), do: {@command, mark}

  @doc "The mark of one start of a daemon that is started again and again."
  def start(mark, number), do: "#{mark}/#{number}"

  @doc "Whether a process with this mark is of one of these commands, or of these starts."
  def of?(nil, _marks), do: false
  def of?(mark, marks), do: mark in marks or hd(String.split(mark, "/")) in marks

  @doc "The mark of the command that a process belongs to; nil where it has none, yet, or is gone."
  def mark_of(os_pid) do
    case File.read("/proc/#{os_pid}/environ") do
      {:ok, environment} -> mark(environment)
      {:error, _posix} -> nil
    end
  end

  @doc "All that live and carry the mark of this VM, with the mark of their command. A zombie has no environment."
  def living(vm_mark) do
    needle = "#{@vm}=#{vm_mark}\0"

    for entry <- File.ls!("/proc"),
        {os_pid, ""} <- [Integer.parse(entry)],
        {:ok, environment} <- [File.read("/proc/#{os_pid}/environ")],
        :binary.match(environment, needle) != :nomatch,
        # Not one that has taken the number meanwhile, nor one that has become a zombie.
        %{state: state} = stat when state not in ["Z", "X"] <- [OS.stat(os_pid)],
        do: Map.put(stat, :mark, mark(environment))
  end

  defp mark(environment) do
    case Regex.run(~r/(?:\A|\0)#{@command}=([^\0]*)\0/, environment) do
      [_, mark] -> mark
      nil -> nil
    end
  end

  @doc "Those of these identities that are zombies and not init's, which reaps them when it has the time."
  def zombies(identities) do
    for {os_pid, start} <- identities,
        %{start: ^start, state: "Z", parent: parent} = stat when parent != 1 <- [OS.stat(os_pid)],
        do: stat
  end

  @doc "SIGKILL to all that carry the mark, until there is none."
  def clean_up(vm_mark) do
    OS.eventually(fn ->
      left = living(vm_mark)
      OS.clean_up(for one <- left, do: {one.os_pid, one.start})
      left == []
    end)
  end

  @doc "For messages of failed rounds."
  def describe(%{os_pid: os_pid} = stat) do
    command =
      case File.read("/proc/#{os_pid}/cmdline") do
        {:ok, line} -> line |> String.split("\0") |> Enum.join(" ") |> String.slice(0, 60)
        {:error, posix} -> inspect(posix)
      end

    "#{os_pid} #{stat.state} parent #{stat.parent} group #{stat.group} session #{stat.session} " <>
      "#{stat[:mark]} #{stat.name}: #{command}"
  end
end
