//! The fork server: forks shepherds, keeps some ready, and ends what a shepherd leaves that was killed.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use protocol::socket::{self, Received, Wait};
use protocol::{ADOPT, Event, FORK_AHEAD, IDLE, LACKS_WAITID, Message, READY, Stage};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getpid};

use crate::descendants::{Found, Hunt, Place};
use crate::fork::{Forked, exit_now, fork};
use crate::os::{self, Signal, Watched};
use crate::supervise;

/// How many shepherds wait for a command.
const IDLE_SHEPHERDS: usize = 4;
/// Orphans are killed again after so long, if none has ended before; each time it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whether fd 0 is a socket, as it is when the NIF starts this program.
pub(crate) fn has_control_socket() -> bool {
    rustix::net::sockopt::socket_type(rustix::stdio::stdin()).is_ok()
}

/// Moves the control socket to 3 or above, and puts /dev/null on 0, 1 and 2, where commands inherit it.
fn take_control_socket() -> Result<OwnedFd, Errno> {
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(control)
}

/// Returns when the VM and all shepherds are gone.
pub(crate) fn run() -> Result<(), Errno> {
    let control = take_control_socket()?;
    os::close_all_but(control.as_fd());
    // EPERM: it leads a session already.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    os::become_subreaper()?;
    os::ignore_terminal_and_stop_signals()?;
    os::watch_children()?;
    let pool = announce(control.as_fd())?;
    let vm = Vm { control, pool };
    ForkServer {
        vm: Some(vm),
        shepherds: BTreeSet::new(),
        newest: None,
        to_fork: IDLE_SHEPHERDS,
        refused: false,
        orphans: None,
        hunt: Hunt::default(),
    }
    .serve()
}

/// What is lacking, and `READY`, with both ends of the pool socket. Returns our end.
fn announce(control: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let lacks = os::lacks();
    if !lacks.is_empty() {
        socket::send(control, &lacks, &[], Wait::Block)?;
    }
    if lacks.contains(&LACKS_WAITID) {
        return Err(Errno::NOSYS);
    }
    let (ours, vms) = socket::pair()?;
    socket::send(control, &[READY], &[vms.as_fd(), ours.as_fd()], Wait::Block)?;
    Ok(ours)
}

struct Vm {
    control: OwnedFd,
    pool: OwnedFd,
}

struct ForkServer {
    /// `None` when it is gone.
    vm: Option<Vm>,
    shepherds: BTreeSet<i32>,
    /// The shepherd that was forked last.
    newest: Option<Pid>,
    /// Idle shepherds that are missing.
    to_fork: usize,
    /// The last idle shepherd could not be handed over: its end is no occasion to fork another.
    refused: bool,
    /// A shepherd has ended badly: there may be children that are not shepherds. The next pause.
    orphans: Option<Duration>,
    hunt: Hunt,
}

impl ForkServer {
    fn serve(mut self) -> Result<(), Errno> {
        loop {
            self.obey();
            // Before the forks: what has ended may be what they need room for.
            let has_children = self.reap()?;
            if self.vm.is_none() && !has_children {
                return Ok(());
            }
            if self.vm.is_none() && self.shepherds.is_empty() {
                // Whoever they are, nobody else would end them.
                self.orphans.get_or_insert(FIRST_PAUSE);
            }
            self.kill_orphans();
            self.fork_ahead();
            let pause = self.orphans.into_iter().chain(self.continue_shepherds()).min();
            let watched = self.vm.as_ref().map(|vm| Watched {
                fd: vm.control.as_fd(),
                read: true,
                write: false,
                urgent: false,
            });
            os::wait(watched.as_slice(), pause)?;
        }
    }

