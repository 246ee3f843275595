//! Larger pipes for streams that keep coming up full: fewer, larger reads (fcntl(2), `F_SETPIPE_SZ`).
//!
//! The kernel counts the pages of all pipes of a user, and above `pipe-user-pages-soft` gives an unprivileged
//! one pipes of two pages only and refuses to grow any (pipe(7), "/proc files"). So all growth of this VM
//! together stays below a quarter of that.

use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a new pipe holds on Linux (pipe(7), "Pipe capacity").
const INITIAL: usize = 64 * 1024;
/// The default of `pipe-max-size`, above which only a privileged process can grow a pipe.
const GROWN: usize = 1024 * 1024;
/// A pipe is grown when so many reads in a row have found it full,
const FULL_READS: u8 = 3;
/// or when so many writes have had no room for all.
const FULL_WRITES: u8 = 16;

/// By how much the pipes of this VM have been grown.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// One pipe's part in it. Dropping it gives the share back.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    full: u8,
    /// How much of `TAKEN` is this pipe's.
    share: usize,
    /// It was tried once, and either worked or was refused.
    settled: bool,
}

impl Growth {
    /// A read found so many bytes.
    pub(crate) fn read(&mut self, pipe: BorrowedFd<'_>, available: usize) {
        if available < INITIAL {
            self.full = 0;
        } else {
            self.found_full(pipe, FULL_READS);
        }
    }

    /// A write had no room for all. (One of as much as a pipe holds fits, and the next one finds it full.)
    pub(crate) fn written(&mut self, pipe: BorrowedFd<'_>) {
        self.found_full(pipe, FULL_WRITES);
    }

    fn found_full(&mut self, pipe: BorrowedFd<'_>, enough: u8) {
        self.full = self.full.saturating_add(1);
        if self.full >= enough && !self.settled {
            self.settled = true;
            self.grow(pipe);
        }
    }

    /// Before our end is closed: the command may have the other one for long, and the kernel counts the pages as long. Where
    /// more is in the pipe than it held at first, the share is kept until the command is over (or as long as the pipe's resource,
    /// where its server was killed). Leftovers that are kept, and what cannot be killed, do not count any more then.
    pub(crate) fn shrink(&mut self, pipe: BorrowedFd<'_>) {
        if self.share > 0 && set_size(pipe, INITIAL) {
            TAKEN.fetch_sub(std::mem::take(&mut self.share), Ordering::Relaxed);
        }
    }

    fn grow(&mut self, pipe: BorrowedFd<'_>) {
        const MORE: usize = GROWN - INITIAL;
        let taken = TAKEN.fetch_add(MORE, Ordering::Relaxed) + MORE;
        if taken <= allowance() && set_size(pipe, GROWN) {
            self.share = MORE;
        } else {
            TAKEN.fetch_sub(MORE, Ordering::Relaxed);
        }
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.share, Ordering::Relaxed);
    }
}

/// A quarter of the user's quota, in bytes.
fn allowance() -> usize {
    static ALLOWANCE: OnceLock<usize> = OnceLock::new();
    /// The kernel's default for `pipe-user-pages-soft`.
    const DEFAULT_PAGES: usize = 16 * 1024;
    *ALLOWANCE.get_or_init(|| {
        let pages = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            // 0 is "no limit", which is no reason to take without one.
            .filter(|pages| *pages > 0)
            .unwrap_or(DEFAULT_PAGES);
        pages.saturating_mul(rustix::param::page_size()) / 4
    })
}

#[cfg(target_os = "linux")]
fn set_size(pipe: BorrowedFd<'_>, size: usize) -> bool {
    rustix::pipe::fcntl_setpipe_size(pipe, size).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn set_size(_pipe: BorrowedFd<'_>, _size: usize) -> bool {
    false
}
