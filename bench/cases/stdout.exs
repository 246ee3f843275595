defmodule Bench.Case.Stdout do
  # The output of `head -c N /dev/zero`, to its end. `counted`: each piece is dropped when its size has been
  # added up. `collected`: the result is one binary of N bytes.

  alias Bench.Measure

  def new(%{bytes: bytes, floor: floor, rounds: rounds}) do
    head = ["head", "-c", to_string(bytes), "/dev/zero"]
    dd = "#{Enum.join(head, " ")} | dd bs=64K of=/dev/null 2>/dev/null"
    collect? = memory_for?(bytes)

    %{
      title: "#{Enum.join(head, " ")}, read to its end",
      rounds: rounds,
      reference: "head | dd bs=64K",
      unit: {"MB/s", 0, &(bytes / 1_000_000 / (&1 / 1_000_000_000))},
      better: :more,
      notes: if(collect?, do: [], else: ["  (too little memory to collect)"]),
      rivals:
        [
          {"NetRunner.stream!, counted", turn(fn -> ^bytes = count(NetRunner.stream!(head)) end)},
          {"Port, counted", turn(fn -> ^bytes = count_port(head) end)}
        ] ++
          if collect? do
            [
              {"NetRunner.run, collected",
               turn(fn -> {<<_::binary-size(bytes)>>, 0} = NetRunner.run(head) end)},
              {"System.cmd, collected",
               turn(fn -> {<<_::binary-size(bytes)>>, 0} = System.cmd(hd(head), tl(head)) end)}
            ]
          else
            []
          end ++
          [
            {"head | dd bs=64K", turn(fn -> {"", 0} = System.cmd("sh", ["-c", dd]) end)},
            {"read(2) of 64 KiB", fn -> [floor(floor, 65_536, head, bytes)] end}
          ]
    }
  end

  defp turn(function), do: fn -> [Measure.time(function)] end

  defp count(stream), do: Enum.reduce(stream, 0, &(byte_size(&1) + &2))

  # What System.cmd/3 does, without its collecting.
  defp count_port([executable | arguments]) do
    options = [:binary, :exit_status, :hide, :use_stdio, args: arguments]
    count_port(Port.open({:spawn_executable, System.find_executable(executable)}, options), 0)
  end

  defp count_port(port, bytes) do
    receive do
      {^port, {:data, data}} -> count_port(port, bytes + byte_size(data))
      {^port, {:exit_status, 0}} -> bytes
    end
  end

  defp floor(program, size, command, bytes) do
    {output, 0} = System.cmd(program, ["read", to_string(size) | command])
    [read, nanoseconds] = output |> String.split() |> Enum.map(&String.to_integer/1)
    ^bytes = read
    nanoseconds
  end

  # A binary that grows is moved, and two of them exist at that moment.
  defp memory_for?(bytes) do
    with {:ok, text} <- File.read("/proc/meminfo"),
         [_, kib] <- Regex.run(~r/^MemAvailable:\s*(\d+) kB$/m, text) do
      String.to_integer(kib) * 1024 > 4 * bytes
    else
      _ -> true
    end
  end
end
