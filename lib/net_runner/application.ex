defmodule NetRunner.Application do
  @moduledoc false
  # Starts NetRunner.Supervisor; see there.

  use Application

  @impl true
  def start(_type, _args), do: NetRunner.Supervisor.start_link()
end
