defmodule NetRunner.GuidesTest do
  # The examples of the guides run, as those of the README do. Those with limits need cgroup v2 with its controllers.
  use ExUnit.Case, async: false

  for guide <- Path.wildcard("guides/*.md") do
    doctest_file(guide, tags: if(Path.basename(guide) == "cgroups.md", do: [:cgroup2], else: []))
  end
end
