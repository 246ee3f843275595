//! Fork and exec. Between the two only async-signal-safe calls are made (signal-safety(7)), and nothing
//! allocates: the child of [`start`] runs in our memory, and a child of fork(2) must not rely on locks.
//! It ends with `_exit`: exit handlers and buffers are the parent's.

use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{BorrowedFd, OwnedFd};

use protocol::{CgroupStep, Stage};
use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::cgroup::Cgroup;
use crate::credentials::Credentials;
use crate::os;
use crate::plan::Plan;

/// What the child has of the parent's: alive and unchanged until the child has exec'd or ended.
struct Job<'a> {
    plan: &'a Plan,
    error_pipe: BorrowedFd<'a>,
    /// `cgroup.procs` of the group to join, where the child is not born in it.
    procs: Option<OwnedFd>,
}

pub(crate) struct Child {
    pub(crate) pid: Pid,
    /// Where the system has pidfds.
    pub(crate) pidfd: Option<OwnedFd>,
}

/// What goes through the error pipe when the child cannot become the command.
pub(crate) const FAILURE_BYTES: usize = 5;

/// Starts a child that becomes the command, or writes why it cannot to `error_pipe` and ends.
pub(crate) fn start(
    plan: &Plan,
    cgroup: Option<&Cgroup>,
    error_pipe: BorrowedFd<'_>,
) -> Result<Child, Errno> {
    use nix::sys::signal::{SigSet, SigmaskHow};
    let mut job = Job { plan, error_pipe, procs: None };
    // No handler of ours may run in the child, nor in us while it borrows our memory.
    let from_nix = |errno: nix::errno::Errno| Errno::from_raw_os_error(errno as i32);
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).map_err(from_nix)?;
    let child = match cgroup {
        None => fork_for(&job),
        Some(cgroup) => fork_into(cgroup, &mut job),
    };
    mask.thread_set_mask().map_err(from_nix)?;
    child
}

/// With fork(2), or clone3(2) where that can make the child in its group: not with CLONE_VFORK, for a frozen group
/// would suspend us, too.
fn fork_into(cgroup: &Cgroup, job: &mut Job<'_>) -> Result<Child, Errno> {
    #[cfg(target_os = "linux")]
    match into::fork(job, cgroup.directory()) {
        // Not known to old kernels, or refused by a sandbox: then it goes there before it does anything else.
        Err(Errno::NOSYS | Errno::PERM | Errno::TOOBIG | Errno::INVAL) => {}
        other => return other,
    }
    job.procs = Some(cgroup.open_procs()?);
    fork_for(job)
}

#[cfg(target_os = "linux")]
fn fork_for(job: &Job<'_>) -> Result<Child, Errno> {
    use std::os::fd::FromRawFd;
    const STACK_BYTES: usize = 64 * 1024;
    let stack = stack::Stack::new(STACK_BYTES)?;
    let argument = std::ptr::from_ref(job).cast_mut().cast::<c_void>();
    // clone(2): no page tables are copied, which saves about 80 µs of 360 against fork(2). CLONE_VFORK
    // suspends us until the child has exec'd or ended, so it is alone in our memory. What makes exec take
    // long (a frozen cgroup) must use fork instead, for then nobody watches the VM meanwhile. So must a change of
    // credentials: another user's processes may signal the child from then on, and a SIGSTOP would stop us too.
    let sharing = match (&job.plan.credentials, &job.procs) {
        (None, None) => libc::CLONE_VM | libc::CLONE_VFORK,
        _ => 0,
    };
    let flags = sharing | libc::SIGCHLD;
    let mut pidfd: c_int = -1;
    let clone = |flags, pidfd: &mut c_int| {
        // SAFETY: the child has a stack of its own, `argument` outlives it (CLONE_VFORK; without CLONE_VM it has
        // a copy), and `run_child` never returns. It shares at most our memory, and no fd table, signal handlers
        // or directory.
        let pid = unsafe {
            libc::clone(run_child, stack.top(), flags, argument, std::ptr::from_mut::<c_int>(pidfd))
        };
        child_pid(pid)
    };
    // What sandboxes say to what they refuse, and old kernels to what they do not know.
    let unknown = |errno| matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::PERM);
    let pid = match clone(flags | libc::CLONE_PIDFD, &mut pidfd) {
        Err(errno) if unknown(errno) => match clone(flags, &mut pidfd) {
            Err(errno) if unknown(errno) => return fork_copy_for(job),
            other => other?,
        },
        other => other?,
    };
    // SAFETY: clone(2) has put a new fd there, or left it -1.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok(Child { pid, pidfd })
}

#[cfg(not(target_os = "linux"))]
use fork_copy_for as fork_for;

/// With fork(2).
fn fork_copy_for(job: &Job<'_>) -> Result<Child, Errno> {
    match fork()? {
        Forked::Parent(pid) => Ok(Child { pid, pidfd: None }),
        Forked::Child => {
            run_child(std::ptr::from_ref(job).cast_mut().cast());
            exit_now(NOT_STARTED)
        }
    }
}

