//! How much is read at once, and what for.
//!
//! A small read goes into the stack and needs no question before it; a large one asks how much there is (FIONREAD), for
//! its binary is to have that size. A pipe is read in the one way or the other as it was last found.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustler::{Binary, Env, NewBinary, OwnedBinary};

use crate::growth::Growth;

const SMALL: usize = 4096;

#[derive(Default)]
pub(crate) struct Reading {
    /// There was more than a small read takes.
    large: bool,
}

impl Reading {
    /// At most `max` bytes, as a binary of their exact size; `None` at end of file.
    pub(crate) fn read<'a>(
        &mut self,
        env: Env<'a>,
        fd: BorrowedFd<'_>,
        growth: &mut Growth,
        max: usize,
    ) -> Result<Option<Binary<'a>>, Errno> {
        if self.large {
            let available = available(fd);
            growth.read(fd, available);
            self.large = available > SMALL;
            if self.large && max > SMALL {
                let binary = OwnedBinary::new(available.min(max));
                return fill(env, fd, binary, 0);
            }
        }
        let mut buffer = [0; SMALL];
        let count = read_bytes(fd, &mut buffer[..max.min(SMALL)])?;
        if count == 0 {
            return Ok(None);
        }
        if count == SMALL && max > SMALL {
            self.large = true;
            let mut binary = OwnedBinary::new(count + available(fd).min(max - count));
            binary.as_mut_slice()[..count].copy_from_slice(&buffer);
            return fill(env, fd, binary, count);
        }
        let mut binary = NewBinary::new(env, count);
        binary.as_mut_slice().copy_from_slice(&buffer[..count]);
        Ok(Some(binary.into()))
    }
}

/// Reads into what is left of a binary, once.
fn fill<'a>(
    env: Env<'a>,
    fd: BorrowedFd<'_>,
    mut binary: OwnedBinary,
    filled: usize,
) -> Result<Option<Binary<'a>>, Errno> {
    let rest = &mut binary.as_mut_slice()[filled..];
    let size = rest.len();
    let count = match if size == 0 { Ok(0) } else { read_bytes(fd, rest) } {
        // What has been read is not lost; the next read says what is the matter.
        Err(_) if filled > 0 => 0,
        result => result?,
    };
    if filled + count == 0 {
        return Ok(None);
    }
    if count < size {
        binary.realloc_or_copy(filled + count);
    }
    Ok(Some(binary.release(env)))
}

/// What can be read now; 0 when the system does not say.
pub(crate) fn available(fd: BorrowedFd<'_>) -> usize {
    rustix::io::ioctl_fionread(fd).ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

/// read(2); a PTY's EIO is its end of file (the last follower was closed).
fn read_bytes(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer)) {
        Err(Errno::IO) => Ok(0),
        other => other,
    }
}