    /// Once the VM is gone nobody else would end a shepherd that is stopped: it is continued, to see that as well.
    /// Returns when to do so again.
    fn continue_shepherds(&self) -> Option<Duration> {
        if self.vm.is_some() {
            return None;
        }
        // Our children, not reaped: their numbers are their own.
        for pid in self.shepherds.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = os::kill_process(pid, Signal::CONT);
        }
        Some(LONGEST_PAUSE)
    }

    fn obey(&mut self) {
        while let Some(vm) = &self.vm {
            let mut byte = [0];
            let mut fds = VecDeque::new();
            match socket::receive(vm.control.as_fd(), &mut byte, &mut fds, Wait::DontBlock) {
                Ok(Received::Bytes(_)) => {
                    self.refused = false;
                    match (byte[0], fds.pop_front()) {
                        (FORK_AHEAD, None) => self.to_fork += 1,
                        (ADOPT, Some(theirs)) => self.adopt(theirs),
                        // Nonsense: it can be no VM of ours.
                        _ => self.vm = None,
                    }
                }
                Ok(Received::WouldBlock) => return,
                // No room for the fd that came with ADOPT: it is closed, which its other end sees.
                Ok(Received::FdsCut) => {}
                Ok(Received::EndOfFile) | Err(_) => self.vm = None,
            }
        }
    }

    fn adopt(&mut self, theirs: OwnedFd) {
        if let Err((theirs, errno)) = self.fork_shepherd(theirs) {
            let failed = Event::Failed { stage: Stage::Fork, errno: errno.raw_os_error() };
            let _ = socket::send(theirs.as_fd(), &failed.encode(), &[], Wait::DontBlock);
        }
    }

    /// What fails is tried again at the next occasion: when a shepherd ends or the VM asks.
    fn fork_ahead(&mut self) {
        while self.to_fork > 0 && !self.refused && self.vm.is_some() {
            let Ok((ours, vms)) = socket::pair() else {
                return;
            };
            if self.fork_shepherd(ours).is_err() {
                return;
            }
            let Some(vm) = &self.vm else {
                return;
            };
            match socket::send(vm.pool.as_fd(), &[IDLE], &[vms.as_fd()], Wait::DontBlock) {
                Ok(_) => self.to_fork -= 1,
                // The new shepherd sees the end of file and goes.
                Err(_) => self.refused = true,
            }
        }
    }

    /// Our copy of the socket is closed before this returns: while another process has it too, nobody sees
    /// that the shepherd it was made for has ended.
    fn fork_shepherd(&mut self, socket: OwnedFd) -> Result<(), (OwnedFd, Errno)> {
        match fork() {
            Ok(Forked::Parent(pid)) => {
                self.shepherds.insert(pid.as_raw_nonzero().get());
                self.newest = Some(pid);
                say_forked(socket.as_fd(), pid);
                Ok(())
            }
            Ok(Forked::Child) => become_shepherd(socket),
            Err(errno) => Err((socket, errno)),
        }
    }

    /// `false`: there is no child.
    fn reap(&mut self) -> Result<bool, Errno> {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let was_shepherd = self.shepherds.remove(&pid.as_raw_nonzero().get());
                    // A shepherd ends with 0 only when nothing of its command is left.
                    if !was_shepherd || status.exit_status() != Some(0) {
                        self.orphans = Some(FIRST_PAUSE);
                    }
                }
                Ok(None) => return Ok(true),
                Err(Errno::CHILD) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Ends every child that is not a shepherd and all below it, until there is none.
    fn kill_orphans(&mut self) {
        let Some(pause) = self.orphans.take() else {
            return;
        };
        let shepherds = &self.shepherds;
        let place = Place { near: self.newest.unwrap_or_else(getpid), session: None };
        let is_orphan = |pid: Pid| !shepherds.contains(&pid.as_raw_nonzero().get());
        self.orphans = match self.hunt.look(place, is_orphan) {
            Found::Nobody => None,
            Found::Dying => Some((pause * 2).min(LONGEST_PAUSE)),
            Found::More => Some(Duration::ZERO),
        };
    }
}

/// `Forked`, with the shepherd's pidfd, by which the VM can end it whatever state it is in. The shepherd itself
/// could be stopped before it has said anything.
fn say_forked(socket: BorrowedFd<'_>, shepherd: Pid) {
    if let Some(pidfd) = os::pidfd(shepherd) {
        let forked = Event::Forked { fds: 1 }.encode();
        if socket::send(socket, &forked, &[pidfd.as_fd()], Wait::DontBlock).is_ok() {
            return;
        }
    }
    // No pidfds on this system, or too many in flight (unix(7), ETOOMANYREFS): it must be said all the same.
    let _ = socket::send(socket, &Event::Forked { fds: 0 }.encode(), &[], Wait::DontBlock);
}

/// Forked, not exec'd, so close-on-exec closes nothing: first everything but the own socket goes.
fn become_shepherd(socket: OwnedFd) -> ! {
    os::close_all_but(socket.as_fd());
    let ended = std::panic::catch_unwind(|| supervise::run(socket));
    exit_now(match ended {
        Ok(Ok(())) => 0,
        Ok(Err(_)) => i32::from(crate::OS_ERROR),
        Err(_) => PANICKED,
    })
}

/// What Rust itself exits with after a panic.
const PANICKED: i32 = 101;
