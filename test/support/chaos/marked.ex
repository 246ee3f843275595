defmodule NetRunner.Test.Chaos.Marked do
  @moduledoc false
  # The processes of a victim, wherever they are in the tree of processes by now: each has inherited a variable that
  # names its victim, and each command one that names the command.
  #
  # Who forks the next process and exits is not there for long enough to be seen, but all of them are in one process
  # group, and somebody of it has been seen before: the groups are remembered, until they are forgotten.

  alias NetRunner.Test.{Group, OS}

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
    living = seen(needle(vm_mark))
    remember(vm_mark, for(one <- living, do: {one.group, one.mark}))
    living
  end

  defp needle(vm_mark), do: "#{@vm}=#{vm_mark}\0"

  defp seen(needle) do
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

  # -- groups ------------------------------------------------------------------------------------------

  # What a test has begun the end of it cleans up, in another process.
  defp store do
    case Agent.start(fn -> %{} end, name: __MODULE__) do
      {:ok, store} -> store
      {:error, {:already_started, store}} -> store
    end
  end

  defp remember(vm_mark, groups) do
    Agent.update(store(), &Map.update(&1, vm_mark, MapSet.new(groups), fn all -> Enum.into(groups, all) end))
  end

  @doc "The process groups of the commands of this VM that `living/1` has seen, each with the mark of the command."
  def groups(vm_mark), do: for({_, mark} = one <- all_groups(vm_mark), mark != nil, do: one)

  defp all_groups(vm_mark), do: Agent.get(store(), &Map.get(&1, vm_mark, []))

  @doc "Forgets the groups, which are known to be no more: their numbers are used again."
  def forget(vm_mark), do: Agent.update(store(), &Map.delete(&1, vm_mark))

  @doc "Those of these groups that have a member, be it a zombie, and not one without the mark: that is another group."
  def inhabited(vm_mark, groups) do
    case Group.inhabited(groups) do
      [] ->
        []

      groups ->
        strangers = for one <- Group.members(groups), stranger?(one.os_pid, needle(vm_mark)), do: one.group
        groups -- strangers
    end
  end

  # A zombie has no environment, and whoever has exited no file.
  defp stranger?(os_pid, needle) do
    case File.read("/proc/#{os_pid}/environ") do
      {:ok, environment} -> environment != "" and :binary.match(environment, needle) == :nomatch
      {:error, _posix} -> false
    end
  end

  @doc "The members of these groups that live, also those that nobody has seen. They are stopped."
  def stop(vm_mark, groups) do
    {strangers, ours} =
      vm_mark
      |> inhabited(groups)
      |> Group.stop()
      |> Enum.split_with(&stranger?(&1.os_pid, needle(vm_mark)))

    Group.signal(Enum.uniq(for one <- strangers, do: one.group), "CONT")
    for one <- ours, do: Map.put(one, :mark, mark_of(one.os_pid))
  end

  @doc "SIGKILL to those of these groups in which somebody lives. Whether there was none."
  def end_groups(vm_mark, groups) do
    living = stop(vm_mark, groups)
    Group.signal(Enum.uniq(for one <- living, do: one.group), "KILL")
    living == []
  end

  # -- the end -----------------------------------------------------------------------------------------

  @doc "Those of these identities that are zombies and not init's, which reaps them when it has the time."
  def zombies(identities) do
    for {os_pid, start} <- identities,
        %{start: ^start, state: "Z", parent: parent} = stat when parent != 1 <- [OS.stat(os_pid)],
        do: stat
  end

  @doc "SIGKILL to all that carry the mark, and to all in their groups, until there is none."
  def clean_up(vm_mark) do
    OS.eventually(fn ->
      left = living(vm_mark)
      OS.clean_up(for one <- left, do: {one.os_pid, one.start})
      left == [] and end_groups(vm_mark, Enum.uniq(for {group, _mark} <- all_groups(vm_mark), do: group))
    end)

    forget(vm_mark)
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
