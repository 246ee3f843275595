defmodule NetRunner.Test.Cgroup2 do
  @moduledoc false
  # For tests that need cgroup v2 with its controllers (cgroups(7)): what is there is seen in its files, and nothing here
  # asks NetRunner. Where they are missing these tests are excluded; bin/test runs them in a guest kernel
  # (cgroup2_vm.sh). What needs no controllers is tested on every hierarchy (cgroup_test.exs, with `NetRunner.Test.Cgroups`).
  #
  # Each test has a group of its own, `group`, a path as for `:cgroup_path`. When the test has ended it must have been removed,
  # with everything below it: by NetRunner, or by the test, if it made it.

  alias NetRunner.Test.{Cgroups, OS}

  @controllers ~w(cpu io memory pids)

  defmacro __using__(_opts) do
    quote do
      use NetRunner.Test.SystemCase, async: false

      alias NetRunner.Test.Cgroup2

      @moduletag :cgroup2

      setup do
        group = "net_runner-#{System.pid()}-#{System.unique_integer([:positive])}"
        on_exit(fn -> Cgroup2.assert_removed(group) end)
        %{group: group}
      end
    end
  end

  @doc "Nil where these tests can run; else why they cannot."
  def missing do
    case Cgroups.mount() do
      nil -> "there is no cgroup v2"
      _mount -> missing_controllers(@controllers -- controllers()) || missing_rights()
    end
  end

  defp missing_controllers([]), do: nil
  defp missing_controllers(names), do: "cgroup v2 lacks the controllers #{Enum.join(names, ", ")}"

  defp missing_rights do
    cond do
      # Only the true root has none, and only there may processes be beside groups with controllers.
      File.exists?(path("cgroup.type")) -> "#{path("")} is not the root of cgroup v2"
      File.stat!("/proc/self").uid != 0 -> "only root can do what they do"
      true -> Cgroups.skip()
    end
  end

  @doc "The directory of a group."
  def path(group), do: Path.join(Cgroups.mount(), group)

  @doc "The controllers that there are."
  def controllers, do: String.split(read("", "cgroup.controllers"))

  def exists?(group), do: File.dir?(path(group))

  @doc "A file of a group, without the last newline."
  def read(group, file), do: group |> path() |> Path.join(file) |> File.read!() |> String.trim_trailing("\n")

  @doc "Writes to a file of a group: `:ok`, or the error of the system."
  def write(group, file, text), do: group |> path() |> Path.join(file) |> File.write(text)

  @doc "The processes in a group, in the groups below it not."
  def processes(group), do: Cgroups.processes(group)

  @doc "The processes in a group and in all below it."
  def all_processes(group), do: Enum.flat_map(tree(group), &processes/1)

  @doc "The names of the groups in a group."
  def children(group) do
    directory = path(group)
    for name <- File.ls!(directory), File.dir?(Path.join(directory, name)), do: name
  end

  @doc "A group and all below it, those that are below first; none where it does not exist."
  def tree(group) do
    if exists?(group) do
      Enum.flat_map(children(group), &tree(Path.join(group, &1))) ++ [group]
    else
      []
    end
  end

  @doc "Makes a group, and what of its path is missing; controllers are then for those below it."
  def make(group, controllers \\ []) do
    File.mkdir_p!(path(group))

    for parent <- ["" | parents(group)], name <- controllers do
      :ok = write(parent, "cgroup.subtree_control", "+#{name}")
    end

    :ok
  end

  defp parents(group) do
    group |> Path.split() |> Enum.scan(&Path.join(&2, &1)) |> Enum.drop(-1)
  end

  @doc "Removes a group when it is empty, as the test that has made it must, and its parents as far as they are."
  def remove(group) do
    OS.eventually(fn -> processes(group) == [] end, 60_000)
    File.rmdir!(path(group))
    for parent <- Enum.reverse(parents(group)), do: File.rmdir(path(parent))
    :ok
  end

  @doc "A process in a group that is not NetRunner's, by its identity; it ends with the test."
  def foreign_process(group) do
    port =
      Port.open({:spawn_executable, "/bin/sh"}, [
        :binary,
        args: ["-c", ~S(echo $$ >"$0/cgroup.procs" && echo ready && exec sleep 1000), path(group)]
      ])

    receive do
      {^port, {:data, "ready\n"}} -> :ok
    end

    {:os_pid, os_pid} = Port.info(port, :os_pid)
    identity = OS.identity(os_pid)
    ExUnit.Callbacks.on_exit(fn -> OS.clean_up([identity]) end)
    identity
  end

  @doc "Ends it."
  def end_foreign_process(identity) do
    OS.clean_up([identity])
    OS.await_gone([identity])
  end

  @doc "Fails where a group is still there, and removes it."
  def assert_removed(group) do
    if exists?(group) do
      left = for one <- tree(group), do: {one, processes(one)}
      write(group, "cgroup.kill", "1")
      OS.eventually(fn -> all_processes(group) == [] end)
      for one <- tree(group), do: File.rmdir!(path(one))
      ExUnit.Assertions.flunk("the test has left groups, here with their processes: #{inspect(left)}")
    end
  end
end
