defmodule NetRunner.Options do
  @moduledoc false
  # Options enter NetRunner here, once: `new/2` makes a struct of what the user gave, with everything checked,
  # every default filled in and every value in the form that the rest needs. Nobody else reads a keyword list
  # of options, and nobody checks an option a second time.
  #
  # `@schema` has one entry per option, from which come validation, defaults, the struct's fields and the
  # documentation. To add an option, add an entry. `types` says in which functions the option is valid, and of
  # which type it is there.

  alias NetRunner.Command
  alias NetRunner.Options.Type

  # Milliseconds travel as 32 bits to the shepherd, and `receive` takes no more either.
  @ms {:integer, 0..0xFFFF_FFFF, "milliseconds"}
  @ms_or_infinity {:or, @ms, :infinity}
  @bytes {:integer, 0..0xFFFF_FFFF_FFFF_FFFF, "bytes"}

  @everywhere [:run, :capture, :stream, :process, :daemon]

  @schema [
    input: [
      types: Map.new([:run, :capture, :stream], &{&1, :input}),
      default: nil,
      doc:
        "what the command reads from its stdin: a binary, iodata, any `Enumerable` of iodata, `{:file, path}`, " <>
          "or a function that gets a `Collectable`. Without it, stdin is at its end at once"
    ],
    timeout: [
      types: Map.new([:run, :capture], &{&1, @ms_or_infinity}),
      default: :infinity,
      doc:
        "milliseconds that the command may take; then it is stopped, and when nothing of it is left the " <>
          "result is `{:error, :timeout}`"
    ],
    idle_timeout: [
      types: Map.new([:run, :capture, :stream], &{&1, @ms_or_infinity}),
      default: :infinity,
      doc:
        "milliseconds that the command may spend without any output that comes to us; then it is stopped as with " <>
          "`:timeout`, and the result is `{:error, :idle_timeout}`"
    ],
    max_output_size: [
      types: Map.new([:run, :capture], &{&1, {:or, @bytes, :infinity}}),
      default: :infinity,
      doc:
        "bytes of output (stdout, and stderr where it is captured); a command that writes more is stopped, " <>
          "and the result is `{:error, {:max_output_exceeded, partial}}` with exactly that many bytes"
    ],
    into: [
      types: %{run: :collectable, capture: :collectable},
      default: "",
      doc: "where the output is collected, any `Collectable`, as in `System.cmd/3`"
    ],
    lines: [
      types: Map.new([:run, :capture, :stream], &{&1, {:integer, 1..0xFFFF_FFFF, "bytes"}}),
      default: nil,
      doc:
        "whole lines, without their newline, instead of chunks as they come; the value is the length in bytes " <>
          "at which a longer line is cut, as in `System.cmd/3`"
    ],
    stdout: [
      types: Map.new(@everywhere, &{&1, {:output, [:pipe, :disabled, :inherit]}}),
      default: :pipe,
      doc:
        "where stdout goes: `:pipe`, to us; `:disabled`, to /dev/null; `:inherit`, to where the VM's own stdout " <>
          "goes; `{:file, path}`, to this file, which is emptied or made; `{:append, path}`, to its end. See " <>
          "\"Files\" in `NetRunner`"
    ],
    stderr: [
      types: %{
        run: {:output, [:consume, :capture, :redirect, :disabled, :inherit]},
        capture: {:output, [:consume, :capture, :redirect, :disabled, :inherit]},
        stream: {:output, [:consume, :stream, :redirect, :disabled, :inherit]},
        process: {:output, [:consume, :pipe, :redirect, :disabled, :inherit]},
        daemon: {:output, [:consume, :pipe, :redirect, :disabled, :inherit]}
      },
      default: :consume,
      doc:
        "where stderr goes: `:consume`, read, and only the end of it kept; `:capture` (run), all of it " <>
          "returned; `:stream` (stream), the elements become `{:stdout, binary}`, `{:stderr, binary}` and at " <>
          "last `{:exit, status}`; `:pipe` (Process, Daemon), for you to read, or for `:on_output`; `:redirect`, to where stdout goes; " <>
          "`:disabled`, `:inherit`, `{:file, path}` and `{:append, path}` as with `:stdout`"
    ],
    stderr_tail_bytes: [
      types: Map.new(@everywhere, &{&1, @bytes}),
      default: 8_192,
      doc: "bytes of the end of stderr that are kept, for errors to show"
    ],
    env: [
      types: Map.new(@everywhere, &{&1, :environment}),
      default: [],
      doc:
        "changes to the environment, a map or a list of `{name, value}`; `nil` unsets, `\"\"` sets to the empty " <>
          "string. `{:replace, env}` is the whole environment. Bytes go as they are"
    ],
    cd: [
      types: Map.new(@everywhere, &{&1, :path}),
      default: nil,
      doc:
        "the directory to run in; by default the VM's at the moment of the call, which is also where a relative one " <>
          "starts. It is entered as the `:user` of the command"
    ],
    umask: [
      types: Map.new(@everywhere, &{&1, {:integer, 0..0o777, "a file mode creation mask"}}),
      default: nil,
      doc: "the file mode creation mask, such as `0o077`; by default the VM's"
    ],
    arg0: [
      types: Map.new(@everywhere, &{&1, :c_string}),
      default: nil,
      doc: "what the command sees as its own name, `argv[0]`; by default the executable as given"
    ],
    nice: [
      types: Map.new(@everywhere, &{&1, {:integer, -20..19, "a niceness"}}),
      default: nil,
      doc:
        "the niceness, from -20 (favoured) to 19: the value itself, not what is added to that of the VM. Less than " <>
          "the VM's needs privileges"
    ],
    rlimits: [
      types: Map.new(@everywhere, &{&1, :rlimits}),
      default: [],
      doc:
        "resource limits by their names in getrlimit(2), such as `[nofile: 256, as: {soft, hard}, core: 0]`; one " <>
          "value sets both, `:infinity` is no limit. What is not named is as in the VM. More than the hard limit " <>
          "of the VM needs privileges"
    ],
    user: [
      types: Map.new(@everywhere, &{&1, :principal}),
      default: nil,
      doc:
        "the user to run as, a name or a number; needs privileges. Group and supplementary groups are those of a " <>
          "login, unless said otherwise. See \"Users\" in `NetRunner`"
    ],
    group: [
      types: Map.new(@everywhere, &{&1, :principal}),
      default: nil,
      doc: "the group to run as, a name or a number; by default that of the `:user`, or of the VM"
    ],
    groups: [
      types: Map.new(@everywhere, &{&1, :principals}),
      default: nil,
      doc:
        "the supplementary groups, a list of names and numbers, and no others; by default those of the `:user`, or of " <>
          "the VM"
    ],
    kill_timeout: [
      types: Map.new(@everywhere, &{&1, @ms}),
      default: 5_000,
      doc:
        "milliseconds from the first signal of the stop sequence to SIGKILL; 0 is SIGKILL at once, with " <>
          "nothing before it"
    ],
    stop_signal: [
      types: Map.new(@everywhere, &{&1, :signal}),
      default: 15,
      default_doc: ":sigterm",
      doc:
        "the first signal of the stop sequence, see `NetRunner.Signal`; with `:pty` the default is `:sighup`, and then " <>
          "`:sigterm`"
    ],
    leftovers: [
      types: Map.new(@everywhere, &{&1, {:one_of, [:kill, :keep]}}),
      default: :kill,
      doc:
        "descendants that are still there when the command has exited: `:kill`, they get 100 ms to finish, " <>
          "then the stop sequence; `:keep`, they may go on while the VM lives"
    ],
    pty: [
      types: Map.new(@everywhere, &{&1, :pty}),
      default: nil,
      default_doc: "false",
      doc:
        "whether stdin, stdout and stderr are a terminal, the controlling one of the command: `true`, or a keyword list " <>
          "of `:rows` (24), `:cols` (80) and `:echo` (`true`). See \"Terminals\" in `NetRunner`"
    ],
    cgroup_path: [
      types: Map.new(@everywhere, &{&1, :binary}),
      default: nil,
      doc:
        "the control group (cgroups v2, Linux) below which the command runs, a relative path such as `\"job/123\"`: it " <>
          "gets a fresh group of its own there, from which nothing escapes, and which is gone afterwards, as are the " <>
          "levels of the path that were not there before. See \"Control groups\" in `NetRunner`"
    ],
    cgroup: [
      types: Map.new(@everywhere, &{&1, :cgroup_limits}),
      default: nil,
      doc:
        "limits of that group, a map or a keyword list: `:memory_max`, `:memory_high`, `:memory_swap_max` (bytes or " <>
          "`:infinity`), `:memory_oom_group` (a boolean), `:cpu_max` (`{quota, period}` in microseconds), " <>
          "`:cpu_weight`, `:io_weight` (1 to 10,000), `:pids_max` (or `:infinity`), `:cpuset_cpus` (`\"0-3,7\"`). One " <>
          "that cannot be had is an error, and the command does not run"
    ],
    success: [
      types: Map.new(@everywhere, &{&1, :statuses}),
      default: [0],
      doc: "statuses that are no failure where failures raise: a list of statuses and ranges, or `:any`"
    ],
    owner: [
      types: %{process: :owner},
      default: nil,
      default_doc: "the caller",
      doc: "the process whose death ends the command, a pid of this node, or `nil` for none"
    ],
    name: [
      types: %{process: :server_name, daemon: :server_name},
      default: nil,
      doc: "a name for the server, as in `GenServer.start_link/3`"
    ],
    on_output: [
      types: %{daemon: :on_output},
      default: :discard,
      doc:
        "what becomes of the output: `:discard`; `:log`; a function of a chunk; a function of `:stdout` or " <>
          "`:stderr` and a chunk; `{:send, pid}`, which gets `{daemon, {:stdout | :stderr, chunk}}`"
    ],
    log_level: [
      types: %{daemon: {:one_of, Logger.levels()}},
      default: :info,
      doc: "the level of the lines, with `on_output: :log`"
    ],
    log_prefix: [
      types: %{daemon: :string},
      default: "",
      doc: "what is put before each line, with `on_output: :log`"
    ],
    log_metadata: [
      types: %{daemon: :keywords},
      default: [],
      doc: "metadata of the lines, with `on_output: :log`"
    ],
    wait_for: [
      types: %{daemon: {:function, 0}},
      default: nil,
      doc:
        "a function that is called, every 50 ms, until it returns a true value; the command is started then. One " <>
          "that raises is called again"
    ],
    ready: [
      types: %{daemon: :ready},
      default: nil,
      doc:
        "when the command is ready: a function as for `:wait_for`; `{:tcp, host, port}`, when a connection to it " <>
          "is accepted; a regular expression, when the output, of which the last 64 KiB are looked at, matches it (stderr " <>
          "too, unless it goes elsewhere than to `:on_output`)"
    ],
    ready_timeout: [
      types: %{daemon: @ms_or_infinity},
      default: 30_000,
      doc: "milliseconds for `:wait_for`, and for `:ready`; then the start fails with `:ready_timeout`"
    ]
  ]

  @fields Keyword.keys(@schema)

  # The functions in which options are valid, and the options that are, as their types.
  @types Map.new(@everywhere, fn function ->
           {function, for({name, entry} <- @schema, type = entry[:types][function], do: {name, type})}
         end)

  @type_of Map.new(@types, fn {function, types} -> {function, Map.new(types)} end)

  @titles %{
    run: "NetRunner.run/2",
    capture: "NetRunner.capture/2",
    stream: "NetRunner.stream/2",
    process: "NetRunner.Process",
    daemon: "NetRunner.Daemon"
  }

  defstruct for {name, entry} <- @schema, do: {name, entry[:default]}

  @typedoc """
  The options of one command, checked. Options that are not valid in a function have their defaults, and
  `:owner` is the process that called `new/2`.
  """
  @type t :: %__MODULE__{
          input: nil | iodata() | {:file, binary()} | (Collectable.t() -> term()) | Enumerable.t(),
          timeout: timeout(),
          idle_timeout: timeout(),
          max_output_size: non_neg_integer() | :infinity,
          into: Collectable.t(),
          lines: nil | pos_integer(),
          stdout: :pipe | :disabled | elsewhere(),
          stderr: :consume | :capture | :stream | :pipe | :redirect | :disabled | elsewhere(),
          stderr_tail_bytes: non_neg_integer(),
          env: env(),
          cd: nil | binary(),
          umask: nil | 0..0o777,
          arg0: nil | binary(),
          nice: nil | -20..19,
          rlimits: [{name :: atom(), soft :: limit(), hard :: limit()}],
          user: nil | principal(),
          group: nil | principal(),
          groups: nil | [principal()],
          kill_timeout: non_neg_integer(),
          stop_signal: 1..31 | [1..31],
          leftovers: :kill | :keep,
          pty: nil | pty(),
          cgroup_path: nil | binary(),
          cgroup: nil | [{name :: atom(), value :: binary()}],
          success: [0..255 | Range.t()] | :any,
          owner: nil | pid(),
          name: nil | GenServer.name(),
          on_output: on_output(),
          log_level: Logger.level(),
          log_prefix: binary(),
          log_metadata: keyword(),
          wait_for: nil | (-> term()),
          ready: nil | (-> term()) | {:tcp, host(), :inet.port_number()} | Regex.t(),
          ready_timeout: timeout()
        }

  @type env :: [{binary(), binary() | nil}] | {:replace, [{binary(), binary() | nil}]}

  @typedoc "Output that does not come through the VM."
  @type elsewhere :: :inherit | {:file, binary()} | {:append, binary()}

  @typedoc "A terminal, as it is before anything runs on it."
  @type pty :: %{rows: 1..0xFFFF, cols: 1..0xFFFF, echo: boolean()}

  @typedoc "What becomes of a daemon's output."
  @type on_output ::
          :discard
          | :log
          | (binary() -> term())
          | (:stdout | :stderr, binary() -> term())
          | {:send, pid()}

  @typedoc "A name or an address."
  @type host :: :inet.socket_address() | :inet.hostname()

  @typedoc "A resource limit; `nil` is none."
  @type limit :: non_neg_integer() | nil

  @typedoc "A user or a group, by its name or number."
  @type principal :: binary() | non_neg_integer()

  @typedoc "The function that takes the options."
  @type function_name :: :run | :capture | :stream | :process | :daemon

  @doc """
  The options of a function, checked, defaults filled in. Must be called in the process of the caller, which
  is the default of `:owner`. Raises `ArgumentError`.

      iex> options = NetRunner.Options.new(:run, timeout: 1_000, stop_signal: :sigint)
      iex> {options.timeout, options.stop_signal, options.kill_timeout}
      {1_000, 2, 5_000}
      iex> NetRunner.Options.new(:run, stderr: :pipe)
      ** (ArgumentError) invalid value of the option :stderr of NetRunner.run/2.
      Expected: one of :consume, :capture, :redirect, :disabled, :inherit, {:file, path}, {:append, path}
      Got: :pipe
  """
  @spec new(function_name(), keyword()) :: t()
  def new(function, opts) when is_map_key(@type_of, function) do
    if not Keyword.keyword?(opts) do
      raise_error("invalid options of #{@titles[function]}", "a keyword list", opts)
    end

    types = Map.fetch!(@type_of, function)

    # From the back, so that of two values the first counts, as everywhere with keyword lists.
    List.foldr(opts, %__MODULE__{owner: self()}, fn {name, value}, options ->
      Map.replace!(options, name, cast!(function, types, name, value))
    end)
    |> default_stderr(function, opts)
    |> defaults_for_pty(opts)
    |> check_combinations!(function, opts)
  end

  @doc """
  The options of a command, and the command without those that are data or may hold secrets: what is left of it is
  put into errors, which are copied, kept and logged.

      iex> command = NetRunner.Command.new("cat", [], cd: "/", input: "secret")
      iex> {command, options} = NetRunner.Options.split(:run, command)
      iex> {command.opts, options.input, options.cd}
      {[cd: "/"], "secret", "/"}
  """
  @spec split(function_name(), Command.t()) :: {Command.t(), t()}
  def split(function, command),
    do: {%{command | opts: without_data(command.opts)}, new(function, command.opts)}

  @doc false
  @spec without_data(keyword()) :: keyword()
  def without_data(opts), do: Keyword.drop(opts, [:input, :into, :env])

  # Who is told which of the two it is, or writes a log, wants both. Many servers say on stderr that they are ready.
  defp default_stderr(%{on_output: on_output} = options, :daemon, opts) do
    wants_both? =
      on_output == :log or is_function(on_output, 2) or is_tuple(on_output) or
        (on_output == :discard and is_struct(options.ready, Regex) and
           not Keyword.has_key?(opts, :stderr_tail_bytes))

    if wants_both? and not Keyword.has_key?(opts, :stderr), do: %{options | stderr: :pipe}, else: options
  end

  defp default_stderr(options, _function, _opts), do: options

  # A terminal is all three of them. An interactive shell ignores SIGTERM; SIGHUP is what a terminal that goes away
  # says.
  defp defaults_for_pty(%{pty: nil} = options, _opts), do: options

  defp defaults_for_pty(options, opts) do
    for {name, value} <- [stderr: :redirect, stop_signal: [1, 15]],
        not Keyword.has_key?(opts, name),
        reduce: options,
        do: (options -> Map.replace!(options, name, value))
  end

  defp cast!(function, types, name, value) do
    case types do
      %{^name => type} ->
        case Type.cast(type, value) do
          {:ok, value} -> value
          :error -> invalid_value!(function, name, type, value)
        end

      _ ->
        unknown!(function, name)
    end
  end

  @doc """
  Whether a status is among the options' `:success`.

      iex> options = NetRunner.Options.new(:run, success: [0, 10..19])
      iex> NetRunner.Options.success?(options, 12)
      true
      iex> NetRunner.Options.success?(options, 1)
      false
  """
  @spec success?(t(), 0..255) :: boolean()
  def success?(%__MODULE__{success: :any}, _status), do: true

  def success?(%__MODULE__{success: statuses}, status) do
    Enum.any?(statuses, fn
      %Range{} = range -> status in range
      one -> one == status
    end)
  end

  @doc """
  The documentation of a function's options, a Markdown list.

      iex> NetRunner.Options.docs(:process) =~ "* `:kill_timeout` (default `5000`)"
      true
  """
  @spec docs(function_name()) :: String.t()
  def docs(function) do
    Enum.map_join(Map.fetch!(@types, function), "\n", fn {name, _type} ->
      "* `#{inspect(name)}`#{default_docs(@schema[name])}: #{@schema[name][:doc]}."
    end)
  end

  defp default_docs(entry) do
    case Keyword.get_lazy(entry, :default_doc, fn -> default_text(entry[:default]) end) do
      nil -> ""
      "the " <> _ = words -> " (default: #{words})"
      code -> " (default `#{code}`)"
    end
  end

  defp default_text(value) when value in [nil, []], do: nil
  defp default_text(value), do: inspect(value)

  # -- Combinations that mean nothing -----------------------------------------------------------------

  defp check_combinations!(options, _function, []), do: options

  defp check_combinations!(options, function, opts) do
    Enum.each(contradictions(options), fn {name, condition, reason} ->
      if condition and Keyword.has_key?(opts, name) do
        raise ArgumentError,
              "the option #{inspect(name)} of #{@titles[function]} means nothing here: #{reason}.\n" <>
                "Expected: it to be left out, or other options\nGot: #{inspect(without_data(opts))}"
      end
    end)

    options
  end

  # {option, it was given in vain, why}
  defp contradictions(options) do
    no_stdout = options.stdout != :pipe
    no_output = no_stdout and options.stderr not in [:consume, :capture, :stream]
    nothing_returned = no_stdout and options.stderr != :capture
    with_stdout = "with stdout: #{inspect(options.stdout)}"

    [
      {:stdout, options.pty != nil and no_stdout, "with :pty stdout is the terminal"},
      {:stderr, options.pty != nil and options.stderr != :redirect,
       "with :pty stderr is the terminal, as stdout is"},
      {:cgroup, options.cgroup_path == nil, "without :cgroup_path there is no group to limit"},
      {:into, no_stdout, "#{with_stdout} there is no output to collect"},
      {:lines, no_stdout and options.stderr != :stream, "#{with_stdout} there are no lines to deliver"},
      {:max_output_size, nothing_returned,
       "#{with_stdout} there is no output to limit#{limit_of_files(options.stdout)}"},
      {:idle_timeout, no_output,
       "#{with_stdout} and stderr: #{inspect(options.stderr)} no output is ever seen"},
      {:on_output, no_stdout and options.stderr != :pipe and options.on_output != :discard,
       "#{with_stdout} and stderr: #{inspect(options.stderr)} there is no output"},
      {:ready, is_struct(options.ready, Regex) and no_stdout and options.stderr != :pipe,
       "#{with_stdout} and stderr: #{inspect(options.stderr)} there is no output that could match"},
      {:ready_timeout, options.ready == nil and options.wait_for == nil,
       "without :ready and :wait_for nothing is waited for"},
      {:log_level, options.on_output != :log, "without on_output: :log nothing is logged"},
      {:log_prefix, options.on_output != :log, "without on_output: :log nothing is logged"},
      {:log_metadata, options.on_output != :log, "without on_output: :log nothing is logged"},
      {:stderr_tail_bytes, options.stderr not in [:consume, :capture, :stream],
       "with stderr: #{inspect(options.stderr)} nothing of stderr is kept"}
    ]
  end

  defp limit_of_files({_file_or_append, _path}),
    do: " (the size of a file is limited by rlimits: [fsize: bytes])"

  defp limit_of_files(_other), do: ""

  # -- Errors -----------------------------------------------------------------------------------------

  @spec invalid_value!(function_name(), atom(), Type.t(), term()) :: no_return()
  defp invalid_value!(function, name, type, value) do
    raise_error(
      "invalid value of the option #{inspect(name)} of #{@titles[function]}",
      Type.expected(type),
      Type.wrong(type, value)
    )
  end

  @spec unknown!(function_name(), atom()) :: no_return()
  defp unknown!(function, name) do
    allowed = @types |> Map.fetch!(function) |> Keyword.keys()

    elsewhere =
      if name in @fields do
        functions = for other <- @everywhere, is_map_key(@type_of[other], name), do: @titles[other]
        " (it is one of #{Enum.join(functions, ", ")})"
      end

    raise_error(
      "#{inspect(name)} is not an option of #{@titles[function]}#{elsewhere}",
      Type.expected({:one_of, allowed}),
      name
    )
  end

  @spec raise_error(String.t(), String.t(), term()) :: no_return()
  defp raise_error(what, expected, got) do
    raise ArgumentError, "#{what}.\nExpected: #{expected}\nGot: #{inspect(got)}"
  end
end
