defmodule NetRunner.Application do
  @moduledoc false
  # Starts NetRunner.Supervisor; see there.

  use Application

  require Logger

  @impl true
  def start(_type, _args) do
    load_modules()
    with :ok <- load_nif(), do: NetRunner.Supervisor.start_link()
  end

  # It is loaded when its module is, which fails without it. Why, the code server has logged; it does not tell.
  defp load_nif do
    case Code.ensure_loaded(NetRunner.Nif) do
      {:module, _nif} ->
        :ok

      {:error, _on_load_failure} ->
        path = Application.app_dir(:net_runner, "priv/net_runner_nif.so")

        Logger.error(
          "NetRunner cannot be started: #{path} cannot be loaded. Is it there, built for this machine and this C " <>
            "library, and on a file system that is not mounted noexec? What the loader says was logged before this."
        )

        {:error, {:nif_not_loaded, path}}
    end
  end

  # Outside of releases a module is loaded when it is called first, which takes a file descriptor. The one that is
  # to say that there are none left could not be loaded then.
  defp load_modules do
    {:ok, modules} = :application.get_key(:net_runner, :modules)
    _ = :code.ensure_modules_loaded(modules)
  end
end
