defmodule NetRunner.Test.Faults do
  @moduledoc false
  # Other installations of NetRunner, for victims: with another shepherd, or with one some of whose system calls
  # fail (native/fixture/src/faults.rs, whose plans these are).

  alias NetRunner.Test.OS

  @doc """
  A copy of the application with this program as its shepherd, in `directory`; returns the flags for a victim
  that is to use it.
  """
  def install(directory, shepherd) do
    application = Path.join(directory, "net_runner")
    File.mkdir_p!(Path.join(application, "priv"))
    File.ln_s!(Application.app_dir(:net_runner, "ebin"), Path.join(application, "ebin"))
    nif = "priv/net_runner_nif.so"
    File.ln_s!(Application.app_dir(:net_runner, nif), Path.join(application, nif))
    shepherd.(Path.join(application, "priv/shepherd"))
    ["-pa", Path.join(application, "ebin")]
  end

  @doc "An installation whose shepherd follows the plan in this directory."
  def install_faulty(directory) do
    install(directory, fn path ->
      File.write!(path, """
      #!/bin/sh
      exec '#{fixture()}' faults '#{directory}' '#{shepherd()}' "$@"
      """)

      File.chmod!(path, 0o755)
    end)
  end

  @doc "The real one."
  def shepherd, do: Application.app_dir(:net_runner, "priv/shepherd")

  @doc "How a victim's VM itself is made to follow the plan: the `:shell` of `NetRunner.Test.Victim.start/2`."
  def shell(directory), do: "exec '#{fixture()}' faults '#{directory}' \"$(command -v \"$0\")\" \"$@\""

  defp fixture, do: Application.app_dir(:net_runner, "fixture")

  @doc "Why there can be no faults on this machine, or nil."
  def missing do
    directory = Path.join(System.tmp_dir!(), "net_runner-faults-#{System.unique_integer([:positive])}")
    File.mkdir_p!(directory)
    plan(directory, "trace")

    try do
      case System.cmd(fixture(), ["faults", directory, "/bin/sh", "-c", "exit 7"], stderr_to_stdout: true) do
        {"", 7} -> nil
        {said, _status} -> "the system lets no process answer for others (seccomp_unotify(2)): #{said}"
      end
    after
      File.rm_rf!(directory)
    end
  end

  @doc "What is to fail from the next start on."
  def plan(directory, plan) do
    File.rm(Path.join(directory, "log"))
    File.write!(Path.join(directory, "plan"), plan)
  end

  @doc "From now on the `n`-th call of these names fails, or with 0 all of them; for a plan of what is `asked`."
  def on(directory, names, n, errno) do
    on = Path.join(directory, "on")
    # At once: it may be read at any time.
    File.write!(on <> ".new", "#{System.unique_integer([:positive])} #{names} #{n} #{errno}")
    File.rename!(on <> ".new", on)
  end

  @doc "From now on nothing fails."
  def off(directory), do: File.rm!(Path.join(directory, "on"))

  @doc "The lines of the log, as lists of words."
  def log(directory) do
    directory
    |> Path.join("log")
    |> File.read!()
    |> String.split("\n", trim: true)
    |> Enum.map(&String.split/1)
  end

  @doc "The log, when nothing is left of the program that followed the plan, nor of what it has started."
  def await_end(directory) do
    OS.eventually(fn -> List.last(log(directory)) == ["end"] end, 30_000)
    log(directory) -- [["end"]]
  end
end
