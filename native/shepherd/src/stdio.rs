//! Fds 0, 1 and 2 of the command.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::Stdio;
use rustix::io::Errno;

/// Where each of the three comes from. The fds are at least 3: 0, 1 and 2 of a shepherd are always open.
#[derive(Debug)]
pub(crate) struct StdioFds([Source; 3]);

#[derive(Debug)]
enum Source {
    /// The shepherd's own fd of that number, which is /dev/null.
    Inherited,
    Fd(OwnedFd),
    Stdout,
}

impl StdioFds {
    /// Takes one fd for each [`Stdio::Fd`], in order; `None` when too few have come.
    pub(crate) fn take(stdio: [Stdio; 3], fds: &mut VecDeque<OwnedFd>) -> Option<StdioFds> {
        let mut source = |stdio| {
            Some(match stdio {
                Stdio::Null => Source::Inherited,
                Stdio::Fd => Source::Fd(fds.pop_front()?),
                Stdio::Stdout => Source::Stdout,
            })
        };
        Some(StdioFds([source(stdio[0])?, source(stdio[1])?, source(stdio[2])?]))
    }

    /// Between fork and exec: dup2(2) to 0, 1 and 2, without close-on-exec. Async-signal-safe.
    pub(crate) fn install(&self) -> Result<(), Errno> {
        let StdioFds([stdin, stdout, stderr]) = self;
        put(stdin, |fd| rustix::stdio::dup2_stdin(fd))?;
        put(stdout, |fd| rustix::stdio::dup2_stdout(fd))?;
        put(stderr, |fd| rustix::stdio::dup2_stderr(fd))
    }
}

fn put(source: &Source, dup2: fn(BorrowedFd<'_>) -> Result<(), Errno>) -> Result<(), Errno> {
    match source {
        Source::Inherited => Ok(()),
        Source::Fd(fd) => dup2(fd.as_fd()),
        // stdout is installed before stderr.
        Source::Stdout => dup2(rustix::stdio::stdout()),
    }
}
