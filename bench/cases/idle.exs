defmodule Bench.Case.Idle do
  # How often something wakes up while 100 commands run and nothing happens: context switches of all threads of a VM, and of
  # all shepherds and the fork server, in some seconds. A VM without NetRunner wakes up by itself, too.

  alias Bench.{Guest, Usage}

  @commands 100
  @start "for _ <- 1..#{@commands}, do: {:ok, _} = NetRunner.Process.start(\"cat\")\n"

  def new(%{guests: guests, idle: seconds, rounds: rounds}) do
    %{
      title: "wake-ups a second of what is idle, over #{seconds} s",
      rounds: ceil(rounds / 2),
      warm_up: false,
      unit: {"1/s", 1, & &1},
      better: :less,
      rivals: [
        {"NetRunner: VM with #{@commands} commands",
         fn -> turn(guests, seconds, true, @start, &[&1.pid]) end},
        {"NetRunner: its shepherds", fn -> turn(guests, seconds, true, @start, &shepherds/1) end},
        {"VM with NetRunner alone", fn -> turn(guests, seconds, true, "", &[&1.pid]) end},
        {"VM without NetRunner", fn -> turn(guests, seconds, false, "", &[&1.pid]) end}
      ],
      budgets: [
        %{
          what: "wake-ups, VM",
          unit: "1/s more than without NetRunner",
          # What a VM does by itself comes and goes: the quietest of each, and parts of one are its own.
          value:
            &round(&1["NetRunner: VM with #{@commands} commands"].best - &1["VM without NetRunner"].best),
          must: {:at_most, 0},
          goal: nil
        },
        %{
          what: "wake-ups, shepherds",
          unit: "1/s",
          value: & &1["NetRunner: its shepherds"].median,
          must: {:at_most, 0},
          goal: nil
        }
      ]
    }
  end

  defp turn(guests, seconds, net_runner?, code, who) do
    guest = Guest.start(guests, code <> "say.(:ready)\nhear.()", net_runner: net_runner?)
    :ready = Guest.hear(guest)
    # Until schedulers have given up looking for work, and the last idle shepherd is forked.
    Process.sleep(1_000)
    processes = who.(guest)
    before = switches(processes)
    Process.sleep(seconds * 1_000)
    switches = switches(processes) - before
    Guest.stop(guest)
    [switches / seconds]
  end

  defp shepherds(guest), do: for(%{name: "shepherd", pid: pid} <- Usage.descendants(guest.pid), do: pid)

  defp switches(processes), do: processes |> Enum.map(&Usage.switches/1) |> Enum.sum()
end
