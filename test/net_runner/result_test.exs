defmodule NetRunner.ResultTest do
  use ExUnit.Case, async: true

  alias NetRunner.{Result, Stats}

  test "takes status, signal and duration from the statistics" do
    stats = %Stats{exit_status: 137, signal: :sigkill, duration_ms: 12}

    assert Result.new("out", "err", stats, nil) == %Result{
             stdout: "out",
             stderr: "err",
             status: 137,
             signal: :sigkill,
             duration_ms: 12,
             rusage: nil,
             stats: stats
           }
  end
end
