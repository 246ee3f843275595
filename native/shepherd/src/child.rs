//! What the child does between fork and exec. Only async-signal-safe calls are made (signal-safety(7)), and nothing
//! allocates: it may run in our memory, and a child of fork(2) must not rely on locks. It ends with `_exit`: exit
//! handlers and buffers are the parent's.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{BorrowedFd, OwnedFd};

use protocol::{CgroupStep, Stage};
use rustix::fs::Access;
use rustix::io::Errno;

use crate::credentials::Credentials;
use crate::fork::exit_now;
use crate::os;
use crate::plan::Plan;

/// What the child has of the parent's: alive until the child has exec'd or ended.
pub(crate) struct Job<'a> {
    pub(crate) plan: &'a Plan,
    /// Why it cannot become the command, of a child that runs in our memory.
    pub(crate) failure: Cell<Option<(Stage, Errno)>>,
    /// Where another one writes that.
    pub(crate) error_pipe: Option<BorrowedFd<'a>>,
    /// `cgroup.procs` of the group to join, where the child is not born in it.
    pub(crate) procs: Option<OwnedFd>,
}

impl Job<'_> {
    pub(crate) fn new(plan: &Plan) -> Job<'_> {
        Job { plan, failure: Cell::new(None), error_pipe: None, procs: None }
    }
}

/// What goes through the error pipe when the child cannot become the command.
pub(crate) const FAILURE_BYTES: usize = 5;

/// Nobody sees it: the failure says why.
const NOT_STARTED: i32 = 127;

/// For clone(2).
pub(crate) extern "C" fn run(job: *mut c_void) -> c_int {
    // SAFETY: it is the `Job` that was given to clone(2), which outlives this.
    become_command_or_exit(unsafe { &*job.cast::<Job<'_>>() })
}

pub(crate) fn become_command_or_exit(job: &Job<'_>) -> ! {
    let (stage, errno) = match &job.procs {
        Some(procs) if let Err(errno) = join(procs) => (Stage::Cgroup(CgroupStep::Join), errno),
        _ => become_command(job.plan),
    };
    match job.error_pipe {
        None => job.failure.set(Some((stage, errno))),
        Some(pipe) => {
            let mut failure = [0; FAILURE_BYTES];
            failure[0] = stage.number();
            failure[1..].copy_from_slice(&errno.raw_os_error().to_le_bytes());
            // Less than PIPE_BUF: written whole or not at all (pipe(7)). Without a reader there is nobody to tell.
            let _ = rustix::io::write(pipe, &failure);
        }
    }
    exit_now(NOT_STARTED)
}

/// 0 is the process that writes (cgroups(7)).
fn join(procs: &OwnedFd) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::io::write(procs, b"0")).map(drop)
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
