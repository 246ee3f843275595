defmodule NetRunner.Test.SkipReport do
  @moduledoc false
  # A formatter of ExUnit that says at the end which tests were skipped, and why.

  use GenServer

  @impl true
  def init(_options), do: {:ok, []}

  @impl true
  def handle_cast({:test_finished, %ExUnit.Test{state: {:skipped, why}} = test}, skipped) do
    {:noreply, [{test.module, why, test.name} | skipped]}
  end

  def handle_cast({:suite_finished, _times}, skipped) do
    for {{module, why}, tests} <- skipped |> Enum.reverse() |> Enum.group_by(fn {m, w, _} -> {m, w} end) do
      IO.puts("\nskipped, for #{why}: #{inspect(module)}")
      for {_module, _why, name} <- tests, do: IO.puts("  #{name}")
    end

    {:noreply, skipped}
  end

  def handle_cast(_event, skipped), do: {:noreply, skipped}
end
