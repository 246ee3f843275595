defmodule NetRunner.Test.ControlSocket do
  @moduledoc false
  # Frames of the control socket (docs/protocol.md), and how to send them in the place of a shepherd or the VM:
  # with a copy of its socket (the fixture's `inject`).

  alias NetRunner.Process, as: Proc
  alias NetRunner.Test.OS

  # How many fds `Started` and `Forked` have where there are pidfds.
  @started_fds 1

  @doc "How many fds a true `Started` comes with, and a true `Forked`."
  def started_fds, do: @started_fds

  # -- frames ------------------------------------------------------------------------------------------

  def frame(body), do: <<byte_size(body)::32-little, body::binary>>

  # VM → shepherd.
  def signal(number), do: frame(<<2, number::32-little>>)
  def stop, do: frame(<<3>>)

  # root: the mount point. The parts lead from there to the directory of the leaf.
  def sweep(root, parts, leaf) do
    parts = [<<length(parts)::32-little>> | Enum.map(parts, &bytes/1)]
    frame(IO.iodata_to_binary([<<4>>, bytes(root), parts, bytes(leaf), <<0::32-little>>, <<0::64-little>>]))
  end

  # Shepherd → VM.
  def started(os_pid, fds \\ 0), do: frame(<<65, os_pid::32-little, fds>>)
  def failed(stage \\ 2, errno \\ 11), do: frame(<<66, stage, errno::32-little>>)
  def signalled(:ok), do: frame(<<67, 0>>)
  def signalled(:not_running), do: frame(<<67, 1>>)
  def signalled(errno), do: frame(<<67, 2, errno::32-little>>)
  def exited(status \\ 7), do: frame(<<68, 0, status, 0::size(9 * 64)>>)
  # Ten numbers, of which none is known.
  def cgroup, do: frame(<<72, 0::size(10 * 8)>>)
  def unkillable(os_pids \\ [4711]), do: frame([<<69>>, list(os_pids)] |> IO.iodata_to_binary())
  # Nobody can guess the nonce of a request.
  def done(nonce \\ 0), do: frame(<<70, nonce::64-little>>)
  # The fork server's, which has said it when a command runs.
  def forked(fds \\ 0), do: frame(<<71, fds>>)

  defp bytes(bytes), do: <<byte_size(bytes)::32-little, bytes::binary>>
  defp list(numbers), do: [<<length(numbers)::32-little>> | for(one <- numbers, do: <<one::32-little>>)]

  @doc "What is no frame at all, by what is wrong with it."
  def nonsense do
    [
      unknown_tag: frame(<<200>>),
      empty: <<0::32-little>>,
      too_long: <<0xFFFF_FFFF::32-little, 1>>,
      text: "GET / HTTP/1.1\r\n\r\n"
    ]
  end

  @doc "One valid frame of each kind that a shepherd may send, for a command of this pid."
  def events(os_pid) do
    [
      started(os_pid),
      {started(os_pid, @started_fds), List.duplicate("pidfd=#{os_pid}", @started_fds)},
      failed(),
      signalled(:ok),
      signalled(:not_running),
      signalled(1),
      exited(),
      unkillable(),
      cgroup(),
      done(),
      forked(),
      {forked(@started_fds), List.duplicate("pidfd=#{os_pid}", @started_fds)}
    ]
  end

  @doc "One valid frame of each kind that the VM may send to a shepherd, but for a command."
  def requests,
    do: [
      stop(),
      sweep("/nonexistent", ["a"], "nr-abcdefghijkl2345")
      | for(number <- [1, 2, 9, 10, 15, 18, 19, 28], do: signal(number))
    ]

  # -- sockets -----------------------------------------------------------------------------------------

  @doc "A command, its shepherd, and the VM's end of the socket between the two: the only one that is new."
  def start(executable, arguments, opts \\ []) do
    before = sockets()
    {:ok, p} = Proc.start(executable, arguments, [kill_timeout: 300] ++ opts)
    [socket] = sockets() -- before
    os_pid = Proc.os_pid(p)
    shepherd = OS.shepherd(os_pid)
    identities = [OS.identity(os_pid), OS.identity(shepherd)]
    %{p: p, os_pid: os_pid, shepherd: shepherd, socket: socket, identities: identities}
  end

  defp sockets, do: for({_, "socket:[" <> inode} <- OS.fds(OS.vm()), do: String.trim(inode, "]"))

  @doc """
  Sends messages to the VM as this shepherd. A message is bytes, or `{bytes, fds}`, each fd a kind that the
  fixture can open; `{times, message}` repeats one.
  """
  def to_vm(shepherd, messages), do: inject(shepherd, "0", messages)

  @doc "Sends messages to a shepherd as the VM, whose end of the socket has this inode."
  def to_shepherd(socket, messages), do: inject(OS.vm(), socket, messages)

  # `:gone` when there was nobody any more to send them to.
  defp inject(os_pid, inode, messages) do
    case run_inject(os_pid, inode, messages) do
      {"", 0} ->
        :ok

      {message, 70} ->
        # EBADF: it was closed right now. EACCES: to one who is not root the fds of a zombie are closed.
        if message =~ ~r/No such (file|process)|no such socket|Bad file descriptor|Permission denied/,
          do: :gone,
          else: raise("inject: #{message}")
    end
  end

  defp run_inject(os_pid, inode, messages) do
    arguments = ["inject", "#{os_pid}", inode | Enum.map(List.wrap(messages), &encode/1)]
    System.cmd(fixture(), arguments, stderr_to_stdout: true)
  end

  @doc "Why nobody can speak in the place of another here, nil where it can be done."
  def missing do
    case run_inject(OS.fork_server(), "0", []) do
      {"", 0} -> nil
      {message, _status} -> "the system lets nobody have a process's socket (pidfd_getfd(2)): #{message}"
    end
  end

  defp encode({times, message}) when is_integer(times), do: "#{times}*#{encode(message)}"
  defp encode({bytes, fds}), do: "#{Base.encode16(bytes)}:#{Enum.join(fds, ",")}"
  defp encode(bytes), do: Base.encode16(bytes)

  @doc "The program of the tests' children."
  def fixture, do: Application.app_dir(:net_runner, "fixture")

  # -- a shepherd that has not begun -------------------------------------------------------------------

  @doc """
  Starts a command whose shepherd is stopped before it reads the request, so that `fun` can answer in its place;
  `fun` gets the shepherd. Returns what the start returned. The shepherd is continued at the end.
  """
  def start_in_place_of_shepherd(fun) do
    os_pids = Enum.map(idle_shepherds(), & &1.os_pid)
    OS.kill(os_pids, "STOP")
    owner = self()

    try do
      task = Task.async(fn -> Proc.start("cat", [], kill_timeout: 300, owner: owner) end)
      # Its request is there when it is waited for.
      OS.eventually(fn -> taken?(task.pid) end)
      {asked, 0} = System.cmd(fixture(), ["asked" | Enum.map(os_pids, &to_string/1)])
      fun.(asked |> String.trim() |> String.to_integer())
      Task.await(task, 30_000)
    after
      # The one that did not answer may have been killed.
      System.cmd("sh", ["-c", "kill -s CONT \"$@\"", "sh" | Enum.map(os_pids, &to_string/1)],
        stderr_to_stdout: true
      )
    end
  end

  defp taken?(pid),
    do: Process.info(pid, :current_function) == {:current_function, {:proc_lib, :sync_start, 2}}

  defp idle_shepherds do
    all = OS.children(OS.fork_server())
    parents = MapSet.new(OS.all(), & &1.parent)
    idle = Enum.reject(all, &(&1.os_pid in parents or &1.state == "Z"))
    if idle == [], do: raise("no idle shepherd")
    idle
  end
end
