defmodule Bench.Case.Memory do
  # What a command that runs and does nothing costs, apart from its own memory, when there are 100 of them: outside the VM
  # (shepherds, the idle ones too, and the fork server; of a port erl_child_setup) and inside it.

  alias Bench.{Guest, Usage}

  @commands 100

  @start %{
    net_runner: "{:ok, _} = NetRunner.Process.start(\"cat\")",
    port: "Port.open({:spawn_executable, System.find_executable(\"cat\")}, [:binary])"
  }

  def new(settings) do
    [
      table(settings, "outside the VM", :outside, {:at_most, 100}, {:at_most, 80}),
      table(settings, "inside the VM", :inside, {:at_most, 10}, nil)
    ]
  end

  defp table(%{guests: guests, rounds: rounds}, title, where, must, goal) do
    %{
      title: "memory #{title}, per command, at #{@commands} idle ones",
      rounds: ceil(rounds / 3),
      warm_up: false,
      unit: {"KiB", 1, &(&1 / 1024)},
      better: :less,
      notes:
        if(where == :outside,
          do: ["PSS of shepherds and fork server, of erl_child_setup for the port, through #{@commands}"],
          else: ["growth of :erlang.memory(:total), all garbage collected, through #{@commands}"]
        ),
      rivals: [
        {"NetRunner.Process", fn -> [measure(guests, :net_runner)[where]] end},
        {"Port", fn -> [measure(guests, :port)[where]] end}
      ],
      budgets: [
        %{
          what: "memory #{where}, per idle command",
          unit: "KiB",
          value: fn statistics -> statistics["NetRunner.Process"].median / 1024 end,
          must: must,
          goal: goal
        }
      ]
    }
  end

  # One command runs before, so that all code is loaded.
  defp measure(guests, what) do
    guest =
      Guest.start(guests, """
      memory = fn ->
        for pid <- Process.list(), do: :erlang.garbage_collect(pid)
        Process.sleep(200)
        :erlang.memory(:total)
      end
      #{@start[what]}
      before = memory.()
      for _ <- 1..#{@commands}, do: #{@start[what]}
      say.(memory.() - before)
      hear.()
      """)

    inside = Guest.hear(guest)
    helper = if what == :net_runner, do: "shepherd", else: "erl_child_setup"
    outside = for %{name: ^helper, pid: pid} <- Usage.descendants(guest.pid), do: Usage.pss(pid)
    Guest.stop(guest)
    %{inside: inside / @commands, outside: Enum.sum(outside) / @commands}
  end
end
