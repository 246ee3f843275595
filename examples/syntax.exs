# The same command for many files, some at a time, each with a time limit: here, is this a correct shell script?
#
#     mix run examples/syntax.exs bin/setup bin/test
#
# However a check ends, nothing of it is left afterwards.

check = fn file ->
  case NetRunner.run(["sh", "-n", file], timeout: 5_000, kill_timeout: 500, stderr: :capture) do
    {_output, 0, _stderr} -> "correct"
    {_output, _status, stderr} -> String.trim(stderr)
    {:error, :timeout} -> "no answer within 5 s"
    {:error, reason} -> Exception.message(%NetRunner.Error{reason: reason})
  end
end

System.argv()
|> Task.async_stream(&{&1, check.(&1)}, timeout: :infinity)
|> Enum.each(fn {:ok, {file, answer}} -> IO.puts("#{file}: #{answer}") end)
