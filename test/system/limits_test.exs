defmodule NetRunner.System.LimitsTest do
  @moduledoc false
  # :nice and :rlimits, as the command has them.
  use NetRunner.Test.SystemCase, async: false

  # In /proc/PID/limits.
  @names [
    as: "Max address space",
    core: "Max core file size",
    cpu: "Max cpu time",
    data: "Max data size",
    fsize: "Max file size",
    locks: "Max file locks",
    memlock: "Max locked memory",
    msgqueue: "Max msgqueue size",
    nice: "Max nice priority",
    nofile: "Max open files",
    nproc: "Max processes",
    rss: "Max resident set",
    rtprio: "Max realtime priority",
    rttime: "Max realtime timeout",
    sigpending: "Max pending signals",
    stack: "Max stack size"
  ]

  # {soft, hard} of each limit of a command with these.
  defp limits(options) do
    assert {out, 0} = NetRunner.run(~w(cat /proc/self/limits), options)

    for {name, title} <- @names do
      [_, soft, hard] = Regex.run(~r/^#{title}\s+(\S+)\s+(\S+)/m, out)
      {name, {number(soft), number(hard)}}
    end
  end

  defp number("unlimited"), do: :infinity
  defp number(digits), do: String.to_integer(digits)

  defp own_limits do
    {out, 0} = System.cmd("cat", ["/proc/self/limits"])

    for {name, title} <- @names do
      [_, soft, hard] = Regex.run(~r/^#{title}\s+(\S+)\s+(\S+)/m, out)
      {name, {number(soft), number(hard)}}
    end
  end

  describe "rlimits" do
    test "those that are named are set, each by its name; the others are the VM's" do
      own = own_limits()
      assert limits([]) == own

      for {name, {soft, hard}} <- own do
        wanted = {lower(soft), lower(hard)}
        expected = Keyword.replace!(own, name, wanted)
        assert limits(rlimits: [{name, wanted}]) == expected
      end

      all = for {name, {soft, hard}} <- own, do: {name, {lower(soft), lower(hard)}}
      assert limits(rlimits: all) == all
    end

    # A little less, with which a small program can still run.
    defp lower(:infinity), do: 4_000_000_000
    defp lower(0), do: 0
    defp lower(limit), do: limit - 1

    test "one value is both; :infinity is none; of two the first counts" do
      assert limits(rlimits: [nofile: 256])[:nofile] == {256, 256}
      assert limits(rlimits: [cpu: {100, :infinity}])[:cpu] == {100, elem(own_limits()[:cpu], 1)}
      assert limits(rlimits: [core: 0, core: 1])[:core] == {0, 0}
      assert limits(rlimits: []) == own_limits()
    end

    test "in every function" do
      script = sh("ulimit -n")
      options = [rlimits: [nofile: 99]]
      assert {"99\n", 0} = NetRunner.run(script, options)
      assert "99\n" = NetRunner.run!(script, options)
      assert {:ok, %{stdout: "99\n"}} = NetRunner.capture(script, options)
      assert ["99\n"] = script |> NetRunner.stream!(options) |> Enum.to_list()
      {:ok, p} = Proc.start(script, options)
      assert {:ok, "99\n"} = Proc.read(p)
      assert :ok = Proc.stop(p)
    end

    test "are obeyed, and are inherited by what the command starts" do
      open = ~S[my @f; while (open(my $f, "<", "/dev/null")) { push @f, $f } print scalar(@f)]
      assert {"13", 0} = NetRunner.run(["perl", "-e", open], rlimits: [nofile: 16])
      assert {"13", 0} = NetRunner.run(sh(~S(perl -e "$1"; exit $?), [open]), rlimits: [nofile: 16])

      # A second of the processor.
      if soak?() do
        assert {:ok, %{signal: :sigxcpu}} =
                 NetRunner.capture(sh("while :; do :; done"), rlimits: [cpu: {1, 10}, core: 0])
      end
    end

    test "that cannot be set have their names, and nothing has run" do
      assert {:error, {:rlimits, {:nofile, :eperm}}} = NetRunner.run(~w(true), rlimits: [nofile: :infinity])

      assert {:error, {:rlimits, {:nofile, :eperm}}} =
               Proc.start("true", [], rlimits: [core: 0, nofile: :infinity])

      error = catch_error(NetRunner.run!(~w(true), rlimits: [nofile: :infinity]))

      assert Exception.message(error) =~
               "cannot set the limit :nofile to :infinity: not owner (eperm) (only root"

      assert {"works\n", 0} = NetRunner.run(~w(echo works))
    end

    test "that are no limits raise" do
      for bad <- [
            [nofiles: 1],
            [nofile: -1],
            [nofile: {2, 1}],
            [nofile: {:infinity, 1}],
            [nofile: 2 ** 64],
            256,
            %{}
          ] do
        assert_raise ArgumentError, ~r/:rlimits/, fn -> NetRunner.run(~w(true), rlimits: bad) end
      end
    end
  end

  describe "nice" do
    test "is the niceness itself, not what is added to the VM's" do
      victim =
        Victim.start(
          """
          for options <- [[], [nice: 5], [nice: 19]], do: say.(NetRunner.run(["nice"], options))
          wait.()
          """,
          shell: ~S(exec nice -n 3 "$0" "$@")
        )

      for expected <- ["3\n", "5\n", "19\n"], do: assert(Victim.term(victim) == {expected, 0})
    end

    @tag skip:
           if(not File.exists?("/proc/self/autogroup"), do: "this kernel has no autogroups") ||
             Skip.unless_root("without CAP_SYS_ADMIN one process of the whole system may set it in 100 ms")
    test "counts among all that run, not only within the command's own session" do
      assert {out, 0} = NetRunner.run(~w(cat /proc/self/autogroup), nice: 11)
      assert out =~ ~r/ nice 11$/m
    end

    test "that is none raises" do
      for bad <- [-21, 20, 1.0, nil, "5"] do
        assert_raise ArgumentError, ~r/:nice .*\n.*from -20 to 19/, fn ->
          NetRunner.run(~w(true), nice: bad)
        end
      end
    end
  end

  describe "with the rights of a normal user" do
    @tag skip: Skip.unless_other_user()
    test "down is allowed, up is not" do
      code = """
      run = fn options -> say.(NetRunner.run(["sh", "-c", "ulimit -Hn; nice"], options)) end
      run.(nice: 4, rlimits: [nofile: 300])
      run.(nice: 1)
      run.(nice: 2, rlimits: [nofile: 501])
      run.(rlimits: [nofile: {100, 500}])
      wait.()
      """

      shell =
        ~S(cd / && HOME=/tmp exec nice -n 2 prlimit --nofile=500 setpriv --reuid 54323 --clear-groups "$0" "$@")

      victim = Victim.start(code, shell: shell)
      assert Victim.term(victim) == {"300\n4\n", 0}
      assert Victim.term(victim) == {:error, {:nice, :eacces}}
      assert Victim.term(victim) == {:error, {:rlimits, {:nofile, :eperm}}}
      assert Victim.term(victim) == {"500\n2\n", 0}
    end
  end
end
