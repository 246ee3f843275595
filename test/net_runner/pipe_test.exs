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
      :wait = Nif.read(stdout, 10)
      if rem(round, 8) < 6, do: :ok = Nif.wait(stdout, :read, ref)
      # In half of the rounds the message is on its way, or here.
      if rem(round, 2) == 0, do: :ok = Pipe.write(stdin, "x")
      if rem(round, 4) == 0, do: :erlang.yield()
      :ok = Pipe.cancel(stdout, :read, if(rem(round, 8) < 6, do: ref))
      refute_received {:select, _pipe, _ref, _what}
      if rem(round, 2) == 0, do: assert({:ok, "x"} = Pipe.read(stdout))
    end

    Mailbox.unchanged(fn -> :ok end)
  end

  test "who waits after all have been told is told at once, once", %{stdin: stdin, stdout: stdout} do
    ref = make_ref()
    :wait = Nif.read(stdout, 10)
    :ok = Nif.unread(stdout, "back")
    refute_received {:select, _pipe, _ref, _what}
    :ok = Nif.wait(stdout, :read, ref)
    assert_received {:select, ^stdout, ^ref, :closed}
    assert {:ok, "back"} = Nif.read(stdout, 10)

    :wait = Nif.read(stdout, 10)
    Nif.close(stdout)
    :ok = Nif.wait(stdout, :read, ref)
    assert_received {:select, ^stdout, ^ref, :closed}
    assert {:error, :closed} = Nif.read(stdout, 10)
    :ok = Pipe.write(stdin, "x")
    refute_received {:select, _pipe, _ref, _what}
  end

  defp read_all(_pipe, 0, bytes), do: bytes

  defp read_all(pipe, left, bytes) do
    {:ok, chunk} = Pipe.read(pipe)
    read_all(pipe, left - byte_size(chunk), bytes <> chunk)
  end

  test "of two writers the second gets no byte between, whoever waits first", %{stdin: stdin, stdout: stdout} do
    bytes = String.duplicate("a", 300_000)
    test = self()
    # It is in the middle of its bytes, and does not wait yet.
    {:wait, rest} = Nif.write(stdin, [bytes])
    other = Task.async(fn -> send(test, :writes) && Pipe.write(stdin, "b") end)
    assert_receive :writes
    OS.eventually(fn -> Process.info(other.pid, :status) == {:status, :waiting} end)
    reader = Task.async(fn -> read_all(stdout, 300_001, "") end)
    ref = make_ref()
    :ok = Nif.wait(stdin, :write, ref)
    assert_receive {:select, ^stdin, ^ref, :ready_output}
    :ok = Pipe.write(stdin, rest)
    :ok = Task.await(other)
    assert Task.await(reader) == bytes <> "b"
  end

  test "a VM whose receive markers are used up goes on" do
    # OTP 27.3.4.1 loops or crashes when a process has a reference that it waits for later (`ref` below), makes seven
    # more in front of receives that it does not reach, and is sent signals meanwhile (docs/decisions.md). Without
    # the reads, of which none waits, there is one.
    victim =
      Victim.start("""
      {:ok, p} = Proc.start("yes")

      defmodule Reader do
        def read(_p, 0), do: :ok

        def read(p, rounds) do
          ref = make_ref()
          for _ <- 1..20, do: {:ok, _} = Proc.read(p, 1)
          send(self(), {ref, :told})
          receive do: ({^ref, :told} -> read(p, rounds - 1))
        end

        def watch(pid) do
          for _ <- 1..50, do: pid |> Process.monitor() |> Process.demonitor([:flush])
          :erlang.yield()
          watch(pid)
        end
      end

      reader = self()
      spawn_link(fn -> Reader.watch(reader) end)
      say.(Reader.read(p, 5_000))
      wait.()
      """)

    assert Victim.term(victim) == :ok
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
