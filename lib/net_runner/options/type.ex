defmodule NetRunner.Options.Type do
  @moduledoc false
  # What values an option takes. `cast/2` is the only door: it returns the value in the form in which the rest
  # of NetRunner has it (a signal as its number, an environment as a list), or :error; `expected/1` says in
  # words what would have been right. A new type is one clause of each.

  alias NetRunner.Cgroup.Limits
  alias NetRunner.Signal

  @type t ::
          {:integer, Range.t(), unit :: String.t()}
          | {:one_of, [atom()]}
          | {:or, t(), atom()}
          | {:output, [atom()]}
          | :input
          | :environment
          | :path
          | :c_string
          | :owner
          | :server_name
          | :signal
          | :statuses
          | :collectable
          | :on_output
          | :string
          | :keywords
          | :ready
          | {:function, arity()}
          | :rlimits
          | :principal
          | :principals
          | :pty
          | :binary
          | :cgroup_limits

  # getrlimit(2), without RLIMIT_.
  @resources ~w(as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack)a

  # The highest number means "no limit" to the system.
  @highest_limit 0xFFFF_FFFF_FFFF_FFFE

  # And this one "unchanged", see setresuid(2).
  @highest_id 0xFFFF_FFFE

  # Rows and columns; 0 is "not known" to the system.
  @window 1..0xFFFF

  @spec cast(t(), term()) :: {:ok, term()} | :error
  def cast({:integer, range, _unit}, value) when is_integer(value) do
    if value in range, do: {:ok, value}, else: :error
  end

  def cast({:one_of, values}, value) do
    if value in values, do: {:ok, value}, else: :error
  end

  def cast({:or, _type, atom}, atom), do: {:ok, atom}
  def cast({:or, type, _atom}, value), do: cast(type, value)

  def cast({:output, _atoms}, {how, path}) when how in [:file, :append] do
    with {:ok, path} <- cast(:path, path), do: {:ok, {how, path}}
  end

  def cast({:output, atoms}, value), do: cast({:one_of, atoms}, value)

  def cast(:input, {:file, path}) do
    with {:ok, path} <- cast(:path, path), do: {:ok, {:file, path}}
  end

  def cast(:input, binary) when is_binary(binary), do: {:ok, binary}
  def cast(:input, list) when is_list(list), do: {:ok, list}
  def cast(:input, function) when is_function(function, 1), do: {:ok, function}
  # Enumerable is implemented for every function, but works for those of two arguments only.
  def cast(:input, function) when is_function(function) and not is_function(function, 2), do: :error

  def cast(:input, value) do
    if Enumerable.impl_for(value), do: {:ok, value}, else: :error
  end

  def cast(:environment, {:replace, env}) do
    with {:ok, env} <- cast_variables(env), do: {:ok, {:replace, env}}
  end

  def cast(:environment, env), do: cast_variables(env)

  def cast(:path, ""), do: :error
  def cast(:path, path), do: cast(:c_string, path)

  def cast(:c_string, value) when is_binary(value) do
    if contains?(value, <<0>>), do: :error, else: {:ok, value}
  end

  def cast(:owner, nil), do: {:ok, nil}
  def cast(:owner, pid) when is_pid(pid) and node(pid) == node(), do: {:ok, pid}

  def cast(:server_name, name) when is_atom(name) and name not in [nil, true, false, :undefined],
    do: {:ok, name}

  def cast(:server_name, {:global, _term} = name), do: {:ok, name}
  def cast(:server_name, {:via, module, _term} = name) when is_atom(module), do: {:ok, name}

  def cast(:signal, signal) do
    with {:error, :unknown_signal} <- Signal.resolve(signal), do: :error
  end

  def cast(:statuses, :any), do: {:ok, :any}

  def cast(:statuses, statuses) when is_list(statuses) do
    if proper?(statuses) and Enum.all?(statuses, &statuses?/1), do: {:ok, statuses}, else: :error
  end

  def cast(:collectable, value) do
    if Collectable.impl_for(value), do: {:ok, value}, else: :error
  end

  def cast(:rlimits, rlimits) do
    if Keyword.keyword?(rlimits) and Enum.all?(rlimits, &rlimit?/1) do
      # Of two values of one the first counts, as everywhere with keyword lists.
      {:ok, for({name, limit} <- Enum.uniq_by(rlimits, &elem(&1, 0)), do: rlimit(name, limit))}
    else
      :error
    end
  end

  def cast(:principal, number) when is_integer(number) and number in 0..@highest_id, do: {:ok, number}
  def cast(:principal, name) when is_binary(name) and name != "", do: cast(:c_string, name)

  def cast(:principals, list) when is_list(list) do
    if proper?(list) and Enum.all?(list, &(cast(:principal, &1) != :error)), do: {:ok, list}, else: :error
  end

  def cast(:pty, false), do: {:ok, nil}
  def cast(:pty, true), do: cast(:pty, [])

  def cast(:pty, options) when is_list(options) do
    with true <- Keyword.keyword?(options),
         # Of two values of one the first counts.
         %{rows: rows, cols: cols, echo: echo} = pty when map_size(pty) == 3 <-
           options |> Enum.reverse() |> Enum.into(%{rows: 24, cols: 80, echo: true}),
         true <- rows in @window and cols in @window and is_boolean(echo) do
      {:ok, pty}
    else
      _other -> :error
    end
  end

  def cast(:binary, value) when is_binary(value), do: {:ok, value}
  def cast(:cgroup_limits, limits), do: Limits.cast(limits)

  def cast({:function, arity}, value) when is_function(value, arity), do: {:ok, value}

  def cast(:on_output, value) when value in [:discard, :log], do: {:ok, value}
  def cast(:on_output, value) when is_function(value, 1) or is_function(value, 2), do: {:ok, value}
  def cast(:on_output, {:send, pid} = value) when is_pid(pid) and node(pid) == node(), do: {:ok, value}

  def cast(:string, value) when is_binary(value) do
    if String.valid?(value), do: {:ok, value}, else: :error
  end

  def cast(:keywords, value) when is_list(value) do
    if Keyword.keyword?(value), do: {:ok, value}, else: :error
  end

  def cast(:ready, %Regex{} = pattern), do: {:ok, pattern}
  def cast(:ready, function) when is_function(function, 0), do: {:ok, function}

  def cast(:ready, {:tcp, host, port}) when is_integer(port) and port in 1..65_535 do
    # As gen_tcp has it.
    if is_binary(host), do: {:ok, {:tcp, String.to_charlist(host), port}}, else: cast_host(host, port)
  end

  def cast(_type, _value), do: :error

  defp cast_host(host, port) when is_tuple(host) or is_atom(host) or is_list(host),
    do: {:ok, {:tcp, host, port}}

  defp cast_host(_host, _port), do: :error

  @spec expected(t()) :: String.t()
  def expected({:integer, first..last//_, unit}), do: "#{unit}, an integer from #{first} to #{last}"
  def expected({:one_of, values}), do: "one of " <> Enum.map_join(values, ", ", &inspect/1)
  def expected({:or, type, atom}), do: expected(type) <> ", or " <> inspect(atom)

  def expected({:output, atoms}), do: expected({:one_of, atoms}) <> ", {:file, path}, {:append, path}"

  def expected(:input),
    do: "iodata, an enumerable of iodata, {:file, path}, or a function of one argument, a collectable"

  def expected(:environment) do
    "a map or list of {name, value}, or {:replace, map or list}; names are non-empty binaries without \"=\" " <>
      "or NUL bytes, values are binaries without NUL bytes, or nil"
  end

  def expected(:path), do: "a path, a non-empty binary without NUL bytes"
  def expected(:c_string), do: "a binary without NUL bytes"
  def expected(:owner), do: "the pid of a process of this node, or nil"
  def expected(:server_name), do: "an atom, {:global, term} or {:via, module, term}"
  def expected(:signal), do: Signal.expected()
  def expected(:statuses), do: "a list of statuses and ranges of them, from 0 to 255, or :any"
  def expected(:collectable), do: "a value that implements Collectable"
  def expected({:function, arity}), do: "a function of #{arity} arguments"

  def expected(:on_output),
    do:
      ":discard, :log, a function of one argument or of two, or {:send, pid} with the pid of a local process"

  def expected(:pty),
    do: "a boolean, or a keyword list of :rows and :cols, integers from 1 to 65535, and :echo, a boolean"

  def expected(:binary), do: "a binary"
  def expected(:cgroup_limits), do: Limits.expected()
  def expected(:string), do: "a string"
  def expected(:keywords), do: "a keyword list"
  def expected(:ready), do: "a function of no arguments, {:tcp, host, port}, or a regular expression"

  def expected(:rlimits) do
    "a keyword list of #{Enum.map_join(@resources, ", ", &inspect/1)}, each with a limit, a non-negative integer " <>
      "or :infinity, or with {soft, hard}, where soft is not above hard"
  end

  def expected(:principal),
    do: "a name, a non-empty binary without NUL bytes, or a number from 0 to #{@highest_id}"

  def expected(:principals), do: "a list, each " <> expected(:principal)

  @doc "What is wrong in a value that is of another type: of an environment only those variables, for others may be secrets."
  @spec wrong(t(), term()) :: term()
  def wrong(:environment, {:replace, env}) when is_map(env) or is_list(env), do: wrong(:environment, env)

  def wrong(:environment, env) when is_map(env) and not is_struct(env),
    do: wrong(:environment, Map.to_list(env))

  def wrong(:environment, env) when is_list(env),
    do: if(proper?(env), do: Enum.reject(env, &variable?/1), else: "an improper list")

  def wrong(_type, value), do: value

  defp cast_variables(env) when is_map(env) and not is_struct(env), do: cast_variables(Map.to_list(env))

  defp cast_variables(env) when is_list(env) do
    if proper?(env) and Enum.all?(env, &variable?/1), do: {:ok, env}, else: :error
  end

  defp cast_variables(_env), do: :error

  # setenv(3): a name is not empty and contains no "=".
  defp variable?({name, value}) when is_binary(name) and name != "" do
    not contains?(name, ["=", <<0>>]) and
      (value == nil or (is_binary(value) and not contains?(value, <<0>>)))
  end

  defp variable?(_other), do: false

  defp statuses?(status) when is_integer(status), do: status in 0..255
  defp statuses?(first..last//_), do: first in 0..255 and last in 0..255
  defp statuses?(_other), do: false

  defp rlimit?({name, {soft, hard}}) when name in @resources do
    # A number is less than :infinity.
    limit?(soft) and limit?(hard) and soft <= hard
  end

  defp rlimit?({name, limit}), do: name in @resources and limit?(limit)

  defp limit?(limit), do: limit == :infinity or (is_integer(limit) and limit in 0..@highest_limit)

  defp rlimit(name, {soft, hard}), do: {name, number(soft), number(hard)}
  defp rlimit(name, limit), do: rlimit(name, {limit, limit})

  defp number(:infinity), do: nil
  defp number(limit), do: limit

  defp proper?(list), do: not List.improper?(list)

  defp contains?(binary, pattern), do: :binary.match(binary, pattern) != :nomatch
end
