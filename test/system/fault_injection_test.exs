defmodule NetRunner.System.FaultInjectionTest do
  @moduledoc false
  # Every system call of the fork server, of a shepherd and of a command that is starting fails once.
  #
  # Which ones there are is taken from a life in which nothing fails. In each further life one call fails, with an
  # error that it can have. Whatever it is: each result is right or a documented error, nothing hangs, nothing is
  # left, and it works again.
  use NetRunner.Test.SystemCase, async: false

  alias NetRunner.Test.{Cgroups, Faults, FaultyRound}

  # How a call can fail (its manual page, or a sandbox that refuses it).
  @errnos %{
    "access" => ~w(enoent),
    "chdir" => ~w(eacces enomem),
    "clone" => ~w(eagain enomem),
    "clone3" => ~w(eagain enomem enosys),
    "close_range" => ~w(enosys enomem),
    "dup2" => ~w(emfile),
    "dup3" => ~w(emfile),
    "execve" => ~w(enomem eagain),
    "fchdir" => ~w(eacces enomem),
    "fchmod" => ~w(eperm),
    "fcntl" => ~w(emfile einval),
    "flock" => ~w(enomem eintr),
    "fork" => ~w(eagain enomem),
    "fstat" => ~w(enomem),
    "getdents64" => ~w(enomem),
    "getrandom" => ~w(enosys),
    "getxattr" => ~w(enomem eperm),
    "getsockopt" => ~w(enobufs),
    "kill" => ~w(eperm),
    "lseek" => ~w(einval),
    "mkdir" => ~w(enomem eacces),
    "mkdirat" => ~w(enomem eacces),
    "mmap" => ~w(enomem),
    "mprotect" => ~w(enomem),
    "mremap" => ~w(enomem),
    "munmap" => ~w(enomem),
    "newfstatat" => ~w(enomem),
    "open" => ~w(emfile enfile enomem eintr),
    "openat" => ~w(emfile enfile enomem eintr),
    "pidfd_open" => ~w(emfile enosys),
    "pidfd_send_signal" => ~w(eperm enosys),
    "pipe2" => ~w(emfile enfile),
    "poll" => ~w(enomem eintr),
    "ppoll" => ~w(enomem eintr),
    "prctl" => ~w(eperm),
    "pread64" => ~w(enomem eintr),
    "read" => ~w(eio eintr enomem),
    "readlink" => ~w(enoent enomem),
    "readlinkat" => ~w(enoent enomem),
    "recvfrom" => ~w(eintr enomem),
    "recvmsg" => ~w(eintr enomem),
    "rmdir" => ~w(enomem),
    "rt_sigaction" => ~w(einval),
    "sendmsg" => ~w(eintr enobufs enomem etoomanyrefs),
    "sendto" => ~w(eintr enobufs),
    "setsid" => ~w(eperm),
    "setxattr" => ~w(enomem eperm),
    "sigaltstack" => ~w(enomem),
    "socketpair" => ~w(emfile enfile enomem),
    "statx" => ~w(enomem enosys),
    "unlinkat" => ~w(enomem),
    "wait4" => ~w(eintr),
    "waitid" => ~w(eintr),
    "write" => ~w(eagain)
  }
  # Always succeed, or have been done even where they report an error (close(2)), or are no calls that report
  # errors (brk(2)), or belong to the start of every program.
  @infallible ~w(arch_prctl brk close exit exit_group futex getpid getppid gettid madvise prlimit64 rseq
                 rt_sigprocmask rt_sigreturn sched_getaffinity set_robust_list set_tid_address umask uname)

  @missing Faults.missing()

  # What the NIF calls, and the VM not all the time.
  @calls_of_the_nif %{
    "clone" => ~w(eagain enomem),
    "clone3" => ~w(eagain enomem),
    "fcntl" => ~w(einval),
    "open" => ~w(emfile enfile enomem),
    "openat" => ~w(emfile enfile enomem),
    "pidfd_open" => ~w(emfile enosys),
    "pidfd_send_signal" => ~w(eperm),
    "pipe2" => ~w(emfile enfile),
    "recvmsg" => ~w(eintr enomem),
    "sendmsg" => ~w(eintr enobufs enomem etoomanyrefs),
    "shutdown" => ~w(enobufs),
    "socketpair" => ~w(emfile enfile enomem),
    "vfork" => ~w(eagain enomem)
  }

  @missing Faults.missing()
  @moduletag skip: @missing

  @tag timeout: 300_000
  test "each of the fork server, of a shepherd, of a command that is starting" do
    directory = tmp_dir()

    victim =
      start("FaultyRound.play(directory, line)", directory,
        flags: Faults.install_faulty(directory),
        shell: FaultyRound.shell() <> "exec \"$0\" \"$@\""
      )

    sound = play(victim, "trace")
    assert %{results: %{run: :ok, input: :ok, tree: :ok}, recovered: :ok, left: [], leaked: []} = sound
    unknown = for [_, _, name] <- sound.log, not known?(name), uniq: true, do: name
    assert {:how_can_these_fail, []} = {:how_can_these_fail, unknown}
    assert_harmless(for plan <- plans(sound.log), do: play(victim, plan))
  end

  # The fork server would get the orphans, and does not look for them as long as its shepherds end well.
  test "a shepherd that is refused to be a subreaper gets no command" do
    directory = tmp_dir()

    victim =
      start("FaultyRound.play(directory, line, [:orphans])", directory,
        flags: Faults.install_faulty(directory)
      )

    assert_harmless(for _ <- 1..12, do: play(victim, "once shepherd prctl 1 eperm"))
  end

  # What is not made or used for a group stands in the plans of the test above.
  @calls_for_a_group ~w(clone3 fchmod flock fstat getdents64 getxattr mkdir mkdirat newfstatat openat poll pread64 read rmdir
                        setxattr statx unlinkat write)

  @tag skip: @missing || Cgroups.skip() || false
  test "each of a shepherd whose command has a control group" do
    directory = tmp_dir()

    victim =
      start("FaultyRound.play(directory, line, [:group])", directory,
        flags: Faults.install_faulty(directory),
        shell: FaultyRound.shell() <> "exec \"$0\" \"$@\""
      )

    sound = play(victim, "trace")
    assert %{results: %{group: :ok}, recovered: :ok, left: [], leaked: []} = sound
    assert [] == for([_, _, name] <- sound.log, not known?(name), uniq: true, do: name)
    assert "flock" in for([_, _, name] <- sound.log, do: name)

    most =
      Enum.reduce(Enum.frequencies(sound.log), %{}, fn {[role, _pid, name], n}, most ->
        Map.update(most, {role, name}, n, &max(&1, n))
      end)

    plans =
      for {{role, name}, most} <- Enum.sort(most),
          role in ["shepherd", "child"] and name in @calls_for_a_group,
          n <- soak([1, 2, 3, 5, 8, 13, 21], Enum.to_list(1..40)),
          n <= most,
          errno <- some(@errnos[name]),
          do: "once #{role} #{name} #{n} #{errno}"

    assert_harmless(for plan <- plans, do: play(victim, plan))
  end

  test "each of the VM" do
    directory = tmp_dir()
    Faults.plan(directory, "asked root #{Enum.join(Map.keys(@calls_of_the_nif), ",")}")
    play = "apply(FaultyRound, :play_vm, [directory, #{inspect(some_uses())} | String.split(line)])"
    victim = start(play, directory, shell: FaultyRound.shell() <> Faults.shell(directory))

    rounds =
      for {name, errnos} <- Enum.sort(@calls_of_the_nif),
          errno <- some(errnos),
          round <- play(victim, "#{name} #{errno}"),
          do: round

    assert_harmless(rounds)
  end

  # What is to come of it, among :ok for what needs no such call.
  @lasting [
    {"root", "clone", "eagain", {:fork, :eagain}},
    {"root", "clone", "enomem", {:fork, :enomem}},
    {"root", "socketpair", "emfile", nil},
    {"root", "sendmsg", "etoomanyrefs", nil},
    {"shepherd", "clone", "eagain", {:fork, :eagain}},
    {"shepherd", "clone", "enomem", {:fork, :enomem}},
    {"shepherd", "clone", "enfile", {:fork, :enfile}},
    {"shepherd", "mmap", "enomem", {:fork, :enomem}},
    {"shepherd", "recvmsg", "enomem", :shepherd_died},
    {"child", "execve", "enomem", {:exec, :enomem}}
  ]

  test "all of one kind for a while, in the fork server, a shepherd, a command that is starting" do
    directory = tmp_dir()

    play =
      "[role, names, errno] = String.split(line); FaultyRound.lasting(directory, [:run, :input], role, names, errno)"

    flags = Faults.install_faulty(directory)
    victim = start("(#{play})", directory, flags: flags, shell: FaultyRound.shell() <> "exec \"$0\" \"$@\"")

    for {role, names, errno, reason} <- @lasting do
      assert_lasting(play(victim, "#{role} #{names} #{errno}"), reason)
    end
  end

  test "all of one kind for a while, in the VM" do
    directory = tmp_dir()
    Faults.plan(directory, "asked root #{Enum.join(Map.keys(@calls_of_the_nif), ",")}")

    play =
      "[uses, names, errno] = String.split(line); FaultyRound.lasting(directory, [String.to_atom(uses)], nil, names, errno)"

    victim = start("(#{play})", directory, shell: FaultyRound.shell() <> Faults.shell(directory))

    for {use, names, errno, reason} <- [
          {:input, "pipe2", "emfile", {:pipe, :emfile}},
          {:input, "pipe2", "enfile", {:pipe, :enfile}},
          {:input, "open,openat", "emfile", {:cd, :emfile}},
          {:input, "sendmsg", "etoomanyrefs", {:send, :etoomanyrefs}},
          {:fork_server, "clone,clone3,vfork", "eagain", {:fork_server, :eagain}},
          {:fork_server, "clone,clone3,vfork", "enomem", {:fork_server, :enomem}},
          {:fork_server, "pidfd_open", "emfile", {:fork_server, :emfile}},
          {:fork_server, "socketpair", "enfile", {:socket, :enfile}}
        ] do
      assert_lasting(play(victim, "#{use} #{names} #{errno}"), reason)
    end
  end

  defp assert_lasting(round, reason) do
    assert %{recovered: :ok, left: [], leaked: []} = round
    assert round.results -- [:ok] == List.wrap(if reason, do: {:error, reason})
    # Nobody tries again and again.
    assert length(round.log) in 1..100
  end

  # It can happen that a call does not come so often as it did, but that must be the exception.
  defp assert_harmless(rounds) do
    if soak?(), do: IO.puts("#{length(rounds)} system calls have failed, one at a time")
    struck = Enum.count(rounds, &(&1.log != []))
    assert struck > 10 and struck > 0.9 * length(rounds)
    assert [] == Enum.reject(rounds, &harmless?/1)
  end

  defp known?(name), do: is_map_key(@errnos, name) or name in @infallible

  defp some_uses, do: soak([:input], [:run, :input, :tree, :fork_server])
  defp some(errnos), do: soak(Enum.take(errnos, 1), errnos)

  # The first one is not like the others.
  @often ~w(ppoll recvmsg sendmsg)

  # The n-th call of each kind that a process of each role makes, for a few n, or many; each with one of its
  # errors, or all.
  defp plans(log) do
    by_process = Enum.frequencies(log)

    most =
      Enum.reduce(by_process, %{}, fn {[role, _pid, name], n}, most ->
        Map.update(most, {role, name}, n, &max(&1, n))
      end)

    for {{role, name}, most} <- Enum.sort(most),
        is_map_key(@errnos, name),
        n <-
          soak(if(name in @often, do: [1, 2], else: [1]), Enum.to_list(1..12) ++ [16, 32, 64, 128, 256, 512]),
        n <= most,
        errno <- some(@errnos[name]),
        do: "once #{role} #{name} #{n} #{errno}"
  end

  @stages ~w(fork_server socket send fds pipe fork setup cd exec kill)a

  defp harmless?(round) do
    match?(%{recovered: :ok, left: [], leaked: [], log: log} when is_list(log), round) and
      Enum.all?(Map.values(round.results), &documented?/1)
  end

  defp documented?(:ok), do: true
  defp documented?({:error, {stage, posix}}) when is_atom(posix), do: stage in @stages and posix != :eunknown

  defp documented?({:error, {:cgroup, {step, posix}}}),
    do: step in [:root, :create, :join] and posix != :eunknown

  defp documented?({:error, reason}), do: reason in [:shepherd_died, :no_fork_server]
  defp documented?(_hang_or_wrong_result), do: false

  defp start(play, directory, opts) do
    Victim.start(
      """
      Logger.configure(level: :none)
      alias NetRunner.Test.FaultyRound
      directory = #{inspect(directory)}
      rounds = fn rounds ->
        line = String.trim(IO.gets(""))
        say.(#{play})
        rounds.(rounds)
      end
      rounds.(rounds)
      """,
      opts
    )
  end

  defp play(victim, line) do
    Victim.tell(victim, line)
    Victim.term(victim, 200_000)
  end
end
