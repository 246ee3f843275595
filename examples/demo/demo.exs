# What bin/demo runs. Each part says what it does, shows what comes out, and claims something that is checked.

defmodule Demo.OS do
  # Processes as the system sees them, in /proc. Nothing here asks NetRunner.

  @doc "Every living process that has `mark` in its environment, which children inherit."
  def marked(mark) do
    for entry <- File.ls!("/proc"),
        {pid, ""} <- [Integer.parse(entry)],
        {:ok, environment} <- [File.read("/proc/#{pid}/environ")],
        String.contains?(environment, mark),
        %{} = process <- [process(pid)],
        process.state not in ["Z", "X"],
        do: process
  end

  @doc "Is this the same process still, and not a zombie?"
  def alive?(%{pid: pid, start: start}) do
    case process(pid) do
      %{start: ^start, state: state} -> state not in ["Z", "X"]
      _ -> false
    end
  end

  # proc(5), /proc/pid/stat: the name is in parentheses and may contain anything.
  defp process(pid) do
    with {:ok, stat} <- File.read("/proc/#{pid}/stat"),
         {:ok, arguments} <- File.read("/proc/#{pid}/cmdline"),
         [_, name, rest] <- Regex.run(~r/\A\d+ \((.*)\) (.*)\z/s, stat) do
      fields = String.split(rest)
      [state, parent, _group, session] = Enum.take(fields, 4)
      command = arguments |> String.split(<<0>>, trim: true) |> Enum.join(" ")

      %{
        pid: pid,
        name: name,
        state: state,
        parent: parent,
        session: session,
        start: Enum.at(fields, 19),
        command: if(command == "", do: name, else: command)
      }
    else
      _ -> nil
    end
  end

  @doc "Resident memory of this VM in bytes."
  def resident do
    [_, pages | _] = "/proc/self/statm" |> File.read!() |> String.split()
    String.to_integer(pages) * 4096
  end
end

