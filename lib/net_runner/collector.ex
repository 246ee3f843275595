defmodule NetRunner.Collector do
  @moduledoc false
  # What `run` and `capture` do with output: count it, cut it at the limit, split it into lines, and put it
  # where the caller wants it.
  #
  # Only here does user code run while a command is running: the `:into` collectable.
  #
  # A binary is appended to in place (Erlang efficiency guide, "Constructing binaries"): the chunks are garbage
  # at once, and their memory is used again while it is in the cache. A list of them, joined at the end, touches
  # every page twice.

  alias NetRunner.{Lines, Options}
  alias __MODULE__

  @type t :: %Collector{
          # Or the collectable's accumulator and function.
          stdout: binary() | {term(), (term(), Collectable.command() -> term())},
          stderr: binary(),
          lines: Lines.t() | nil,
          # Bytes that may still come.
          room: non_neg_integer() | :infinity
        }

  @enforce_keys [:stdout, :room]
  defstruct [:stdout, :room, :lines, stderr: ""]

  @spec new(Options.t()) :: t()
  def new(options) do
    %Collector{
      stdout: if(options.into == "", do: "", else: Collectable.into(options.into)),
      lines: options.lines && Lines.new(options.lines),
      room: options.max_output_size
    }
  end

  @doc "Adds a chunk; `:full` when it does not fit: then what fits has been added."
  @spec add(t(), :stdout | :stderr, binary()) :: {:ok | :full, t()}
  def add(%Collector{room: :infinity} = collector, name, chunk), do: {:ok, put(collector, name, chunk)}

  def add(%Collector{room: room} = collector, name, chunk) when byte_size(chunk) <= room do
    {:ok, put(%{collector | room: room - byte_size(chunk)}, name, chunk)}
  end

  def add(%Collector{room: room} = collector, name, chunk) do
    {:full, put(%{collector | room: 0}, name, binary_part(chunk, 0, room))}
  end

  # Not matched with `""`, here and below: in OTP 27.3.4 a binary of exactly 512 MiB, 2^32 bits, matches it.
  defp put(collector, _name, chunk) when byte_size(chunk) == 0, do: collector
  defp put(collector, :stderr, chunk), do: %{collector | stderr: append(collector.stderr, chunk)}
  defp put(%Collector{lines: nil} = collector, :stdout, chunk), do: collect(collector, chunk)

  defp put(collector, :stdout, chunk) do
    {lines, rest} = Lines.add(collector.lines, chunk)
    Enum.reduce(lines, %{collector | lines: rest}, &collect(&2, &1))
  end

  defp collect(%Collector{stdout: {acc, fun}} = collector, item) do
    %{collector | stdout: {fun.(acc, {:cont, item}), fun}}
  end

  defp collect(%Collector{stdout: binary} = collector, chunk),
    do: %{collector | stdout: append(binary, chunk)}

  # Mostly there is one chunk only, which need not be copied.
  defp append(binary, chunk) when byte_size(binary) == 0, do: chunk
  defp append(binary, chunk), do: <<binary::binary, chunk::binary>>

  @doc "What has been collected: stdout as `:into` says, and stderr."
  @spec finish(t()) :: {Collectable.t(), binary()}
  def finish(collector) do
    unfinished = if collector.lines, do: Lines.finish(collector.lines), else: []
    collector = Enum.reduce(unfinished, collector, &collect(&2, &1))

    stdout =
      case collector.stdout do
        {acc, fun} -> fun.(acc, :done)
        binary -> binary
      end

    {stdout, collector.stderr}
  end

  @doc "The command has failed: the collectable is told that nothing more comes."
  @spec abandon(t()) :: :ok
  def abandon(%Collector{stdout: {acc, fun}}) do
    fun.(acc, :halt)
    :ok
  end

  def abandon(%Collector{}), do: :ok
end
