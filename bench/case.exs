defmodule Bench.Case do
  # A file of bench/cases defines one module, whose `new/1` returns a table or several of them: Bench.Measure says what
  # that is.

  def tables(compiled, settings) do
    {module, _bytecode} = Enum.find(compiled, fn {module, _} -> function_exported?(module, :new, 1) end)
    settings |> module.new() |> List.wrap()
  end
end
