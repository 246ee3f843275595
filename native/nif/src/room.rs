//! Places in the VM's table of file descriptors, kept for the pidfds of a command that is about to run: they come when
//! it runs already, and without room for them it can only be ended again.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::stdio;

/// The shepherd's and the command's.
const PIDFDS: usize = 2;

/// Fds that stand for those to come.
#[derive(Default)]
pub(crate) struct Room(Vec<OwnedFd>);

/// Fds have been short once: from then on room is always kept.
static SHORT: AtomicBool = AtomicBool::new(false);

pub(crate) fn fds_are_short() {
    SHORT.store(true, Ordering::Relaxed);
}

impl Room {
    /// None where nothing says that fds are short: `newest` has got the lowest number that was free, and that is in the
    /// lower half of the table.
    pub(crate) fn reserve(newest: BorrowedFd<'_>) -> Result<Room, Errno> {
        // The VM, too, goes by the limit that it found at its start.
        static HALF: OnceLock<u64> = OnceLock::new();
        let half =
            *HALF.get_or_init(|| getrlimit(Resource::Nofile).current.map_or(u64::MAX, |limit| limit / 2));
        let is_low = u64::try_from(newest.as_raw_fd()).is_ok_and(|number| number < half);
        if is_low && !SHORT.load(Ordering::Relaxed) {
            return Ok(Room::default());
        }
        (0..PIDFDS).map(|_| stdio::duplicate(newest)).collect::<Result<_, _>>().map(Room)
    }

    /// Frees a place, if there is one: for what is received next.
    pub(crate) fn free(&mut self) -> bool {
        self.0.pop().is_some()
    }

    /// Nothing was received: the place is kept for the next time, unless somebody has it already.
    pub(crate) fn keep(&mut self, any: BorrowedFd<'_>) {
        self.0.extend(stdio::duplicate(any));
    }

    pub(crate) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}
