#!/usr/bin/env bash
# cgroup2_vm.sh COMMAND [ARGUMENT…]: runs a command on a Linux kernel of its own, which has nothing but cgroup v2, with the
# controllers cpu, io, memory and pids. What this machine has for cgroups does not matter, and no privilege is needed:
# the kernel is Debian's User-Mode Linux, an ordinary process.
#
# The guest sees this machine's files read-only, below an overlay in its memory: it may write anywhere, and nothing of
# it gets here. The command runs as the guest's root, in this directory and with this environment, and its stdout and
# stderr come out at stdout. The status is the command's, or
#   124  the guest has ended without the command's status: a panic, or the time was up
#   125  the guest has not come up, or its two packages cannot be had
#
#   cgroup2_vm.sh --setup        only fetches the packages, with apt as it is configured; nothing is installed
#
# CGROUP2_VM_SECONDS=600 is what the command may take. It is slow there: one processor, every system call traced by ptrace(2).
# What the kernel does not have: the controller cpuset, pressure stall information, /proc/PID/task/TID/children.
#
# However this script ends, also by SIGKILL, all of the guest ends with it.
set -euo pipefail

say() { printf 'cgroup2_vm: %s\n' "$*" >&2; }

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/net_runner/user-mode-linux
mebibytes=1024

# Bookworm's kernel, 6.1: that of trixie, 6.12, panics when cgroup.kill meets a process inside fork(2).
setup() (
  [ ! -e "$cache" ] || exit 0
  mkdir -p "$(dirname "$cache")" && new=$(mktemp -d "$cache.XXXXXX") && cd "$new" || exit
  trap 'rm -rf "$new"' EXIT
  apt-get download -qq user-mode-linux/bookworm busybox-static/bookworm </dev/null 2>apt.log ||
    { cat apt.log >&2; exit 1; }
  mkdir initrd initrd/bin &&
    dpkg-deb --fsys-tarfile user-mode-linux_*.deb | tar -x --wildcards ./usr/bin/linux.uml '*/overlay.ko' &&
    dpkg-deb --fsys-tarfile busybox-static_*.deb | tar -xO --wildcards '*bin/busybox' >initrd/bin/busybox &&
    chmod 755 . initrd/bin/busybox && mv usr/bin/linux.uml . && mv "$(find usr -name overlay.ko)" initrd/ || exit
  rm -rf ./*.deb usr apt.log
  # Whole or not at all; somebody else may have been faster.
  mv -T "$new" "$cache" 2>/dev/null || [ -e "$cache" ]
)

# The guest's memory is a file, mapped executable: /dev/shm where that is large enough, and not a container's.
memory_directory() {
  local free
  free=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
  if [ "${free:-0}" -gt $((mebibytes * 1024)) ] && ! grep -q ' /dev/shm [^ ]*noexec' /proc/self/mountinfo; then
    echo /dev/shm
  else
    echo "$1"
  fi
}

# In a session of its own, so that what ends the script and its group does not end this: runs the guest until that
# ends, the time is up, or the script at the other end of stdin has ended. Then nothing of the guest is left, nor its directory.
guard() {
  local work=$1 processors processor guest
  trap '' HUP INT QUIT TERM
  exec 3<&0 2>>"$work/log"
  # ptrace(2) between two processors is slower.
  processors=$(awk '/^Cpus_allowed_list/ { print $2 }' /proc/self/status)
  processor=${processors##*[,-]}
  TMPDIR=$(memory_directory "$work") taskset -c "$processor" "$cache/linux.uml" mem="${mebibytes}M" \
    initrd="$work/initrd" uml_dir="$work" umid=guest quiet con=null con0=null,fd:1 ssl=null ssl0=null,fd:7 ssl1=null,fd:8 \
    work="$work" </dev/null >>"$work/log" 3<&- 7>"$work/output" 8>"$work/said" &
  guest=$!
  timeout --foreground "${CGROUP2_VM_SECONDS:-600}" cat <&3 >/dev/null 2>&1 &
  wait -n || true
  # The kernel is the leader of a session, once it runs; its helpers outlive it.
  kill -KILL "$guest" "-$guest" 2>/dev/null || true
  wait "$guest" || true
  # The script may want to read the log.
  cat <&3 >/dev/null
  rm -rf "$work"
}

if [ "${1:-}" = --guard ]; then
  guard "$2"
  exit 0
fi

[ $# -gt 0 ] || { sed -n '2,/^set/{/^#/p}' "$0" >&2; exit 2; }
setup || { say "user-mode-linux and busybox-static of Debian bookworm cannot be had from apt"; exit 125; }
[ "$1" != --setup ] || exit 0

script=$(realpath "$0")
work=$(mktemp -d "${TMPDIR:-/tmp}/cgroup2_vm.XXXXXX")
trap 'rm -rf "$work"' EXIT
{
  export -p
  printf 'cd %q\nexec' "$PWD"
  printf ' %q' "$@"
} >"$work/command"
cp -R "$cache/initrd" "$work/root"
cp "$(dirname "$script")/cgroup2_vm_init.sh" "$work/root/init"
chmod 755 "$work/root/init"
(cd "$work/root" && find . | ./bin/busybox cpio -o -H newc 2>/dev/null) >"$work/initrd"
mkfifo "$work/output" "$work/said"

exec 3> >(exec setsid bash "$script" --guard "$work" >/dev/null)
guard=$!
trap 'exec 3>&-; wait "$guard" || true' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
cat "$work/output" 3>&- &
output=$!
exec 4<"$work/said"

status=125
if read -r -t 60 _started <&4; then
  read -r status <&4 || status=124
  # It powers itself off, and so reaps its helpers.
  read -r -t 20 _off <&4 || true
fi
if [ "$status" = 124 ] || [ "$status" = 125 ]; then
  say "no status from the guest; its console's last lines:"
  tail -n 20 "$work/log" >&2
fi
exec 3>&-
wait "$output" "$guard" || true
exit "$status"
