defmodule Bench.Case.Thousand do
  # 1,000 `cat`s at once, each started by a process of its own, until each has sent back a byte: in a VM of a normal
  # user that may have 8,192 files open.

  alias Bench.{Guest, Rivals, Usage}

  @files 8_192

  @code """
  alias NetRunner.Process, as: Proc
  start = %{
    "net_runner" => fn ->
      {:ok, cat} = Proc.start("cat")
      :ok = Proc.write(cat, "x")
      {:ok, "x"} = Proc.read(cat)
      fn ->
        :ok = Proc.close_stdin(cat)
        {:ok, 0} = Proc.await_exit(cat)
        :ok = Proc.stop(cat)
      end
    end,
    "port" => fn ->
      port = Port.open({:spawn_executable, System.find_executable("cat")}, [:binary, :hide])
      Port.command(port, "x")
      receive do {^port, {:data, "x"}} -> :ok end
      fn -> Port.close(port) end
    end
  }
  round = fn round ->
    [what, count] = String.split(hear.())
    me = self()
    begin = System.monotonic_time(:nanosecond)
    pids = for _ <- 1..String.to_integer(count) do
      spawn_link(fn ->
        stop = start[what].()
        send(me, {:up, self()})
        receive do :stop -> stop.() end
        send(me, {:down, self()})
      end)
    end
    for pid <- pids, do: (receive do {:up, ^pid} -> :ok end)
    say.(System.monotonic_time(:nanosecond) - begin)
    hear.()
    for pid <- pids, do: send(pid, :stop)
    for pid <- pids, do: (receive do {:down, ^pid} -> :ok end)
    say.(:down)
    round.(round)
  end
  say.(:ready)
  round.(round)
  """

  def new(%{guests: guests, at_once: count, floor: floor, rounds: rounds}) do
    %{
      title: "start #{count} cats at once, each with a byte to and from it",
      rounds: rounds,
      unit: Rivals.milliseconds(),
      better: :less,
      notes: fn -> [Process.get(__MODULE__)] end,
      rivals: [
        {"NetRunner.Process", fn -> turn(guests, "net_runner", count, floor) end},
        {"Port", fn -> turn(guests, "port", count, floor) end},
        {"posix_spawn",
         fn -> Rivals.floor(floor, ["hold", count, "cat"], "ulimit -n #{@files}; exec \"$0\" \"$@\"") end}
      ],
      budgets: [
        %{
          what: "1,000 at once",
          unit: "× Port, all run",
          value: {"NetRunner.Process", "Port"},
          must: nil,
          goal: {:at_most, 1.0}
        }
      ]
    }
  end

  # A VM of its own for each turn: none has what the one before has left. It has run one of them before.
  defp turn(guests, what, count, floor) do
    guest = Guest.start(guests, @code, shell: Guest.as_user(@files))
    :ready = Guest.hear(guest)
    _ = round(guest, what, 1, fn -> :ok end)
    fds = Usage.fds(guest.pid)

    time =
      round(guest, what, count, fn ->
        if what == "net_runner" do
          [pipes, bytes] = Rivals.floor(floor, ["pipes", guest.pid])

          Process.put(
            __MODULE__,
            "per command: #{(Usage.fds(guest.pid) - fds) / count} fds in the VM, #{pipes / count} pipes " <>
              "of together #{Float.round(bytes / 4096 / count, 1)} pages"
          )
        end
      end)

    Guest.stop(guest)
    [time]
  end

  defp round(guest, what, count, meanwhile) do
    Guest.say(guest, "#{what} #{count}")
    time = Guest.hear(guest)
    meanwhile.()
    Guest.say(guest, "stop")
    :down = Guest.hear(guest)
    time
  end
end
