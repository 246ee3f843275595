defmodule Bench.Machine do
  # What the numbers were measured on.

  def describe do
    %{
      cpu: cpu(),
      schedulers: System.schedulers_online(),
      memory: memory(),
      system: line("uname", ["-srm"]),
      load: load(),
      pipe_pages: file("/proc/sys/fs/pipe-user-pages-soft"),
      net_runner: version(),
      elixir: System.version(),
      otp: System.otp_release(),
      rustc: line("rustc", ["--version"])
    }
  end

  def format(machine) do
    """
    machine   #{machine.cpu}, #{machine.schedulers} schedulers, #{machine.memory}
    system    #{machine.system}, load #{machine.load}, pipe-user-pages-soft #{machine.pipe_pages}
    versions  NetRunner #{machine.net_runner}, Elixir #{machine.elixir}, OTP #{machine.otp}, #{machine.rustc}
    """
  end

  def load, do: field("/proc/loadavg", ~r/^(\S+ \S+ \S+)/) || "unknown"

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

  defp file(path), do: field(path, ~r/^(\S+)/) || "unknown"

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
