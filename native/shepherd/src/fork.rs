//! The ways to make a child: in our memory, where that can be had; a copy of us; a copy in a control group.

use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::cgroup::Cgroup;
use crate::child::{self, Job};
use crate::os;
use crate::stack::Stack;

pub(crate) struct Child {
    pub(crate) pid: Pid,
    /// Where the system has pidfds.
    pub(crate) pidfd: Option<OwnedFd>,
}

/// A child in our memory (`CLONE_VM`): no page tables are copied, which saves about 80 µs of 360 against fork(2).
/// `CLONE_VFORK` suspends us until it has exec'd or ended, so it is alone there; and then `job` has
/// what has kept it from becoming the command. `None`: that cannot be had here.
///
/// Not for a change of credentials, for another user's processes may signal the child from then on, and a SIGSTOP
/// would stop us too; nor in a control group, which may be frozen: then nobody would watch the VM.
#[cfg(target_os = "linux")]
pub(crate) fn share(job: &Job<'_>, stack: &Stack) -> Result<Option<Child>, Errno> {
    use std::ffi::{c_int, c_void};
    use std::os::fd::FromRawFd;
    let _mask = NoSignals::new()?;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let argument = std::ptr::from_ref(job).cast_mut().cast::<c_void>();
    let clone = |flags, pidfd: &mut c_int| {
        // SAFETY: the child has a stack of its own; `job` and the stack outlive it (CLONE_VFORK), and `run` never
        // returns. It shares our memory, and no fd table, signal handlers or directory.
        let pid = unsafe {
            libc::clone(child::run, stack.top(), flags, argument, std::ptr::from_mut::<c_int>(pidfd))
        };
        child_pid(pid)
    };
    let mut pidfd: c_int = -1;
    let pid = match clone(flags | libc::CLONE_PIDFD, &mut pidfd) {
        Err(errno) if is_unknown(errno) => match clone(flags, &mut pidfd) {
            Err(errno) if is_unknown(errno) => return Ok(None),
            other => other?,
        },
        other => other?,
    };
    // SAFETY: clone(2) has put a new fd there, or left it -1.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok(Some(Child { pid, pidfd }))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn share(_job: &Job<'_>, _stack: &Stack) -> Result<Option<Child>, Errno> {
    Ok(None)
}

/// What sandboxes say to what they refuse, and old kernels to what they do not know.
fn is_unknown(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::TOOBIG)
}

/// A child that is a copy of us, in the group if there is one: born in it where clone3(2) can do that.
pub(crate) fn copy(job: &mut Job<'_>, cgroup: Option<&Cgroup>) -> Result<Child, Errno> {
    let _mask = NoSignals::new()?;
    if let Some(cgroup) = cgroup {
        #[cfg(target_os = "linux")]
        match into::fork(job, cgroup.directory()) {
            Err(errno) if is_unknown(errno) => {}
            other => return other,
        }
        // Then it goes there before it does anything else.
        job.procs = Some(cgroup.open_procs()?);
    }
    match fork()? {
        Forked::Parent(pid) => Ok(Child { pid, pidfd: os::pidfd(pid) }),
        Forked::Child => child::become_command_or_exit(job),
    }
}

/// No handler of ours may run in the child, nor in us while it borrows our memory.
struct NoSignals(SigSet);

impl NoSignals {
    fn new() -> Result<NoSignals, Errno> {
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
        before.map(NoSignals).map_err(|errno| Errno::from_raw_os_error(errno as i32))
    }
}

impl Drop for NoSignals {
    fn drop(&mut self) {
        // A mask that was set before can be set.
        let _ = self.0.thread_set_mask();
    }
}

/// Without exit handlers: they are the parent's, and what they would touch has been copied for nothing.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) runs nothing of ours.
    unsafe { libc::_exit(status) }
}

pub(crate) enum Forked {
    Parent(Pid),
    Child,
}

/// fork(2). This process has one thread, so the child may do whatever the parent may.
pub(crate) fn fork() -> Result<Forked, Errno> {
    match raw_fork() {
        0 => Ok(Forked::Child),
        pid => child_pid(pid).map(Forked::Parent),
    }
}

/// Not libc's function, which visits handlers and locks that nothing here makes use of: each page that it touches
/// is copied for that. (s390x has the arguments in another order.)
#[cfg(all(target_os = "linux", not(target_arch = "s390x")))]
fn raw_fork() -> libc::pid_t {
    // SAFETY: clone(2) without flags and without a stack is fork(2).
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    // A pid, or -1.
    libc::pid_t::try_from(pid).unwrap_or(-1)
}

#[cfg(not(all(target_os = "linux", not(target_arch = "s390x"))))]
fn raw_fork() -> libc::pid_t {
    // SAFETY: as for the caller.
    unsafe { libc::fork() }
}

/// What fork(2) or clone(2) has just returned to the parent.
fn child_pid(result: libc::pid_t) -> Result<Pid, Errno> {
    match result {
        1.. => Pid::from_raw(result).ok_or(Errno::INVAL),
        _ => Err(os::last_errno()),
    }
}

#[cfg(target_os = "linux")]
mod into {
    use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

    use rustix::io::Errno;

    use super::{Child, child_pid};
    use crate::child::{self, Job};

    /// `struct clone_args` of `linux/sched.h`, as Linux 5.7 has it.
    #[repr(C)]
    #[derive(Default)]
    struct CloneArguments {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }

    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

    /// A copy of this process, born in a group (clone3(2)).
    pub(super) fn fork(job: &Job<'_>, cgroup: BorrowedFd<'_>) -> Result<Child, Errno> {
        let mut pidfd: libc::c_int = -1;
        let arguments = CloneArguments {
            flags: CLONE_PIDFD | CLONE_INTO_CGROUP,
            pidfd: std::ptr::from_mut(&mut pidfd) as u64,
            exit_signal: libc::SIGCHLD as u64,
            cgroup: u64::from(cgroup.as_raw_fd().unsigned_abs()),
            ..CloneArguments::default()
        };
        let size = std::mem::size_of::<CloneArguments>();
        // SAFETY: clone3(2) reads `arguments` and writes `pidfd`, which outlive it. Without CLONE_VM and a stack it
        // is a fork: the child goes on here, with a copy of everything, and this process has one thread.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&arguments), size) };
        if pid == 0 {
            child::become_command_or_exit(job)
        }
        let pid = child_pid(libc::pid_t::try_from(pid).unwrap_or(-1))?;
        // SAFETY: clone3(2) has put a new fd there.
        let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
        Ok(Child { pid, pidfd })
    }
}
