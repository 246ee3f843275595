defmodule NetRunner.Test.Mailbox do
  @moduledoc false
  # That a call leaves its caller as it was: no message, link or monitor more, and none less.

  import ExUnit.Assertions

  @doc """
  Calls `fun`, and returns what it returns, or raises what it raises. Fails if a message, a link or a monitor
  of the caller is there afterwards that was not before, or the other way round.
  """
  def unchanged(fun) do
    # A message that was there before must still be there, and must not be in the way.
    marker = {:in_the_mailbox_before, make_ref()}
    send(self(), marker)
    before = facts()

    try do
      fun.()
    after
      assert after_the_next_command() == before
      assert_received ^marker
    end
  end

  # Messages of the poll set come in order: whatever was on its way is here when the next command is over.
  defp after_the_next_command do
    NetRunner.run(["true"])
    facts()
  end

  defp facts do
    info = Process.info(self(), [:messages, :links, :monitors])

    Enum.map(info, fn {what, entries} ->
      {what, if(what == :messages, do: entries, else: Enum.sort(entries))}
    end)
  end
end
