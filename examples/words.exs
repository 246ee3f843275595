# The most frequent words of some files: a pipeline of system commands, fed by an Elixir stream.
#
#     mix run examples/words.exs README.md docs/*.md
#
# Five processes run at the same time, and no file is ever in memory as a whole.

files = System.argv()
if files == [], do: raise("usage: mix run examples/words.exs FILE…")

files
|> Stream.flat_map(&File.stream!(&1, 65_536))
|> NetRunner.stream!(~w(tr A-Z a-z))
|> NetRunner.stream!(["tr", "-cs", "a-z", "\\n"])
|> NetRunner.stream!(~w(sort), env: %{"LC_ALL" => "C"})
|> NetRunner.stream!(~w(uniq -c))
|> NetRunner.stream!(~w(sort -k1,1nr -k2), env: %{"LC_ALL" => "C"})
|> NetRunner.stream!(~w(head -n 10))
|> Enum.each(&IO.write/1)
