defmodule NetRunner.Input do
  @moduledoc false
  # The part of a command's input that its caller writes by itself, without running the user's code: binaries, and
  # then, where there is one, an open file. Everything else is a source for NetRunner.Writer.
  #
  # Who got an input from prepare/1 closes it, or writes until it is `:done`.

  alias NetRunner.{Nif, Writer}

  @type t :: {[binary()], :file.fd() | nil}

  # How much of a file is read at a time. Each read is a trip to a dirty scheduler, so it is more than fits a pipe.
  @file_read 262_144

  @doc "The option `:input` as what the caller writes, or as a source for a writer, or neither."
  @spec prepare(term()) :: {:ok, t() | nil, Writer.source() | nil} | {:error, {:input, atom()}}
  def prepare(nil), do: {:ok, nil, nil}
  def prepare(binary) when is_binary(binary), do: {:ok, {[binary], nil}, nil}

  def prepare(list) when is_list(list) do
    {:ok, {:erlang.iolist_to_iovec(list), nil}, nil}
  rescue
    ArgumentError ->
      reraise ArgumentError,
              "invalid value of the option :input.\nExpected: a list of iodata\nGot: #{inspect(list)}",
              __STACKTRACE__
  end

  def prepare({:file, path}) do
    with :ok <- never_blocks(path),
         {:ok, file} <- :file.open(path, [:read, :raw, :binary]) do
      {:ok, {[], file}, nil}
    else
      {:error, posix} -> {:error, {:input, posix}}
    end
  end

  def prepare(source), do: {:ok, nil, source}

  # Opening or reading a FIFO waits for a writer, with no regard to time limits, and on a thread that all file
  # I/O of the VM shares.
  defp never_blocks(path) do
    case :file.read_file_info(path) do
      {:ok, info} -> if elem(info, 2) == :other, do: {:error, :enotsup}, else: :ok
      {:error, posix} -> {:error, posix}
    end
  end

  @doc """
  Writes one piece. `:more`: to be called again; `:wait`: to be called again after the message of `Nif.wait/3`.
  At `:done` there is nothing more to write, or nobody who reads. After an error of the file, and of a line
  that is too long for a terminal, too, the input is closed; the command must not take that for the end of its input.
  """
  @spec write(t(), Nif.pipe()) :: {:more, t()} | {:wait, t()} | :done | {:error, {:input, atom()}}
  def write({[], nil}, _pipe), do: :done

  def write({[], file}, pipe) do
    case :file.read(file, @file_read) do
      {:ok, data} ->
        write({[data], file}, pipe)

      :eof ->
        close({[], file})
        :done

      {:error, posix} ->
        close({[], file})
        {:error, {:input, posix}}
    end
  end

  def write({data, file}, pipe) do
    case Nif.write(pipe, data) do
      :ok ->
        {:more, {[], file}}

      {:wait, rest} ->
        {:wait, {rest, file}}

      {:again, rest} ->
        {:more, {rest, file}}

      {:error, :line_too_long} ->
        close({[], file})
        {:error, {:input, :line_too_long}}

      # Nobody reads any more, which is the command's good right.
      {:error, _reason} ->
        close({[], file})
        :done
    end
  end

  @spec close(t() | nil) :: :ok
  def close({_data, file}) when file != nil do
    _ = :file.close(file)
    :ok
  end

  def close(_no_file), do: :ok
end
