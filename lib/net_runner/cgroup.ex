defmodule NetRunner.Cgroup do
  @moduledoc false
  # Where the control group of a command is to be: finds the hierarchy (cgroups(7), version 2) and names the leaf.
  # Nothing is made here: the shepherd does that, and removes it.
  #
  # The state at the moment of the call counts, so the mount and the VM's own group are looked up each time.

  alias NetRunner.Options

  require Logger

  @typedoc "A group for one command: `root/parts…/leaf`. A limit is what its file takes."
  @type t :: %{
          root: binary(),
          parts: [binary(), ...],
          leaf: binary(),
          limits: [{name :: atom(), value :: binary()}]
        }

  @typedoc "Why a `:cgroup_path` is none."
  @type why ::
          :empty
          | :absolute
          | :empty_part
          | :dot
          | :dot_dot
          | :nul_byte
          | :newline
          | :too_long
          | :reserved

  @type error :: {:error, {:invalid_cgroup_path, why()} | {:cgroup, {atom(), posix :: atom()}}}

  # NAME_MAX.
  @longest_part 255
  # PATH_MAX, with the NUL byte, for the longest name below the last level, which the leaf's is not.
  @longest_path 4_096 - byte_size("/cgroup.subtree_control\0")

  @doc """
  The group that the options ask for, `nil` if they ask for none. It has a name that no other has, so this is to be
  called once for each command.
  """
  @spec locate(Options.t(), {atom(), atom()}) :: {:ok, t() | nil} | error()
  def locate(options, os \\ :os.type())
  def locate(%{cgroup_path: nil}, _os), do: {:ok, nil}

  def locate(options, os) do
    with {:ok, parts} <- parts(options.cgroup_path), do: locate(parts, options.cgroup || [], os)
  end

  defp locate(parts, limits, {:unix, :linux}) do
    with {:ok, root} <- root(Application.get_env(:net_runner, :cgroup_root)) do
      if byte_size(Enum.join([root | parts], "/")) > @longest_path,
        do: invalid(:too_long),
        else: {:ok, %{root: root, parts: parts, leaf: leaf(), limits: limits}}
    end
  end

  # Developed elsewhere, run on Linux: who only asks for a group gets on without.
  defp locate(_parts, [], _os) do
    unless :persistent_term.get(__MODULE__, false) do
      :persistent_term.put(__MODULE__, true)
      Logger.warning("NetRunner: this system has no cgroups; :cgroup_path does nothing")
    end

    {:ok, nil}
  end

  defp locate(_parts, [{name, _value} | _limits], _os), do: {:error, {:cgroup, {name, :enotsup}}}

  @doc """
  The levels of a path.

      iex> NetRunner.Cgroup.parts("job/123")
      {:ok, ["job", "123"]}
      iex> NetRunner.Cgroup.parts("job/../123")
      {:error, {:invalid_cgroup_path, :dot_dot}}
  """
  @spec parts(binary()) :: {:ok, [binary(), ...]} | {:error, {:invalid_cgroup_path, why()}}
  def parts(""), do: invalid(:empty)
  def parts("/" <> _rest), do: invalid(:absolute)

  def parts(path) do
    parts = :binary.split(path, "/", [:global])
    Enum.find_value(parts, {:ok, parts}, &why_not/1)
  end

  defp why_not(""), do: invalid(:empty_part)
  defp why_not("."), do: invalid(:dot)
  defp why_not(".."), do: invalid(:dot_dot)

  defp why_not(part) do
    cond do
      :binary.match(part, <<0>>) != :nomatch -> invalid(:nul_byte)
      # The kernel does not take it either.
      :binary.match(part, "\n") != :nomatch -> invalid(:newline)
      byte_size(part) > @longest_part -> invalid(:too_long)
      part =~ ~r/\Anr-[a-z2-7]{16}\z/ -> invalid(:reserved)
      true -> nil
    end
  end

  defp invalid(why), do: {:error, {:invalid_cgroup_path, why}}

  # 80 random bits. Not from the caller's random numbers, which it may have seeded.
  defp leaf do
    {bytes, _state} = :rand.bytes_s(10, :rand.seed_s(:exsss))
    "nr-" <> Base.encode32(bytes, case: :lower)
  end

  # -- the hierarchy -----------------------------------------------------------------------------------

  defp root(nil), do: with({:ok, {_root, mount}} <- mount(), do: {:ok, mount})

  defp root(:self) do
    with {:ok, {mount_root, mount}} <- mount(),
         {:ok, groups} <- File.read("/proc/self/cgroup"),
         {:ok, below} <- own(groups, mount_root) do
      {:ok, mount <> below}
    else
      {:error, {:cgroup, _why}} = error -> error
      _unreadable_or_outside -> {:error, {:cgroup, {:root, :enoent}}}
    end
  end

  defp root(path) when is_binary(path) do
    case parts(path) do
      {:ok, _parts} -> with {:ok, {_root, mount}} <- mount(), do: {:ok, Path.join(mount, path)}
      {:error, _why} -> invalid_root!(path)
    end
  end

  defp root(other), do: invalid_root!(other)

  @spec invalid_root!(term()) :: no_return()
  defp invalid_root!(value) do
    raise ArgumentError,
          "invalid :cgroup_root in the configuration of :net_runner.\n" <>
            "Expected: :self, or a path below the cgroup2 mount, such as \"my_app\"\nGot: #{inspect(value)}"
  end

  defp mount do
    with {:ok, mountinfo} <- File.read("/proc/self/mountinfo"),
         {:ok, mount} <- mount(mountinfo) do
      {:ok, mount}
    else
      _none -> {:error, {:cgroup, {:mount, :enoent}}}
    end
  end

  @doc """
  The first cgroup2 mount of a proc_pid_mountinfo(5): what of the hierarchy is mounted, and where.

      iex> NetRunner.Cgroup.mount("41 31 0:38 / /sys/fs/cgroup/a\\\\040b rw shared:4 - cgroup2 cgroup2 rw\\n")
      {:ok, {"/", "/sys/fs/cgroup/a b"}}
      iex> NetRunner.Cgroup.mount("31 23 0:28 / /sys/fs/cgroup rw - tmpfs cgroup2 rw\\n")
      :error
  """
  @spec mount(binary()) :: {:ok, {root :: binary(), mount :: binary()}} | :error
  def mount(mountinfo) do
    mountinfo
    |> :binary.split("\n", [:global])
    |> Enum.find_value(:error, fn line ->
      with [fields, filesystem] <- :binary.split(line, " - "),
           "cgroup2 " <> _source <- filesystem,
           [_id, _parent, _device, root, mount | _options] <- :binary.split(fields, " ", [:global]) do
        {:ok, {unescape(root), unescape(mount)}}
      else
        _other -> nil
      end
    end)
  end

  # Space, tab, newline and backslash are octal numbers.
  defp unescape(text) do
    Regex.replace(~r/\\([0-7]{3})/, text, fn _all, digits -> <<String.to_integer(digits, 8)>> end)
  end

  @doc """
  The path of the VM's own group, from proc_pid_cgroup(5), below what is mounted of the hierarchy.

      iex> NetRunner.Cgroup.own("1:cpu:/x\\n0::/system.slice/app.service\\n", "/")
      {:ok, "/system.slice/app.service"}
      iex> NetRunner.Cgroup.own("0::/docker/1f/app\\n", "/docker/1f")
      {:ok, "/app"}
      iex> NetRunner.Cgroup.own("0::/../app\\n", "/")
      :error
  """
  @spec own(binary(), binary()) :: {:ok, binary()} | :error
  def own(groups, mount_root) do
    with [path] <- for("0::" <> path <- :binary.split(groups, "\n", [:global]), do: path),
         # Above the root of the cgroup namespace.
         false <- String.starts_with?(path <> "/", "/../") do
      below(path, mount_root)
    else
      _none_or_outside -> :error
    end
  end

  defp below("/", "/"), do: {:ok, ""}
  defp below(path, "/"), do: {:ok, path}
  defp below(root, root), do: {:ok, ""}

  defp below(path, root) do
    size = byte_size(root)

    case path do
      <<^root::binary-size(^size), "/", rest::binary>> -> {:ok, "/" <> rest}
      _elsewhere -> :error
    end
  end
end
