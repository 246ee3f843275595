defmodule Bench.Case.Flat do
  # How much more memory a VM has had, at the worst, while a long stream went through it (10 GiB, or NETRUNNER_BENCH_BYTES)
  # than after a short one.

  alias Bench.{Guest, Rivals}

  @warm_up 256 * 1024 * 1024

  def new(%{guests: guests, flat: bytes}) do
    %{
      title: "growth of the VM's resident memory by a stream of #{bytes} bytes",
      rounds: 1,
      warm_up: false,
      unit: {"MiB", 2, &(&1 / 1024 / 1024)},
      better: :less,
      rivals: [
        {"NetRunner.stream!",
         fn ->
           [measure(guests, bytes, "NetRunner.stream!(head) |> Enum.reduce(0, &(byte_size(&1) + &2))")]
         end}
      ],
      budgets: [
        %{
          what: "a stream's memory",
          unit: "MiB of growth",
          value: &(&1["NetRunner.stream!"].median / 1024 / 1024),
          must: {:at_most, 8},
          goal: nil
        }
      ]
    }
  end

  # VmHWM is the highest VmRSS; writing 5 to clear_refs begins anew (proc_pid_clear_refs(5)).
  defp measure(guests, bytes, code) do
    guest =
      Guest.start(guests, """
      status = fn name ->
        [_, kib] = Regex.run(~r/^\#{name}:\\s*(\\d+) kB/m, File.read!("/proc/self/status"))
        String.to_integer(kib) * 1024
      end
      stream = fn head -> #{code} end
      stream.(#{inspect(Rivals.head(@warm_up))})
      # It is read once before: what that takes is not the stream's.
      status.("VmRSS")
      :ok = File.write("/proc/self/clear_refs", "5")
      before = status.("VmRSS")
      #{bytes} = stream.(#{inspect(Rivals.head(bytes))})
      say.(status.("VmHWM") - before)
      hear.()
      """)

    growth = Guest.hear(guest)
    Guest.stop(guest)
    growth
  end
end
