# A directory as a compressed archive, with its SHA-256 computed on the way.
#
#     mix run examples/backup.exs docs /tmp/docs.tar.gz
#
# tar and gzip run at the same time; what they make goes through this process in pieces. When either of them
# fails, NetRunner.Stream.AbnormalExit is raised with what it said, and the other one is ended.

# OTP's, but no part of NetRunner.
Mix.ensure_application!(:crypto)

{from, to} =
  case System.argv() do
    [from, to] -> {from, to}
    _ -> raise "usage: mix run examples/backup.exs DIRECTORY ARCHIVE.tar.gz"
  end

hash =
  NetRunner.stream!(["tar", "-cf", "-", "-C", Path.dirname(from), Path.basename(from)])
  |> NetRunner.stream!(~w(gzip -c))
  |> Stream.into(File.stream!(to))
  |> Enum.reduce(:crypto.hash_init(:sha256), &:crypto.hash_update(&2, &1))
  |> :crypto.hash_final()
  |> Base.encode16(case: :lower)

# Is it whole? gzip reads it again; run! raises if it is not.
NetRunner.run!(["gzip", "-t", to], timeout: 60_000)

IO.puts("#{hash}  #{to}")
