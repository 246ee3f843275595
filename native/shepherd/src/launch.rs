//! From a request to a running command, or to the reason why there is none.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use protocol::{CgroupStep, Event, Stage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::channel::Channel;
use crate::child::{FAILURE_BYTES, Job};
use crate::fork::{self, Child};
use crate::os;
use crate::plan::Plan;
use crate::stack::Stack;

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

/// Starts the command. A child in our memory has exec'd or failed when it is there; of another, exec's error comes
/// through a close-on-exec pipe, whose end of file is its success.
pub(crate) fn launch(
    plan: &Plan,
    cgroup: Option<&Cgroup>,
    stack: &Stack,
    channel: &mut Channel,
    kill_timeout: Duration,
) -> Result<Child, Failure> {
    let mut job = Job::new(plan);
    if cgroup.is_none()
        && plan.credentials.is_none()
        && let Some(child) = fork::share(&job, stack).map_err(|errno| Failure::new(Stage::Fork, errno))?
    {
        return match job.failure.take() {
            None => Ok(child),
            Some((stage, errno)) => {
                bury(&child);
                Err(Failure::new(stage, errno))
            }
        };
    }
    let (ours, theirs) = os::error_pipe().map_err(|errno| Failure::new(Stage::Pipe, errno))?;
    job.error_pipe = Some(theirs.as_fd());
    let child = fork::copy(&mut job, cgroup)
        .map_err(|errno| Failure::new(start_stage(errno, cgroup.is_some()), errno))?;
    drop(theirs);
    match read_failure(&ours, &child, channel, kill_timeout) {
        None => Ok(child),
        Some(failure) => {
            bury(&child);
            Err(failure)
        }
    }
}

/// It has said its last word, or what it says could not be read, and then it may run.
fn bury(child: &Child) {
    let _ = os::kill_process(child.pid, os::Signal::KILL);
    let _ = rustix::io::retry_on_intr(|| {
        rustix::process::waitpid(Some(child.pid), rustix::process::WaitOptions::empty())
    });
}

/// A group can refuse a process (EACCES, EBUSY) before there is one.
fn start_stage(errno: Errno, has_cgroup: bool) -> Stage {
    match errno {
        Errno::AGAIN | Errno::NOMEM => Stage::Fork,
        _ if has_cgroup => Stage::Cgroup(CgroupStep::Join),
        _ => Stage::Fork,
    }
}

/// An exec can take long (a program on a network file system, a frozen cgroup). When the VM goes meanwhile, the child
/// is killed, which ends the pipe; when the command is to stop, it is at kill_timeout, as it will be later.
fn read_failure(
    pipe: &OwnedFd,
    child: &Child,
    channel: &mut Channel,
    kill_timeout: Duration,
) -> Option<Failure> {
    let mut failure = [0; FAILURE_BYTES];
    let mut kill_at = None;
    let mut killed = false;
    loop {
        match rustix::io::read(pipe, &mut failure) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = vec![PollFd::new(pipe, PollFlags::IN)];
                if !killed {
                    let requests = if kill_at.is_none() { PollFlags::IN } else { PollFlags::empty() };
                    fds.push(PollFd::from_borrowed_fd(channel.socket(), requests | os::HANG_UP));
                }
                let left = kill_at.filter(|_| !killed).map(|at: Instant| {
                    Timespec::try_from(at.saturating_duration_since(Instant::now())).unwrap_or_default()
                });
                let _ = poll(&mut fds, left.as_ref());
                let is_readable = |fd: &PollFd<'_>| fd.revents().contains(PollFlags::IN);
                if kill_at.is_none() && fds.get(1).is_some_and(is_readable) && channel.is_to_stop() {
                    kill_at = Some(Instant::now() + kill_timeout);
                }
                if !killed
                    && (os::hung_up(channel.socket()) || kill_at.is_some_and(|at| at <= Instant::now()))
                {
                    killed = true;
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
