//! From a request to a running command, or to the reason why there is none.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::{Event, Stage};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::child::{self, Child, FAILURE_BYTES};
use crate::os;
use crate::plan::Plan;

/// Why a command did not start. Nothing of it is left.
pub(crate) struct Failure {
    stage: Stage,
    errno: Errno,
}

impl Failure {
    pub(crate) fn new(stage: Stage, errno: Errno) -> Failure {
        Failure { stage, errno }
    }

    pub(crate) fn event(&self) -> Event {
        Event::Failed { stage: self.stage, errno: self.errno.raw_os_error() }
    }
}

/// Starts the command. Exec's error comes through a close-on-exec pipe, whose end of file is its success.
pub(crate) fn launch(plan: &Plan, vm: BorrowedFd<'_>) -> Result<Child, Failure> {
    let (ours, theirs) = os::error_pipe().map_err(|errno| Failure::new(Stage::Pipe, errno))?;
    let child = child::start(plan, theirs.as_fd()).map_err(|errno| Failure::new(Stage::Fork, errno))?;
    drop(theirs);
    match read_failure(&ours, &child, vm) {
        None => Ok(child),
        Some(failure) => {
            // It has written its last word, or the pipe could not be read, and then it may run.
            let _ = os::kill_process(child.pid, os::Signal::KILL);
            let _ = rustix::io::retry_on_intr(|| {
                rustix::process::waitpid(Some(child.pid), rustix::process::WaitOptions::empty())
            });
            Err(failure)
        }
    }
}

/// An exec can take long (a program on a network file system, a frozen cgroup): when the VM goes meanwhile,
/// the child is killed, which ends the pipe.
fn read_failure(pipe: &OwnedFd, child: &Child, vm: BorrowedFd<'_>) -> Option<Failure> {
    let mut failure = [0; FAILURE_BYTES];
    let mut vm_is_there = true;
    loop {
        match rustix::io::read(pipe, &mut failure) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = vec![PollFd::new(pipe, PollFlags::IN)];
                if vm_is_there {
                    fds.push(PollFd::from_borrowed_fd(vm, os::HANG_UP));
                }
                let _ = poll(&mut fds, None);
                if vm_is_there && os::hung_up(vm) {
                    vm_is_there = false;
                    // Not reaped yet: its pid is its own.
                    let _ = os::kill_process(child.pid, os::Signal::KILL);
                }
            }
            // End of file: it has exec'd, or was killed, which its exit will tell.
            Ok(0) => return None,
            Ok(length) if length == FAILURE_BYTES => {
                let [stage, errno @ ..] = failure;
                let stage = Stage::from_number(stage).unwrap_or(Stage::Setup);
                return Some(Failure::new(stage, Errno::from_raw_os_error(i32::from_le_bytes(errno))));
            }
            Ok(_) => return Some(Failure::new(Stage::Setup, Errno::IO)),
            Err(errno) => return Some(Failure::new(Stage::Pipe, errno)),
        }
    }
}
