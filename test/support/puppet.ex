defmodule NetRunner.Test.Puppet do
  @moduledoc false
  # A command that does what it is told, over a socket of its own (native/fixture/src/puppet.rs), so that a test
  # knows what it has read, written and closed.

  alias NetRunner.Process, as: Proc
  alias NetRunner.Test.ControlSocket

  defstruct [:p, :socket]

  # The patterns of stdout and stderr have this period.
  @period 251
  @patterns %{
    stdout: for(at <- 0..(@period - 1), into: <<>>, do: <<at>>),
    stderr: for(at <- 0..(@period - 1), into: <<>>, do: <<@period - 1 - at>>)
  }

  @doc "Starts one. The caller is its owner."
  def start(opts \\ []) do
    path =
      Path.join(System.tmp_dir!(), "net_runner-puppet-#{System.pid()}-#{System.unique_integer([:positive])}")

    {:ok, listener} = :gen_tcp.listen(0, [:binary, packet: 4, active: false, ifaddr: {:local, path}])

    try do
      opts = Keyword.merge([stderr: :pipe, kill_timeout: 1_000], opts)
      {:ok, p} = Proc.start(ControlSocket.fixture(), ["puppet", path], opts)
      {:ok, socket} = :gen_tcp.accept(listener, 30_000)
      %__MODULE__{p: p, socket: socket}
    after
      :gen_tcp.close(listener)
      File.rm(path)
    end
  end

  @doc "Gives an order, and does not wait for the answer. It may have ended."
  def order(%__MODULE__{socket: socket}, words) do
    _ = :gen_tcp.send(socket, words |> Enum.map_join(" ", &to_string/1))
    :ok
  end

  @doc "The next answer, or `:gone`."
  def answer(%__MODULE__{socket: socket}, timeout \\ 60_000) do
    case :gen_tcp.recv(socket, 0, timeout) do
      {:ok, answer} -> answer
      {:error, reason} when reason in [:closed, :econnreset] -> :gone
    end
  end

  @doc "An order and its answer."
  def obey(puppet, words) do
    order(puppet, words)
    answer(puppet)
  end

  def close(%__MODULE__{socket: socket}), do: :gen_tcp.close(socket)

  @doc "The bytes `from`..`from + count` of what it writes to stdout or stderr."
  def pattern(name, from, count) do
    skip = rem(from, @period)
    whole = :binary.copy(@patterns[name], div(skip + count, @period) + 1)
    binary_part(whole, skip, count)
  end
end
