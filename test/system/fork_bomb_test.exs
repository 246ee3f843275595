defmodule NetRunner.System.ForkBombTest do
  @moduledoc false
  # Issue point 2: processes that fork on, also faster than they can be killed one by one, do end. Every bomb is
  # bounded by the fixture, too: in number, and in time.
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Test.Chaos.Marked

  # By itself a bomb ends after so many seconds, which is too late for every test here.
  @seconds "40"
  @options [timeout: 500, kill_timeout: 200]

  setup do
    mark = "bomb.#{System.pid()}.#{System.unique_integer([:positive])}"
    on_exit(fn -> Marked.clean_up(mark) end)

    %{
      mark: mark,
      options: [env: Map.new(Marked.environment(mark), fn {n, v} -> {"#{n}", "#{v}"} end)] ++ @options
    }
  end

  defp bomb(arguments), do: [Application.app_dir(:net_runner, "fixture"), "fork-bomb" | arguments]

  describe "a burst of 256 processes" do
    test "in one group", context do
      assert {:error, :timeout} = NetRunner.run(bomb(["burst", @seconds, "8"]), context.options)
      assert Marked.living(context.mark) == []
    end

    test "each in a session of its own", context do
      assert {:error, :timeout} = NetRunner.run(bomb(["burst", @seconds, "8", "hiding"]), context.options)
      assert Marked.living(context.mark) == []
    end

    test "each in a session of its own, and their shepherd is killed", context do
      {:ok, server} =
        Proc.start(
          hd(bomb([])),
          tl(bomb(["burst", @seconds, "8", "hiding"])),
          context.options -- [timeout: 500]
        )

      await_lines(server, 256)
      OS.kill(OS.shepherd(Proc.os_pid(server)), "KILL")
      assert {:error, :shepherd_died} = Proc.await_exit(server)
      OS.eventually(fn -> Marked.living(context.mark) == [] end, 20_000)
      assert :ok = Proc.stop(server)
    end
  end

  describe "a chain, of which each process forks the next and exits" do
    test "in one group", context do
      assert {_ready, 0} = timed_out_or_over(NetRunner.run(bomb(["chain", @seconds, "0"]), context.options))
      assert Marked.living(context.mark) == []
    end

    test "each in a session of its own", context do
      assert {_ready, 0} =
               timed_out_or_over(NetRunner.run(bomb(["chain", @seconds, "0", "hiding"]), context.options))

      assert Marked.living(context.mark) == []
    end

    # The command itself exits at once; if it could not fork at first, the time limit comes first.
    defp timed_out_or_over({:error, :timeout}), do: {"", 0}
    defp timed_out_or_over(result), do: result
  end

  # At the limit each death makes room for another: those that are only killed are replaced as fast.
  describe "all of them fork as often as they can, up to RLIMIT_NPROC" do
    unless File.stat!("/proc/self").uid == 0,
      do: @describetag(skip: "only root can become a user that has no other processes")

    test "in one group", context do
      assert {:error, :timeout} = NetRunner.run(bomb(["tree", @seconds, "200"]), context.options)
      assert Marked.living(context.mark) == []
    end

    test "each in a session of its own", context do
      # They leave a hundredth of the processors to the shepherd, which may then be taken for one that hangs.
      assert {:error, reason} = NetRunner.run(bomb(["tree", @seconds, "200", "hiding"]), context.options)
      assert reason in [:timeout, :shepherd_died]
      if reason == :timeout, do: assert(Marked.living(context.mark) == [])
      OS.eventually(fn -> Marked.living(context.mark) == [] end, 20_000)
      assert {"", 0} = NetRunner.run(~w(true))
    end
  end

  defp await_lines(server, count, text \\ "") do
    if length(String.split(text, "\n")) <= count do
      {:ok, chunk} = Proc.read(server)
      await_lines(server, count, text <> chunk)
    end
  end
end
