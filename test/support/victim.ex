defmodule NetRunner.Test.Victim do
  @moduledoc false
  # Another VM with NetRunner started in it, to be killed. It runs the given code and prints lines, which
  # come here as messages of its port. `say.(term)` prints a term, `wait.()` waits until the test ends.

  alias NetRunner.Test.OS

  defstruct [:port, :os_pid]

  @start "{:ok, _} = Application.ensure_all_started(:net_runner)"

  @prelude """
  alias NetRunner.Process, as: Proc
  _ = &Proc.start/1
  say = fn term -> IO.puts(inspect(term, limit: :infinity, printable_limit: :infinity)) end
  wait = fn -> IO.gets("") end
  # Protocols are loaded when they are called first, which takes a file descriptor.
  _ = inspect({say, wait, [0, 1.0, "", nil], %{}, self(), make_ref()})
  """

  @doc """
  Starts a VM that runs `code`, to be killed at the latest at the end of the test.

  `:env` adds to its environment, `:flags` to the options of `elixir`; `:shell` is what the shell does that
  starts it, with the VM's command as `"$0" "$@"`; `:start` replaces the start of NetRunner. With `on_exit: false`
  whoever starts it sees to its end. `:code_path` is where it has NetRunner from, when not from where we have it.
  `namespace: true` says that the shell makes a PID namespace for it: the pid is then looked for here, for the VM has
  another.
  """
  def start(code, opts \\ []) do
    arguments =
      Enum.flat_map(Keyword.get_lazy(opts, :code_path, &code_path/0), &["-pa", &1]) ++
        Keyword.get(opts, :flags, []) ++
        ["-e", "IO.puts(System.pid())", "-e", @prelude <> Keyword.get(opts, :start, @start) <> "\n" <> code]

    shell = Keyword.get(opts, :shell, "exec \"$0\" \"$@\"")

    port =
      Port.open({:spawn_executable, "/bin/sh"}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        line: 1_000_000,
        args: ["-c", shell, System.find_executable("elixir") | arguments],
        env: Keyword.get(opts, :env, [])
      ])

    os_pid = line(%__MODULE__{port: port}) |> String.trim() |> String.to_integer()
    os_pid = if Keyword.get(opts, :namespace, false), do: beam_below(port), else: os_pid
    victim = %__MODULE__{port: port, os_pid: os_pid}
    identity = OS.identity(victim.os_pid)
    end_it = fn -> identity && OS.clean_up([identity]) end
    if Keyword.get(opts, :on_exit, true), do: ExUnit.Callbacks.on_exit(end_it)
    victim
  end

  defp code_path, do: for(path <- :code.get_path(), path = to_string(path), path =~ "net_runner", do: path)

  defp beam_below(port) do
    {:os_pid, shell} = Port.info(port, :os_pid)
    [%{os_pid: os_pid}] = Enum.filter(OS.descendants(shell), &(&1.name == "beam.smp"))
    os_pid
  end

  @doc "The next line that the VM prints; raises when it ends instead."
  def line(%__MODULE__{port: port}, timeout \\ 60_000) do
    receive do
      {^port, {:data, {:eol, line}}} -> line
      {^port, {:exit_status, status}} -> raise "the victim has exited with #{status}"
    after
      timeout -> raise "the victim said nothing for #{timeout} ms"
    end
  end

  @doc "The next line as a term."
  def term(victim, timeout \\ 60_000) do
    line = line(victim, timeout)
    {term, _} = Code.eval_string(line)
    term
  rescue
    error in [SyntaxError, TokenMissingError, CompileError, MismatchedDelimiterError] ->
      reraise "the victim did not say a term: #{Exception.message(error)}\n#{rest(victim)}", __STACKTRACE__
  end

  @doc "What else it has printed, for messages of failed tests."
  def rest(%__MODULE__{port: port} = victim) do
    receive do
      {^port, {:data, {:eol, line}}} -> line <> "\n" <> rest(victim)
    after
      200 -> ""
    end
  end

  @doc "Sends a signal to the VM."
  def kill(%__MODULE__{os_pid: os_pid}, signal \\ "KILL"), do: OS.kill(os_pid, signal)

  @doc "Writes a line to the VM's standard input, for `wait`."
  def tell(victim, line), do: type(victim, [line, ?\n])

  @doc "Writes to its standard input; nothing where the VM has ended."
  def type(%__MODULE__{port: port}, text) do
    Port.command(port, text)
  rescue
    ArgumentError -> false
  end

  @doc "Waits until the VM has ended, which it must say nothing more before."
  def await_exit(%__MODULE__{port: port}, timeout \\ 60_000) do
    receive do
      {^port, {:exit_status, status}} -> status
    after
      timeout -> raise "the victim is still there after #{timeout} ms"
    end
  end
end