defmodule Demo do
  alias Demo.OS

  @mib 1024 * 1024

  # The VM's memory may grow by this much while the gigabyte goes through it.
  @growth 16 * @mib

  def main do
    claims =
      Enum.flat_map(
        [&output/0, &gigabyte/0, &pipeline/0, &timeout/0, &killed_vm/0],
        fn part -> part.() end
      )

    failed = for {text, false} <- claims, do: text
    say("")

    if failed == [] do
      say("All #{length(claims)} claims hold.")
    else
      say("#{length(failed)} of #{length(claims)} claims do NOT hold:")
      for text <- failed, do: say("  * #{text}")
      System.halt(1)
    end
  end

  # -- A command and its output -----------------------------------------------------------------------

  defp output do
    title("A command and its output")

    show("NetRunner.run(~w(uname -sm))", NetRunner.run(~w(uname -sm)))

    show(
      ~S|NetRunner.run(~w(tr a-z A-Z), input: "hello")|,
      upper = NetRunner.run(~w(tr a-z A-Z), input: "hello")
    )

    shell = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    show("NetRunner.run(#{inspect(shell)}, stderr: :capture)", all = NetRunner.run(shell, stderr: :capture))
    show("NetRunner.run(~w(/no/such/program))", none = NetRunner.run(~w(/no/such/program)))

    [
      claim("input and output are as they should be", upper == {"HELLO", 0}),
      claim("stdout, status and stderr are kept apart", all == {"out\n", 3, "err\n"}),
      claim("a program that is not there is an error value", none == {:error, {:exec, :enoent}})
    ]
  end

  # -- A gigabyte, and the VM's memory ----------------------------------------------------------------

  defp gigabyte do
    bytes = "NETRUNNER_DEMO_BYTES" |> System.get_env("#{1024 * @mib}") |> String.to_integer()
    title("#{div(bytes, @mib)} MiB through two commands, while the VM's memory stays flat")
    say("  NetRunner.stream!(~w(head -c #{bytes} /dev/zero)) |> NetRunner.stream!(~w(cat))")
    say("")

    :erlang.garbage_collect()
    step = max(div(bytes, 8), 1)
    start = now()
    sampler = start_sampler()
    say("         read   VM memory    resident")
    report(0)

    total =
      NetRunner.stream!(["head", "-c", to_string(bytes), "/dev/zero"])
      |> NetRunner.stream!(~w(cat))
      |> Enum.reduce(0, fn chunk, total ->
        read = total + byte_size(chunk)
        if div(read, step) > div(total, step), do: report(read)
        read
      end)

    ms = now() - start
    {samples, memory, resident} = stop_sampler(sampler)
    say("")
    say("  #{ms} ms, #{round(total / 1000 / max(ms, 1))} MB/s; #{samples} samples of the memory meanwhile")

    [
      claim("every byte has come: #{total} of #{bytes}", total == bytes),
      claim(
        "the least and the most VM memory are #{mib(memory)} apart, resident #{mib(resident)} (limit #{mib(@growth)})",
        memory <= @growth and resident <= @growth
      )
    ]
  end

  defp report(read) do
    say("  #{pad(mib(read), 11)} #{pad(mib(:erlang.memory(:total)), 11)} #{pad(mib(OS.resident()), 11)}")
  end

  # Asks every 10 ms how much memory there is, in a process of its own.
  defp start_sampler, do: spawn_link(fn -> sample([]) end)

  defp sample(samples) do
    samples = [{:erlang.memory(:total), OS.resident()} | samples]

    receive do
      {:stop, from} -> send(from, {:sampled, samples})
    after
      10 -> sample(samples)
    end
  end

  # How many samples there are, and how far apart the least and the most are.
  defp stop_sampler(sampler) do
    send(sampler, {:stop, self()})

    receive do
      {:sampled, samples} ->
        {memory, resident} = Enum.unzip(samples)
        {length(samples), Enum.max(memory) - Enum.min(memory), Enum.max(resident) - Enum.min(resident)}
    end
  end

  # -- A pipeline on a file ---------------------------------------------------------------------------

  defp pipeline do
    path = Path.join(System.tmp_dir!(), "net_runner_demo_#{System.pid()}.txt")

    try do
      {files, bytes} = write_text(path)
      title("A pipeline of five commands, fed from a file of #{mib(bytes)} (#{files} texts of this machine)")
      say("  File.stream!(path, 65_536) |> NetRunner.stream!(~w(tr -cs A-Za-z \\n)) |> ...")
      say("")

      env = [env: %{"LC_ALL" => "C"}]
      start = now()

      words =
        File.stream!(path, 65_536)
        |> NetRunner.stream!(["tr", "-cs", "A-Za-z", "\\n"])
        |> NetRunner.stream!(~w(tr A-Z a-z))
        |> NetRunner.stream!(~w(sort), env)
        |> NetRunner.stream!(~w(uniq -c))
        |> NetRunner.stream!(~w(sort -k1,1nr -k2), env)
        |> Enum.join()

      ms = now() - start
      words |> String.split("\n") |> Enum.take(5) |> Enum.each(&say("  #{&1}"))
      say("  ... #{words |> String.split("\n", trim: true) |> length()} words in #{ms} ms")

      shell =
        "tr -cs A-Za-z '\\n' < #{path} | tr A-Z a-z | LC_ALL=C sort | uniq -c | LC_ALL=C sort -k1,1nr -k2"

      {expected, 0} = System.cmd("sh", ["-c", shell])

      [claim("a shell's pipeline has the same result, byte by byte", words == expected and words != "")]
    after
      File.rm(path)
    end
  end

  # The sources of NetRunner and of the crates it is built with, licences, the documentation of packages.
  defp write_text(path) do
    cargo = System.get_env("CARGO_HOME", Path.expand("~/.cargo"))

    files =
      ["{lib,native,docs,test}/**/*.{ex,exs,rs,md}", "#{cargo}/registry/src/*/*/src/**/*.rs"]
      |> Enum.concat(["/usr/share/common-licenses/*", "/usr/share/doc/*/copyright"])
      |> Enum.flat_map(&Path.wildcard/1)
      |> Enum.filter(&File.regular?/1)

    File.open!(path, [:write, :raw], fn file ->
      Enum.reduce_while(files, {0, 0}, fn source, {count, bytes} ->
        with {:ok, text} <- File.read(source) do
          :ok = :file.write(file, text)
          sum = {count + 1, bytes + byte_size(text)}
          if elem(sum, 1) > 16 * @mib, do: {:halt, sum}, else: {:cont, sum}
        else
          {:error, _} -> {:cont, {count, bytes}}
        end
      end)
    end)
  end

  # -- A timeout --------------------------------------------------------------------------------------

  defp timeout do
    title("A timeout that leaves nothing")
    command = "trap '' TERM; sleep 1000 & (setsid sleep 1000 &); wait"
    say("  NetRunner.run([\"sh\", \"-c\", #{inspect(command)}], timeout: 1_000, kill_timeout: 500)")

    say(
      "  It ignores SIGTERM, has a child that does too, and one in a session of its own whose parent is gone."
    )

    say("")

    {name, value} = mark()
    start = now()

    run =
      Task.async(fn ->
        result =
          NetRunner.run(["sh", "-c", command], timeout: 1_000, kill_timeout: 500, env: %{name => value})

        {result, now() - start, OS.marked(value)}
      end)

    processes = wait_for(fn -> OS.marked(value) end, &(length(&1) == 3 and sleeping(&1) == 2))
    list(processes)
    {result, ms, left} = Task.await(run, :infinity)
    say("  #{inspect(result)} after #{ms} ms; of these processes #{length(left)} are left")

    [
      claim("all three processes were seen while it ran", length(processes) == 3),
      claim(
        "the result is {:error, :timeout}, at timeout + kill_timeout",
        result == {:error, :timeout} and ms in 1_500..2_500
      ),
      claim("when run returns, no process is left", left == [] and not Enum.any?(processes, &OS.alive?/1))
    ]
  end

  # -- A VM that is killed ----------------------------------------------------------------------------

  defp killed_vm do
    title("A VM killed with SIGKILL in the middle of a tree of processes")

    say(
      "  Another VM has started four commands: one ignores SIGTERM, with its children; one has descendants in"
    )

    say("  sessions of their own; one has become a daemon; one is stopped. :kill_timeout is 1,000 ms.")
    say("")

    {name, value} = mark()
    paths = Enum.flat_map(:code.get_path(), &["-pa", List.to_string(&1)])

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [
        :exit_status,
        args: paths ++ [Path.join(__DIR__, "victim.exs")],
        env: [{String.to_charlist(name), String.to_charlist(value)}]
      ])

    ready? = &(sleeping(&1) == 6 and Enum.any?(&1, fn process -> process.state == "T" end))
    processes = wait_for(fn -> OS.marked(value) end, ready?)
    vm = Enum.find(processes, &(&1.name == "beam.smp"))
    list(Enum.reject(processes, &(&1 == vm)), 20)

    start = now()
    {_, 0} = System.cmd("kill", ["-KILL", to_string(vm.pid)])
    say("  kill -KILL #{vm.pid}   (the VM)")
    left = wait_for(fn -> Enum.filter(processes, &OS.alive?/1) ++ OS.marked(value) end, &(&1 == []))
    ms = now() - start
    say("  #{length(processes)} processes were there; #{ms} ms later #{length(left)} are left")

    receive do
      {^port, {:exit_status, _}} -> :ok
    end

    [
      claim("the whole tree was seen while it ran", ready?.(processes)),
      claim("nothing is left #{ms} ms after the VM was killed (limit 2,000)", left == [] and ms <= 2_000)
    ]
  end

  # -- Helpers ----------------------------------------------------------------------------------------

  # A variable for the environment of processes, by which they are found in /proc.
  defp mark do
    {"NETRUNNER_DEMO_MARK", Base.encode16(:rand.bytes(16))}
  end

  defp sleeping(processes), do: Enum.count(processes, &(&1.name == "sleep"))

  # What `look` returns as soon as `enough?` holds for it, or what it returns after 10 s.
  defp wait_for(look, enough?, deadline \\ now() + 10_000) do
    seen = look.()

    if enough?.(seen) or now() > deadline do
      seen
    else
      Process.sleep(5)
      wait_for(look, enough?, deadline)
    end
  end

  defp list(processes, most \\ 10) do
    say("     pid  parent session  command")

    for process <- processes |> Enum.sort_by(& &1.pid) |> Enum.take(most) do
      say(
        "  #{pad(process.pid, 6)} #{pad(process.parent, 7)} #{pad(process.session, 7)}  " <>
          String.slice(process.command, 0, 80)
      )
    end
  end

  defp claim(text, holds) do
    say("  #{if holds, do: "ok    ", else: "FAILED"} #{text}")
    {text, holds}
  end

  defp show(code, result) do
    say("  #{code}")
    say("    #{inspect(result)}")
  end

  defp title(text), do: say("\n== #{text}\n")

  defp mib(bytes), do: "#{:erlang.float_to_binary(bytes / @mib, decimals: 1)} MiB"
  defp pad(value, width), do: value |> to_string() |> String.pad_leading(width)
  defp now, do: System.monotonic_time(:millisecond)
  defp say(text), do: IO.puts(text)
end

Demo.main()
