defmodule NetRunner.Nif do
  @moduledoc false
  # Stubs of native/nif. Nothing here blocks a scheduler: a call that cannot go on says `:wait`. The caller then
  # calls wait/3, and gets one message with the reference it gives. That message is always one of
  #
  #     {:select, resource, ref, :ready_input | :ready_output}   from the VM: call again
  #     {:select, resource, ref, :closed}                        the pipe was closed or failed: call again,
  #                                                              the call then says why
  #
  # After `:wait` it must either do that and receive the message, or call `cancel/2`; until then it holds its
  # place in the queue of that direction of the pipe (first come, first served). A caller that dies loses it.
  #
  # `posix` is an errno as a lower-case atom, `{stage, posix}` says what was being done.

  alias NetRunner.{Cgroup, Stats}

  @type fork_server :: reference()
  @type control :: reference()
  @type pipe :: reference()
  @type posix :: atom()
  @type stage :: atom()

  @type rusage :: %{
          user_us: non_neg_integer(),
          system_us: non_neg_integer(),
          max_rss_bytes: non_neg_integer(),
          minor_faults: non_neg_integer(),
          major_faults: non_neg_integer(),
          blocks_in: non_neg_integer(),
          blocks_out: non_neg_integer(),
          voluntary_switches: non_neg_integer(),
          involuntary_switches: non_neg_integer()
        }

  # What a system may not have. Without waitid(2) the fork server ends at once.
  @type lacking :: :subreaper | :parent_death_signal | :pidfds | :proc | :waitid

  # There is a shepherd, which control_kill/1 reaches. Comes once, before or after the others.
  @type event ::
          :forked
          # The same, of a shepherd that has had a command before: the fork server has done nothing. Comes first.
          | :used
          | {:started, os_pid :: pos_integer()}
          | {:failed, {stage(), posix() | {limit :: atom(), posix()}}}
          | {:signalled, :ok | {:error, :not_running | posix()}}
          | {:exited, {:status, 0..255} | {:signal, 1..64, core_dumped :: boolean()}, rusage()}
          | {:unkillable, [os_pid :: pos_integer()]}
          | {:cgroup, Stats.cgroup()}
          | :done
          # The socket has ended. Without :done or {:failed, _} before it, the shepherd has died.
          | :eof
          # Garbage, or no room for the fds that came; the socket is shut down and only :eof follows.
          | {:error, :protocol | {:fds, posix()}}

  # What is run. Keys and types are those of native/protocol's `Spawn`.
  @type request :: %{
          executable: binary(),
          argv: [binary(), ...],
          env: NetRunner.Environment.block(),
          cd: binary() | nil,
          umask: 0..0o777 | nil,
          stdin: :null | :pipe,
          stdout: :null | :pipe | :inherit | {:file | :append, path :: binary()},
          stderr: :null | :pipe | :inherit | {:file | :append, path :: binary()} | :stdout,
          kill_timeout: non_neg_integer(),
          stop_signals: [1..64, ...],
          leftovers: :kill | :keep,
          # False: {:started, _} may come together with {:exited, _, _}.
          start_awaited: boolean(),
          nice: -20..19 | nil,
          # In this order. nil is no limit.
          rlimits: [{name :: atom(), soft :: non_neg_integer() | nil, hard :: non_neg_integer() | nil}],
          # Names or numbers; nil is as in the VM.
          credentials:
            %{user: principal() | nil, group: principal() | nil, groups: [principal()] | nil} | nil,
          # A terminal as stdin, stdout and stderr, which then do not count. Its pipes are stdin and stdout.
          pty: %{rows: 1..0xFFFF, cols: 1..0xFFFF, echo: boolean()} | nil,
          # The group that it is born in.
          cgroup: Cgroup.t() | nil
        }

  @type principal :: binary() | 0..0xFFFF_FFFE

  @on_load :load

  @doc false
  def load do
    path = :filename.join(:code.priv_dir(:net_runner), ~c"net_runner_nif")
    :erlang.load_nif(path, 0)
  end

  # -- fork server ---------------------------------------------------------------------------------

  # Starts the fork server `path` (dirty). It is closed when `keeper` dies, whatever else happens. What it says is
  # first asked for by fork_server_read/2; before that it is killed, too, when nobody refers to it any more.
  @spec fork_server_start(path :: binary(), keeper :: pid()) ::
          {:ok, fork_server()} | {:error, {stage(), posix()}}
  def fork_server_start(_path, _keeper), do: nif()

  # What the fork server has said; arms again unless it ended with :eof. {:lacks, _} comes before :ready.
  @spec fork_server_read(fork_server(), reference()) :: [{:lacks, lacking()} | :ready | :eof]
  def fork_server_read(_fork_server, _ref), do: nif()

  # SIGKILL through its pidfd, and our ends closed.
  @spec fork_server_kill(fork_server()) :: :ok
  def fork_server_kill(_fork_server), do: nif()

  # Our ends closed: it leaves when the last shepherd has, and nothing of theirs is left. SIGKILL before :ready.
  @spec fork_server_close(fork_server()) :: :ok
  def fork_server_close(_fork_server), do: nif()

  # -- one command ---------------------------------------------------------------------------------

  # Makes the pipes, finds a shepherd and queues the request. The caller becomes the *server*, whose part is
  # to call control_read/2, which arms; control_take_over/1 gives it to another. `owner` is a local pid or nil;
  # the death of the owner or of the server ends the command, whatever Elixir does, and so does a control that
  # is garbage before it was ever armed.
  #
  # {:error, :no_fork_server}: nothing was sent, no shepherd was there and the fork server is gone.
  @spec spawn(fork_server(), request(), owner :: pid() | nil) ::
          {:ok, control(), stdin :: pipe() | nil, stdout :: pipe() | nil, stderr :: pipe() | nil}
          | {:error, :no_fork_server | {stage(), posix()}}
  def spawn(_fork_server, _request, _owner), do: nif()

  # The same on a dirty scheduler: for requests with a {:file, _}, {:append, _} or credentials.
  @spec spawn_dirty(fork_server(), request(), owner :: pid() | nil) ::
          {:ok, control(), stdin :: pipe() | nil, stdout :: pipe() | nil, stderr :: pipe() | nil}
          | {:error, :no_fork_server | {stage(), posix()}}
  def spawn_dirty(_fork_server, _request, _owner), do: nif()

  # A shepherd without a command, which ends what the dead one of this group has left: :done comes, or
  # {:unkillable, _}. The caller is the server; the control is closed when it dies.
  @spec sweep(fork_server(), Cgroup.t()) ::
          {:ok, control()} | {:error, :no_fork_server | {stage(), posix()}}
  def sweep(_fork_server, _cgroup), do: nif()

  # Everything that has arrived, in order; sends what is queued; arms again unless the list ends in :eof.
  @spec control_read(control(), reference()) :: [event()]
  def control_read(_control, _ref), do: nif()

  # The caller becomes the server: it is told from now on, and monitored in the place of the one before.
  # Follow it with control_read/2, which arms.
  @spec control_take_over(control()) :: :ok
  def control_take_over(_control), do: nif()

  # From now on `owner` is the owner. The new monitor is armed before the old one is dropped. A dead pid
  # counts as one that has just died. {:error, :closed}: the stop sequence has begun already, for the owner
  # before or the server is dead.
  @spec control_set_owner(control(), pid() | nil) :: :ok | {:error, :closed}
  def control_set_owner(_control, _owner), do: nif()

  # Queues a Signal frame (answered by {:signalled, _}, in order) or a Stop frame.
  @spec control_signal(control(), 1..64) :: :ok | {:error, :closed}
  def control_signal(_control, _signal), do: nif()

  @spec control_stop(control()) :: :ok
  def control_stop(_control), do: nif()

  # SIGKILL to the shepherd and to the command, through their pidfds. {:error, :no_pidfd} before
  # :forked, and where there are no pidfds; then only closing the socket is left.
  @spec control_kill(control()) :: :ok | {:error, :no_pidfd}
  def control_kill(_control), do: nif()

  # Closes the socket and the pidfds. A shepherd that is still there begins its stop sequence.
  @spec control_close(control()) :: :ok
  def control_close(_control), do: nif()

  # -- pipes ---------------------------------------------------------------------------------------

  # At most `max` bytes, at least one.
  @spec read(pipe(), max :: pos_integer()) :: {:ok, binary()} | :eof | :wait | {:error, atom()}
  def read(_pipe, _max), do: nif()

  # `{:wait, rest}`: go on with `rest` after the message of wait/3. `{:again, rest}`: go on now (the time
  # slice was used up). In both the caller keeps its place in the queue, so that no other writer's bytes
  # come between. {:error, :epipe}: nobody reads any more. {:error, :line_too_long}: of a terminal in canonical
  # mode; nothing of that line was written.
  @spec write(pipe(), iovec :: [binary()]) ::
          :ok | {:wait, [binary()]} | {:again, [binary()]} | {:error, atom()}
  def write(_pipe, _iovec), do: nif()

  # The end of the input. Of a pipe: as close/1. A terminal gets its end-of-file character first, behind all that
  # was written before, and twice when a line is unfinished; `:wait` is then as of write/2. In raw mode there is no
  # such character, and nothing happens. :ok also when it is closed already.
  @spec end_input(pipe()) :: :ok | :wait | {:error, :not_canonical}
  def end_input(_pipe), do: nif()

  # After `:wait`, once: the message will come.
  @spec wait(pipe(), :read | :write, reference()) :: :ok
  def wait(_pipe, _direction, _ref), do: nif()

  # Puts back what was read: it is read again before all else. It is not counted twice.
  @spec unread(pipe(), binary()) :: :ok
  def unread(_pipe, _bytes), do: nif()

  # Of the terminal that this is a direction of.
  @spec set_window_size(pipe(), rows :: 0..0xFFFF, cols :: 0..0xFFFF) ::
          :ok | {:error, :not_a_pty | :closed | posix()}
  def set_window_size(_pipe, _rows, _cols), do: nif()

  # Gives the caller's place back. :cancelled: no message will come. :sent: after wait/3 one has been sent and must
  # be received.
  @spec cancel(pipe(), :read | :write) :: :cancelled | :sent
  def cancel(_pipe, _direction), do: nif()

  # Closes our end. Everybody who waits is told, and gets {:error, :closed}; so does every later call.
  @spec close(pipe()) :: :ok
  def close(_pipe), do: nif()

  # Like close/1, with {:error, reason} in the place of {:error, :closed}.
  @spec fail(pipe(), reason :: atom()) :: :ok
  def fail(_pipe, _reason), do: nif()

  # After what is in the pipe at this moment (FIONREAD; of a terminal: until it is empty), readers get :eof, whoever still holds the other end.
  @spec finish(pipe()) :: :ok
  def finish(_pipe), do: nif()

  # Bytes moved and calls that moved some, since the pipe was made.
  @spec counters(pipe()) ::
          {read_bytes :: non_neg_integer(), reads :: non_neg_integer(), written_bytes :: non_neg_integer(),
           writes :: non_neg_integer()}
  def counters(_pipe), do: nif()

  # -- the VM --------------------------------------------------------------------------------------

  # The C environment as the VM got it, each entry the raw bytes of "NAME=value". Erlang never changes it.
  @spec environ() :: [binary()]
  def environ, do: nif()

  # How many pipes, controls and fork servers exist, for tests of leaks.
  @spec resource_counts() :: %{pipes: non_neg_integer(), controls: non_neg_integer()}
  def resource_counts, do: nif()

  # Panics, to show that a panic is an Elixir error (`ErlangError` with :nif_panicked).
  @spec panic() :: no_return()
  def panic, do: nif()

  defp nif, do: :erlang.nif_error(:nif_not_loaded)
end
