defmodule NetRunner.ExpectTest do
  use NetRunner.Test.SystemCase

  alias NetRunner.Expect

  # `cat` that shows nothing but what it was given.
  setup do
    {:ok, p} = Proc.start("cat", [], pty: [echo: false])
    %{p: p}
  end

  test "what was before, what has matched, and what comes behind for the next", %{p: p} do
    :ok = Proc.write(p, "one two three\n")
    assert {:ok, %Expect{before: "one ", match: "two", captures: [], index: 0}} = NetRunner.expect(p, "two")
    assert {:ok, %{before: " ", match: "three\r\n"}} = NetRunner.expect(p, ~r/\w+\r\n/)
  end

  test "of a list the one that begins first, then the first one", %{p: p} do
    :ok = Proc.write(p, "abc abc\n")
    assert {:ok, %{match: "a", index: 1}} = NetRunner.expect(p, ["c", "a", "abc"])
    assert {:ok, %{match: "bc", index: 0}} = NetRunner.expect(p, [~r/bc?/, "b"])
    assert {:ok, %{match: "a", before: " ", index: 2}} = NetRunner.expect(p, ["x", "bc", "a"])
  end

  test "the groups of a regular expression, also those that have not matched", %{p: p} do
    :ok = Proc.write(p, "key=value\n")
    assert {:ok, %{captures: ["key", "", "value"]}} = NetRunner.expect(p, ~r/(\w+)(!)?=(\w+)\r/)
  end

  test "what comes in pieces", %{p: p} do
    test = self()
    background(fn -> send(test, {:found, NetRunner.expect(p, "password:")}) end)
    for piece <- ["pass", "wo", "rd:"], do: Proc.write(p, [piece, 4])
    assert_receive {:found, {:ok, %{before: "", match: "password:"}}}, 10_000
  end

  test "a timeout keeps what was read, and leaves no message", %{p: p} do
    :ok = Proc.write(p, "some\n")
    assert :timeout = NetRunner.expect(p, "other", timeout: 100)
    assert :timeout = NetRunner.expect(p, "other", timeout: 0)
    assert {:messages, []} = Process.info(self(), :messages)
    assert {:ok, "some\r\n"} = Proc.read(p)
    assert Proc.stats(p).bytes_out == 6
  end

  test "so does the end", %{p: p} do
    :ok = Proc.write(p, "last\n")
    :ok = Proc.close_stdin(p)
    assert :eof = NetRunner.expect(p, "other")
    assert {:ok, %{match: "last"}} = NetRunner.expect(p, "last")
    assert :eof = NetRunner.expect(p, "last")
    assert {:ok, "\r\n"} = Proc.read(p)
    assert :eof = Proc.read(p)
  end

  test "with a pipe, too, and read/2 gets what is kept in pieces of its size" do
    {:ok, p} = Proc.start("printf", ["prompt> 12345"])
    assert {:ok, %{match: "> "}} = NetRunner.expect(p, "> ")
    assert {:ok, "123"} = Proc.read(p, 3)
    assert {:ok, "45"} = Proc.read(p)
    assert :eof = Proc.read(p)
  end

  test "what is looked at is bounded" do
    {:ok, p} = Proc.start("sh", ["-c", "head -c 1000000 /dev/zero; echo done"], pty: true)
    assert {:ok, %{before: before}} = NetRunner.expect(p, "done", max_bytes: 1_000)
    assert byte_size(before) in 990..1_000
  end

  test "so is what is kept" do
    {:ok, p} = Proc.start("printf", ["0123456789abcdef"])
    assert :eof = NetRunner.expect(p, "0123x", max_bytes: 4)
    assert {:ok, "cdef"} = Proc.read(p)
    assert :eof = Proc.read(p)
  end

  test "u and bytes that are not UTF-8: the rest of a character is waited for", %{p: p} do
    :ok = Proc.write(p, [<<0xC3>>, 4])
    assert :timeout = NetRunner.expect(p, ~r/ä/u, timeout: 100)
    :ok = Proc.write(p, [<<0xA4>>, 4])
    assert {:ok, %{match: "ä"}} = NetRunner.expect(p, ~r/ä/u)
  end

  test "a dead server, and what is no pattern or option", %{p: p} do
    for pattern <- ["", [], :eof, ["a", 1]],
        do: assert_raise(ArgumentError, ~r/pattern/, fn -> NetRunner.expect(p, pattern) end)

    for opts <- [[timeout: -1], [max_bytes: 0], [limit: 1], :soon],
        do: assert_raise(ArgumentError, ~r/options/, fn -> NetRunner.expect(p, "a", opts) end)

    :ok = Proc.stop(p)
    assert {:error, :closed} = NetRunner.expect(p, "a")
  end
end
