//! Linux: subreaper, pidfds, and waiting for children without reaping them.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;
use nix::unistd::{Pid as NixPid, getpgid, getsid};
use protocol::Rusage;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open};

use super::unix::{exit, from_nix, last_errno};
use super::{EndedChild, Process, Signal, Watched, Woken};

static SUBREAPER: AtomicBool = AtomicBool::new(false);

/// Orphaned descendants become children of this process (prctl(2)): nothing gets away by forking twice. A
/// sandbox may refuse it: then orphans are lost, but for those in the command's session. An error: it is refused to a
/// shepherd whose fork server is one. Orphans would be that one's, which does not look for them.
pub(crate) fn become_subreaper() -> Result<(), Errno> {
    let became = rustix::process::set_child_subreaper(Some(getpid()));
    // As it was forked with.
    let fork_server_is_one = SUBREAPER.swap(became.is_ok(), Ordering::Relaxed);
    if fork_server_is_one { became } else { Ok(()) }
}

pub(crate) fn is_subreaper() -> bool {
    SUBREAPER.load(Ordering::Relaxed)
}

/// SIGKILL to this process when its parent ends. Cleared when credentials change, so it is set after them.
/// It fails only where a sandbox refuses it; then the fork server is left to kill what a shepherd leaves.
pub(crate) fn die_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

/// What this system, or the sandbox around us, does not have, for the VM to know.
pub(crate) fn lacks() -> Vec<u8> {
    let no_death_signal = rustix::process::set_parent_process_death_signal(None).is_err();
    let lacks = [
        (protocol::LACKS_SUBREAPER, !is_subreaper()),
        (protocol::LACKS_PARENT_DEATH_SIGNAL, no_death_signal),
        (protocol::LACKS_PIDFDS, !has_pidfds()),
        (protocol::LACKS_PROC, !super::proc::is_ours()),
        (protocol::LACKS_WAITID, ended_child().is_err()),
    ];
    lacks.into_iter().filter_map(|(byte, lacking)| lacking.then_some(byte)).collect()
}

/// Whether processes can be pinned and signalled by pidfds: Linux 5.3, and no sandbox in the way.
fn has_pidfds() -> bool {
    static HAS_PIDFDS: OnceLock<bool> = OnceLock::new();
    *HAS_PIDFDS.get_or_init(|| {
        const NO_SIGNAL: Signal = Signal(0);
        pidfd_open(getpid(), PidfdFlags::empty())
            .is_ok_and(|pidfd| PinnedProcess(pidfd).signal(NO_SIGNAL).is_ok())
    })
}

/// The default disposition for one signal. The raw call also takes 32 and 33, which libc keeps to itself.
pub(crate) fn reset_disposition(number: c_int) {
    // The kernel's struct sigaction of zeros: SIG_DFL, no flags, no restorer, an empty mask. It is four
    // words at most; the kernel reads as much as its own struct has.
    let default = [0_u64; 4];
    const KERNEL_SIGSET_BYTES: usize = 8;
    // SAFETY: rt_sigaction(2) reads `default`, which outlives the call; SIGKILL and SIGSTOP are refused.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            number,
            default.as_ptr(),
            std::ptr::null_mut::<u64>(),
            KERNEL_SIGSET_BYTES,
        )
    };
}

/// Closes every fd from 3 up but `keep`.
pub(crate) fn close_all_but(keep: BorrowedFd<'_>) {
    const FIRST: u32 = 3;
    let keep = keep.as_raw_fd().unsigned_abs();
    let below = keep <= FIRST || close_range(FIRST, keep - 1);
    let above = close_range(keep + 1, u32::MAX);
    if below && above {
        return;
    }
    // Before Linux 5.9: one by one. What is open is in /proc; without that, all that may be open, up to a
    // limit of ours, for the system's may be a thousand million. The lowest free number is taken (open(2)),
    // so above it is only what the VM had opened up there without close-on-exec.
    const HIGHEST: u64 = 1 << 16;
    let open: Vec<u32> = match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect(),
        Err(_) => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
            (0..u32::try_from(limit.unwrap_or(HIGHEST).min(HIGHEST)).unwrap_or(0)).collect()
        }
    };
    for fd in open.into_iter().filter(|fd| *fd >= FIRST && *fd != keep) {
        // SAFETY: nothing that is used later owns an fd other than 0, 1, 2 and `keep`.
        unsafe { libc::close(fd.cast_signed()) };
    }
}

