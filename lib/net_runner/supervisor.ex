defmodule NetRunner.Supervisor do
  @moduledoc false
  # NetRunner.Supervisor
  # ├── NetRunner.ForkServer   keeps the fork server of the system running
  # └── NetRunner.Watcher      finishes what servers that died have left
  #
  # The servers of commands (NetRunner.Process) are not below it: they belong to those who start them. At the
  # application's stop the Watcher, which is stopped first, ends all commands.
  #
  # Owns NetRunner.Table, so that a restarted child finds what there is.

  use Supervisor

  alias NetRunner.{ForkServer, Table, Watcher}

  # Children can be killed from outside as often as somebody likes: what they hold is in the table or in the
  # system, so a new one goes on where the last one was, and giving up would end all commands.
  @max_restarts 1_000_000
  @max_seconds 1

  @spec start_link() :: Supervisor.on_start()
  def start_link, do: Supervisor.start_link(__MODULE__, [], name: __MODULE__)

  @impl true
  def init([]) do
    Table.create()

    Supervisor.init([ForkServer, Watcher],
      strategy: :one_for_one,
      max_restarts: @max_restarts,
      max_seconds: @max_seconds
    )
  end
end
