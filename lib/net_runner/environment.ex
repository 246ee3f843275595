defmodule NetRunner.Environment do
  @moduledoc false
  # The environment that a command gets: the VM's at the moment of the call, changed as the option :env says,
  # as `NAME=value` entries for the NIF, each terminated by a NUL, in one binary.
  #
  # Where the bytes come from. `:os.env/0` has what counts now (`System.put_env/2` of a moment ago), but as
  # characters: names and values that are valid in the VM's encoding of file names are decoded, and those that
  # are not have one character per byte. For an ISO 8859-1 "é" (<<233>>) and for a UTF-8 one (<<195, 169>>) it
  # shows the same [233]. So an entry that shows what the VM was started with keeps the bytes it was started
  # with (`NetRunner.Nif.environ/0`); only what has changed since is encoded, as Erlang itself does it for
  # ports. (That a variable was set, at run time, to what its bytes of another encoding already looked like,
  # cannot be told apart from one that was not touched.)
  #
  # Asking for the environment costs 5 µs, encoding it 100 µs, and it hardly ever changes. So what was encoded is kept
  # in `NetRunner.Table`, with the characters it was made from, to compare with. To get those out copies 25 KiB for each
  # command, which is garbage at once; from a `:persistent_term` nothing is copied, but when one changes, the VM visits
  # every process it has. So it becomes one when it has been asked for a hundred times; the next one when it has been asked
  # for twice as often, and so on, for there are programs that change a variable again and again.

  alias NetRunner.{Nif, Options}

  @table NetRunner.Table
  @key :environment
  @settled 100

  @typedoc "`NAME=value`."
  @type entry :: binary()
  @typedoc "Entries, each with a NUL behind it."
  @type block :: binary()

  @doc """
  The whole environment of a command that has this option `:env`, as `NetRunner.Options` gives it.

      iex> NetRunner.Environment.block({:replace, [{"LANG", "C"}, {"EMPTY", ""}]})
      "LANG=C\\0EMPTY=\\0"
      iex> NetRunner.Environment.block([{"LANG", "C"}]) |> NetRunner.Environment.variable("LANG")
      "C"
  """
  @spec block(Options.env()) :: block()
  def block([]), do: current()

  def block({:replace, variables}), do: variables |> last_of_each() |> entries() |> join()

  def block(changes) do
    changes = last_of_each(changes)
    names = Map.new(changes)

    join(Enum.reject(split(current()), &is_map_key(names, entry_name(&1))) ++ entries(changes))
  end

  @doc """
  The value of a variable in a block, `nil` if it is not there.

      iex> NetRunner.Environment.variable("HOME=/root\\0PATH=/bin:/usr/bin\\0", "PATH")
      "/bin:/usr/bin"
      iex> NetRunner.Environment.variable("HOME=/root\\0", "PATH")
      nil
  """
  @spec variable(block(), binary()) :: binary() | nil
  def variable(block, name) do
    size = byte_size(name)

    Enum.find_value(split(block), fn
      <<^name::binary-size(size), ?=, value::binary>> -> value
      _other -> nil
    end)
  end

  @doc """
  The entries for what `:os.env/0` shows, given what the VM was started with. Pure; `current/0` calls it.

      iex> NetRunner.Environment.encode([{~c"A", [233]}, {~c"B", [8364]}], [<<"A=", 233>>], :utf8)
      [<<"A=", 233>>, <<"B=", 226, 130, 172>>]
  """
  @spec encode([{charlist(), charlist()}], [entry()], :utf8 | :latin1) :: [entry()]
  def encode(shown, boot, encoding) do
    boot = for entry <- boot, {name, value} <- decode(entry, encoding), into: %{}, do: {{name, value}, entry}

    for {name, value} = variable <- shown do
      Map.get_lazy(boot, variable, fn ->
        <<encode_characters(name, encoding)::binary, ?=, encode_characters(value, encoding)::binary>>
      end)
    end
  end

  defp current do
    shown = :os.env()

    case :persistent_term.get(__MODULE__, nil) do
      {^shown, block, _asked} -> block
      _other -> kept(shown)
    end
  end

  defp kept(shown) do
    case lookup() do
      {^shown, block} ->
        settle(shown, block)
        block

      _other ->
        block = shown |> encode(Nif.environ(), :file.native_name_encoding()) |> join()
        keep(shown, block)
        block
    end
  end

  # Without the table (NetRunner is not started) nothing is kept.
  defp lookup do
    [{@key, shown, block, _asked}] = :ets.lookup(@table, @key)
    {shown, block}
  rescue
    _ in [ArgumentError, MatchError] -> nil
  end

  defp keep(shown, block) do
    :ets.insert(@table, {@key, shown, block, 0})
  rescue
    ArgumentError -> false
  end

  defp settle(shown, block) do
    asked = :ets.update_counter(@table, @key, {4, 1})
    if asked >= settled_after(), do: :persistent_term.put(__MODULE__, {shown, block, asked})
  rescue
    ArgumentError -> false
  end

  defp settled_after do
    case :persistent_term.get(__MODULE__, nil) do
      nil -> @settled
      {_shown, _block, asked} -> 2 * asked
    end
  end

  defp join(entries), do: IO.iodata_to_binary(for entry <- entries, do: [entry, 0])

  defp split(block), do: :binary.split(block, <<0>>, [:global, :trim])

  # As the VM decodes it: name and value each for itself.
  defp decode(entry, encoding) do
    case :binary.split(entry, "=") do
      [name, value] -> [{decode_bytes(name, encoding), decode_bytes(value, encoding)}]
      [_without_value] -> []
    end
  end

  defp decode_bytes(bytes, :latin1), do: :binary.bin_to_list(bytes)

  defp decode_bytes(bytes, :utf8) do
    case :unicode.characters_to_list(bytes) do
      characters when is_list(characters) -> characters
      _invalid -> :binary.bin_to_list(bytes)
    end
  end

  defp encode_characters(characters, :utf8), do: :unicode.characters_to_binary(characters)
  defp encode_characters(characters, :latin1), do: :erlang.list_to_binary(characters)

  # Of a name that is given twice the last value counts, as if they were set one after the other.
  defp last_of_each(variables) do
    variables |> Enum.reverse() |> Enum.uniq_by(&elem(&1, 0)) |> Enum.reverse()
  end

  defp entries(variables) do
    for {name, value} when value != nil <- variables, do: <<name::binary, ?=, value::binary>>
  end

  defp entry_name(entry), do: entry |> :binary.split("=") |> hd()
end
