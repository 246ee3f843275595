defmodule NetRunner.Signal do
  @moduledoc """
  Signals: names and numbers.

  A signal is named by its POSIX name as a lower-case atom (`:sigterm`), or given as its number, 1 to 31. The
  numbers are those of the system the VM runs on: `:sigusr1` is 10 on Linux and 30 on macOS. (Linux on MIPS,
  SPARC, Alpha and PA-RISC has numbers of its own, which are not known here.)

  | signals | |
  | --- | --- |
  | everywhere | #{Enum.map_join(~w(sighup sigint sigquit sigill sigtrap sigabrt sigbus sigfpe sigkill sigusr1 sigsegv sigusr2 sigpipe sigalrm sigterm sigchld sigcont sigstop sigtstp sigttin sigttou sigurg sigxcpu sigxfsz sigvtalrm sigprof sigwinch sigio sigsys), " ", &"`:#{&1}`")} |
  | Linux | `:sigpwr` `:sigstkflt`, and `:sigpoll` for `:sigio` |
  | macOS | `:sigemt` `:siginfo` |
  """

  @typedoc "The name of a signal, such as `:sigterm`."
  @type name :: atom()

  @typedoc "A name or a number."
  @type t :: name() | 1..31

  # signal(7), x86, ARM and most others.
  @linux [
    sighup: 1,
    sigint: 2,
    sigquit: 3,
    sigill: 4,
    sigtrap: 5,
    sigabrt: 6,
    sigbus: 7,
    sigfpe: 8,
    sigkill: 9,
    sigusr1: 10,
    sigsegv: 11,
    sigusr2: 12,
    sigpipe: 13,
    sigalrm: 14,
    sigterm: 15,
    sigstkflt: 16,
    sigchld: 17,
    sigcont: 18,
    sigstop: 19,
    sigtstp: 20,
    sigttin: 21,
    sigttou: 22,
    sigurg: 23,
    sigxcpu: 24,
    sigxfsz: 25,
    sigvtalrm: 26,
    sigprof: 27,
    sigwinch: 28,
    sigio: 29,
    sigpwr: 30,
    sigsys: 31
  ]

  # signal(3) of macOS, <sys/signal.h>.
  @macos [
    sighup: 1,
    sigint: 2,
    sigquit: 3,
    sigill: 4,
    sigtrap: 5,
    sigabrt: 6,
    sigemt: 7,
    sigfpe: 8,
    sigkill: 9,
    sigbus: 10,
    sigsegv: 11,
    sigsys: 12,
    sigpipe: 13,
    sigalrm: 14,
    sigterm: 15,
    sigurg: 16,
    sigstop: 17,
    sigtstp: 18,
    sigcont: 19,
    sigchld: 20,
    sigttin: 21,
    sigttou: 22,
    sigio: 23,
    sigxcpu: 24,
    sigxfsz: 25,
    sigvtalrm: 26,
    sigprof: 27,
    sigwinch: 28,
    siginfo: 29,
    sigusr1: 30,
    sigusr2: 31
  ]

  # POSIX knows SIGIO only as SIGPOLL.
  @linux_numbers Map.new([{:sigpoll, 29} | @linux])
  @macos_numbers Map.new(@macos)
  @linux_names Map.new(@linux, fn {name, number} -> {number, name} end)
  @macos_names Map.new(@macos, fn {name, number} -> {number, name} end)

  # Linux has real-time signals up to 64. They have no names, and what they are for is no business of the
  # system's, but a command can die of one.
  @unnamed Map.new(32..64, fn number -> {number, :"sig#{number}"} end)

  @doc """
  The number of a signal on this system.

      iex> NetRunner.Signal.resolve(:sigterm)
      {:ok, 15}
      iex> NetRunner.Signal.resolve(9)
      {:ok, 9}
      iex> NetRunner.Signal.resolve(:term)
      {:error, :unknown_signal}
      iex> NetRunner.Signal.resolve(0)
      {:error, :unknown_signal}
  """
  @spec resolve(t() | term()) :: {:ok, 1..31} | {:error, :unknown_signal}
  def resolve(number) when number in 1..31, do: {:ok, number}

  def resolve(name) when is_atom(name) do
    case numbers() do
      %{^name => number} -> {:ok, number}
      _ -> {:error, :unknown_signal}
    end
  end

  def resolve(_other), do: {:error, :unknown_signal}

  @doc """
  The number of a signal on this system; raises `ArgumentError` for what is not one.

      iex> NetRunner.Signal.resolve!(:sigkill)
      9
  """
  @spec resolve!(t()) :: 1..31
  def resolve!(signal) do
    case resolve(signal) do
      {:ok, number} ->
        number

      {:error, :unknown_signal} ->
        raise ArgumentError,
              "unknown signal.\nExpected: #{expected()}\nGot: #{inspect(signal)}"
    end
  end

  @doc """
  The name of the signal with this number on this system. Real-time signals, which have no names, are `:sig34`
  and so on.

      iex> NetRunner.Signal.name(15)
      :sigterm
      iex> NetRunner.Signal.name(34)
      :sig34
  """
  @spec name(1..64) :: name()
  def name(number) when number in 1..64 do
    case names() do
      %{^number => name} -> name
      _ -> Map.fetch!(@unnamed, number)
    end
  end

  @doc false
  # What resolve/1 takes, in words, for messages of errors.
  @spec expected() :: String.t()
  def expected do
    all = numbers() |> Enum.sort_by(fn {name, number} -> {number, name} end)
    "a number from 1 to 31 or one of #{Enum.map_join(all, ", ", fn {name, _number} -> inspect(name) end)}"
  end

  defp numbers do
    if macos?(), do: @macos_numbers, else: @linux_numbers
  end

  defp names do
    if macos?(), do: @macos_names, else: @linux_names
  end

  defp macos?, do: :os.type() == {:unix, :darwin}
end
