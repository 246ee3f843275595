defmodule Bench.Machine do
  # What the numbers were measured on.

  def describe do
    """
    machine   #{cpu()}, #{System.schedulers_online()} schedulers, #{memory()}
    system    #{system()}, load #{load()}
    versions  NetRunner #{version()}, Elixir #{System.version()}, OTP #{System.otp_release()}, #{line("rustc", ["--version"])}
    """
    |> String.trim_trailing()
  end

  defp version do
    commit = line("git", ["describe", "--always", "--dirty", "--abbrev=10"])
    "#{Application.spec(:net_runner, :vsn)} (#{commit})"
  end

  defp cpu do
    field("/proc/cpuinfo", ~r/^model name\s*: (.*)$/m) ||
      List.to_string(:erlang.system_info(:system_architecture))
  end

  defp memory do
    case field("/proc/meminfo", ~r/^MemTotal:\s*(\d+) kB$/m) do
      nil -> "memory unknown"
      kib -> "#{Float.round(String.to_integer(kib) / 1024 / 1024, 1)} GiB"
    end
  end

  defp system, do: line("uname", ["-srm"])

  defp load, do: field("/proc/loadavg", ~r/^(\S+ \S+ \S+)/) || "unknown"

  defp field(file, regex) do
    with {:ok, text} <- File.read(file), [_, value] <- Regex.run(regex, text) do
      value
    else
      _ -> nil
    end
  end

  defp line(command, arguments) do
    case System.cmd(command, arguments, stderr_to_stdout: true) do
      {output, 0} -> String.trim(output)
      _ -> "#{command} unknown"
    end
  rescue
    ErlangError -> "#{command} unknown"
  end
end
