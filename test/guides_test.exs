defmodule NetRunner.GuidesTest do
  # The examples of the guides run, as those of the README do.
  use ExUnit.Case, async: false

  for guide <- Path.wildcard("guides/*.md"), do: doctest_file(guide)
end
