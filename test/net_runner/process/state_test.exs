defmodule NetRunner.Process.StateTest do
  use ExUnit.Case, async: true

  alias NetRunner.Process.State

  @rusage %{user_us: 1, system_us: 2}
  @exit_3 {:exited, {:status, 3}, @rusage}
  @outcome_3 {:ok, {{:status, 3}, @rusage}}

  # Runs steps, each a function of the state or an event; returns the effects of the last one, and the state.
  defp run(steps, opts \\ []) do
    start = State.new(opts[:leftovers] || :kill, opts[:kill_timeout] || 5_000, opts[:cgroup?] || false)

    Enum.reduce(steps, start, fn
      step, {_effects, state} when is_function(step) -> step.(state)
      event, {_effects, state} -> State.event(state, event)
    end)
  end

  defp await_exit(caller, id \\ nil), do: &State.await_exit(&1, id, caller)
  defp await_done(caller, wants, id \\ nil), do: &State.await_done(&1, id, caller, wants)
  defp signal(caller, signal \\ 15), do: &State.signal(&1, signal, caller)
  defp timeout(timer), do: &State.timeout(&1, timer)
  defp stop, do: &State.stop/1

  defp replies(effects) do
    Enum.flat_map(effects, fn
      {:reply, caller, reply} -> [{caller, reply}]
      {:end, _report?, replies} -> replies
      _other -> []
    end)
  end

  describe "the life of a command" do
    test "started, exited, done" do
      assert {[{:arm, :spawn, 5_000}], state} = run([])
      assert State.alive?(state)

      assert {[:answered], state} = run([:forked])
      assert State.alive?(state)

      assert {[{:disarm, :spawn}, {:started, 7}], state} = run([:forked, {:started, 7}])
      assert State.alive?(state)

      assert {[:exited, {:arm, :stop, 5_600}], state} = run([{:started, 7}, @exit_3])
      refute State.alive?(state)
      assert state.outcome == nil

      assert {effects, state} = run([{:started, 7}, @exit_3, :done])
      assert effects == [:disarm_all, :finish_pipes, :close_control]
      assert State.result(state) == @outcome_3
    end

    test "the fork server's word may come last, but only once" do
      assert {[:answered], state} = run([{:started, 7}, @exit_3, :forked])
      assert {_effects, state} = State.event(state, :done)
      assert State.result(state) == @outcome_3

      assert {_effects, state} = run([:forked, {:started, 7}, :forked])
      assert State.result(state) == {:error, :protocol}
    end

    test "failed" do
      assert {effects, state} = run([{:failed, {:exec, :enoent}}])
      assert effects == [:disarm_all, :answered, :finish_pipes, :close_control]
      assert State.result(state) == {:error, {:exec, :enoent}}
      refute State.alive?(state)
    end

    test "what comes when it is over changes nothing" do
      {_effects, over} = run([{:started, 7}, @exit_3, :done])

      for event <- [:eof, :done, {:signalled, :ok}, {:error, :protocol}, {:started, 8}] do
        assert State.event(over, event) == {[], over}
      end

      for timer <- [:stop, :probe, :abandon], do: assert(State.timeout(over, timer) == {[], over})
      assert State.stop(over) == {[], over}
      assert State.abandon(over) == {[], over}
    end
  end

  describe "a command in a cgroup" do
    @stats {:cgroup, %{oom_kill: 1}}

    test "has its statistics, once, between exit and end" do
      assert {_effects, state} = run([{:started, 7}, @exit_3, @stats, :done], cgroup?: true)
      assert state.cgroup == %{oom_kill: 1}
      assert State.result(state) == @outcome_3
      assert {_effects, %{cgroup: nil}} = run([{:started, 7}, @exit_3, :done], cgroup?: true)

      for {steps, opts} <- [
            {[{:started, 7}, @exit_3, @stats], []},
            {[{:started, 7}, @exit_3, @stats, @stats], [cgroup?: true]},
            {[{:started, 7}, @stats], [cgroup?: true]},
            {[@stats], [cgroup?: true]}
          ] do
        {_effects, state} = run(steps, opts)
        state = if opts == [], do: state, else: elem(State.swept(state), 1)
        assert State.result(state) == {:error, :protocol}
      end
    end

    test "whose shepherd has died: nobody is told before it is swept" do
      steps = [{:started, 7}, await_exit("a"), await_done("b", :status), :eof]
      assert {effects, state} = run(steps, cgroup?: true)

      assert effects ==
               [:disarm_all, :kill_shepherd, {:fail_pipes, :shepherd_died}, :close_control, :sweep]

      refute State.alive?(state)

      # Nothing that happens meanwhile begins it again, or needs the control.
      for event <- [:eof, :done, @stats, {:error, :protocol}, @exit_3],
          do: assert(State.event(state, event) == {[], state})

      for timer <- [:stop, :probe, :abandon], do: assert(State.timeout(state, timer) == {[], state})
      assert State.stop(state) == {[], state}
      assert State.abandon(state) == {[], state}
      assert {[{:reply, "s", {:error, :not_running}}], ^state} = signal("s").(state)
      assert {[], waiting} = await_exit("c").(state)
      assert {[:close_stdin], waiting} = State.owner_down(waiting)

      assert {effects, state} = State.swept(waiting)
      died = {:error, :shepherd_died}
      assert Enum.sort(replies(effects)) == [{"a", died}, {"b", died}, {"c", died}]
      assert List.last(effects) == {:end, false, []}
      assert State.result(state) == died
    end

    test "whose shepherd has died before it has said anything, or after the exit" do
      assert {effects, %{phase: :sweeping} = state} = run([:eof], cgroup?: true)
      assert List.last(effects) == :sweep
      assert {[:disarm_all], state} = State.swept(state)
      assert State.result(state) == {:error, :shepherd_died}

      assert {_effects, state} = run([{:started, 7}, @exit_3, :eof], cgroup?: true)
      assert {[{:reply, "a", {:ok, 3}}], _state} = await_exit("a").(state)
    end

    test "that was not started, or is over, has nothing to be swept" do
      for steps <- [[{:failed, {:exec, :enoent}}], [{:started, 7}, @exit_3, :done]] do
        assert {effects, %{phase: :over}} = run(steps, cgroup?: true)
        refute :sweep in effects
      end
    end
  end

  describe "await_exit" do
    test "is answered at the exit, before the rest is over" do
      {effects, _state} = run([{:started, 7}, await_exit("a"), await_exit("b"), @exit_3])
      assert replies(effects) == [{"a", {:ok, 3}}, {"b", {:ok, 3}}]
    end

    test "is answered at once after the exit" do
      assert {[{:reply, "a", {:ok, 3}}], _state} = run([{:started, 7}, @exit_3, await_exit("a")])
      assert {[{:reply, "a", {:ok, 3}}], _state} = run([{:started, 7}, @exit_3, :done, await_exit("a")])
      assert {[{:reply, "a", {:ok, 3}}], _state} = run([{:started, 7}, @exit_3, :eof, await_exit("a")])
    end

    test "a signal is 128 and its number" do
      exited = {:exited, {:signal, 9, false}, @rusage}
      assert {[{:reply, "a", {:ok, 137}}], _state} = run([{:started, 7}, exited, await_exit("a")])
    end

    test "is not answered to who has withdrawn" do
      withdraw = &State.withdraw(&1, :id, "w")
      {effects, state} = run([{:started, 7}, await_exit("a", :id), await_exit("b"), withdraw])
      assert effects == [{:reply, "w", :withdrawn}]
      {effects, state} = State.event(state, @exit_3)
      assert replies(effects) == [{"b", {:ok, 3}}]
      assert {[{:reply, "w", :answered}], _state} = withdraw.(state)
    end

    test "has the error of a command without an exit" do
      {effects, _state} = run([{:started, 7}, await_exit("a"), :eof])
      assert replies(effects) == [{"a", {:error, :shepherd_died}}]
      assert {[{:reply, "a", {:error, :shepherd_died}}], _state} = run([{:started, 7}, :eof, await_exit("a")])
    end
  end

  describe "await_done" do
    test "is answered when nothing is left" do
      {effects, state} = run([{:started, 7}, await_done("a", :status), @exit_3])
      assert replies(effects) == []
      {effects, _state} = State.event(state, :done)
      assert effects == [:disarm_all, :finish_pipes, :close_control, {:reply, "a", {:ok, 3}}]
    end

    test "is answered at once later on" do
      assert {[{:reply, "a", {:ok, 3}}], _state} =
               run([{:started, 7}, @exit_3, :done, await_done("a", :status)])
    end

    test "the server ends with who wants that, after all others are answered" do
      {effects, _state} =
        run([
          {:started, 7},
          await_done("a", :ok_and_end),
          await_done("b", :status),
          await_done(nil, :report_and_end),
          @exit_3,
          :done
        ])

      assert Enum.take(effects, -2) == [{:reply, "b", {:ok, 3}}, {:end, true, [{"a", :ok}]}]
    end

    test "a failure is a report, and no failure of a stop" do
      {effects, state} =
        run([await_done("a", :ok_and_end), await_done(nil, :report_and_end), {:failed, {:cd, :enoent}}])

      assert List.last(effects) == {:end, true, [{"a", :ok}]}
      assert State.result(state) == {:error, {:cd, :enoent}}
    end
  end

  describe "stop" do
    test "is sent once, and watched" do
      assert {[:stop, {:arm, :stop, 5_500}], _state} = run([{:started, 7}, stop()])
      assert {[], _state} = run([{:started, 7}, stop(), stop()])
    end

    test "before the start is kept for the shepherd to find" do
      assert {[:stop, {:arm, :stop, 500}], state} = run([stop()], kill_timeout: 0)
      assert {[{:disarm, :spawn}, {:started, 7}], _state} = State.event(state, {:started, 7})
    end

    test "of the leftovers is watched from now on" do
      assert {[:stop, {:arm, :stop, 5_500}], _state} = run([{:started, 7}, @exit_3, stop()])
    end

    test "the time that is watched is not longer for an exit on the way" do
      assert {[:exited], _state} = run([{:started, 7}, stop(), @exit_3])
    end

    test "the end of the owner stops, closes stdin, and ends the server when it is over" do
      {effects, state} = run([{:started, 7}, &State.owner_down/1])
      assert effects == [:close_stdin, :stop, {:arm, :stop, 5_500}]
      {_effects, state} = State.event(state, @exit_3)
      {effects, _state} = State.event(state, :done)
      assert List.last(effects) == {:end, false, []}
    end

    test "the end of the owner of a command that is over ends the server" do
      assert {[{:end, false, []}], _state} = run([{:started, 7}, @exit_3, :done, &State.owner_down/1])
    end
  end

  describe "a shepherd that hangs" do
    test "is asked, and killed when it does not answer" do
      assert {[:probe, {:arm, :probe, 500}], state} = run([{:started, 7}, stop(), timeout(:stop)])
      assert {[:log_hung, :kill_shepherd, {:arm, :abandon, 500}], state} = State.timeout(state, :probe)
      assert {effects, state} = State.event(state, :eof)
      assert {:fail_pipes, :shepherd_died} in effects
      assert State.result(state) == {:error, :shepherd_died}
    end

    test "may know that something cannot be killed, but not what" do
      {effects, state} = run([{:started, 7}, await_done("a", :ok_and_end), stop(), {:unkillable, []}])
      assert List.last(effects) == {:end, false, [{"a", {:error, {:unkillable, []}}}]}
      assert State.result(state) == {:error, {:unkillable, []}}
    end

    test "is given up when it cannot be killed, which is no success of a stop" do
      {_effects, state} =
        run([{:started, 7}, await_done("a", :ok_and_end), stop(), timeout(:stop), timeout(:probe)])

      assert {effects, _state} = State.abandon(state)
      assert List.last(effects) == {:end, false, [{"a", {:error, :shepherd_died}}]}
    end

    test "is asked again when it answers" do
      {effects, state} = run([{:started, 7}, stop(), timeout(:stop), {:signalled, :ok}])
      assert effects == [{:disarm, :probe}, {:arm, :stop, 2_000}]
      assert {[:probe, {:arm, :probe, 500}], _state} = State.timeout(state, :stop)
    end

    test "that does not die is given up" do
      {effects, state} = run([{:started, 7}, stop(), timeout(:stop), timeout(:probe), timeout(:abandon)])
      assert :close_control in effects
      assert State.result(state) == {:error, :shepherd_died}
    end

    test "before it has started anything is killed without being asked" do
      assert {[:log_hung, :kill_shepherd, {:arm, :abandon, 500}], _state} = run([stop(), timeout(:stop)])
    end

    test "the question is in order with the signals of callers" do
      steps = [{:started, 7}, signal("a"), stop(), timeout(:stop), {:signalled, :ok}]
      {effects, state} = run(steps)
      assert effects == [{:reply, "a", :ok}, {:arm, :answer, 5_000}]
      assert {[{:disarm, :probe} | _again], _state} = State.event(state, {:signalled, :ok})
    end
  end

  describe "a spawn that is not answered" do
    test "has the fork server replaced, and then fails" do
      late = &State.spawn_deadline(&1, false)
      assert {[:fork_server_hangs, {:arm, :spawn, 5_000}], _state} = run([late])
      {effects, state} = run([late, late])
      assert :close_control in effects
      assert State.result(state) == {:error, :shepherd_died}
    end

    test "waits on while the fork server answers others" do
      slow = &State.spawn_deadline(&1, true)
      assert {[{:arm, :spawn, 5_000}], _state} = run([slow, slow, slow])
    end

    test "is the shepherd's fault when it was forked: it is killed" do
      late = &State.spawn_deadline(&1, false)
      assert {[{:arm, :spawn, 5_000}], _state} = run([:forked, late])
      assert {[:log_hung, :kill_shepherd, {:arm, :abandon, 500}], state} = run([:forked, late, late])
      assert {_effects, state} = State.event(state, :eof)
      assert State.result(state) == {:error, :shepherd_died}
    end

    test "is no matter when it has been answered" do
      assert {[], _state} = run([{:started, 7}, &State.spawn_deadline(&1, false)])
    end
  end

  describe "signals" do
    test "are answered in order" do
      assert {[{:signal, 15}, {:arm, :answer, 5_000}], state} = run([{:started, 7}, signal("a")])
      assert {[{:signal, 9}], state} = State.signal(state, 9, "b")
      assert {[{:reply, "a", :ok}, {:arm, :answer, 5_000}], state} = State.event(state, {:signalled, :ok})

      assert {[{:reply, "b", {:error, :not_running}}, {:disarm, :answer}], _state} =
               State.event(state, {:signalled, {:error, :not_running}})
    end

    test "that are not answered in time mean that the shepherd hangs" do
      assert {[:log_hung, :kill_shepherd, {:arm, :abandon, 500}], _state} =
               run([{:started, 7}, signal("a"), timeout(:answer)])
    end

    test "before the start wait for it" do
      assert {[{:arm, :answer, 5_000}], _state} = run([signal("a"), timeout(:answer)])
    end

    test "an errno says what was tried" do
      assert {[{:reply, "a", {:error, {:kill, :eperm}}}, {:disarm, :answer}], _state} =
               run([{:started, 7}, signal("a"), {:signalled, {:error, :eperm}}])
    end

    test "are not sent after the exit" do
      for steps <- [[@exit_3], [@exit_3, :done], [:eof]] do
        assert {[{:reply, "a", {:error, :not_running}}], _state} =
                 run([{:started, 7}] ++ steps ++ [signal("a")])
      end
    end

    test "that are unanswered at the end are answered then" do
      {effects, _state} = run([{:started, 7}, signal("a"), @exit_3, :done])
      assert replies(effects) == [{"a", {:error, :not_running}}]
      {effects, _state} = run([{:started, 7}, signal("a"), :eof])
      assert replies(effects) == [{"a", {:error, :shepherd_died}}]
    end
  end

  describe "the death of the shepherd" do
    test "fails the pipes, kills once more, and is everybody's answer" do
      {effects, state} = run([{:started, 7}, await_exit("a"), await_done("b", :status), :eof])

      assert Enum.take(effects, 4) == [
               :disarm_all,
               :kill_shepherd,
               {:fail_pipes, :shepherd_died},
               :close_control
             ]

      assert replies(effects) == [{"a", {:error, :shepherd_died}}, {"b", {:error, :shepherd_died}}]
      assert State.result(state) == {:error, :shepherd_died}
    end

    test "after the exit leaves the exit known, and the end an error" do
      {effects, state} = run([{:started, 7}, @exit_3, await_done("a", :status), :eof])
      assert replies(effects) == [{"a", {:error, :shepherd_died}}]
      assert {[{:reply, "b", {:ok, 3}}], _state} = State.await_exit(state, nil, "b")
    end
  end

  describe "what cannot come" do
    test "ends the command" do
      for events <- [
            [:done],
            [@exit_3],
            [{:signalled, :ok}],
            [{:started, 7}, {:started, 7}],
            [{:started, 7}, {:failed, {:exec, :enoent}}],
            [{:started, 7}, :done],
            [{:started, 7}, {:signalled, :ok}],
            [{:started, 7}, @exit_3, @exit_3],
            [{:started, 7}, {:unkillable, [8]}, {:unkillable, [8]}]
          ] do
        {effects, state} = run(events)
        assert {:fail_pipes, :protocol} in effects
        assert State.result(state) == {:error, :protocol}
      end
    end

    test "what the NIF does not understand is the reason of the end that follows" do
      {[{:arm, :stop, 5_500}], state} = run([{:started, 7}, {:error, :protocol}])
      {_effects, state} = State.event(state, :eof)
      assert State.result(state) == {:error, :protocol}

      assert {[], ^state} = State.stop(state)

      assert {[:answered, {:arm, :stop, 5_500}], _state} = run([{:error, :protocol}])
      {effects, state} = run([{:error, {:fds, :emfile}}, :eof])
      assert {:fail_pipes, :shepherd_died} in effects
      assert State.result(state) == {:error, {:fds, :emfile}}
    end

    test "where the end does not follow the shepherd is killed, without being asked" do
      for start <- [[], [{:started, 7}], [{:started, 7}, @exit_3]] do
        {effects, state} = run(start ++ [{:error, :protocol}, timeout(:stop)])
        assert effects == [:log_hung, :kill_shepherd, {:arm, :abandon, 500}]
        {_effects, state} = State.timeout(state, :abandon)
        assert State.result(state) == {:error, :protocol}
      end
    end
  end

  describe "what cannot be killed" do
    test "is logged and answered to those who wait for the end; the exit may still come" do
      {effects, state} =
        run([{:started, 7}, await_exit("a"), stop(), await_done("b", :status), {:unkillable, [7, 8]}])

      assert {:log_unkillable, [7, 8]} in effects
      assert {:disarm, :stop} in effects
      assert :finish_pipes in effects
      assert replies(effects) == [{"b", {:error, {:unkillable, [7, 8]}}}]

      assert {[{:reply, "c", {:error, {:unkillable, [7, 8]}}}], state} =
               State.await_done(state, nil, "c", :status)

      assert {effects, state} = State.event(state, @exit_3)
      assert replies(effects) == [{"a", {:ok, 3}}]
      assert {_effects, state} = State.event(state, :done)
      assert State.result(state) == @outcome_3
    end

    test "is the answer to a stop, with which the server ends" do
      {effects, _state} = run([{:started, 7}, stop(), await_done("a", :ok_and_end), {:unkillable, [7]}])
      assert List.last(effects) == {:end, false, [{"a", {:error, {:unkillable, [7]}}}]}
    end
  end

  describe "leftovers that are kept" do
    test "are handed over at the exit, which is the end for everybody else" do
      {effects, state} = run([{:started, 7}, await_done("a", :status), @exit_3], leftovers: :keep)
      assert effects == [:exited, :disarm_all, :finish_pipes, :hand_over, {:reply, "a", {:ok, 3}}]
      assert State.result(state) == @outcome_3
    end

    test "are not kept when the command was stopped" do
      {effects, state} = run([{:started, 7}, stop(), @exit_3], leftovers: :keep)
      assert effects == [:exited]
      {effects, _state} = State.event(state, :done)
      assert :close_control in effects
    end
  end
end
