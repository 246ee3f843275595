defmodule NetRunner.SignalTest do
  use ExUnit.Case, async: true

  alias NetRunner.Signal

  doctest Signal

  # POSIX.1-2017, <signal.h>, without SIGPOLL, which macOS does not have.
  @posix ~w(sigabrt sigalrm sigbus sigchld sigcont sigfpe sighup sigill sigint sigkill sigpipe sigquit sigsegv
            sigstop sigterm sigtstp sigttin sigttou sigusr1 sigusr2 sigprof sigsys sigtrap sigurg sigvtalrm
            sigxcpu sigxfsz)a

  test "every POSIX signal has a number, and the number that name" do
    for name <- @posix do
      assert {:ok, number} = Signal.resolve(name)
      assert Signal.name(number) == name
      assert Signal.resolve!(name) == number
    end
  end

  test "the numbers are those of this system" do
    for name <- @posix do
      "SIG" <> short = name |> to_string() |> String.upcase()
      {number, 0} = System.cmd("sh", ["-c", "kill -l #{short} 2>/dev/null || kill -l | tr ' ' '\\n'"])

      # dash has `kill -l NUMBER` only.
      {back, 0} = System.cmd("sh", ["-c", "kill -l #{Signal.resolve!(name)}"])
      assert String.trim(back) in [short, "SIG" <> short], "#{name}: #{inspect(number)}"
    end
  end

  test "numbers from 1 to 31 are signals, and each has a name that leads back to it" do
    for number <- 1..31 do
      assert Signal.resolve(number) == {:ok, number}
      assert Signal.resolve(Signal.name(number)) == {:ok, number}
    end
  end

  test "a real-time signal has a name, though nobody can ask for it" do
    assert Signal.name(64) == :sig64
    assert Signal.resolve(64) == {:error, :unknown_signal}
    assert Signal.resolve(:sig64) == {:error, :unknown_signal}
  end

  test "anything else is unknown" do
    for other <- [0, -15, 32, :SIGTERM, :term, "sigterm", nil, true, 15.0, {:sigterm}, []] do
      assert Signal.resolve(other) == {:error, :unknown_signal}
    end
  end

  test "resolve! names what is allowed" do
    error = assert_raise ArgumentError, fn -> Signal.resolve!(:sigtrem) end
    assert error.message =~ "Expected: a number from 1 to 31 or one of :sighup, :sigint"
    assert error.message =~ "Got: :sigtrem"
  end
end
