//! What becomes of the command's fds 0, 1 and 2: pipes, files, or the VM's own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::{Stage, Stdio};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustler::{Binary, NifTaggedEnum};

use crate::error::{Failure, Place};

/// Where one of them is to go; see `t:NetRunner.Nif.request/0`.
#[derive(NifTaggedEnum)]
#[rustler(decode)]
pub(crate) enum Target<'a> {
    Null,
    Pipe,
    /// As stdout; of stderr only.
    Stdout,
    Inherit,
    File(Binary<'a>),
    Append(Binary<'a>),
}

/// What there is of it now.
pub(crate) enum End {
    Null,
    Stdout,
    Pipe {
        ours: OwnedFd,
        theirs: OwnedFd,
    },
    /// Nothing of it is ours.
    Theirs(OwnedFd),
}

impl End {
    pub(crate) fn stdio(&self) -> Stdio {
        match self {
            End::Null => Stdio::Null,
            End::Stdout => Stdio::Stdout,
            End::Pipe { .. } | End::Theirs(_) => Stdio::Fd,
        }
    }

    /// The command's end, to be sent.
    pub(crate) fn theirs(&self) -> Option<BorrowedFd<'_>> {
        match self {
            End::Pipe { theirs, .. } | End::Theirs(theirs) => Some(theirs.as_fd()),
            End::Null | End::Stdout => None,
        }
    }

    /// Our end; the command's is closed.
    pub(crate) fn into_ours(self) -> Option<OwnedFd> {
        match self {
            End::Pipe { ours, theirs: _ } => Some(ours),
            End::Theirs(_) | End::Null | End::Stdout => None,
        }
    }
}

pub(crate) fn stdin(target: &Target<'_>) -> Result<End, Failure> {
    match target {
        Target::Pipe => pipe().and_then(|(reader, writer)| end(writer, reader)).map_err(failed_at_pipe),
        _ => Ok(End::Null),
    }
}

/// `place` says which of the two outputs it is, for errors.
pub(crate) fn output(target: &Target<'_>, place: Place) -> Result<End, Failure> {
    let theirs = |fd: Result<OwnedFd, Errno>| fd.map(End::Theirs).map_err(|errno| Failure::At(place, errno));
    match target {
        Target::Null => Ok(End::Null),
        Target::Stdout => Ok(End::Stdout),
        Target::Pipe => pipe().and_then(|(reader, writer)| end(reader, writer)).map_err(failed_at_pipe),
        Target::File(path) => theirs(open(path, OFlags::TRUNC)),
        Target::Append(path) => theirs(open(path, OFlags::APPEND)),
        Target::Inherit if place == Place::Stderr => theirs(duplicate(rustix::stdio::stderr())),
        Target::Inherit => theirs(duplicate(rustix::stdio::stdout())),
    }
}

fn failed_at_pipe(errno: Errno) -> Failure {
    Failure::At(Place::Shepherd(Stage::Pipe), errno)
}

/// Only our end is non-blocking: the two are different open files, and programs expect blocking ones.
fn end(ours: OwnedFd, theirs: OwnedFd) -> Result<End, Errno> {
    rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    Ok(End::Pipe { ours, theirs })
}

/// `how`: what is done with what is in the file. Can take long, as everything with files.
fn open(path: &Binary<'_>, how: OFlags) -> Result<OwnedFd, Errno> {
    // Opening a FIFO that nobody reads would wait for a reader; so it is ENXIO (fifo(7)). A terminal must not
    // become the VM's.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let mode = Mode::from_raw_mode(0o666);
    let file = rustix::io::retry_on_intr(|| rustix::fs::open(path.as_slice(), flags | how, mode))?;
    // Programs expect a file that blocks. O_TRUNC has done its work; O_APPEND would be cleared.
    rustix::fs::fcntl_setfl(&file, how & OFlags::APPEND)?;
    Ok(file)
}

/// Another fd for the same open file, but not 0, 1 or 2. The VM's own may be closed: EBADF.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const FIRST: i32 = 3;
    rustix::io::fcntl_dupfd_cloexec(fd, FIRST)
}

#[cfg(target_os = "linux")]
fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
}

#[cfg(not(target_os = "linux"))]
fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let pipe = rustix::pipe::pipe()?;
    for end in [&pipe.0, &pipe.1] {
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
    }
    Ok(pipe)
}