fn close_range(first: u32, last: u32) -> bool {
    // SAFETY: close_range(2); nothing that is used later owns an fd in this range.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) == 0 }
}

/// Waits until an fd may be ready, a child has ended or the time is up.
pub(crate) fn wait(watched: &[Watched<'_>], timeout: Option<Duration>) -> Result<Woken, Errno> {
    let mut fds: Vec<PollFd<'_>> = watched
        .iter()
        .map(|watched| {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, watched.read);
            events.set(PollFlags::POLLOUT, watched.write);
            events.set(PollFlags::POLLPRI, watched.urgent);
            PollFd::new(watched.fd, events)
        })
        .collect();
    match ppoll(&mut fds, timeout.map(TimeSpec::from_duration), Some(SigSet::empty())) {
        Ok(_) if fds.iter().any(is_urgent) => Ok(Woken::ByChild),
        Ok(_) => Ok(Woken::ByFdOrTime),
        Err(nix::errno::Errno::EINTR) => Ok(Woken::ByChild),
        Err(errno) => Err(from_nix(errno)),
    }
}

fn is_urgent(fd: &PollFd<'_>) -> bool {
    fd.revents().is_some_and(|events| events.contains(PollFlags::POLLPRI))
}

pub(crate) const HIGHEST_SIGNAL: c_int = 64;

pub(crate) const HAS_CGROUPS: bool = true;

/// Neither end ever waits: the reader polls, and a failure is smaller than the pipe.
pub(crate) fn error_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
}

/// That the peer has closed its end, or at least its sending direction (poll(2)).
pub(crate) const HANG_UP: rustix::event::PollFlags = rustix::event::PollFlags::RDHUP;

/// The pidfd of a child that is not reaped: others may have ended, and their numbers be those of strangers.
/// `None` where there are none, or where they are of no use.
pub(crate) fn pidfd(pid: Pid) -> Option<OwnedFd> {
    has_pidfds().then(|| pidfd_open(pid, PidfdFlags::empty()).ok()).flatten()
}

/// A child that has ended. It is not reaped: its pid, and with it the number of its group, can belong to
/// nobody else. The first child comes first, for as long as it is not reaped.
pub(crate) fn ended_child() -> Result<Option<EndedChild>, Errno> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // Zeroed, so that "nothing has ended" is seen as pid 0.
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // The raw call has a fifth argument, which libc leaves out (waitid(2), "C library/kernel differences").
    // SAFETY: both pointers are to structs of the size that waitid(2) writes.
    let mut wait = || unsafe {
        libc::syscall(libc::SYS_waitid, libc::P_ALL, 0, info.as_mut_ptr(), options, usage.as_mut_ptr())
    };
    while wait() != 0 {
        match last_errno() {
            Errno::INTR => {}
            Errno::CHILD => return Ok(None),
            errno => return Err(errno),
        }
    }
    // SAFETY: zeros are a siginfo_t, and so is what the kernel wrote over them.
    let info = unsafe { info.assume_init() };
    // SAFETY: as above.
    let usage = unsafe { usage.assume_init() };
    // SAFETY: waitid(2) fills in si_pid, or leaves it 0.
    let Some(pid) = Pid::from_raw(unsafe { info.si_pid() }) else {
        return Ok(None);
    };
    // SAFETY: with a pid, waitid(2) has filled in si_status.
    let status = unsafe { info.si_status() };
    Ok(Some(EndedChild { pid, exit: exit(info.si_code, status), rusage: rusage(&usage) }))
}

