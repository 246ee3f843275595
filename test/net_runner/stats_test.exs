defmodule NetRunner.StatsTest do
  use ExUnit.Case, async: true

  alias NetRunner.Stats

  doctest Stats

  @rusage %{
    user_us: 1_499,
    system_us: 2_500,
    max_rss_bytes: 1_048_576,
    minor_faults: 1,
    major_faults: 2,
    blocks_in: 3,
    blocks_out: 4,
    voluntary_switches: 5,
    involuntary_switches: 6
  }

  test "counts what the three pipes moved" do
    started_at = DateTime.utc_now()
    stats = Stats.new({{0, 0, 10, 1}, {200, 3, 0, 0}, {3_000, 4, 0, 0}}, started_at, 17)

    assert stats == %Stats{
             bytes_in: 10,
             bytes_out: 200,
             bytes_err: 3_000,
             read_count: 7,
             write_count: 1,
             started_at: started_at,
             duration_ms: 17
           }
  end

  test "a pipe that is not there has moved nothing" do
    assert %Stats{bytes_in: 0, bytes_out: 0, bytes_err: 0, read_count: 0, write_count: 0} =
             Stats.new({nil, nil, nil}, DateTime.utc_now(), 0)
  end

  test "has the kernel's account once the command has exited" do
    stats = Stats.new({nil, nil, nil}, DateTime.utc_now(), 5, {{:status, 3}, @rusage})

    assert %Stats{exit_status: 3, signal: nil, core_dumped: false, user_ms: 1, system_ms: 3} = stats
    for key <- Map.keys(@rusage) -- [:user_us, :system_us], do: assert(Map.fetch!(stats, key) == @rusage[key])
  end

  test "tells a signal from the status that looks like one" do
    exited = fn exit -> Stats.new({nil, nil, nil}, DateTime.utc_now(), 5, {exit, @rusage}) end

    assert %Stats{exit_status: 143, signal: nil} = exited.({:status, 143})
    assert %Stats{exit_status: 143, signal: :sigterm, core_dumped: false} = exited.({:signal, 15, false})
    assert %Stats{exit_status: 139, signal: :sigsegv, core_dumped: true} = exited.({:signal, 11, true})
    assert %Stats{exit_status: 162, signal: :sig34} = exited.({:signal, 34, false})
  end
end
