defmodule NetRunner.CgroupTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias NetRunner.{Cgroup, Options}

  doctest Cgroup

  @linux {:unix, :linux}
  @macos {:unix, :darwin}

  defp options(opts), do: Options.new(:run, opts)

  describe "a path" do
    test "is relative, and every part of it a name" do
      assert Cgroup.parts("a") == {:ok, ["a"]}
      assert Cgroup.parts("a.b/c d/é") == {:ok, ["a.b", "c d", "é"]}
      assert Cgroup.parts(<<255, "/nr-abc">>) == {:ok, [<<255>>, "nr-abc"]}
      assert Cgroup.parts(String.duplicate("x", 255)) == {:ok, [String.duplicate("x", 255)]}

      for {path, why} <- [
            {"", :empty},
            {"/", :absolute},
            {"/a", :absolute},
            {"a/", :empty_part},
            {"a//b", :empty_part},
            {".", :dot},
            {"a/./b", :dot},
            {"..", :dot_dot},
            {"a/../../b", :dot_dot},
            {"a/b\0", :nul_byte},
            {"a\nb", :newline},
            {"a/" <> String.duplicate("x", 256), :too_long},
            {"a/nr-abcdefghijkl2345", :reserved}
          ] do
        assert Cgroup.parts(path) == {:error, {:invalid_cgroup_path, why}}
        assert NetRunner.run(["true"], cgroup_path: path) == {:error, {:invalid_cgroup_path, why}}
      end
    end

    test "that is no binary is a mistake" do
      for path <- [:a, ~c"a", 1, ["a"]] do
        assert_raise ArgumentError, ~r/:cgroup_path.*\nExpected: a binary/, fn ->
          options(cgroup_path: path)
        end
      end
    end
  end

  test "each leaf has a name of its own, whatever the caller has seeded, and its random numbers stay" do
    names =
      for _ <- 1..100 do
        :rand.seed(:exsss, {1, 2, 3})
        before = :rand.export_seed()

        case Cgroup.locate(options(cgroup_path: "a"), @linux) do
          {:ok, %{leaf: leaf}} ->
            assert :rand.export_seed() == before
            assert leaf =~ ~r/\Anr-[a-z2-7]{16}\z/
            leaf

          {:error, {:cgroup, {:mount, :enoent}}} ->
            make_ref()
        end
      end

    assert names == Enum.uniq(names)
  end

  describe "where there are no cgroups" do
    test "a path does nothing, said once, and a limit is an error" do
      :persistent_term.erase(Cgroup)
      on_exit(fn -> :persistent_term.erase(Cgroup) end)
      locate = fn -> assert Cgroup.locate(options(cgroup_path: "a"), @macos) == {:ok, nil} end
      assert capture_log(locate) =~ ":cgroup_path does nothing"
      assert capture_log(locate) == ""
      assert Cgroup.locate(options(cgroup_path: "a", cgroup: %{}), @macos) == {:ok, nil}

      assert Cgroup.locate(options(cgroup_path: "a", cgroup: [pids_max: 1]), @macos) ==
               {:error, {:cgroup, {:pids_max, :enotsup}}}

      assert Cgroup.locate(options(cgroup_path: "/a"), @macos) == {:error, {:invalid_cgroup_path, :absolute}}
    end
  end

  describe "mountinfo" do
    test "may have optional fields, other file systems and names of any kind" do
      assert Cgroup.mount("") == :error

      text = """
      31 23 0:28 / /sys/fs/cgroup rw,relatime shared:1 master:2 - tmpfs cgroup2 rw
      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
      40 31 0:38 /docker/1f /a\\011b\\134040\\012 rw,relatime shared:9 propagate_from:3 - cgroup2 none rw,nsdelegate
      41 31 0:38 / /second rw - cgroup2 cgroup2 rw
      """

      assert Cgroup.mount(text) == {:ok, {"/docker/1f", "/a\tb\\040\n"}}
    end
  end

  test "the VM's own group may be the root, or out of sight" do
    assert Cgroup.own("0::/\n", "/") == {:ok, ""}
    assert Cgroup.own("0::/a\n", "/a") == {:ok, ""}
    assert Cgroup.own("0::/ab\n", "/a") == :error
    assert Cgroup.own("0::/..\n", "/") == :error
    assert Cgroup.own("1:cpu:/\n", "/") == :error
  end
end
