defmodule NetRunner.Expect do
  @moduledoc """
  What `NetRunner.expect/3` has found in the output of a command.

  * `:before`: what came before it.
  * `:match`: what has matched.
  * `:captures`: what the groups of a regular expression have matched, `""` for those that have not.
  * `:index`: the place of the pattern in the list, from 0; 0 for a single one.
  """

  alias NetRunner.{Nif, Pipe}
  alias NetRunner.Process, as: Proc
  alias __MODULE__

  @enforce_keys [:before, :match, :captures, :index]
  defstruct [:before, :match, :captures, :index]

  @type t :: %Expect{before: binary(), match: binary(), captures: [binary()], index: non_neg_integer()}

  @type pattern :: binary() | Regex.t()

  @defaults [timeout: :infinity, max_bytes: 65_536]

  @doc false
  @spec expect(Proc.t(), pattern() | [pattern(), ...], keyword()) ::
          {:ok, t()} | :eof | :timeout | {:error, NetRunner.Error.reason()}
  def expect(process, patterns, opts) do
    patterns = patterns |> List.wrap() |> check!()
    opts = options!(opts)

    with {:ok, pipe} <- Proc.pipe(process, :stdout) do
      search(%{pipe: pipe, patterns: patterns, max_bytes: opts[:max_bytes], deadline: deadline(opts)}, "")
    end
  end

  defp check!(patterns) do
    if patterns == [] or not Enum.all?(patterns, &pattern?/1) do
      raise ArgumentError,
            "invalid pattern of NetRunner.expect.\nExpected: a non-empty binary, a regular expression, or a list of " <>
              "them\nGot: #{inspect(patterns)}"
    end

    patterns
  end

  defp pattern?(%Regex{}), do: true
  defp pattern?(pattern), do: is_binary(pattern) and pattern != ""

  defp options!(opts) do
    opts = if Keyword.keyword?(opts), do: Keyword.merge(@defaults, opts), else: [invalid: opts]

    if Enum.sort(Keyword.keys(opts)) != [:max_bytes, :timeout] or not Enum.all?(opts, &valid?/1) do
      raise ArgumentError,
            "invalid options of NetRunner.expect.\nExpected: timeout: milliseconds or :infinity, max_bytes: a " <>
              "positive integer\nGot: #{inspect(opts)}"
    end

    opts
  end

  defp valid?({:timeout, timeout}), do: timeout == :infinity or timeout in 0..0xFFFF_FFFF
  defp valid?({:max_bytes, bytes}), do: is_integer(bytes) and bytes > 0

  defp deadline(opts) do
    if opts[:timeout] == :infinity, do: :infinity, else: System.monotonic_time(:millisecond) + opts[:timeout]
  end

  # `seen`: what has been read and has not matched. What is not returned is put back: the next who reads or
  # expects finds it.
  defp search(state, seen) do
    case first_match(state.patterns, seen) do
      nil ->
        more(state, seen)

      {index, [{start, length} | groups]} ->
        put_back(state, binary_part(seen, start + length, byte_size(seen) - start - length))

        {:ok,
         %Expect{
           before: binary_part(seen, 0, start),
           match: binary_part(seen, start, length),
           captures: Enum.map(groups, &group(seen, &1)),
           index: index
         }}
    end
  end

  defp more(state, seen) do
    case Pipe.read_within(state.pipe, Pipe.read_size(), state.deadline) do
      {:ok, data} ->
        search(state, last(seen <> data, state.max_bytes))

      # :eof, :timeout or an error.
      nothing ->
        put_back(state, seen)
        nothing
    end
  end

  # Not matched with `""`, as in NetRunner.Collector.
  defp put_back(_state, bytes) when byte_size(bytes) == 0, do: :ok
  defp put_back(state, bytes), do: Nif.unread(state.pipe, bytes)

  defp last(binary, size) when byte_size(binary) <= size, do: binary
  defp last(binary, size), do: binary_part(binary, byte_size(binary), -size)

  # The one that begins first; of those that begin at the same place the first in the list.
  defp first_match(patterns, seen) do
    patterns
    |> Enum.with_index()
    |> Enum.flat_map(fn {pattern, index} -> for where <- find(pattern, seen), do: {index, where} end)
    |> Enum.min_by(fn {index, [{start, _length} | _groups]} -> {start, index} end, fn -> nil end)
  end

  defp find(pattern, seen) when is_binary(pattern) do
    case :binary.match(seen, pattern) do
      :nomatch -> []
      where -> [[where]]
    end
  end

  defp find(pattern, seen) do
    # With the modifier u, bytes that are not UTF-8 cannot be searched; the rest of a character may still come.
    if :unicode in Regex.opts(pattern) and not String.valid?(seen) do
      []
    else
      case Regex.run(pattern, seen, return: :index) do
        nil -> []
        where -> [where]
      end
    end
  end

  defp group(_seen, {-1, 0}), do: ""
  defp group(seen, {start, length}), do: binary_part(seen, start, length)
end
