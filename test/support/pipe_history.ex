defmodule NetRunner.Test.PipeHistory do
  @moduledoc false
  # Makes random histories of a command's pipes, lives through them with a puppet, and holds what came out against
  # NetRunner.Test.PipeModel.
  #
  # Every read and write is made by a process of its own, which is in its queue before the next thing is done: so
  # the order in which they ask is known, however long they wait.

  import ExUnit.Assertions

  alias NetRunner.{Nif, Table}
  alias NetRunner.Process, as: Proc
  alias NetRunner.Test.{PipeModel, Puppet}

  @mib 1024 * 1024
  @sizes [0, 1, 2, 4095, 4096, 4097, 65_535, 65_536, 65_537]
  @large [@mib - 1, @mib, @mib + 1]
  @fatal [:sigterm, :sigkill, :sigusr1]
  @everything 64 * @mib

  @type step :: tuple() | atom()

  @doc "Sizes at which something changes, now and then a large one."
  def size, do: if(:rand.uniform(12) == 1, do: Enum.random(@large), else: Enum.random(@sizes))

  @doc "All of them."
  def sizes, do: @sizes ++ @large

  @doc "Bytes of which no part is like another, from a place in them."
  def bytes(size) do
    key = {__MODULE__, :bytes}
    all = :persistent_term.get(key, nil) || tap(:rand.bytes(3 * @mib), &:persistent_term.put(key, &1))
    binary_part(all, :rand.uniform(@mib) - 1, size)
  end

  # -- making ------------------------------------------------------------------------------------------

  @spec generate() :: [step()]
  def generate do
    steps = for _ <- 1..(2 + :rand.uniform(22)), do: step(:rand.uniform(100))
    steps ++ [Enum.random([:complete, :complete, :complete, :exit, :kill, :stop, :owner_dies])]
  end

  defp step(n) when n <= 24, do: {:write, bytes(size())}
  defp step(n) when n <= 40, do: {:read, max(size(), 1)}
  defp step(n) when n <= 46, do: {:read_stderr, max(size(), 1)}
  defp step(n) when n <= 54, do: {:read_any, max(size(), 1)}
  defp step(n) when n <= 70, do: {:order, :read, size()}
  defp step(n) when n <= 80, do: {:order, :write, 1, size()}
  defp step(n) when n <= 86, do: {:order, :write, 2, size()}
  defp step(n) when n <= 90, do: {:order, :close, Enum.random(0..2)}
  defp step(91), do: {:order, :exit, :rand.uniform(100)}
  defp step(n) when n <= 93, do: :close_stdin
  defp step(94), do: :close_stdout
  defp step(n) when n <= 96, do: {:kill, :sigcont}
  defp step(97), do: {:kill, Enum.random(@fatal)}
  defp step(n) when n <= 100, do: :set_owner

  # -- living ------------------------------------------------------------------------------------------

  @doc "Lives through a history. Raises when something is not as the model says."
  @spec live([step()]) :: :ok
  def live(steps) do
    puppet = Puppet.start()
    # It counts on when nobody is left to be asked for statistics.
    {:ok, stdin} = Table.pipe(puppet.p, :stdin)
    answers = Task.async(fn -> collect(puppet, []) end)

    life = %{
      puppet: puppet,
      # The newest first.
      asked: [],
      orders: [],
      from: %{1 => 0, 2 => 0},
      past: []
    }

    life = Enum.reduce(steps, life, &do_step/2)
    {status, stats} = finish(List.last(steps), life)
    results = for {what, task} <- Enum.reverse(life.asked), do: {what, Task.await(task, 30_000)}
    answers = Task.await(answers, 30_000)
    Puppet.close(puppet)
    assert :ok = Proc.stop(puppet.p)
    {_out, _reads, bytes_in, _writes} = Nif.counters(stdin)
    check(life, results, answers, status, stats, bytes_in)
    :ok
  end

  defp collect(puppet, answers) do
    case Puppet.answer(puppet, :infinity) do
      :gone -> Enum.reverse(answers)
      answer -> collect(puppet, [answer | answers])
    end
  end

  defp do_step({:write, bytes}, life), do: ask(life, {:write, bytes, life.past}, &Proc.write(&1, bytes))
  defp do_step({:read, max}, life), do: ask(life, {:read, max}, &Proc.read(&1, max))
  defp do_step({:read_stderr, max}, life), do: ask(life, {:read_stderr, max}, &Proc.read_stderr(&1, max))
  defp do_step({:read_any, max}, life), do: ask(life, {:read_any, max}, &Proc.read_any(&1, max))

  defp do_step({:order, :write, fd, count} = step, life) do
    Puppet.order(life.puppet, [:write, fd, count, life.from[fd]])
    # What it writes to an fd that it has closed is not part of the stream.
    closed? = {:order, :close, fd} in life.orders
    life = if closed?, do: life, else: update_in(life.from[fd], &(&1 + count))
    %{life | orders: [step | life.orders], past: [step | life.past]}
  end

  defp do_step({:order, what, number} = step, life) do
    Puppet.order(life.puppet, [what, number])
    %{life | orders: [step | life.orders], past: [step | life.past]}
  end

  defp do_step(:close_stdin, life) do
    assert :ok = Proc.close_stdin(life.puppet.p)
    %{life | past: [:close_stdin | life.past]}
  end

  defp do_step(:close_stdout, life) do
    assert :ok = Proc.close_stdout(life.puppet.p)
    %{life | past: [:close_stdout | life.past]}
  end

  defp do_step({:kill, signal} = step, life) do
    result = Proc.kill(life.puppet.p, signal)
    assert result == :ok or (result == {:error, :not_running} and may_exit?(life.past)), inspect(result)
    %{life | past: [step | life.past]}
  end

  defp do_step(:set_owner, life) do
    other = spawn_link(fn -> receive(do: (:never -> :ok)) end)
    for owner <- [other, nil, self()], do: assert(:ok = Proc.set_owner(life.puppet.p, owner))
    Process.unlink(other)
    Process.exit(other, :kill)
    life
  end

  # The end is not a step.
  defp do_step(_end, life), do: life

  # A process that asks, and is now in the queue, or has its result.
  defp ask(life, what, fun) do
    p = life.puppet.p
    task = Task.async(fn -> fun.(p) end)
    await_asked(task.pid)
    %{life | asked: [{what, task} | life.asked]}
  end

  defp await_asked(pid) do
    case Process.info(pid, [:status, :current_function]) do
      nil -> :ok
      [status: :waiting, current_function: {NetRunner.Pipe, _function, _arity}] -> :ok
      _running -> :erlang.yield() && await_asked(pid)
    end
  end

  # -- the end -----------------------------------------------------------------------------------------

  defp finish(:stop, life) do
    assert :ok = Proc.stop(life.puppet.p)
    {nil, nil}
  end

  defp finish(:owner_dies, life) do
    owner = spawn(fn -> receive(do: (:never -> :ok)) end)
    result = Proc.set_owner(life.puppet.p, owner)
    assert result == :ok
    monitor = Process.monitor(life.puppet.p)
    Process.exit(owner, :kill)
    assert_receive {:DOWN, ^monitor, :process, _server, _reason}, 30_000
    {nil, nil}
  end

  # Everything that can be read is read; then there is nothing that anybody waits for.
  defp finish(how, life) do
    p = life.puppet.p
    drains = for read <- [&Proc.read/1, &Proc.read_stderr/1], do: Task.async(fn -> drain(read, p, []) end)
    if how == :complete, do: Puppet.order(life.puppet, [:read, @everything])
    if how == :kill, do: Proc.kill(p, :sigkill), else: Puppet.order(life.puppet, [:exit, 77])
    for {{:write, _bytes, _past}, task} <- life.asked, do: await_result(task)
    assert :ok = Proc.close_stdin(p)
    assert {:ok, status} = Proc.await_exit(p)
    drained = Enum.map(drains, &Task.await(&1, 30_000))
    for {_what, task} <- life.asked, do: await_result(task)
    {{how, status}, {Proc.stats(p), drained}}
  end

  # Without taking it.
  defp await_result(task) do
    monitor = Process.monitor(task.pid)
    assert_receive {:DOWN, ^monitor, :process, _pid, _reason}, 30_000
  end

  defp drain(read, p, results) do
    case read.(p) do
      {:ok, _chunk} = result -> drain(read, p, [{65_536, result} | results])
      last -> Enum.reverse([{65_536, last} | results])
    end
  end

  # -- checking ----------------------------------------------------------------------------------------

  defp check(life, results, answers, status, stats, bytes_in) do
    {stats, [more_out, more_err]} = stats || {nil, [[], []]}
    if stats, do: assert(stats.bytes_in == bytes_in)
    ended? = stats == nil
    past = if match?({:kill, _}, status), do: [{:kill, :sigkill} | life.past], else: life.past
    orders = Enum.reverse(life.orders)
    if status, do: check_status(status, past)

    writes = for {{:write, bytes, before}, result} <- results, do: {bytes, result, before}
    for {bytes, result, before} <- writes, do: check_write(bytes, result, before, past, status, ended?)

    reads = Enum.zip(orders ++ [{:order, :read, @everything}], answers)
    {open, closed} = Enum.split_while(reads, fn {order, _answer} -> order != {:order, :close, 0} end)
    assert Enum.all?(closed, fn {order, answer} -> elem(order, 1) != :read or answer == "" end)

    PipeModel.check_stdin(%{
      writes: for({bytes, result, _before} <- writes, do: {bytes, result}),
      received: for({{:order, :read, _count}, answer} <- open, do: answer),
      to_end?:
        Enum.any?(open, fn {order, answer} -> match?({_, :read, n} when byte_size(answer) < n, order) end),
      unanswered: unanswered(orders, status, answers),
      bytes_in: bytes_in
    })

    for {name, fd, more, counted} <- [
          {:stdout, 1, more_out, stats && stats.bytes_out},
          {:stderr, 2, more_err, stats && stats.bytes_err}
        ] do
      here = reads_of(name, results) ++ more
      for {_max, result} <- here, do: check_read(name, result, life.past, status, ended?)
      {open, _closed} = Enum.split_while(reads, fn {order, _answer} -> order != {:order, :close, fd} end)

      PipeModel.check_output(name, %{
        reads: here,
        written: Enum.sum(for {{:order, :write, ^fd, count}, _answer} <- open, do: count),
        at_most: life.from[fd],
        counted: counted
      })
    end

    if stats do
      all = reads_of(:stdout, results) ++ reads_of(:stderr, results) ++ more_out ++ more_err
      assert stats.read_count == Enum.count(all, &match?({_max, {:ok, _chunk}}, &1))
    end
  end

  # How much the command may have read when it ended, without our having heard it: an order that comes behind its exit
  # cannot be sent, and then its socket is closed with the answers that are still in it.
  defp unanswered(orders, status, answers) do
    last = if match?({:complete, _status}, status), do: [{:order, :read, @everything}], else: []
    Enum.sum(for {:order, :read, count} <- Enum.drop(orders ++ last, length(answers)), do: count)
  end

  # In the order of asking; those of read_any/2 are of the pipe that they took from.
  defp reads_of(name, results) do
    own = if name == :stdout, do: :read, else: :read_stderr

    Enum.flat_map(results, fn
      {{^own, max}, result} -> [{max, result}]
      {{:read_any, max}, {:ok, {^name, chunk}}} -> [{max, {:ok, chunk}}]
      # Both have ended.
      {{:read_any, max}, :eof} -> [{max, :eof}]
      _other -> []
    end)
  end

  defp check_status({how, status}, past) do
    exits = for({:order, :exit, status} <- past, do: status) ++ if(how == :kill, do: [], else: [77])
    # Whatever comes first, and SIGPIPE for who writes where nobody reads.
    signals = for {:kill, signal} when signal in @fatal <- past, do: 128 + NetRunner.Signal.resolve!(signal)
    pipe = if :close_stdout in past, do: [141], else: []
    assert status in (exits ++ signals ++ pipe), "status #{status}"
  end

  defp check_write(bytes, result, before, past, status, ended?) do
    cond do
      # Of a command that had exited before, both are true.
      :close_stdin in before and may_exit?(before) -> assert result in [{:error, :closed}, {:error, :epipe}]
      :close_stdin in before -> assert result == {:error, :closed}
      result == :ok -> :ok
      result == {:error, :closed} -> assert ended? or :close_stdin in past
      result == {:error, :epipe} -> assert ended? or status != nil
      true -> flunk("#{byte_size(bytes)} bytes were written: #{inspect(result)}")
    end
  end

  defp check_read(name, result, past, status, ended?) do
    case result do
      {:ok, _chunk} -> :ok
      :eof -> assert ended? or status != nil
      {:error, :closed} -> assert ended? or (name == :stdout and :close_stdout in past)
      other -> flunk("a read of #{name}: #{inspect(other)}")
    end
  end

  defp may_exit?(past) do
    Enum.any?(past, fn
      {:order, :exit, _status} -> true
      {:kill, signal} -> signal in @fatal
      :close_stdout -> true
      _other -> false
    end)
  end

  # -- shrinking ---------------------------------------------------------------------------------------

  @doc "The same failure from fewer steps: they are left out, one after the other, while it still fails."
  @spec shrink([step()], non_neg_integer()) :: [step()]
  def shrink(steps, tries \\ 150), do: shrink(steps, 0, tries)

  defp shrink(steps, _at, 0), do: steps
  defp shrink(steps, at, _tries) when at >= length(steps) - 1, do: steps

  defp shrink(steps, at, tries) do
    fewer = List.delete_at(steps, at)
    if fails?(fewer), do: shrink(fewer, at, tries - 1), else: shrink(steps, at + 1, tries - 1)
  end

  defp fails?(steps) do
    live(steps)
    false
  rescue
    _error -> true
  catch
    :exit, _reason -> true
  end

  @doc "Steps as they are printed: bytes by their number."
  def describe(steps) do
    for step <- steps, do: with({:write, bytes} <- step, do: {:write, byte_size(bytes)})
  end
end
