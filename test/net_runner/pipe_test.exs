defmodule NetRunner.PipeTest do
  use NetRunner.Test.SystemCase

  alias NetRunner.{Nif, Pipe, Table}

  setup do
    {:ok, server} = Proc.start("sh", ["-c", "cat; exec >&-; read x"], stderr: :pipe)
    {:ok, stdin} = Table.pipe(server, :stdin)
    {:ok, stdout} = Table.pipe(server, :stdout)
    {:ok, stderr} = Table.pipe(server, :readable_stderr)
    %{server: server, stdin: stdin, stdout: stdout, stderr: stderr}
  end

  test "read and write", %{stdin: stdin, stdout: stdout} do
    assert Pipe.write(stdin, ["ab", [?c | "d"]]) == :ok
    assert Pipe.read(stdout, 3) == {:ok, "abc"}
    assert Pipe.read(stdout) == {:ok, "d"}
    assert Pipe.write(stdin, []) == :ok
    :ok = Nif.close(stdin)
    assert Pipe.read(stdout) == :eof
    assert Pipe.write(stdin, "x") == {:error, :closed}
  end

  test "what is no iodata raises", %{stdin: stdin} do
    assert_raise ArgumentError, fn -> Pipe.write(stdin, [:atom]) end
  end

  test "read_any of nothing is the end" do
    assert Pipe.read_any([], 10) == :eof
  end

  test "read_any ends with an error of either", %{stdout: stdout, stderr: stderr} do
    reader = Task.async(fn -> Mailbox.unchanged(fn -> Pipe.read_any([out: stdout, err: stderr], 10) end) end)
    OS.eventually(fn -> Process.info(reader.pid, :status) == {:status, :waiting} end)
    Nif.fail(stderr, :shepherd_died)
    assert Task.await(reader) == {:error, :shepherd_died}
  end

  test "a place that was given back gets no message, whenever it is given back", %{
    stdin: stdin,
    stdout: stdout
  } do
    for round <- 1..2_000 do
      ref = make_ref()
      :wait = Nif.read(stdout, ref, 10)
      # In half of the rounds the message is on its way, or here.
      if rem(round, 2) == 0, do: :ok = Pipe.write(stdin, "x")
      if rem(round, 4) == 0, do: :erlang.yield()
      :ok = Pipe.cancel(stdout, :read, ref)
      refute_received {:select, _pipe, _ref, _what}
      if rem(round, 2) == 0, do: assert({:ok, "x"} = Pipe.read(stdout))
    end

    Mailbox.unchanged(fn -> :ok end)
  end

  test "a long mailbox makes no difference", %{stdin: stdin, stdout: stdout} do
    ping = fn -> for(_ <- 1..200, do: {:ok, "x"} = (:ok = Pipe.write(stdin, "x")) && Pipe.read(stdout)) end
    ping.()
    {:reductions, before} = Process.info(self(), :reductions)
    ping.()
    {:reductions, usual} = Process.info(self(), :reductions)
    for number <- 1..100_000, do: send(self(), {:other, number})
    {:reductions, filled} = Process.info(self(), :reductions)
    ping.()
    {:reductions, with_others} = Process.info(self(), :reductions)

    # Going through it would be 200 times 100,000 messages. Each of them is moved to the heap once or twice, by
    # garbage collections that may come now.
    assert with_others - filled < 3 * (usual - before) + 20 * 100_000
  end
end
