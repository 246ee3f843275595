defmodule Bench.Rivals do
  # What several cases do with the rivals.

  alias Bench.Measure

  @doc "A turn of one number: how long the function takes."
  def turn(function), do: fn -> [Measure.time(function)] end

  def head(bytes), do: ["head", "-c", to_string(bytes), "/dev/zero"]

  @doc "The bytes of all elements, each of which is dropped."
  def count(enumerable), do: Enum.reduce(enumerable, 0, &(byte_size(&1) + &2))

  def open_port([executable | arguments], options \\ []) do
    options = options ++ [:binary, :exit_status, :hide, :use_stdio, args: arguments]
    Port.open({:spawn_executable, System.find_executable(executable)}, options)
  end

  @doc "As `count/1`, with what System.cmd/3 is made of."
  def count_port(command) when is_list(command), do: count_port(open_port(command), 0)

  def count_port(port, bytes) do
    receive do
      {^port, {:data, data}} -> count_port(port, bytes + byte_size(data))
      {^port, {:exit_status, 0}} -> bytes
    end
  end

  def shell(script) do
    {"", 0} = System.cmd("sh", ["-c", script])
    :ok
  end

  @doc "The numbers that bench/floor prints. It takes the time by itself; its own start does not count."
  def floor(program, arguments, shell \\ "exec \"$0\" \"$@\"") do
    {output, 0} = System.cmd("sh", ["-c", shell, program | Enum.map(arguments, &to_string/1)])
    output |> String.split() |> Enum.map(&String.to_integer/1)
  end

  @doc "A turn of the floor that prints bytes and nanoseconds."
  def floor_bytes(program, bytes, arguments) do
    fn ->
      [^bytes, nanoseconds] = floor(program, arguments)
      [nanoseconds]
    end
  end

  @doc "Calls the function in so many processes at once, and returns when all have returned."
  def at_once(count, function) do
    1..count
    |> Enum.map(fn _ -> Task.async(function) end)
    |> Task.await_many(:infinity)
  end

  def microseconds, do: {"microseconds", 0, &(&1 / 1_000)}
  def milliseconds, do: {"milliseconds", 1, &(&1 / 1_000_000)}
  def megabytes_per_second(bytes), do: {"MB/s", 0, &(bytes / 1_000_000 / (&1 / 1_000_000_000))}
end
