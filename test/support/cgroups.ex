defmodule NetRunner.Test.Cgroups do
  @moduledoc false
  # The version 2 hierarchy as the file system shows it, and a part of it for one test. Nothing here asks NetRunner.

  @doc "Where it is mounted; nil where it is not."
  def mount do
    with {:ok, text} <- File.read("/proc/self/mountinfo"),
         [_, mount] <- Regex.run(~r/^\d+ \d+ \S+ \S+ (\S+) .* - cgroup2 /m, text) do
      mount
    else
      _none -> nil
    end
  end

  @doc "Why tests that make groups are skipped here; nil where they are not."
  def skip do
    mount = mount()
    path = mount && Path.join(mount, name())

    cond do
      mount == nil -> "no cgroup2 file system is mounted"
      File.mkdir(path) == :ok -> File.rmdir(path) && nil
      true -> "no control group can be made here: that takes root, or delegation"
    end
  end

  @doc """
  A group of this test's own; its name below the mount. It is removed with all that is in it when the test ends, which is
  no substitute for looking whether something is left.
  """
  def scratch do
    name = name()
    File.mkdir!(path(name))
    ExUnit.Callbacks.on_exit(fn -> remove(path(name)) end)
    name
  end

  defp name, do: "nr_test_#{System.pid()}_#{System.unique_integer([:positive])}"

  @doc "The directory of a group."
  def path(group), do: Path.join(mount(), group)

  @doc "All groups below a group, by their paths from there, sorted."
  def below(group), do: groups(path(group), "")

  defp groups(directory, prefix) do
    with {:ok, names} <- File.ls(directory) do
      for name <- Enum.sort(names),
          File.dir?(Path.join(directory, name)),
          group <- [prefix <> name | groups(Path.join(directory, name), prefix <> name <> "/")],
          do: group
    else
      {:error, _gone} -> []
    end
  end

  @doc "The one leaf below a group."
  def leaf(group) do
    [leaf] = Enum.filter(below(group), &(Path.basename(&1) =~ ~r/\Anr-/))
    Path.join(group, leaf)
  end

  @doc "The group of a process, from the root of the hierarchy."
  def of(os_pid) do
    [_, path] = Regex.run(~r/^0::(.*)$/m, File.read!("/proc/#{os_pid}/cgroup"))
    path
  end

  @doc "The OS pids in a group, not in those below it."
  def processes(group) do
    path(group)
    |> Path.join("cgroup.procs")
    |> File.read!()
    |> String.split()
    |> Enum.map(&String.to_integer/1)
  end

  @doc "Writes to a file of a group."
  def write(group, file, value), do: path(group) |> Path.join(file) |> File.write!(to_string(value))

  @doc "What a file of a group says."
  def read(group, file), do: path(group) |> Path.join(file) |> File.read!()

  defp remove(directory) do
    if File.dir?(directory) do
      File.write(Path.join(directory, "cgroup.kill"), "1")

      NetRunner.Test.OS.eventually(fn ->
        File.read!(Path.join(directory, "cgroup.events")) =~ "populated 0"
      end)

      for group <- Enum.reverse(groups(directory, "")), do: File.rmdir(Path.join(directory, group))
      File.rmdir(directory)
    end
  end
end
