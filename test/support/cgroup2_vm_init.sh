#!/bin/busybox sh
# The guest's first process, see cgroup2_vm.sh: mounts the host's files with an overlay, and cgroup v2; runs the command
# that stands in the host's directory work=…; says "started" and its status on ttyS1, its output on ttyS0.
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev /host /memory /root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devices /dev
for word in $(cat /proc/cmdline); do
  case $word in work=*) work=${word#work=} ;; esac
done

insmod /overlay.ko
mount -t hostfs -o ro,/ host /host
mount -t tmpfs -o size=75% memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root
cd /root || poweroff -f
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs devices dev
mkdir -p dev/pts dev/shm
mount -t devpts -o mode=620,ptmxmode=666,gid=5 devpts dev/pts
mount -t tmpfs shm dev/shm
ln -s /proc/self/fd dev/fd
# As systemd mounts it. No controller is enabled for anything below the root.
mount -t cgroup2 -o nsdelegate cgroup2 sys/fs/cgroup || poweroff -f
ip link set lo up

for line in 0 1; do stty -F /dev/ttyS$line raw -echo; done
exec 3>/dev/ttyS1
echo started >&3
# Not the line itself, which would be a terminal.
mkfifo /output
cat /output >/dev/ttyS0 3>&- &
relay=$!
# Not only chroot(2), in which user namespaces are refused.
mount -o move . /
chroot . /bin/bash "$work/command" </dev/null >/output 2>&1 3>&-
status=$?
# What the command has left may hold the pipe open.
(sleep 2; kill "$relay") 2>/dev/null 3>&- &
wait "$relay"
echo "$status" >&3
exec 3>&-
poweroff -f
