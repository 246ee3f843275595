defmodule NetRunner.Test.Tell do
  @moduledoc false
  # A `Collectable` for `:into`: each element is sent to a process, as `{:told, element}`, when it comes.

  defstruct [:to]

  def to(pid), do: %__MODULE__{to: pid}

  defimpl Collectable do
    def into(%{to: to} = tell) do
      {tell,
       fn
         tell, {:cont, element} -> send(to, {:told, element}) && tell
         tell, :done -> tell
         _tell, :halt -> :ok
       end}
    end
  end
end
