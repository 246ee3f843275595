defmodule Bench.Case.Cat do
  # N bytes written to `cat` and read from it at the same time. In the shell the same bytes go through two pipes and one
  # `cat` between them, and a second `cat` is the reader.

  alias Bench.Rivals
  alias NetRunner.Process, as: Proc

  @piece 65_536

  def new(%{bytes: bytes, floor: floor, rounds: rounds}) do
    pieces = div(bytes, @piece)
    piece = :binary.copy(<<0>>, @piece)
    list = List.duplicate(piece, pieces)
    enumerable = Stream.map(1..pieces, fn _ -> piece end)
    head = Enum.join(Rivals.head(bytes), " ")
    cat = "#{head} | cat | cat >/dev/null"
    dd = "#{head} | dd bs=64K of=/dev/null 2>/dev/null"

    %{
      title: "#{bytes} bytes through cat, in pieces of 64 KiB",
      # As in the case `stdout`.
      rounds: 2 * rounds,
      unit: Rivals.megabytes_per_second(bytes),
      better: :more,
      notes: ["list: the caller writes; enumerable: a writer process does; Process: one writes, one reads"],
      rivals: [
        {"NetRunner.stream!, list", stream(bytes, list)},
        {"NetRunner.stream!, enumerable", stream(bytes, enumerable)},
        {"NetRunner.Process", Rivals.turn(fn -> ^bytes = process(piece, pieces) end)},
        {"Port", Rivals.turn(fn -> port(piece, pieces, bytes) end)},
        {"head | cat | cat", Rivals.turn(fn -> Rivals.shell(cat) end)},
        {"head | dd bs=64K", Rivals.turn(fn -> Rivals.shell(dd) end)},
        {"write(2) and read(2)", Rivals.floor_bytes(floor, bytes, ["copy", @piece, bytes, "cat"])}
      ],
      budgets: [
        %{
          what: "stdin and stdout through cat",
          unit: "× head | cat | cat",
          value: {"NetRunner.stream!, list", "head | cat | cat"},
          must: {:at_least, 1.0},
          goal: nil
        },
        # Exile was measured at 0.87 GB/s where `dd` did 2.0.
        %{
          what: "the same, by what Exile does",
          unit: "× 0.435 × head | dd bs=64K",
          value: fn statistics ->
            statistics["head | dd bs=64K"].median / statistics["NetRunner.stream!, list"].median / 0.435
          end,
          must: nil,
          goal: {:at_least, 1.3}
        }
      ]
    }
  end

  defp stream(bytes, input),
    do: Rivals.turn(fn -> ^bytes = input |> NetRunner.stream!(["cat"]) |> Rivals.count() end)

  defp process(piece, pieces) do
    {:ok, cat} = Proc.start("cat")

    writer =
      Task.async(fn ->
        for _ <- 1..pieces, do: :ok = Proc.write(cat, piece)
        :ok = Proc.close_stdin(cat)
      end)

    count = drain(cat, 0)
    :ok = Task.await(writer, :infinity)
    :ok = Proc.stop(cat)
    count
  end

  defp drain(cat, count) do
    case Proc.read(cat) do
      {:ok, data} -> drain(cat, count + byte_size(data))
      :eof -> count
    end
  end

  # A port has no way to close stdin alone: it is over when all has come back.
  defp port(piece, pieces, bytes) do
    port = Rivals.open_port(["cat"])
    writer = Task.async(fn -> for(_ <- 1..pieces, do: Port.command(port, piece)) end)
    receive_bytes(port, bytes)
    _ = Task.await(writer, :infinity)
    Port.close(port)
  end

  defp receive_bytes(_port, 0), do: :ok

  defp receive_bytes(port, left) do
    receive do
      {^port, {:data, data}} -> receive_bytes(port, left - byte_size(data))
    end
  end
end
