defmodule Bench.Guest do
  # Another VM, with or without NetRunner, for what has to be measured from outside or from the start. It prints
  # terms, which are received here.

  defstruct [:port, :pid]

  @prelude """
  say = fn term -> IO.puts("> " <> inspect(term, limit: :infinity)) end
  # What the other side has to say; it is over when that is gone.
  hear = fn -> with :eof <- IO.gets(""), do: System.halt(0) end
  """
  @net_runner "{:ok, _} = Application.ensure_all_started(:net_runner)\n"

  @doc """
  Starts a VM that runs `code`.

    * net_runner: whether NetRunner is started first; true by default
    * shell: what the shell does that starts it, with the VM's command as `"$0" "$@"`
  """
  def start(directory, code, options \\ []) do
    start = if Keyword.get(options, :net_runner, true), do: @net_runner, else: ""

    port =
      Port.open({:spawn_executable, "/bin/sh"}, [
        :binary,
        :exit_status,
        line: 1_000_000,
        args:
          ["-c", Keyword.get(options, :shell, "exec \"$0\" \"$@\""), System.find_executable("elixir")] ++
            ["-pa", Path.join(directory, "net_runner/ebin"), "-e", @prelude <> start <> code]
      ])

    {:os_pid, pid} = Port.info(port, :os_pid)
    %__MODULE__{port: port, pid: pid}
  end

  @doc "The next term that it prints. What else it says, its log, is shown."
  def hear(%__MODULE__{port: port} = guest) do
    receive do
      {^port, {:data, {:eol, "> " <> term}}} -> term |> Code.eval_string() |> elem(0)
      {^port, {:data, {:eol, line}}} -> IO.puts(:stderr, "guest: #{line}") && hear(guest)
      {^port, {:exit_status, status}} -> raise "the guest has exited with #{status}"
    end
  end

  def say(%__MODULE__{port: port}, line), do: Port.command(port, [to_string(line), ?\n])

  @doc "Ends it, with all that it has started."
  def stop(%__MODULE__{port: port, pid: pid}) do
    System.cmd("sh", ["-c", "kill -9 \"$0\"", to_string(pid)], stderr_to_stdout: true)
    ended(port)
  end

  defp ended(port) do
    receive do
      {^port, {:exit_status, _status}} -> :ok
      {^port, {:data, _line}} -> ended(port)
    end
  end

  # In no passwd(5), and nobody else's.
  @user "64321"

  @doc """
  What a shell does to start a VM of a normal user that may have so many files open.
  """
  def as_user(files) do
    user =
      if root?(), do: "setpriv --reuid=#{@user} --regid=#{@user} --clear-groups ", else: ""

    "ulimit -n #{files} && export HOME=/tmp && exec #{user}\"$0\" \"$@\""
  end

  def root?, do: match?({"0\n", 0}, System.cmd("id", ["-u"]))

  @doc """
  Calls the function with a directory that holds NetRunner as it is compiled, for everybody to read: files of its own, so that
  memory is not shared with this VM's shepherds.
  """
  def with_net_runner(function) do
    directory = Path.join(System.tmp_dir!(), "net_runner-bench-#{System.pid()}")
    application = Path.join(directory, "net_runner")
    File.mkdir_p!(Path.join(application, "priv"))

    try do
      File.cp_r!(Application.app_dir(:net_runner, "ebin"), Path.join(application, "ebin"))

      for file <- ~w(shepherd net_runner_nif.so) do
        File.cp!(Application.app_dir(:net_runner, "priv/#{file}"), Path.join([application, "priv", file]))
      end

      System.cmd("chmod", ["-R", "a+rX", directory])
      function.(directory)
    after
      File.rm_rf!(directory)
    end
  end
end
