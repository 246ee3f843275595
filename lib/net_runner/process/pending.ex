defmodule NetRunner.Process.Pending do
  @moduledoc false
  # The callers who wait for an answer of one server, and what each of them waits for. Pure.
  #
  # Every caller that was put in is taken out exactly once: when it is answered, or when it withdraws. A caller
  # is a term that means something to the server only (a `GenServer.from()`).

  alias __MODULE__

  @typedoc """
  What the caller gets when nothing of the command is left: its status; or `:ok`, and the server ends; or, as
  the server's exit reason, everything that is known.
  """
  @type wants :: :status | :ok_and_end | :report_and_end

  @type caller :: term()
  @type id :: reference() | nil

  @type t :: %Pending{
          exit: [{id(), caller()}],
          done: [{id(), caller(), wants()}],
          signals: :queue.queue(caller())
        }

  # Both lists hold the last one first.
  defstruct exit: [], done: [], signals: :queue.new()

  @spec new() :: t()
  def new, do: %Pending{}

  @doc "Waits for the exit of the command itself."
  @spec await_exit(t(), id(), caller()) :: t()
  def await_exit(%Pending{} = pending, id, caller), do: %{pending | exit: [{id, caller} | pending.exit]}

  @doc "Waits until nothing of the command is left."
  @spec await_done(t(), id(), caller(), wants()) :: t()
  def await_done(%Pending{} = pending, id, caller, wants) do
    %{pending | done: [{id, caller, wants} | pending.done]}
  end

  @doc "Waits for the answer to a signal: they come in the order in which the signals were sent."
  @spec await_signal(t(), caller()) :: t()
  def await_signal(%Pending{} = pending, caller) do
    %{pending | signals: :queue.in(caller, pending.signals)}
  end

  @doc "Forgets a caller who does not wait any longer; `:error` when it has been taken out."
  @spec withdraw(t(), id()) :: {:ok, t()} | :error
  def withdraw(%Pending{} = pending, id) do
    case {List.keytake(pending.exit, id, 0), List.keytake(pending.done, id, 0)} do
      {{_caller, exit}, nil} -> {:ok, %{pending | exit: exit}}
      {nil, {_caller, done}} -> {:ok, %{pending | done: done}}
      {nil, nil} -> :error
    end
  end

  @doc "Those who wait for the exit, the first one first."
  @spec take_exit(t()) :: {[caller()], t()}
  def take_exit(%Pending{exit: []} = pending), do: {[], pending}

  def take_exit(%Pending{exit: waiting} = pending) do
    {Enum.reduce(waiting, [], fn {_id, caller}, callers -> [caller | callers] end), %{pending | exit: []}}
  end

  @doc "Those who wait for the end, the first one first."
  @spec take_done(t()) :: {[{caller(), wants()}], t()}
  def take_done(%Pending{done: waiting} = pending) do
    {Enum.reduce(waiting, [], fn {_id, caller, wants}, all -> [{caller, wants} | all] end),
     %{pending | done: []}}
  end

  @doc "The one whose signal was sent first; `:empty` when no signal is unanswered."
  @spec take_signal(t()) :: {{:ok, caller()} | :empty, t()}
  def take_signal(%Pending{} = pending) do
    case :queue.out(pending.signals) do
      {{:value, caller}, signals} -> {{:ok, caller}, %{pending | signals: signals}}
      {:empty, _signals} -> {:empty, pending}
    end
  end

  @doc "Whether a signal is unanswered."
  @spec signals?(t()) :: boolean()
  def signals?(%Pending{} = pending), do: not :queue.is_empty(pending.signals)

  @doc "All whose signals are unanswered, the first one first."
  @spec take_signals(t()) :: {[caller()], t()}
  def take_signals(%Pending{} = pending) do
    {:queue.to_list(pending.signals), %{pending | signals: :queue.new()}}
  end
end