extern "C" fn run_child(argument: *mut c_void) -> c_int {
    // SAFETY: `argument` is the `Job` that `fork_for` has on its stack.
    let job = unsafe { &*argument.cast::<Job<'_>>() };
    let (stage, errno) = match &job.procs {
        Some(procs) if let Err(errno) = join(procs) => (Stage::Cgroup(CgroupStep::Join), errno),
        _ => become_command(job.plan),
    };
    let mut failure = [0; FAILURE_BYTES];
    failure[0] = stage.number();
    failure[1..].copy_from_slice(&errno.raw_os_error().to_le_bytes());
    // Less than PIPE_BUF: written whole or not at all (pipe(7)). Without a reader there is nobody to tell.
    let _ = rustix::io::write(job.error_pipe, &failure);
    exit_now(NOT_STARTED)
}

/// 0 is the process that writes (cgroups(7)).
fn join(procs: &OwnedFd) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::io::write(procs, b"0")).map(drop)
}

/// Nobody sees it: the error pipe says why.
const NOT_STARTED: i32 = 127;

/// Without exit handlers: they are the parent's, and what they would touch has been copied for nothing.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) runs nothing of ours.
    unsafe { libc::_exit(status) }
}

/// Returns only when it fails.
fn become_command(plan: &Plan) -> (Stage, Errno) {
    if let Err(errno) = set_up(plan) {
        return (Stage::Setup, errno);
    }
    if let Err(failure) = plan.limits.apply() {
        return failure;
    }
    if let Some(Err(errno)) = plan.credentials.as_ref().map(Credentials::assume) {
        return (Stage::Credentials, errno);
    }
    // As the user that the command runs as: what that one may not enter is not entered.
    if let Err(errno) = change_directory(plan) {
        return (Stage::Cd, errno);
    }
    // After credentials, for the kernel clears it with them (prctl(2)):
    os::die_with_parent();
    // A parent that died before that sends nothing any more.
    if rustix::process::getppid() != Some(plan.shepherd) {
        exit_now(NOT_STARTED);
    }
    // The last step: from here on a signal acts.
    if let Err(errno) = os::reset_signal_mask() {
        return (Stage::Setup, errno);
    }
    (Stage::Exec, exec(plan))
}

fn set_up(plan: &Plan) -> Result<(), Errno> {
    rustix::process::setsid()?;
    os::restore_default_signals()?;
    plan.stdio.install()?;
    if let Some(terminal) = &plan.terminal {
        terminal.become_controlling()?;
    }
    rustix::process::umask(plan.umask);
    Ok(())
}

fn change_directory(plan: &Plan) -> Result<(), Errno> {
    match plan.path() {
        Some(path) if path.to_bytes().starts_with(b"/") => rustix::process::chdir(path),
        Some(path) => {
            rustix::process::fchdir(&plan.directory)?;
            rustix::process::chdir(path)
        }
        None => rustix::process::fchdir(&plan.directory),
    }
}

/// As execvp(3), but without its `/bin/sh` for files of no known format.
fn exec(plan: &Plan) -> Errno {
    let mut failure = Errno::NOENT;
    for candidate in &plan.candidates {
        // SAFETY: C strings and null-terminated arrays of them, which live in `plan`.
        unsafe { libc::execve(candidate.as_ptr(), plan.argv.as_ptr(), plan.env.as_ptr()) };
        match os::last_errno() {
            errno if !plan.searched => failure = errno,
            // It is there and must not be run; but another may. (Where its directory must not be searched,
            // nobody can say that it is there; execvp(3) reports EACCES for both.)
            Errno::ACCESS if exists(candidate) => failure = Errno::ACCESS,
            Errno::ACCESS => {}
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::STALE
            | Errno::NODEV
            | Errno::TIMEDOUT
            | Errno::NAMETOOLONG => {}
            errno => return errno,
        }
    }
    failure
}

fn exists(path: &CStr) -> bool {
    rustix::fs::access(path, Access::EXISTS).is_ok()
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

    use super::{Child, Job, child_pid, exit_now, run_child};

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
            run_child(std::ptr::from_ref(job).cast_mut().cast());
            exit_now(NOT_STARTED)
        }
        let pid = child_pid(libc::pid_t::try_from(pid).unwrap_or(-1))?;
        // SAFETY: clone3(2) has put a new fd there.
        let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
        Ok(Child { pid, pidfd })
    }
}

#[cfg(target_os = "linux")]
mod stack {
    use std::ffi::c_void;

    use rustix::io::Errno;

    use crate::os;

    /// Memory for the child to run on, with a page below it that nothing may touch.
    pub(super) struct Stack {
        base: *mut c_void,
        size: usize,
    }

    /// At least a page, on every system.
    const GUARD_BYTES: usize = 64 * 1024;

    impl Stack {
        pub(super) fn new(bytes: usize) -> Result<Stack, Errno> {
            let size = GUARD_BYTES + bytes;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
            // SAFETY: a new mapping, at an address of the kernel's choice.
            let base = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
            if base == libc::MAP_FAILED {
                return Err(os::last_errno());
            }
            let stack = Stack { base, size };
            let usable = base.wrapping_byte_add(GUARD_BYTES);
            // SAFETY: inside the mapping just made, which nothing uses yet.
            match unsafe { libc::mprotect(usable, bytes, libc::PROT_READ | libc::PROT_WRITE) } {
                0 => Ok(stack),
                _ => Err(os::last_errno()),
            }
        }

        /// Stacks grow down; the end of a page is aligned for every ABI.
        pub(super) fn top(&self) -> *mut c_void {
            self.base.wrapping_byte_add(self.size)
        }
    }

    impl Drop for Stack {
        fn drop(&mut self) {
            // SAFETY: our own mapping; the child that ran on it has exec'd or ended.
            unsafe { libc::munmap(self.base, self.size) };
        }
    }
}
