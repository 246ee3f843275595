# A dialogue: one resident command answers many questions. Here a shell does sums, one line for each question.
#
#     mix run examples/worker.exs '6 * 7' '2 + 2'

alias NetRunner.Process, as: Proc

{:ok, worker} = Proc.start("sh", ["-c", "while read -r question; do echo $(($question)); done"])

# An answer is a line; it may come in several pieces.
defmodule Answer do
  def read(worker, so_far \\ "") do
    case String.split(so_far, "\n", parts: 2) do
      [line, ""] -> line
      [part] -> with {:ok, more} <- Proc.read(worker), do: read(worker, part <> more)
    end
  end
end

for question <- System.argv() do
  :ok = Proc.write(worker, [question, "\n"])
  IO.puts("#{question} = #{Answer.read(worker)}")
end

:ok = Proc.close_stdin(worker)
{:ok, 0} = Proc.await_exit(worker)
:ok = Proc.stop(worker)
