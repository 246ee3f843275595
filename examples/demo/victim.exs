# The VM that bin/demo kills: it starts commands that do not want to end, and waits.

{:ok, _} = Application.ensure_all_started(:net_runner)

commands = [
  # Ignores SIGTERM, and so do its two children.
  "trap '' TERM; sleep 1000 & sleep 1000 & wait",
  # A child and a grandchild in sessions of their own, out of reach of the process group.
  "trap '' TERM; setsid sh -c 'setsid sleep 1000 & sleep 1000' & wait",
  # A daemon: its parent has exited.
  "(setsid sleep 1000 </dev/null >/dev/null 2>&1 &); exec sleep 1000",
  # Stopped: it cannot act on any signal but SIGKILL and SIGCONT.
  "kill -STOP $$"
]

for command <- commands do
  {:ok, _} = NetRunner.Process.start("sh", ["-c", command], kill_timeout: 1_000)
end

Process.sleep(:infinity)
