defmodule Bench.Case.Scale do
  # Whether a command costs the same, however many there are, however many there were before, and however large the VM is.

  alias Bench.{Guest, Rivals, Usage}

  # Without pipes a command takes three fds.
  @at_once """
  up = fn up, count ->
    running = Enum.count(NetRunner.list(), & &1.os_pid)
    if running != count, do: up.(up, count)
  end
  round = fn round ->
    count = hear.() |> String.trim() |> String.to_integer()
    begin = System.monotonic_time(:nanosecond)
    pids = for _ <- 1..count do
      spawn(fn -> NetRunner.run(["sleep", "600"], stdout: :disabled, stderr: :disabled) end)
    end
    up.(up, count)
    say.(System.monotonic_time(:nanosecond) - begin)
    hear.()
    for pid <- pids, do: Process.exit(pid, :kill)
    up.(up, 0)
    say.(:down)
    round.(round)
  end
  {"", 0} = NetRunner.run(["true"])
  say.(:ready)
  round.(round)
  """

  @series """
  run = fn count ->
    begin = System.monotonic_time(:nanosecond)
    for _ <- 1..count, do: {"", 0} = NetRunner.run(["/bin/true"])
    System.monotonic_time(:nanosecond) - begin
  end
  run.(10)
  round = fn round ->
    hear.() |> String.trim() |> String.to_integer() |> run.() |> say.()
    round.(round)
  end
  round.(round)
  # It stays until here.
  IO.inspect(length(memory))
  """

  def new(settings), do: [at_once(settings), in_a_row(settings), large(settings)]

  defp at_once(%{guests: guests, many: counts, rounds: rounds}) do
    %{
      title: "start sleeps at once, until all of them run: time for each",
      rounds: min(rounds, 5),
      unit: Rivals.microseconds(),
      better: :less,
      notes: fn -> for count <- counts, share = Process.get({__MODULE__, count}), do: share end,
      rivals: for(count <- counts, do: {"#{count} at once", fn -> [sleeps(guests, count)] end}),
      budgets: []
    }
  end

  # In ns for each.
  defp sleeps(guests, count) do
    guest = Guest.start(guests, @at_once)
    :ready = Guest.hear(guest)
    before = Usage.of_fork_server(guest.pid)
    Guest.say(guest, count)
    time = Guest.hear(guest)
    used = Usage.of_fork_server(guest.pid) - before

    # CPU time comes in ticks of 10 ms.
    if count >= 1_000,
      do:
        Process.put(
          {__MODULE__, count},
          "#{count} at once: the fork server takes #{div(used, count * 1_000)} microseconds of CPU time for each, " <>
            "#{round(100 * used / time)} % of the time"
        )

    Guest.say(guest, "stop")
    :down = Guest.hear(guest)
    Guest.stop(guest)
    div(time, count)
  end

  # All in one VM; what counts is the order of the turns.
  defp in_a_row(%{guests: guests, tenth: tenth}) do
    %{
      title: "run /bin/true and wait, #{10 * tenth} in a row in one VM",
      rounds: 10,
      warm_up: false,
      unit: Rivals.microseconds(),
      better: :less,
      notes: fn -> ["#{tenth} each, in order: " <> (:row |> times() |> Enum.reverse() |> Enum.join(" "))] end,
      rivals: [
        {"NetRunner.run",
         fn ->
           time = series(:row, guests, "memory = []\n", tenth)
           Process.put({__MODULE__, :times}, [div(time, 1_000) | times(:row)])
           [time]
         end}
      ],
      budgets: []
    }
  end

  defp times(:row), do: Process.get({__MODULE__, :times}, [])

  # In ns for each. The VM stays for the next turn.
  defp series(name, guests, prepare, count) do
    guest = Process.get({__MODULE__, name}) || Guest.start(guests, prepare <> @series)
    Process.put({__MODULE__, name}, guest)
    Guest.say(guest, count)
    div(Guest.hear(guest), count)
  end

  defp large(%{guests: guests, spawns: spawns, rounds: rounds, resident: bytes}) do
    # Each page is written to.
    fill = "memory = for _ <- 1..16, do: :binary.copy(<<1>>, #{div(bytes, 16)})\n"
    count = div(spawns, 10)

    %{
      title:
        "run /bin/true and wait, in a VM with #{div(bytes, 1024 * 1024)} MiB resident and in a small one",
      rounds: rounds,
      unit: Rivals.microseconds(),
      better: :less,
      rivals: [
        {"NetRunner.run, large VM", fn -> [series(:large, guests, fill, count)] end},
        {"small VM", fn -> [series(:small, guests, "memory = []\n", count)] end}
      ],
      budgets: []
    }
  end
end
