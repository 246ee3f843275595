defmodule NetRunner.Application do
  @moduledoc false
  # Starts NetRunner.Supervisor; see there.

  use Application

  @impl true
  def start(_type, _args) do
    load_modules()
    NetRunner.Supervisor.start_link()
  end

  # Outside of releases a module is loaded when it is called first, which takes a file descriptor. The one that is
  # to say that there are none left could not be loaded then.
  defp load_modules do
    {:ok, modules} = :application.get_key(:net_runner, :modules)
    _ = :code.ensure_modules_loaded(modules)
  end
end
