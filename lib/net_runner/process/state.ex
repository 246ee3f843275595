defmodule NetRunner.Process.State do
  @moduledoc false
  # What a server knows of its command, and what it has to do next. Pure: events, requests and timeouts go in,
  # effects come out, to be performed in their order.
  #
  #     :starting ── started ──► :running ── exited ──► :exited ── done ──► :over
  #         └── failed ──────────────┴── the shepherd has died ──┴──(:sweeping)┘
  #
  # * `outcome` is known exactly in phase :over. A server in that phase has no control socket any more.
  # * :sweeping is only where there is a cgroup: what the shepherd has left in it is ended before anybody is told.
  #   There is no control socket any more then, either.
  # * Every caller is answered at the latest on the way into :over, or when the shepherd reports what it cannot
  #   kill.
  # * From the first stop, or the exit, on a timer is armed until :over, or until the shepherd has reported:
  #   that is how a shepherd that hangs is found. It is asked by a SIGKILL, which it answers at any time and
  #   which does no harm by then, for everything has got one.
  # * A shepherd that was forked and says nothing more is given the spawn deadline twice, for an exec can take
  #   long, and is then killed. Before it was forked it is the fork server that is late.
  # * An event that cannot come in this phase ends the command with {:error, :protocol}.

  alias NetRunner.{Nif, Stats}
  alias NetRunner.Process.Pending
  alias __MODULE__

  @type exit :: {Stats.exit(), Nif.rusage()}
  @type outcome :: {:ok, exit()} | {:error, term()}
  @type timer :: :spawn | :stop | :probe | :answer | :abandon
  @type caller :: Pending.caller()

  # The spawn has been answered, so the fork server lives.
  @type effect ::
          :answered
          | {:started, os_pid :: pos_integer()}
          | :exited
          | {:reply, caller(), term()}
          # The last effect: the server answers and ends, and reports where that is wanted.
          | {:end, report? :: boolean(), [{caller(), term()}]}
          | :stop
          | {:signal, 1..64}
          # A signal that does no harm by now; its answer shows that the shepherd lives. Where it cannot be
          # sent (the NIF has shut the socket down since the owner is dead) no answer will come.
          | :probe
          | {:arm, timer(), milliseconds :: non_neg_integer()}
          | {:disarm, timer()}
          | :disarm_all
          # The fork server has not answered a spawn in time.
          | :fork_server_hangs
          # SIGKILL for the shepherd; where that is impossible, `abandon/1`.
          | :kill_shepherd
          | :close_stdin
          | :close_outputs
          # Nobody of ours writes any more: readers get what is in the pipes, then end of file.
          | :finish_pipes
          | {:fail_pipes, reason :: atom()}
          # The control goes to the Watcher, which holds it until the leftovers or the VM end.
          | :hand_over
          | :close_control
          # To be answered by swept/1.
          | :sweep
          | {:log_unkillable, [pos_integer()]}
          | :log_hung

  @type t :: %State{
          phase: :starting | :running | :exited | :sweeping | :over,
          exit: exit() | nil,
          # What its cgroup has used, and whether it has one.
          cgroup: Stats.cgroup() | nil,
          cgroup?: boolean(),
          outcome: outcome() | nil,
          # Set by the first stop.
          stopping: boolean(),
          # The server ends when the command is over.
          ending: boolean(),
          # The shepherd could not kill these.
          unkillable: [pos_integer()] | nil,
          # The stream of events is broken, and why; its end is all that is still to come. In phase :sweeping, why the
          # command has failed.
          broken: term(),
          # There is a shepherd.
          forked: boolean(),
          # The shepherd could not be killed, or not be seen to end: the command may run on.
          abandoned: boolean(),
          # A spawn deadline has passed.
          overdue: boolean(),
          leftovers: :kill | :keep,
          kill_timeout: non_neg_integer(),
          pending: Pending.t()
        }

  @enforce_keys [:leftovers, :kill_timeout]
  defstruct [
    :leftovers,
    :kill_timeout,
    :exit,
    :cgroup,
    :outcome,
    :unkillable,
    :broken,
    phase: :starting,
    cgroup?: false,
    forked: false,
    stopping: false,
    ending: false,
    abandoned: false,
    overdue: false,
    pending: %Pending{}
  ]

  # How long the fork server may take until there is a shepherd; half of what the shepherd may take after that.
  @spawn_deadline 5_000
  # How long the shepherd leaves descendants of a command that has exited alone.
  @leftovers_grace 100
  # After kill_timeout, and then for the answer to the probe: together 1 s.
  @probe_after 500
  @probe_deadline 500
  # For the answer to a signal that somebody has asked for, while nothing is wrong as far as is known.
  @answer_deadline 5_000
  # A shepherd that answers is asked again.
  @probe_again 2_000
  # After SIGKILL to the shepherd.
  @abandon_after 500

  @spec new(leftovers :: :kill | :keep, kill_timeout :: non_neg_integer(), cgroup? :: boolean()) ::
          {[effect()], t()}
  def new(leftovers, kill_timeout, cgroup? \\ false) do
    {[{:arm, :spawn, @spawn_deadline}],
     %State{leftovers: leftovers, kill_timeout: kill_timeout, cgroup?: cgroup?}}
  end

  @spec alive?(t()) :: boolean()
  def alive?(%State{phase: phase}), do: phase in [:starting, :running]

  # -- events ------------------------------------------------------------------------------------------

  @spec event(t(), Nif.event()) :: {[effect()], t()}
  def event(%State{phase: phase} = state, _event) when phase in [:sweeping, :over], do: {[], state}

  # The NIF has begun the stop sequence. Whether the shepherd heeds it cannot be asked.
  def event(%State{broken: nil} = state, {:error, reason}) do
    answered = if state.phase == :starting, do: [:answered], else: []
    effects = answered ++ [{:arm, :stop, state.kill_timeout + @probe_after}]
    {effects, %{state | broken: reason, stopping: true}}
  end

  def event(state, :eof), do: fail(state, state.broken || :shepherd_died)

  # It is written by the fork server, so the shepherd's own events may overtake it.
  def event(%State{forked: false} = state, :forked), do: {[:answered], %{state | forked: true}}

  # A sign of life of the shepherd, not of the fork server.
  def event(%State{phase: :starting, forked: false} = state, :used), do: {[], %{state | forked: true}}

  def event(%State{phase: :starting} = state, {:started, os_pid}) do
    {[{:disarm, :spawn}, {:started, os_pid}], %{state | phase: :running}}
  end

  # The owner was dead before the command could be started.
  def event(%State{phase: :starting} = state, {:failed, {:fork, :ecanceled}}) do
    event(state, {:failed, :closed})
  end

  def event(%State{phase: :starting} = state, {:failed, reason}) do
    over(state, {:error, reason}, [:answered, :finish_pipes, :close_control])
  end

  def event(%State{phase: :running} = state, {:exited, how, rusage}) do
    {callers, pending} = Pending.take_exit(state.pending)
    state = %{state | phase: :exited, exit: {how, rusage}, pending: pending}
    reply = {:ok, status(state)}
    {effects, state} = after_exit(state)
    {[:exited | Enum.map(callers, &{:reply, &1, reply}) ++ effects], state}
  end

  def event(%State{phase: :exited, cgroup?: true, cgroup: nil} = state, {:cgroup, stats}) do
    {[], %{state | cgroup: stats}}
  end

  def event(%State{phase: :exited} = state, :done) do
    over(state, {:ok, state.exit}, [:finish_pipes, :close_control])
  end

  def event(%State{phase: phase} = state, {:signalled, result}) when phase in [:running, :exited] do
    case Pending.take_signal(state.pending) do
      {{:ok, :probe}, pending} ->
        {[{:disarm, :probe}, {:arm, :stop, @probe_again}], %{state | pending: pending}}

      {{:ok, caller}, pending} ->
        timer = if Pending.signals?(pending), do: {:arm, :answer, @answer_deadline}, else: {:disarm, :answer}
        {[{:reply, caller, signal_reply(result)}, timer], %{state | pending: pending}}

      {:empty, _pending} ->
        fail(state, :protocol)
    end
  end

  def event(%State{phase: phase, unkillable: nil} = state, {:unkillable, os_pids})
      when phase in [:running, :exited] do
    # They may hold pipes, of which nobody would see the end.
    effects = [{:disarm, :stop}, {:disarm, :probe}, {:log_unkillable, os_pids}, :finish_pipes]
    answer_done(%{state | unkillable: os_pids}, effects)
  end

  def event(state, _impossible), do: fail(state, :protocol)

  defp signal_reply(:ok), do: :ok
  defp signal_reply({:error, :not_running}), do: {:error, :not_running}
  defp signal_reply({:error, posix}), do: {:error, {:kill, posix}}

  defp after_exit(%State{leftovers: :keep, stopping: false} = state) do
    over(state, {:ok, state.exit}, [:finish_pipes, :hand_over])
  end

  defp after_exit(%State{stopping: true} = state), do: {[], state}

  defp after_exit(state), do: {[{:arm, :stop, @leftovers_grace + state.kill_timeout + @probe_after}], state}

  # -- requests ----------------------------------------------------------------------------------------

  @spec await_exit(t(), Pending.id(), caller()) :: {[effect()], t()}
  def await_exit(%State{exit: nil, outcome: nil} = state, id, caller) do
    {[], %{state | pending: Pending.await_exit(state.pending, id, caller)}}
  end

  def await_exit(%State{exit: nil, outcome: error} = state, _id, caller) do
    {[{:reply, caller, error}], state}
  end

  def await_exit(state, _id, caller), do: {[{:reply, caller, {:ok, status(state)}}], state}

  @spec await_done(t(), Pending.id(), caller(), Pending.wants()) :: {[effect()], t()}
  def await_done(state, id, caller, wants) do
    state = %{state | pending: Pending.await_done(state.pending, id, caller, wants)}
    if state.outcome || state.unkillable, do: answer_done(state, []), else: {[], state}
  end

  @doc "`:answered`: too late."
  @spec withdraw(t(), Pending.id(), caller()) :: {[effect()], t()}
  def withdraw(state, id, caller) do
    case Pending.withdraw(state.pending, id) do
      {:ok, pending} -> {[{:reply, caller, :withdrawn}], %{state | pending: pending}}
      :error -> {[{:reply, caller, :answered}], state}
    end
  end

  @doc "Begins the stop sequence; nothing is waited for."
  @spec stop(t()) :: {[effect()], t()}
  def stop(%State{phase: phase} = state) when phase in [:sweeping, :over], do: {[], state}
  def stop(%State{stopping: true} = state), do: {[], state}

  def stop(state) do
    {[:stop, {:arm, :stop, state.kill_timeout + @probe_after}], %{state | stopping: true}}
  end

  @doc "The owner has died. The NIF has begun the stop sequence; the server ends when it is over."
  @spec owner_down(t()) :: {[effect()], t()}
  def owner_down(%State{phase: :over} = state), do: {[{:end, false, []}], state}
  def owner_down(%State{unkillable: os_pids} = state) when is_list(os_pids), do: {[{:end, false, []}], state}

  def owner_down(state) do
    {effects, state} = stop(state)
    {[:close_stdin | effects], %{state | ending: true}}
  end

  @spec signal(t(), 1..31, caller()) :: {[effect()], t()}
  def signal(%State{phase: phase} = state, signal, caller) when phase in [:starting, :running] do
    timer = if Pending.signals?(state.pending), do: [], else: [{:arm, :answer, @answer_deadline}]
    {[{:signal, signal} | timer], %{state | pending: Pending.await_signal(state.pending, caller)}}
  end

  def signal(state, _signal, caller), do: {[{:reply, caller, {:error, :not_running}}], state}

  # -- timeouts ----------------------------------------------------------------------------------------

  @doc """
  The command has not started in time. `progress`: the fork server has answered others meanwhile, so that it is
  slow, not dead.
  """
  @spec spawn_deadline(t(), progress :: boolean()) :: {[effect()], t()}
  def spawn_deadline(%State{phase: :starting, forked: true, overdue: false} = state, _progress) do
    {[{:arm, :spawn, @spawn_deadline}], %{state | overdue: true}}
  end

  def spawn_deadline(%State{phase: :starting, forked: true} = state, _progress), do: kill_hung(state)

  def spawn_deadline(%State{phase: :starting} = state, true) do
    {[{:arm, :spawn, @spawn_deadline}], %{state | overdue: false}}
  end

  def spawn_deadline(%State{phase: :starting, overdue: false} = state, false) do
    {[:fork_server_hangs, {:arm, :spawn, @spawn_deadline}], %{state | overdue: true}}
  end

  def spawn_deadline(%State{phase: :starting} = state, false), do: abandon(state)
  def spawn_deadline(state, _progress), do: {[], state}

  @spec timeout(t(), :stop | :probe | :answer | :abandon) :: {[effect()], t()}
  def timeout(%State{phase: phase} = state, _timer) when phase in [:sweeping, :over], do: {[], state}

  def timeout(%State{phase: phase, broken: broken} = state, :stop) when phase == :starting or broken != nil do
    kill_hung(state)
  end

  def timeout(state, :stop) do
    {[:probe, {:arm, :probe, @probe_deadline}],
     %{state | pending: Pending.await_signal(state.pending, :probe)}}
  end

  # The spawn has a deadline of its own.
  def timeout(%State{phase: :starting} = state, :answer), do: {[{:arm, :answer, @answer_deadline}], state}

  def timeout(state, name) when name in [:probe, :answer], do: kill_hung(state)
  def timeout(state, :abandon), do: abandon(state)

  # Its end comes as the end of its events.
  defp kill_hung(state), do: {[:log_hung, :kill_shepherd, {:arm, :abandon, @abandon_after}], state}

  @doc "The shepherd neither answers nor dies: nothing more can be learned of it."
  @spec abandon(t()) :: {[effect()], t()}
  def abandon(%State{phase: phase} = state) when phase in [:sweeping, :over], do: {[], state}

  def abandon(state) do
    fail(%{state | abandoned: true}, state.broken || :shepherd_died)
  end

  # -- the end -----------------------------------------------------------------------------------------

  # The shepherd is lost. It and the command are killed once more, for a command can clear its parent-death
  # signal (prctl(2): by executing a setuid program).
  defp fail(state, reason) do
    name = if is_atom(reason), do: reason, else: :shepherd_died
    effects = [:kill_shepherd, {:fail_pipes, name}, :close_control]

    if state.cgroup?,
      do: {[:disarm_all | effects] ++ [:sweep], %{state | phase: :sweeping, broken: reason}},
      else: over(state, {:error, reason}, effects)
  end

  @doc "Nothing is left in the cgroup of a shepherd that has died."
  @spec swept(t()) :: {[effect()], t()}
  def swept(%State{phase: :sweeping} = state), do: over(state, {:error, state.broken}, [])

  defp over(state, outcome, effects) do
    {exit_callers, pending} = Pending.take_exit(state.pending)
    {signal_callers, pending} = Pending.take_signals(pending)
    state = %{state | phase: :over, outcome: outcome, pending: pending}

    replies =
      Enum.map(exit_callers, &{:reply, &1, outcome}) ++
        for(caller <- signal_callers, caller != :probe, do: {:reply, caller, unsignalled(state)})

    answer_done(state, [:disarm_all | effects] ++ replies)
  end

  defp unsignalled(%State{exit: nil, outcome: error}), do: error
  defp unsignalled(_exited), do: {:error, :not_running}

  # Answers those who wait for the end, after `effects`; ends the server where somebody asked for it.
  defp answer_done(state, effects) do
    {callers, pending} = Pending.take_done(state.pending)
    state = %{state | pending: pending}
    replies = for {caller, :status} <- callers, do: {:reply, caller, status_reply(state)}
    last_replies = for {caller, :ok_and_end} <- callers, do: {caller, ok_reply(state)}
    report? = Enum.any?(callers, &match?({_caller, :report_and_end}, &1))

    if state.ending or report? or last_replies != [] do
      {effects ++ replies ++ [{:end, report?, last_replies}], state}
    else
      {effects ++ replies, state}
    end
  end

  defp ok_reply(%State{outcome: nil} = unkillable), do: result(unkillable)
  defp ok_reply(%State{abandoned: true, outcome: error}), do: error
  defp ok_reply(_over), do: :ok

  defp status_reply(state) do
    case result(state) do
      {:ok, _exit} -> {:ok, status(state)}
      {:error, reason} -> {:error, reason}
    end
  end

  defp status(%State{exit: {how, _rusage}}), do: Stats.exit_status(how)

  @doc "What is known of the end. Only where there is an outcome, or something that cannot be killed."
  @spec result(t()) :: outcome()
  # The list is empty where they cannot be seen (no /proc).
  def result(%State{outcome: nil, unkillable: os_pids}) when is_list(os_pids),
    do: {:error, {:unkillable, os_pids}}

  def result(%State{outcome: outcome}) when outcome != nil, do: outcome
end
