//! How much is read at once, and what for.
//!
//! A small read goes into the stack and needs no question before it; a large one asks how much there is (FIONREAD), for
//! its binary is to have that size. A pipe is read in the one way or the other as it was last found. Who reads a stream
//! as fast as it is written would find one write(2) at a time: what comes soon is then one read.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustler::{Binary, Env, NewBinary, OwnedBinary};

use crate::growth::Growth;

const SMALL: usize = 4096;
/// Of a stream: what `NetRunner.Pipe.read_size/0` asks for.
const LARGE: usize = 64 * 1024;
/// So many parts are one read of a stream at most: twice as many as it has pages.
const MOST_PARTS: usize = 2 * LARGE / SMALL;
/// Between two parts.
const PAUSE: Duration = Duration::from_nanos(100);
/// So often the pause is doubled where the next part has not come: 6.2 µs in all. To be told takes longer.
const MOST_PAUSES: u32 = 5;
/// Who has read so much without waiting will not wait soon.
const STEADY: usize = 2 * 1024 * 1024;

#[derive(Default)]
pub(crate) struct Reading {
    /// What comes soon is one read.
    gathers: bool,
    /// There was more than a small read takes.
    large: bool,
    /// What the last read found was there at once. (The answer to a request never is.)
    streaming: bool,
    /// The last read found nothing.
    waits: bool,
    /// So much was read since a read found nothing.
    unbroken: usize,
    /// How long the last read was to pause.
    paused: Duration,
}

impl Reading {
    /// Of a pipe. A terminal has 4 KiB at a time, and takes 10 µs and more for each question.
    pub(crate) fn of_pipe() -> Reading {
        Reading { gathers: true, ..Reading::default() }
    }

    pub(crate) fn of_terminal() -> Reading {
        Reading::default()
    }

    /// At most `max` bytes, as a binary of their exact size; `None` at end of file. Hurries where somebody waits (`wanted`).
    pub(crate) fn read<'a>(
        &mut self,
        env: Env<'a>,
        fd: BorrowedFd<'_>,
        growth: &mut Growth,
        max: usize,
        wanted: &AtomicUsize,
    ) -> Result<Option<Binary<'a>>, Errno> {
        self.paused = Duration::ZERO;
        let found = self.find(env, fd, growth, max, wanted);
        let waited = self.waits;
        self.waits = matches!(found, Err(Errno::AGAIN));
        self.streaming = !self.waits && !waited;
        self.unbroken = match &found {
            Ok(Some(binary)) if self.streaming => self.unbroken.saturating_add(binary.len()),
            _ => 0,
        };
        found
    }

    /// Of a pipe: nobody has waited for long. Once in so many bytes. (A terminal is written to by the same fd.)
    pub(crate) fn take_steady(&mut self) -> bool {
        let steady = self.gathers && self.unbroken >= STEADY;
        if steady {
            self.unbroken = 0;
        }
        steady
    }

    pub(crate) fn paused(&self) -> Duration {
        self.paused
    }

    fn find<'a>(
        &mut self,
        env: Env<'a>,
        fd: BorrowedFd<'_>,
        growth: &mut Growth,
        max: usize,
        wanted: &AtomicUsize,
    ) -> Result<Option<Binary<'a>>, Errno> {
        if self.gathers && self.large && self.streaming && max == LARGE {
            let mut binary = OwnedBinary::new(LARGE);
            let filled = self.gather(fd, growth, binary.as_mut_slice(), wanted)?;
            self.large = filled >= SMALL;
            return Ok(release(env, binary, filled));
        }
        if self.large {
            let available = available(fd);
            growth.read(fd, available);
            self.large = available > SMALL;
            if self.large && max > SMALL {
                let mut binary = OwnedBinary::new(available.min(max));
                let count = read_bytes(fd, binary.as_mut_slice())?;
                return Ok(release(env, binary, count));
            }
        }
        let mut buffer = [0; SMALL];
        let count = read_bytes(fd, &mut buffer[..max.min(SMALL)])?;
        if count == SMALL && max > SMALL {
            self.large = true;
            let mut binary = OwnedBinary::new(count + available(fd).min(max - count));
            let (start, rest) = binary.as_mut_slice().split_at_mut(count);
            start.copy_from_slice(&buffer);
            // What has been read is not lost; the next read says what is the matter.
            let more = if rest.is_empty() { 0 } else { read_bytes(fd, rest).unwrap_or(0) };
            return Ok(release(env, binary, count + more));
        }
        if count == 0 {
            return Ok(None);
        }
        let mut binary = NewBinary::new(env, count);
        binary.as_mut_slice().copy_from_slice(&buffer[..count]);
        Ok(Some(binary.into()))
    }

    /// Reads until the buffer is full, or nothing comes soon. 0 is the end of file.
    fn gather(
        &mut self,
        fd: BorrowedFd<'_>,
        growth: &mut Growth,
        buffer: &mut [u8],
        wanted: &AtomicUsize,
    ) -> Result<usize, Errno> {
        let mut filled = self.read_soon(fd, buffer, wanted)?;
        growth.read(fd, filled);
        for _ in 1..MOST_PARTS {
            if filled == 0 || filled == buffer.len() || !self.pause(PAUSE, wanted) {
                break;
            }
            match self.read_soon(fd, &mut buffer[filled..], wanted) {
                Ok(count) if count > 0 => filled += count,
                // What has been read is not lost; the next read says what is the matter, or that this is the end.
                _ => break,
            }
        }
        Ok(filled)
    }

    /// read(2) of what is there or comes soon.
    fn read_soon(
        &mut self,
        fd: BorrowedFd<'_>,
        buffer: &mut [u8],
        wanted: &AtomicUsize,
    ) -> Result<usize, Errno> {
        for doubled in 1..=MOST_PAUSES {
            match read_bytes(fd, buffer) {
                Err(Errno::AGAIN) if self.pause(PAUSE * (1 << doubled), wanted) => {}
                found => return found,
            }
        }
        read_bytes(fd, buffer)
    }

    /// False when somebody waits for the pipe. Without a system call (where the clock needs none): a read(2) takes the
    /// pipe's lock from the writer, and after a poll(2) each write looks for sleepers.
    fn pause(&mut self, pause: Duration, wanted: &AtomicUsize) -> bool {
        self.paused += pause;
        let start = Instant::now();
        while start.elapsed() < pause {
            if wanted.load(Ordering::Relaxed) > 0 {
                return false;
            }
            std::hint::spin_loop();
        }
        true
    }
}

/// `None` when there is nothing in it.
fn release(env: Env<'_>, mut binary: OwnedBinary, filled: usize) -> Option<Binary<'_>> {
    if filled == 0 {
        return None;
    }
    if filled < binary.len() {
        binary.realloc_or_copy(filled);
    }
    Some(binary.release(env))
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