fn rusage(usage: &libc::rusage) -> Rusage {
    let microseconds = |time: libc::timeval| number(time.tv_sec) * 1_000_000 + number(time.tv_usec);
    Rusage {
        user_us: microseconds(usage.ru_utime),
        system_us: microseconds(usage.ru_stime),
        // In KiB here (getrusage(2)).
        max_rss_bytes: number(usage.ru_maxrss) * 1024,
        minor_faults: number(usage.ru_minflt),
        major_faults: number(usage.ru_majflt),
        blocks_in: number(usage.ru_inblock),
        blocks_out: number(usage.ru_oublock),
        voluntary_switches: number(usage.ru_nvcsw),
        involuntary_switches: number(usage.ru_nivcsw),
    }
}

fn number(value: libc::c_long) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Whether anything of the command lives, beside the command once it is a zombie: without WEXITED, waitid(2)
/// has nothing to wait for in a zombie and fails with ECHILD when there is nothing else. As every descendant
/// of a subreaper is its child or below one, "no" means that no descendant is alive. Without a subreaper the
/// session is looked at, too.
pub(crate) fn any_child_alive(command: Pid) -> bool {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let asked = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::All, options));
    let child_lives = !matches!(asked, Err(Errno::CHILD));
    if child_lives || is_subreaper() {
        return child_lives;
    }
    let session = command.as_raw_nonzero().get();
    let mut processes = super::proc::processes(0, command).into_iter().flatten();
    processes.any(|process| process.session == session && process.alive)
}

/// A process that is signalled, or nothing: its pid may go to another meanwhile.
pub(crate) struct PinnedProcess(OwnedFd);

/// Pins a process. `None` when there is none; and without pidfds, for its number could be another's by the
/// time it is used. Such a one is reached when its parents are gone, as our own child.
pub(crate) fn pin(pid: Pid) -> Option<PinnedProcess> {
    pidfd_open(pid, PidfdFlags::empty()).ok().filter(|_| has_pidfds()).map(PinnedProcess)
}

impl PinnedProcess {
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        let pidfd = self.0.as_raw_fd();
        // SAFETY: pidfd_send_signal(2) with an open pidfd and no siginfo.
        match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal.0, no_info, 0_u32) } {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    }
}

/// Pids in one slice of [`children_by_number`], and PID_MAX_LIMIT of the kernel, on 64 bits.
const SLICE: i32 = 1 << 16;
const HIGHEST_PID: i32 = 1 << 22;
pub(super) const SLICES: i32 = 1 + HIGHEST_PID / SLICE;

/// The living and dead children of this process, found without /proc: a pid that is not a child's is ECHILD
/// (waitid(2)), and that of a child is safe, for nobody else has it before we reap it. That takes half a
/// microsecond each and two seconds for all, too long to be deaf: so it is done in slices.
pub(super) fn children_by_number(slice: i32, near: Pid) -> impl Iterator<Item = Process> {
    let before = match slice {
        // Pids are given out in rising order.
        0 => (near.as_raw_nonzero().get() - SLICE / 2).max(0),
        _ => (slice - 1) * SLICE,
    };
    (before + 1..=before + SLICE).filter_map(|pid| child_by_number(Pid::from_raw(pid)?))
}

fn child_by_number(pid: Pid) -> Option<Process> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let ended = rustix::process::waitid(WaitId::Pid(pid), options).ok()?;
    let number = |pid: Pid| pid.as_raw_nonzero().get();
    Some(Process {
        pid,
        parent: number(getpid()),
        // Not rustix's, whose Pid is never 0: a group or session that was made outside this PID namespace has no
        // number inside, and the kernel says 0 (pid_namespaces(7)).
        group: getpgid(Some(NixPid::from_raw(number(pid)))).map_or(0, NixPid::as_raw),
        session: getsid(Some(NixPid::from_raw(number(pid)))).map_or(0, NixPid::as_raw),
        // A number that is not reaped means no other.
        start: 0,
        alive: ended.is_none(),
    })
}
