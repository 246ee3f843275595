defmodule NetRunner.Test.Census do
  @moduledoc false
  # Everything that can leak, counted exactly: this VM's fds by what they point at, BEAM processes, ports, ETS
  # tables, resources of the NIF, and all OS processes below the VM, zombies too. But for idle shepherds: how many of
  # them there are depends on what has been running at the same time; there are not more than a few.

  import ExUnit.Assertions

  alias NetRunner.Test.OS

  # How often in a row the VM must look the same.
  @looks 5
  # While something runs.
  @most_idle 4 + 16

  @doc "What there is, when it has come to rest: idle shepherds are forked behind our back."
  def take do
    NetRunner.run(["true"])
    at_rest(count())
  end

  # All processes of the system are looked at before and after that: where there are thousands it takes a while.
  defp at_rest(count) do
    looks = for _ <- 1..@looks, do: pause() && inside()
    again = count()
    inside = Map.take(again, Map.keys(hd(looks)))
    # A shepherd that runs, or has not been reaped, is seen so twice on a busy machine, and is not at rest.
    rest? = Enum.all?(again.shepherds ++ again.idle, &(&1 not in ["R", "D", "Z"]))
    if rest? and again == count and Enum.all?(looks, &(&1 == inside)), do: again, else: at_rest(again)
  end

  defp pause do
    receive do
    after
      5 -> true
    end
  end

  @doc "Fails unless everything is as it was in `before`, at the latest after a while."
  def assert_unchanged(before) do
    OS.eventually(fn -> difference(before) == %{} end)
    :ok
  rescue
    ExUnit.AssertionError ->
      flunk("there was more or less than before: #{inspect(difference(before), limit: :infinity)}")
  end

  @doc """
  As `take/0`, but with what can be another one of the same kind without its identity: after a restart there are
  as many processes, sockets and tables of each kind as before.
  """
  def take_kinds do
    NetRunner.run(["true"])
    kinds(at_rest(count()))
  end

  @doc "What is more or less than in `before`, of `take_kinds/0`, when it has come to rest; `%{}` is nothing."
  def difference_of_kinds(before) do
    OS.eventually(fn -> difference(before, kinds(count())) == %{} end)
    %{}
  rescue
    ExUnit.AssertionError -> difference(before, kinds(count()))
  end

  defp kinds(count) do
    %{
      count
      | fds:
          count.fds |> Enum.map(fn {_fd, target} -> Regex.replace(~r/[0-9]+/, target, "") end) |> Enum.sort(),
        beam_processes: count.beam_processes |> Enum.flat_map(&kind/1) |> Enum.sort(),
        ports: length(count.ports),
        tables: count.tables |> Enum.map(&if(is_reference(&1), do: :unnamed, else: &1)) |> Enum.sort()
    }
  end

  defp kind(pid) do
    case Process.info(pid, [:registered_name, :dictionary, :initial_call]) do
      nil -> []
      [{:registered_name, name} | _] when is_atom(name) -> [name]
      [_, {:dictionary, dictionary}, {:initial_call, call}] -> [dictionary[:"$initial_call"] || call]
    end
  end

  defp difference(before), do: difference(before, count())

  defp difference(before, now) do
    before = Map.delete(before, :idle)
    # Just now there may be more: they are about to end.
    too_many = for {:idle, idle} <- now, length(idle) > @most_idle, into: %{}, do: {:idle, now: idle}

    for {what, was} <- before, is = now[what], is != was, into: too_many do
      {what, if(is_list(is), do: [more: is -- was, less: was -- is], else: [now: is, before: was])}
    end
  end

  defp count do
    below = OS.descendants(OS.vm())
    parents = MapSet.new(below, & &1.parent)
    shepherds = Enum.filter(below, &(&1.name == "shepherd"))
    {idle, busy} = Enum.split_with(shepherds, &(&1.os_pid not in parents and &1.state != "Z"))

    Map.merge(inside(), %{
      # Shepherds come and go: only how many there are counts, and in what state. (The fork server is one.)
      shepherds: for(one <- busy, do: one.state) |> Enum.sort(),
      idle: for(one <- idle, do: one.state) |> Enum.sort(),
      commands: for(one <- below, one.name != "shepherd", do: {one.os_pid, one.name, one.state})
    })
  end

  defp inside do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)

    %{
      fds: OS.fds(OS.vm()),
      beam_processes: Enum.sort(Process.list()),
      ports: Enum.sort(Port.list()),
      tables: Enum.sort(:ets.all()),
      resources: Enum.sort(NetRunner.Nif.resource_counts())
    }
  end
end
