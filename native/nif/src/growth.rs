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
/// A pipe is grown when so many reads in a row have found it full, or so many writes have left it full and had more
/// than a grown one takes. (With less, a writer that is seldom told to wait only takes the processor from the reader.)
const FULL: u8 = 3;

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
        self.observe(pipe, available >= INITIAL);
    }

    /// So many bytes had no room.
    pub(crate) fn written(&mut self, pipe: BorrowedFd<'_>, left: usize) {
        self.observe(pipe, left >= GROWN);
    }

    fn observe(&mut self, pipe: BorrowedFd<'_>, full: bool) {
        if self.settled {
            return;
        }
        self.full = if full { self.full + 1 } else { 0 };
        if self.full == FULL {
            self.settled = true;
            self.grow(pipe);
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
