defmodule NetRunner.System.Cgroup2.LimitsTest do
  @moduledoc false
  # Issue point cgroups: limits hold, and what was used, and what became of it, is in the result. No times: a guest kernel
  # is slow, and what counts is what the kernel has counted.
  use NetRunner.Test.Cgroup2

  @mebibyte 1024 * 1024

  # Writes to so many MiB of memory, and says so.
  defp hog(mebibytes), do: ["perl", "-e", "$x = 'x' x (#{mebibytes} << 20); print 'done'"]

  # A shell command that has its own group as `$own`.
  defp inside(script), do: sh("own=#{Cgroup2.path("")}/$(sed -n 's/^0:://p' /proc/self/cgroup); " <> script)

  defp capture(cmd, group, limits, opts \\ []) do
    NetRunner.capture(cmd, [cgroup_path: group, cgroup: limits] ++ opts)
  end

  describe "memory_max" do
    test "kills a hog, and the result says that it was the OOM killer", %{group: group} do
      assert {:ok, result} = capture(hog(64), group, %{memory_max: 32 * @mebibyte, memory_swap_max: 0})
      assert {result.stdout, result.status, result.signal} == {"", 137, :sigkill}
      assert %{oom_kill: 1, memory_peak_bytes: peak} = result.stats.cgroup
      assert peak in (16 * @mebibyte)..(32 * @mebibyte)
    end

    test "leaves one in peace that stays below it", %{group: group} do
      assert {:ok, result} = capture(hog(48), group, %{memory_max: 128 * @mebibyte})
      assert {result.stdout, result.status} == {"done", 0}
      assert %{oom: 0, oom_kill: 0, memory_peak_bytes: peak} = result.stats.cgroup
      assert peak in (48 * @mebibyte)..(128 * @mebibyte)
    end

    test "counts what descendants have too, wherever they have gone", %{group: group} do
      script = ~S[setsid sh -c '"$@" & wait $!; echo $?' sh "$@"]
      command = sh(script, hog(64))
      assert {:ok, result} = capture(command, group, %{memory_max: 32 * @mebibyte, memory_swap_max: 0})
      assert {result.stdout, result.status} == {"137\n", 0}
      assert result.stats.cgroup.oom_kill == 1
    end

    test "SIGKILL from elsewhere is not taken for the OOM killer", %{group: group} do
      assert {:ok, result} = capture(sh("kill -KILL $$"), group, %{memory_max: 64 * @mebibyte})
      assert {result.status, result.signal} == {137, :sigkill}
      assert result.stats.cgroup.oom_kill == 0
    end
  end

  describe "memory_oom_group" do
    # The shell would outlive the hog.
    @limits %{memory_max: 32 * @mebibyte, memory_swap_max: 0}

    test "all of them are killed", %{group: group} do
      command = sh(~S["$@"; echo "the hog: $?"], hog(64))
      assert {:ok, result} = capture(command, group, Map.put(@limits, :memory_oom_group, true))
      assert {result.stdout, result.signal} == {"", :sigkill}
      # Linux 6.1 counts the first one twice.
      assert result.stats.cgroup.oom_kill in 2..3
    end

    test "without it, one is", %{group: group} do
      command = sh(~S["$@"; echo "the hog: $?"], hog(64))
      assert {:ok, result} = capture(command, group, Map.put(@limits, :memory_oom_group, false))
      assert {result.stdout, result.status} == {"the hog: 137\n", 0}
      assert result.stats.cgroup.oom_kill == 1
    end
  end

  describe "pids_max" do
    test "bounds a fork bomb, which says ready as often as there are processes", %{group: group} do
      bomb = [Application.app_dir(:net_runner, "fixture"), "fork-bomb", "burst", "100", "8", "hiding"]

      {:ok, p} =
        Proc.start(hd(bomb), tl(bomb), cgroup_path: group, cgroup: %{pids_max: 20}, kill_timeout: 0)

      read_lines(p, 20)
      [leaf] = Cgroup2.children(group)
      assert length(Cgroup2.processes(group <> "/" <> leaf)) == 20
      assert Proc.stop(p) == :ok
      refute Cgroup2.exists?(group)
    end

    test "forks that were refused are in the result", %{group: group} do
      command = sh("sleep 0 & sleep 0 & sleep 0 & wait")
      assert {:ok, result} = capture(command, group, %{pids_max: 2})
      assert result.stderr =~ ~r/fork/i
      assert result.stats.cgroup.pids_max > 0

      assert {:ok, result} = capture(command, group, %{pids_max: 10})
      assert result.status == 0
      assert result.stats.cgroup.pids_max == 0
    end

    defp read_lines(_p, 0), do: :ok

    defp read_lines(p, count) do
      {:ok, text} = Proc.read(p)
      read_lines(p, count - length(String.split(text, "\n", trim: true)))
    end
  end

  describe "cpu_max" do
    # Computes until it has used so much processor time.
    defp computation, do: ["perl", "-e", "1 while (times)[0] < 0.3"]

    test "slows down what computes, as cpu.stat says", %{group: group} do
      assert {:ok, result} = capture(computation(), group, %{cpu_max: {10_000, 100_000}})
      assert result.status == 0
      assert %{throttled: throttled, throttled_us: us, cpu_us: cpu_us} = result.stats.cgroup
      # 300 ms at 10 ms in each period.
      assert throttled >= 10
      assert us > 0
      assert cpu_us >= 200_000
    end

    test "does not slow down what does not use it up", %{group: group} do
      assert {:ok, result} = capture(["true"], group, %{cpu_max: {100_000, 100_000}})
      assert result.stats.cgroup.throttled == 0
    end
  end

  describe "each limit" do
    @files [
      {:memory_max, 100 * @mebibyte, "memory.max", "#{100 * @mebibyte}"},
      {:memory_high, 50 * @mebibyte, "memory.high", "#{50 * @mebibyte}"},
      {:memory_swap_max, 0, "memory.swap.max", "0"},
      {:memory_oom_group, true, "memory.oom.group", "1"},
      {:cpu_max, {50_000, 200_000}, "cpu.max", "50000 200000"},
      {:cpu_weight, 250, "cpu.weight", "250"},
      {:pids_max, 123, "pids.max", "123"}
    ]

    test "is there before the command runs", %{group: group} do
      limits = for {name, value, _file, _content} <- @files, into: %{}, do: {name, value}
      files = for {_name, _value, file, _content} <- @files, do: file
      assert {:ok, result} = capture(inside("cd $own; cat #{Enum.join(files, " ")}"), group, limits)
      assert String.split(result.stdout, "\n", trim: true) == for({_, _, _, content} <- @files, do: content)
    end

    test "none: the group has no limit", %{group: group} do
      assert {:ok, result} = NetRunner.capture(inside("cat $own/cgroup.procs; echo $$"), cgroup_path: group)
      # The shell, and cat.
      assert [shell, _cat, shell] = String.split(result.stdout)
    end
  end

  describe "what cannot be had" do
    # Each kernel has others; that of the guest has neither.
    for {name, value, file, content} <- [
          {:io_weight, 300, "io.weight", "default 300\n"},
          {:cpuset_cpus, "0", "cpuset.cpus", "0\n"}
        ] do
      test "#{name} is written, or an error before the command runs", %{group: group} do
        marker = Path.join(tmp_dir(), "ran")

        result =
          capture(inside("touch #{marker}; cat $own/#{unquote(file)}"), group, %{
            unquote(name) => unquote(value)
          })

        if has?(unquote(file)) do
          assert {:ok, %{stdout: unquote(content)}} = result
        else
          assert {:error, {:cgroup, {unquote(name), :enotsup}}} = result
          refute File.exists?(marker)
        end

        refute Cgroup2.exists?(group)
      end
    end

    # In a group of the test's own, for which all controllers that there are have been enabled.
    defp has?(file) do
      probe = "net_runner-probe-#{System.unique_integer([:positive])}/a"
      Cgroup2.make(probe, Cgroup2.controllers())
      has? = File.exists?(Path.join(Cgroup2.path(probe), file))
      Cgroup2.remove(probe)
      has?
    end

    test "a value that the kernel refuses is an error, and nothing runs", %{group: group} do
      marker = Path.join(tmp_dir(), "ran")
      # More than there are numbers for (PID_MAX_LIMIT).
      assert {:error, {:cgroup, {:pids_max, :einval}}} =
               capture(["touch", marker], group, %{pids_max: 5_000_000_000})

      refute File.exists?(marker)
      refute Cgroup2.exists?(group)
    end

    test "controllers for a group that has processes itself: the kernel's EBUSY", %{group: group} do
      Cgroup2.make(group)
      foreign = Cgroup2.foreign_process(group)
      assert {:error, {:cgroup, {:enable, :ebusy}}} = capture(["true"], group, %{pids_max: 10})
      # Without limits no controller is needed.
      assert {"", 0} = NetRunner.run(["true"], cgroup_path: group)
      Cgroup2.end_foreign_process(foreign)
      Cgroup2.remove(group)
    end
  end

  describe "statistics" do
    test "are those of the whole group, descendants that nobody has waited for as well", %{group: group} do
      # The shell exits at once, and the kernel's account of it (getrusage) knows nothing of its child.
      command = sh(~S["$@" & :], computation())
      limits = %{memory_max: 256 * @mebibyte, pids_max: 50}
      assert {:ok, result} = capture(command, group, limits, leftovers: :keep)
      assert result.status == 0

      assert {:ok, result} = capture(sh(~S["$@" & wait], computation()), group, limits)
      stats = result.stats.cgroup
      assert stats.cpu_us >= 200_000
      assert stats.cpu_user_us + stats.cpu_system_us <= stats.cpu_us + 1_000
      assert stats.memory_peak_bytes > 0
      assert stats.pids_peak in [nil | Enum.to_list(2..10)]
      assert {stats.oom, stats.oom_kill, stats.pids_max, stats.throttled} == {0, 0, 0, nil}
    end

    test "without limits: what the kernel counts without a controller", %{group: group} do
      assert {:ok, result} = NetRunner.capture(computation(), cgroup_path: group)
      assert result.stats.cgroup.cpu_us >= 200_000
    end

    test "in an error as well, and in a Process'", %{group: group} do
      command = sh("sleep 1000 & wait")
      opts = [cgroup_path: group, cgroup: %{pids_max: 10}, kill_timeout: 0]
      assert {:error, {:timeout, result}} = NetRunner.capture(command, [timeout: 2_000] ++ opts)
      assert %{pids_max: 0} = result.stats.cgroup

      {:ok, p} = Proc.start("sh", ["-c", "echo ready; read x"], opts)
      assert {:ok, "ready\n"} = Proc.read(p)
      assert {:ok, 137} = Proc.shutdown(p)
      assert %{pids_max: 0} = Proc.stats(p).cgroup
    end

    test "are nil without a group" do
      assert {:ok, %{stats: %{cgroup: nil}}} = NetRunner.capture(["true"])
    end
  end
end
