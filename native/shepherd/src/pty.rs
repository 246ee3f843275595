//! The controlling terminal of a command.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// The leader of the terminal that is the command's fd 0. While it is open the terminal does not hang up, so that
/// the session gets its SIGHUP from the stop sequence, not from a VM that has closed its own.
#[derive(Debug)]
pub(crate) struct Terminal {
    _leader: OwnedFd,
}

impl Terminal {
    /// Takes the leader; `None` when it has not come.
    pub(crate) fn take(fds: &mut VecDeque<OwnedFd>) -> Option<Terminal> {
        fds.pop_front().map(|leader| Terminal { _leader: leader })
    }

    /// Between fork and exec, in a session of its own, with the terminal as fd 0: it becomes the session's, and this
    /// process' group its foreground one (tty_ioctl(4), `TIOCSCTTY`). Async-signal-safe.
    pub(crate) fn become_controlling(&self) -> Result<(), Errno> {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
    }
}
