defmodule NetRunner.Table do
  @moduledoc false
  # The one ETS table: which command has which pipes and which control, and the fork server of the moment.
  #
  # * It belongs to NetRunner.Supervisor, so it outlives the fork server's and the Watcher's processes.
  # * A command's row is inserted by its server before anyone knows the server's pid, and deleted when nothing
  #   of the command is left: by the server, or by the Watcher where the server has died before.
  # * Without the table (NetRunner is not started, or stopping) every function acts as if it were empty.

  alias NetRunner.{Cgroup, Nif}

  @type row :: %{
          server: pid(),
          control: Nif.control(),
          stdin: Nif.pipe() | nil,
          stdout: Nif.pipe() | nil,
          stderr: Nif.pipe() | nil,
          # stderr, where its server does not drain it.
          readable_stderr: Nif.pipe() | nil,
          owner: pid() | nil,
          os_pid: pos_integer() | nil,
          exited: boolean(),
          # The process that enumerates the command's input.
          writer: pid() | nil,
          info: info()
        }

  @type info :: %{
          command: [binary(), ...],
          kill_timeout: non_neg_integer(),
          cgroup: Cgroup.t() | nil,
          # Milliseconds of System.monotonic_time/1.
          started: integer()
        }

  @type pipe_name :: :stdin | :stdout | :readable_stderr

  # A row is a tuple of these, in this order.
  @columns [:server, :control, :stdin, :stdout, :stderr, :readable_stderr] ++
             [:owner, :os_pid, :exited, :writer, :info]
  @positions @columns |> Enum.with_index(1) |> Map.new()
  @pipe_columns [:stdin, :stdout, :readable_stderr]

  # Where the commands' rows have the server's pid, these have an atom.
  @fork_server :fork_server
  @lacks :lacks

  @doc "Makes the table; the caller is its owner."
  @spec create() :: :ok
  def create do
    __MODULE__ =
      :ets.new(__MODULE__, [
        :named_table,
        :public,
        read_concurrency: true,
        write_concurrency: true,
        decentralized_counters: true
      ])

    :ok
  end

  # -- commands ----------------------------------------------------------------------------------------

  @doc "Adds a command; false where there is no table."
  @spec insert(row()) :: boolean()
  def insert(row) do
    :ets.insert(__MODULE__, List.to_tuple(Enum.map(@columns, &Map.fetch!(row, &1))))
  rescue
    ArgumentError -> false
  end

  @spec delete(server :: pid()) :: :ok
  def delete(server) do
    :ets.delete(__MODULE__, server)
    :ok
  rescue
    ArgumentError -> :ok
  end

  @spec member?(server :: pid()) :: boolean()
  def member?(server) do
    :ets.member(__MODULE__, server)
  rescue
    ArgumentError -> false
  end

  @doc "Changes one value; false where the command is not there any more."
  @spec update(server :: pid(), :owner | :os_pid | :exited | :writer, term()) :: boolean()
  for column <- [:owner, :os_pid, :exited, :writer] do
    def update(server, unquote(column), value) do
      :ets.update_element(__MODULE__, server, {unquote(@positions[column]), value})
    rescue
      ArgumentError -> false
    end
  end

  @doc "A pipe of a command, nil where it has none; `:error` where the command is not there."
  @spec pipe(server :: pid(), pipe_name()) :: {:ok, Nif.pipe() | nil} | :error
  for column <- @pipe_columns do
    def pipe(server, unquote(column)), do: value(server, unquote(@positions[column]))
  end

  @doc "The command's pid in the system, nil before it runs."
  @spec os_pid(server :: pid()) :: {:ok, pos_integer() | nil} | :error
  def os_pid(server), do: value(server, unquote(@positions[:os_pid]))

  @spec writer(server :: pid()) :: {:ok, pid() | nil} | :error
  def writer(server), do: value(server, unquote(@positions[:writer]))

  defp value(server, position) do
    {:ok, :ets.lookup_element(__MODULE__, server, position)}
  rescue
    ArgumentError -> :error
  end

  @spec fetch(server :: pid()) :: {:ok, row()} | :error
  def fetch(server) do
    case :ets.lookup(__MODULE__, server) do
      [tuple] -> {:ok, row(tuple)}
      [] -> :error
    end
  rescue
    ArgumentError -> :error
  end

  @doc "All commands."
  @spec commands() :: [row()]
  def commands do
    for tuple <- :ets.tab2list(__MODULE__), is_pid(elem(tuple, 0)), do: row(tuple)
  rescue
    ArgumentError -> []
  end

  @doc "The servers of the commands that a process owns."
  @spec owned_by(owner :: pid()) :: [server :: pid()]
  def owned_by(owner) do
    pattern =
      List.to_tuple(
        for column <- @columns do
          case column do
            :server -> :"$1"
            :owner -> owner
            _ -> :_
          end
        end
      )

    :ets.select(__MODULE__, [{pattern, [{:is_pid, :"$1"}], [:"$1"]}])
  rescue
    ArgumentError -> []
  end

  defp row(tuple), do: @columns |> Enum.zip(Tuple.to_list(tuple)) |> Map.new()

  # -- what the Watcher holds --------------------------------------------------------------------------

  @doc "The control of leftovers that are kept. Its server may end, and its row go."
  @spec insert_kept(server :: pid(), Nif.control(), kill_timeout :: non_neg_integer(), Cgroup.t() | nil) ::
          :ok
  def insert_kept(server, control, kill_timeout, cgroup) do
    :ets.insert(__MODULE__, {{:kept, server}, control, kill_timeout, cgroup})
    :ok
  end

  @spec delete_kept(server :: pid()) :: :ok
  def delete_kept(server) do
    :ets.delete(__MODULE__, {:kept, server})
    :ok
  end

  @spec kept() :: [{server :: pid(), Nif.control(), kill_timeout :: non_neg_integer(), Cgroup.t() | nil}]
  def kept do
    :ets.select(__MODULE__, [
      {{{:kept, :"$1"}, :"$2", :"$3", :"$4"}, [], [{{:"$1", :"$2", :"$3", :"$4"}}]}
    ])
  end

  # -- the fork server ---------------------------------------------------------------------------------

  @doc "What `NetRunner.ForkServer` has put there last; `:error` where there is no table."
  @spec fork_server() :: {:ok, term()} | :error
  def fork_server, do: value(@fork_server, 2)

  @doc "What the system lacks, as the last fork server that came up has said; `:error` before that."
  @spec lacks() :: {:ok, [Nif.lacking()]} | :error
  def lacks, do: value(@lacks, 2)

  @spec put_lacks([Nif.lacking()]) :: :ok
  def put_lacks(lacks) do
    :ets.insert(__MODULE__, {@lacks, lacks})
    :ok
  end

  @spec put_fork_server(term()) :: :ok
  def put_fork_server(value) do
    :ets.insert(__MODULE__, {@fork_server, value})
    :ok
  end
end
