defmodule Bench.Case.FirstCommand do
  # From the start of a VM to the end of the first command, as whoever has started the VM sees it. NetRunner loads its
  # modules and its NIF and starts the fork server in that time.

  alias Bench.{Guest, Measure, Rivals}

  def new(%{guests: guests, vms: vms}) do
    %{
      title: "from the start of a VM to its first result of /bin/true",
      rounds: vms,
      unit: Rivals.milliseconds(),
      better: :less,
      notes: &notes/0,
      rivals: [
        {"NetRunner.run", turn(guests, "{\"\", 0} = NetRunner.run([\"/bin/true\"])", true)},
        {"System.cmd", turn(guests, "{\"\", 0} = System.cmd(\"/bin/true\", [])", false)},
        {"no command at all", turn(guests, ":ok", false)}
      ]
    }
  end

  defp turn(guests, code, net_runner?) do
    start = if net_runner?, do: "{:ok, _} = Application.ensure_all_started(:net_runner)", else: ":ok"

    # Times within the VM, too: of the start of NetRunner, of the first command and of the second.
    code = """
    now = fn -> System.monotonic_time(:microsecond) end
    first = now.()
    #{start}
    started = now.()
    #{code}
    say.(:done)
    ended = now.()
    #{code}
    say.([started - first, ended - started, now.() - ended])
    """

    fn ->
      begin = System.monotonic_time(:nanosecond)
      guest = Guest.start(guests, code, net_runner: false)
      :done = Guest.hear(guest)
      time = System.monotonic_time(:nanosecond) - begin
      inside = Guest.hear(guest)
      Guest.stop(guest)
      Process.put(__MODULE__, [{net_runner?, inside} | Process.get(__MODULE__, [])])
      [time]
    end
  end

  defp notes do
    [start, first, second] =
      for({true, inside} <- Process.get(__MODULE__), do: inside) |> Enum.zip_with(&Measure.median/1)

    [
      "inside, in microseconds: start of NetRunner #{round(start)}, first command #{round(first)}, second #{round(second)}"
    ]
  end
end
