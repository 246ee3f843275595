defmodule NetRunner.Test.FaultyRound do
  @moduledoc false
  # Everything is tried while a system call fails. Called in a victim.

  alias NetRunner.ForkServer
  alias NetRunner.Process, as: Proc
  alias NetRunner.Test.{Cgroups, Faults, OS, Tree}

  @umask "0027"
  @idle_shepherds 4

  @doc "What the shell that starts the victim has to do first."
  def shell, do: "umask #{@umask}; "

  # More than any deadline of NetRunner.
  @hang 40_000

  @typedoc "What has failed, what came of everything that was tried, and what was left."
  @type t :: %{
          plan: term(),
          results: %{atom() => :ok | term()},
          recovered: :ok | term(),
          left: keyword(),
          leaked: keyword(),
          log: [[String.t()]]
        }

  @doc """
  One life of the application, from its start to its stop, in which a system call of the fork server, of a
  shepherd or of a command that is starting fails. The victim's shepherd is
  `NetRunner.Test.Faults.install_faulty/1`.
  """
  @spec play(Path.t(), String.t(), uses :: [atom()]) :: t()
  def play(directory, plan, uses \\ [:run, :input, :tree]) do
    come_up()
    _ = Application.stop(:net_runner)
    Faults.plan(directory, plan)
    :ok = Application.start(:net_runner)
    results = Map.new(uses, &{&1, bounded(&1)})
    recovered = bounded(:recover)
    left = left() ++ if(:group in uses, do: groups_left(), else: [])
    :ok = Application.stop(:net_runner)
    log = ended(directory)
    %{plan: plan, results: results, recovered: recovered, left: left, log: log, leaked: leaked()}
  end

  @doc """
  The first call of this name that the VM itself makes fails, then the second in the place of the first, and so
  on until there is none. The victim is one of `NetRunner.Test.Faults.shell/1` with a plan of what is `asked`.
  """
  @spec play_vm(Path.t(), uses :: [atom()], String.t(), String.t()) :: [t()]
  def play_vm(directory, uses, name, errno) do
    :ok = bounded(:recover)
    _ = leaked()

    for what <- uses,
        round <-
          Enum.take_while(Stream.map(1..100, &vm_round(directory, what, name, &1, errno)), &(&1.log != [])),
        do: round
  end

  defp vm_round(directory, what, name, n, errno) do
    before = length(Faults.log(directory))
    Faults.on(directory, name, n, errno)
    result = bounded(what)
    Faults.off(directory)
    recovered = bounded(:recover)

    %{
      plan: {what, name, n, errno},
      results: %{what => result},
      recovered: recovered,
      left: left(),
      log: Enum.drop(Faults.log(directory), before),
      leaked: leaked()
    }
  end

  @doc """
  All calls of these names fail for a while. In a victim of `play/2`, where they are those of a role, or of
  `play_vm/4`, where the role is nil.
  """
  @spec lasting(Path.t(), uses :: [atom()], role :: String.t() | nil, String.t(), String.t()) :: t()
  def lasting(directory, uses, role, names, errno) do
    if role do
      come_up()
      Faults.plan(directory, "asked #{role} #{names}")
      :ok = attempt(:fork_server)
    end

    :ok = bounded(:recover)
    left()
    _ = leaked()
    before = length(Faults.log(directory))
    Faults.on(directory, names, 0, errno)
    # At once, so that idle shepherds do not suffice.
    calls = for _ <- 1..4, use <- uses, do: Task.async(fn -> bounded(use) end)
    results = Task.await_many(calls, :infinity)
    Faults.off(directory)
    # At once; but a shepherd that was forked ahead can still have met the fault.
    recovered = bounded(if role == "shepherd", do: :recover, else: :run)

    %{
      plan: {role, names, errno},
      results: Enum.uniq(results),
      recovered: recovered,
      left: left(),
      log: Enum.drop(Faults.log(directory), before),
      leaked: leaked()
    }
  end

  # A fork server that was still starting would use the next plan up. (Or there is none.)
  defp come_up, do: attempt(:run)

  # What this VM holds now, compared with the first time.
  defp leaked do
    before = :persistent_term.get(__MODULE__, nil) || held()
    :persistent_term.put(__MODULE__, before)

    try do
      OS.eventually(fn -> held() == before end)
      []
    rescue
      ExUnit.AssertionError -> [before: before, now: held()]
    end
  end

  defp held do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    fds = for {_fd, target} <- OS.fds(OS.vm()), do: String.replace(target, ~r/\d+/, "")
    {Enum.frequencies(fds), NetRunner.Nif.resource_counts(), length(Process.list()), length(Port.list())}
  end

  # Commands, and idle shepherds, if there are not as many as there should be. One that has died while it was
  # idle is found, and replaced, when it is taken; one that could not be forked, or handed over, is forked when the
  # fork server is told of the next that is missing, as the shepherd of a command that was stopped.
  defp left do
    for _ <- 0..@idle_shepherds, do: bounded(:run)
    bounded(:stopped)
    OS.eventually(fn -> below() == {[], 1 + @idle_shepherds} end)
    []
  rescue
    ExUnit.AssertionError -> [commands_and_shepherds: below()]
  end

  # In one look: each is one at all processes of the machine.
  defp below do
    {shepherds, others} = Enum.split_with(OS.descendants(OS.vm()), &(&1.name == "shepherd"))
    {Enum.reject(others, &(&1.name in ["erl_child_setup", "inet_gethost"])), length(shepherds)}
  end

  # Of a control group, after the next command in it.
  defp groups_left do
    recovered = Enum.any?(1..10, fn _ -> NetRunner.run(["true"], cgroup_path: group() <> "/a") == {"", 0} end)
    if recovered and not File.exists?(Cgroups.path(group())), do: [], else: [groups: Cgroups.below(group())]
  end

  defp group, do: "nr_faults_#{System.pid()}"

  defp ended(directory) do
    Faults.await_end(directory)
  rescue
    ExUnit.AssertionError -> {:not_ended, OS.descendants(OS.vm())}
  end

  defp bounded(what) do
    task = Task.async(fn -> attempt(what) end)

    case Task.yield(task, @hang) || Task.shutdown(task, :brutal_kill) do
      {:ok, result} -> result
      nil -> :hangs
    end
  end

  defp attempt(:run), do: good(NetRunner.run(["echo", "x"]), {"x\n", 0})

  defp attempt(:input) do
    command = ["sh", "-c", "cat; pwd; umask; echo problem >&2"]
    expected = {"x\n/\n#{@umask}\n", 0, "problem\n"}
    good(NetRunner.run(command, input: "x\n", cd: "/", stderr: :capture), expected)
  end

  defp attempt(:tree) do
    shapes = Tree.arguments(~w(deaf ignoring session daemon))

    with {:ok, server} <- Proc.start(Tree.executable(), shapes, kill_timeout: 20) do
      said = read(server, "")
      signalled = Proc.kill(server, :sigcont)
      stopped = Proc.stop(server)
      Enum.find([said, signalled, stopped], :ok, &(&1 != :ok))
    end
  end

  # By all shepherds that are idle. Each leaves a process in a session of its own, whose parent has exited.
  defp attempt(:orphans) do
    run = fn -> NetRunner.run(["sh", "-c", "setsid sleep 1000 >&- & echo x"], kill_timeout: 20) end
    runs = for _ <- 1..@idle_shepherds, do: Task.async(run)
    runs |> Task.await_many(:infinity) |> Enum.find(:ok, &(&1 != {"x\n", 0}))
  end

  defp attempt(:stopped), do: with({:ok, server} <- Proc.start("cat", []), do: Proc.stop(server))

  # It makes a group in its own, and leaves a daemon there that ignores SIGTERM.
  defp attempt(:group) do
    script =
      ~S|mkdir "$0$(sed -n s/^0:://p /proc/self/cgroup)/b"; trap '' TERM; setsid sleep 1000 >&- & echo x|

    options = [cgroup_path: group() <> "/a", kill_timeout: 20]
    good(NetRunner.run(["sh", "-c", script, Cgroups.mount()], options), {"x\n", 0})
  end

  defp attempt(:fork_server) do
    # Killed by the NIF: a port would meet the fault first.
    with {:ok, fork_server} <- ForkServer.current() do
      ForkServer.unresponsive(fork_server)
      :sys.get_state(ForkServer)
    end

    good(NetRunner.run(["echo", "x"]), {"x\n", 0})
  end

  # A fault can strike late: the next one, or the one after it, finds no trace of it.
  defp attempt(:recover) do
    Enum.find_value(1..10, :never, fn _ -> if NetRunner.run(["echo", "x"]) == {"x\n", 0}, do: :ok end)
  end

  defp good(result, result), do: :ok
  defp good(result, _expected), do: result

  defp read(server, text) do
    if Tree.complete?(text) do
      :ok
    else
      case Proc.read(server) do
        {:ok, more} -> read(server, text <> more)
        :eof -> {:unexpected_eof, text}
        {:error, reason} -> {:error, reason}
      end
    end
  end
end
