defmodule NetRunner.Test.Chaos.Shapes do
  @moduledoc false
  # What the commands of the chaos suite are: one entry each. `input: true` is fed for ever; `opts` are options of
  # every face, `faces` those that it goes with where that is not all of them.

  alias NetRunner.Test.{Cgroups, Tree}

  @doc "All shapes by name."
  def all do
    %{
      plain: %{command: ~w(sleep 1000)},
      brief: %{command: sh("sleep 0.1; exit 3")},
      tree: %{command: sh("sleep 1000 & (sleep 1000 & sleep 1000) & wait")},
      setsid: %{command: Tree.command(~w(session))},
      daemon: %{command: Tree.command(~w(daemon silent_daemon))},
      traps_term: %{command: Tree.command(~w(deaf ignoring group grandchild))},
      everything: %{command: Tree.command()},
      stopped: %{command: sh("sleep 1000 & kill -STOP $$; sleep 1000")},
      stopped_child: %{command: Tree.command(~w(stopped))},
      # The command itself is gone at once.
      holds_stdout: %{command: sh("(trap '' TERM; sleep 1000 & exec sleep 1000) & exit 0")},
      # Each process lives for 2 ms.
      hopping: %{command: Tree.command(~w(hopping))},
      forking: %{command: sh("while :; do sleep 0.01 & sleep 0.01 & wait; done")},
      floods: %{command: sh("yes out & yes err >&2 & wait")},
      # A shell with jobs, each a group of its own, one of them deaf.
      terminal: %{
        command: [
          "bash",
          "-c",
          "set -m; sleep 1000 & (trap '' HUP TERM; sleep 1000; sleep 1000) & sleep 1000"
        ],
        opts: [pty: true, stderr: :redirect]
      },
      reads_slowly: %{
        command: perl("1 while sysread STDIN, $_, 64 and select undef, undef, undef, 0.005"),
        input: true
      }
    }
    |> Map.merge(in_group(Cgroups.skip()))
    |> Map.new(fn {name, shape} -> {name, Map.merge(%{input: false, opts: [], faces: faces()}, shape)} end)
  end

  defp in_group(nil), do: %{group: %{command: Tree.command(), opts: [cgroup_path: cgroup() <> "/a"]}}
  defp in_group(_none_here), do: %{}

  @doc "The group that commands are put into: one for all VMs of this checkout."
  def cgroup, do: "nr_chaos_#{:erlang.phash2(File.cwd!())}"

  @doc "How a command can be started."
  def faces, do: [:run, :capture, :stream, :process, :daemon]

  @doc "Those that do not end by themselves, and do not fill the memory of who collects their output."
  def lasting, do: [:plain, :tree, :setsid, :daemon, :traps_term, :everything, :stopped_child]

  defp sh(script), do: ["sh", "-c", script]
  defp perl(script), do: ["perl", "-e", script]
end
