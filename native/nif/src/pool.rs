//! Idle shepherds: they wait in the receive queue of a socket. Those that the fork server has forked ahead, and those
//! whose command is over.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::USED;
use protocol::socket::{self, Received, Wait};
use rustix::io::Errno;

/// So many idle shepherds are missing at most when nobody asks for one.
const MOST_MISSING: isize = 3;

/// So many are kept beside the usual ones while a command runs: those that run come back in bunches, and are taken in
/// bunches.
const MOST_SPARE: isize = 16;

#[derive(Default)]
pub(crate) struct Pool {
    /// They come with READY, and go with the fork server.
    ends: Option<Ends>,
    /// Idle shepherds beside the usual ones, the ordered ones counted; below zero, those that are missing.
    spare: isize,
    /// Shepherds that have a command.
    busy: usize,
}

/// The queue of the exit is that of idle shepherds.
struct Ends {
    exit: OwnedFd,
    entrance: OwnedFd,
}

/// A shepherd that is asked to start a command.
pub(crate) struct Shepherd {
    pub(crate) socket: OwnedFd,
    /// It has had a command before.
    pub(crate) used: bool,
    /// Of one that was used, where the system has pidfds. Of a new one the fork server sends it.
    pub(crate) pidfd: Option<OwnedFd>,
}

impl Shepherd {
    pub(crate) fn new(socket: OwnedFd) -> Shepherd {
        Shepherd { socket, used: false, pidfd: None }
    }
}

/// A shepherd whose command is over, and which has been asked for nothing else.
pub(crate) struct Returned<'a> {
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) pidfd: Option<BorrowedFd<'a>>,
}

/// What the queue has.
pub(crate) enum Idle {
    Shepherd(Shepherd),
    Nobody,
    /// One for whose fds there was no room: it sees end of file and exits, for its socket was closed on the way.
    FdsCut,
}

impl Pool {
    pub(crate) fn open(&mut self, exit: OwnedFd, entrance: OwnedFd) {
        self.ends = Some(Ends { exit, entrance });
    }

    pub(crate) fn is_open(&self) -> bool {
        self.ends.is_some()
    }

    pub(crate) fn close(&mut self) {
        self.ends = None;
    }

    /// A command is started.
    pub(crate) fn begin(&mut self) {
        self.busy += 1;
    }

    /// It is over, was not started after all, or is not known to anybody any more.
    pub(crate) fn end(&mut self) {
        self.busy = self.busy.saturating_sub(1);
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.busy == 0
    }

    /// The next one of the queue. [`Pool::taken`] has to follow.
    pub(crate) fn take(&self) -> Result<Idle, Errno> {
        let Some(ends) = &self.ends else {
            return Ok(Idle::Nobody);
        };
        let mut fds = VecDeque::new();
        let mut kind = [0];
        Ok(match socket::receive(ends.exit.as_fd(), &mut kind, &mut fds, Wait::DontBlock)? {
            Received::Bytes(_) => fds.pop_front().map_or(Idle::Nobody, |socket| {
                Idle::Shepherd(Shepherd { socket, used: kind == [USED], pidfd: fds.pop_front() })
            }),
            Received::WouldBlock | Received::EndOfFile => Idle::Nobody,
            Received::FdsCut => Idle::FdsCut,
        })
    }

    /// One was taken. Whether so many are missing that others must be ordered.
    pub(crate) fn taken(&mut self) -> bool {
        self.spare -= 1;
        self.spare <= -MOST_MISSING
    }

    /// How many are missing, for they are ordered now.
    pub(crate) fn order(&mut self) -> usize {
        let missing = self.spare.min(0).unsigned_abs();
        self.spare = self.spare.max(0);
        missing
    }

    /// An order of one was refused.
    pub(crate) fn refused(&mut self) {
        self.spare -= 1;
    }

    pub(crate) fn is_short(&self) -> bool {
        self.spare < 0
    }

    /// Puts one back. False where it is not needed: it goes when its socket is closed.
    pub(crate) fn put_back(&mut self, shepherd: &Returned<'_>) -> bool {
        let Some(ends) = self.ends.as_ref().filter(|_| self.spare < self.most_spare()) else {
            return false;
        };
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(shepherd.socket).chain(shepherd.pidfd).collect();
        let came_back = socket::send(ends.entrance.as_fd(), &[USED], &fds, Wait::DontBlock).is_ok();
        self.spare += isize::from(came_back);
        came_back
    }

    /// Sends those away that are not needed any more: they see the end of file.
    pub(crate) fn trim(&mut self) {
        while self.spare > self.most_spare() && !matches!(self.take(), Ok(Idle::Nobody) | Err(_)) {
            self.spare -= 1;
        }
    }

    fn most_spare(&self) -> isize {
        if self.is_at_rest() { 0 } else { MOST_SPARE }
    }
}
