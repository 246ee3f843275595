defmodule NetRunner.Cgroup.LimitsTest do
  use ExUnit.Case, async: true

  alias NetRunner.Cgroup.Limits

  test "each becomes what its file takes, in one order, from a map or a list" do
    limits = [
      cpuset_cpus: "0-3,7",
      io_weight: 10,
      pids_max: 0,
      cpu_weight: 10_000,
      cpu_max: {50_000, 100_000},
      memory_oom_group: true,
      memory_swap_max: :infinity,
      memory_high: 1_000,
      memory_max: 1_048_576
    ]

    texts = [
      memory_max: "1048576",
      memory_high: "1000",
      memory_swap_max: "max",
      memory_oom_group: "1",
      cpu_max: "50000 100000",
      cpu_weight: "10000",
      pids_max: "0",
      io_weight: "10",
      cpuset_cpus: "0-3,7"
    ]

    assert Limits.cast(limits) == {:ok, texts}
    assert Limits.cast(Map.new(limits)) == {:ok, texts}
    assert Limits.cast(%{}) == {:ok, []}
    assert Limits.cast(pids_max: 1, pids_max: 2) == {:ok, pids_max: "1"}

    assert Limits.cast(cpu_max: {:infinity, 1_000}, memory_oom_group: false) ==
             {:ok, memory_oom_group: "0", cpu_max: "max 1000"}
  end

  test "what is unknown or malformed is refused" do
    for limits <- [
          nil,
          1,
          "memory_max",
          [:memory_max],
          %URI{},
          %{"memory_max" => 1},
          %{memory: 1},
          %{memory_max: -1},
          %{memory_max: 1.0},
          %{memory_max: "1"},
          %{memory_max: 0x1_0000_0000_0000_0000},
          %{memory_max: nil},
          %{memory_oom_group: 1},
          %{cpu_max: 50_000},
          %{cpu_max: {999, 100_000}},
          %{cpu_max: {50_000, 999}},
          %{cpu_max: {50_000, 1_000_001}},
          %{cpu_max: {50_000, :infinity}},
          %{cpu_weight: 0},
          %{io_weight: 10_001},
          %{cpuset_cpus: ""},
          %{cpuset_cpus: "0-"},
          %{cpuset_cpus: "0\n"},
          %{cpuset_cpus: [0]},
          [pids_max: 1, pids_max: :none]
        ] do
      assert Limits.cast(limits) == :error, inspect(limits)
    end

    error = catch_error(NetRunner.run(["true"], cgroup_path: "a", cgroup: %{memory: 1}))
    assert %ArgumentError{} = error
    assert Exception.message(error) =~ "Expected: " <> Limits.expected()
  end
end
