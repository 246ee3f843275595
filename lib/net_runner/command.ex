defmodule NetRunner.Command do
  @moduledoc """
  A command as a value: an executable, arguments and options, to be run later, once or often.

  Every function that takes a command takes a list `[executable | arguments]` or one of these:

      iex> NetRunner.Command.new("echo", ["hello"])
      %NetRunner.Command{executable: "echo", args: ["hello"], opts: []}

  The options of a command are those of the function that it is given to; where both have an option, the one
  given to the function wins. The function's `:args` are appended to the command's.

  ## Modules of commands

      defmodule Git do
        use NetRunner.Command

        defcommand :status, "git", ["status", "--porcelain"]
        defcommand :fetch, "git", args: ["fetch"], timeout: 60_000
      end

  defines `Git.status/0`, `Git.status/1`, `Git.fetch/0` and `Git.fetch/1`, which make commands:

      NetRunner.run!(Git.status())
      NetRunner.run!(Git.status(["--branch"]))
      NetRunner.run!(Git.fetch(args: ["--all"], timeout: 300_000))

  ## Commands that cannot be

  What makes a command impossible is returned as a value, `{:error, {:invalid_cmd, why}}` or
  `{:error, {:invalid_args, why}}`, since commands are often made of data:

  | reason | |
  | --- | --- |
  | `{:invalid_cmd, :empty}` | the list is empty |
  | `{:invalid_cmd, :not_a_list}` | neither a list nor a `NetRunner.Command` |
  | `{:invalid_cmd, :not_a_binary}` | the executable is not a binary |
  | `{:invalid_cmd, :empty_executable}` | the executable is `""` |
  | `{:invalid_cmd, :nul_byte}` | the executable contains a NUL byte, which ends a string for the system |
  | `{:invalid_args, :not_a_list}` | the arguments are not a (proper) list |
  | `{:invalid_args, :not_a_binary}` | an argument is not a binary |
  | `{:invalid_args, :nul_byte}` | an argument contains a NUL byte |
  """

  @enforce_keys [:executable]
  defstruct [:executable, args: [], opts: []]

  @typedoc "An executable (a name looked up in `PATH`, or a path), its arguments, and options."
  @type t :: %__MODULE__{executable: binary(), args: [binary()], opts: keyword()}

  @typedoc "Why a command or its arguments cannot be; see \"Commands that cannot be\" above."
  @type why :: :empty | :not_a_list | :not_a_binary | :empty_executable | :nul_byte

  @type invalid :: {:invalid_cmd, why()} | {:invalid_args, why()}

  @doc """
  A command. Nothing is checked before it is run.

      iex> NetRunner.Command.new("sleep", ["60"], timeout: 1_000)
      %NetRunner.Command{executable: "sleep", args: ["60"], opts: [timeout: 1_000]}
  """
  @spec new(binary(), [binary()], keyword()) :: t()
  def new(executable, args \\ [], opts \\ []) do
    %__MODULE__{executable: executable, args: args, opts: opts}
  end

  @doc """
  What is given where a command is expected, as a command.

      iex> NetRunner.Command.to_command(["echo", "hello"])
      {:ok, %NetRunner.Command{executable: "echo", args: ["hello"]}}
      iex> NetRunner.Command.to_command([])
      {:error, {:invalid_cmd, :empty}}
      iex> NetRunner.Command.to_command("echo hello")
      {:error, {:invalid_cmd, :not_a_list}}
  """
  @spec to_command([binary()] | t()) :: {:ok, t()} | {:error, {:invalid_cmd, why()}}
  def to_command(%__MODULE__{} = command), do: {:ok, command}
  def to_command([executable | args]), do: {:ok, new(executable, args)}
  def to_command([]), do: {:error, {:invalid_cmd, :empty}}
  def to_command(_other), do: {:error, {:invalid_cmd, :not_a_list}}

  @doc """
  A command with more arguments, or with other options, or with both.

  A keyword list is options: they replace those of the same name, except `:args`, which are appended to the
  arguments. Any other list is arguments, to be appended.

      iex> ls = NetRunner.Command.new("ls", ["-l"], timeout: 1_000)
      iex> NetRunner.Command.extend(ls, ["/tmp"])
      %NetRunner.Command{executable: "ls", args: ["-l", "/tmp"], opts: [timeout: 1_000]}
      iex> NetRunner.Command.extend(ls, args: ["/tmp"], timeout: 5_000)
      %NetRunner.Command{executable: "ls", args: ["-l", "/tmp"], opts: [timeout: 5_000]}
  """
  @spec extend(t(), [binary()] | keyword()) :: t()
  def extend(%__MODULE__{} = command, args_or_opts) do
    if Keyword.keyword?(args_or_opts) do
      {more, opts} = Keyword.pop(args_or_opts, :args, [])
      %{append(command, more) | opts: Keyword.merge(options!(command.opts), opts)}
    else
      append(command, args_or_opts)
    end
  end

  # What is not a proper list stays so, for validate/1 to find.
  defp append(command, []), do: command

  defp append(%{args: args} = command, more) do
    if is_list(args) and not List.improper?(args), do: %{command | args: args ++ more}, else: command
  end

  @doc """
  Whether a command can be handed to the system.

      iex> NetRunner.Command.validate(NetRunner.Command.new("echo", ["hello"]))
      {:ok, %NetRunner.Command{executable: "echo", args: ["hello"]}}
      iex> NetRunner.Command.validate(NetRunner.Command.new(""))
      {:error, {:invalid_cmd, :empty_executable}}
      iex> NetRunner.Command.validate(NetRunner.Command.new("echo", [:hello]))
      {:error, {:invalid_args, :not_a_binary}}
      iex> NetRunner.Command.validate(NetRunner.Command.new("echo", ["a\\0b"]))
      {:error, {:invalid_args, :nul_byte}}
  """
  @spec validate(t()) :: {:ok, t()} | {:error, invalid()}
  def validate(%__MODULE__{} = command) do
    with :ok <- validate_executable(command.executable),
         :ok <- validate_args(command.args) do
      {:ok, command}
    end
  end

  @doc """
  A command that can be run, from what a caller gave as command and options: `to_command/1`, `extend/2` and
  `validate/1`. The options are in the command's `:opts`, not yet validated. Raises `ArgumentError` when
  `opts` is not a keyword list.

      iex> NetRunner.Command.prepare(["ls", "-l"], args: ["/tmp"], timeout: 1_000)
      {:ok, %NetRunner.Command{executable: "ls", args: ["-l", "/tmp"], opts: [timeout: 1_000]}}
      iex> NetRunner.Command.prepare([], [])
      {:error, {:invalid_cmd, :empty}}
  """
  @spec prepare([binary()] | t(), keyword()) :: {:ok, t()} | {:error, invalid()}
  def prepare(cmd, opts) do
    opts = options!(opts)
    with {:ok, command} <- to_command(cmd), do: command |> extend(opts) |> validate()
  end

  defp options!(opts) do
    if Keyword.keyword?(opts),
      do: opts,
      else: raise(ArgumentError, "invalid options.\nExpected: a keyword list\nGot: #{inspect(opts)}")
  end

  defp validate_executable(""), do: {:error, {:invalid_cmd, :empty_executable}}

  defp validate_executable(executable) when is_binary(executable) do
    if nul?(executable), do: {:error, {:invalid_cmd, :nul_byte}}, else: :ok
  end

  defp validate_executable(_other), do: {:error, {:invalid_cmd, :not_a_binary}}

  defp validate_args([]), do: :ok

  defp validate_args([arg | rest]) when is_binary(arg) do
    if nul?(arg), do: {:error, {:invalid_args, :nul_byte}}, else: validate_args(rest)
  end

  defp validate_args([_other | _rest]), do: {:error, {:invalid_args, :not_a_binary}}
  defp validate_args(_improper), do: {:error, {:invalid_args, :not_a_list}}

  defp nul?(binary), do: :binary.match(binary, <<0>>) != :nomatch

  @doc false
  defmacro __using__(_options) do
    quote do
      import NetRunner.Command, only: [defcommand: 2, defcommand: 3]
      Module.register_attribute(__MODULE__, :net_runner_commands, accumulate: true)
      @before_compile NetRunner.Command
    end
  end

  @doc false
  defmacro __before_compile__(env) do
    names = env.module |> Module.get_attribute(:net_runner_commands) |> Enum.reverse()
    commands = for name <- names, do: {name, quote(do: unquote(name)())}

    quote do
      @doc false
      @spec __commands__() :: [{atom(), NetRunner.Command.t()}]
      def __commands__, do: unquote(commands)
    end
  end

  @doc """
  Defines `name/0` and `name/1` in a module that says `use NetRunner.Command`.

  `args_or_opts` are the arguments that every such command has, or a keyword list of options, with the
  arguments as `:args`. What is given to `name/1` comes on top, by the rules of `extend/2`. The expressions are
  evaluated each time a command is made. `__commands__/0` returns all commands of the module by name, in the
  order of their definitions.

      iex> defmodule Archive do
      ...>   use NetRunner.Command
      ...>   @doc "Lists the files of an archive."
      ...>   defcommand :list, "tar", ["--list", "--file"]
      ...>   defcommand :version, "tar", args: ["--version"], timeout: 1_000
      ...> end
      iex> Archive.list(["backup.tar"])
      %NetRunner.Command{executable: "tar", args: ["--list", "--file", "backup.tar"], opts: []}
      iex> Archive.version(timeout: 500)
      %NetRunner.Command{executable: "tar", args: ["--version"], opts: [timeout: 500]}
      iex> Keyword.keys(Archive.__commands__())
      [:list, :version]
  """
  defmacro defcommand(name, executable, args_or_opts \\ []) do
    if not is_atom(name) do
      raise ArgumentError,
            "invalid name of a command.\nExpected: an atom, as in `defcommand :status, \"git\", [\"status\"]`\n" <>
              "Got: #{Macro.to_string(name)}"
    end

    quote do
      @net_runner_commands unquote(name)

      @spec unquote(name)([binary()] | keyword()) :: NetRunner.Command.t()
      def unquote(name)(args_or_opts \\ []) do
        unquote(executable)
        |> NetRunner.Command.new()
        |> NetRunner.Command.extend(unquote(args_or_opts))
        |> NetRunner.Command.extend(args_or_opts)
      end
    end
  end
end
