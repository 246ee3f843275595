//! The levels between the root and a leaf.

use std::path::{Path, PathBuf};

use protocol::CgroupStep;
use rustix::fs::{Mode, XattrFlags};
use rustix::io::Errno;

use super::{failed, is_gone};
use crate::launch::Failure;

/// Outermost first. When they are dropped those are removed, innermost first, that NetRunner has made and that
/// nobody uses any more.
#[derive(Default)]
pub(super) struct Levels(Vec<Level>);

struct Level {
    path: PathBuf,
    made_here: bool,
}

/// An extended attribute of a level that NetRunner has made (Linux 5.7).
const MARK: &std::ffi::CStr = c"user.net_runner";

impl Levels {
    /// Makes a level that is missing. `false`: the one above it has been removed.
    pub(super) fn enter(&mut self, path: &Path) -> Result<bool, Failure> {
        let made_here = match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) if is_gone(errno) => return Ok(false),
            Err(errno) => return Err(failed(CgroupStep::Create, errno)),
        };
        if made_here {
            let _ = rustix::fs::setxattr(path, MARK, b"1", XattrFlags::empty());
        }
        self.0.push(Level { path: path.to_owned(), made_here });
        Ok(true)
    }

    /// A level that was entered by somebody who is dead.
    pub(super) fn find(&mut self, path: &Path) {
        self.0.push(Level { path: path.to_owned(), made_here: false });
    }

    pub(super) fn innermost_is_new(&self) -> bool {
        self.0.last().is_some_and(|level| level.made_here)
    }
}

impl Drop for Levels {
    fn drop(&mut self) {
        for level in self.0.iter().rev() {
            let marked = if level.made_here { Ok(1) } else { read_mark(&level.path) };
            match marked.and_then(|_| rustix::fs::rmdir(&level.path)) {
                Ok(()) => {}
                // Somebody else has removed it, or it was never made.
                Err(errno) if is_gone(errno) => {}
                // Not ours. Or EBUSY: it has processes or groups; then those above it have one.
                Err(_) => return,
            }
        }
    }
}

fn read_mark(path: &Path) -> Result<usize, Errno> {
    rustix::fs::getxattr(path, MARK, &mut [0; 1])
}
