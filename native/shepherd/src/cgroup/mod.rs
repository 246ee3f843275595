//! The control group of a command (cgroups(7), version 2): made before the command, which is born in it, and
//! removed when nothing lives in it.
//!
//! * A leaf belongs to one command. Its shepherd holds flock(2) on the leaf's directory for as long as it lives,
//!   so one whose lock can be taken has lost its shepherd: whoever makes another beside it ends what is in it.
//! * What is made is removed on every way out, by `Drop`. A level that was there before stays. Those that were
//!   made are marked, for the last one who leaves, or who comes after a crash, need not be the one who made them.

mod controllers;
mod leaf;
mod levels;
mod stats;

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use protocol::{CgroupStats, CgroupStep, Stage};
use rustix::event::{PollFd, Timespec, poll};
use rustix::io::Errno;

use crate::launch::Failure;
use crate::os::{self, Watched};
use leaf::Leaf;
use levels::Levels;

pub(crate) struct Cgroup {
    leaf: Leaf,
    /// Behind the leaf, for fields are dropped in this order.
    _levels: Levels,
}

/// How often it is tried again where somebody else has removed what was just found or made, and the pause.
const MOST_ATTEMPTS: u32 = 1_000;
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// For so long all the leaves that others have left may keep a command waiting.
const SWEEPING: Duration = Duration::from_secs(1);

/// Those that are killed and do not end within this are reported.
const UNKILLABLE_AFTER: Duration = Duration::from_secs(5);

pub(super) fn failed(step: CgroupStep, errno: Errno) -> Failure {
    Failure::new(Stage::Cgroup(step), errno)
}

/// Whether somebody has removed the directory meanwhile.
pub(super) fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NODEV)
}

fn join(path: &Path, name: &[u8]) -> PathBuf {
    path.join(OsStr::from_bytes(name))
}

impl Cgroup {
    /// All of it, or nothing.
    pub(crate) fn make(wanted: &protocol::Cgroup, vm: BorrowedFd<'_>) -> Result<Cgroup, Failure> {
        if !os::HAS_CGROUPS {
            return Err(failed(CgroupStep::Create, Errno::OPNOTSUPP));
        }
        controllers::check(&join(Path::new("/"), &wanted.root), &wanted.limits)?;
        for _ in 0..MOST_ATTEMPTS {
            if let Some(cgroup) = Cgroup::attempt(wanted, vm)? {
                return Ok(cgroup);
            }
            let _ = poll(&mut [PollFd::from_borrowed_fd(vm, os::HANG_UP)], Some(&PAUSE));
        }
        Err(failed(CgroupStep::Create, Errno::AGAIN))
    }

    /// `None`: somebody else has removed a part of it, or is about to.
    fn attempt(wanted: &protocol::Cgroup, vm: BorrowedFd<'_>) -> Result<Option<Cgroup>, Failure> {
        let mut path = join(Path::new("/"), &wanted.root);
        let mut levels = Levels::default();
        let controllers = controllers::needed(&wanted.limits);
        for part in &wanted.parts {
            // There can be two thousand.
            if os::hung_up(vm) {
                return Err(Failure::new(Stage::Fork, Errno::CANCELED));
            }
            if !controllers::enable(&path, &controllers)? {
                return Ok(None);
            }
            path = join(&path, part);
            if !levels.enter(&path)? {
                return Ok(None);
            }
        }
        if !controllers::enable(&path, &controllers)? {
            return Ok(None);
        }
        if !levels.innermost_is_new() {
            sweep_siblings(&path);
        }
        let path = join(&path, &wanted.leaf);
        match Leaf::make_directory(&path) {
            // Or that of the attempt before, for nobody else has this name.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) if is_gone(errno) => return Ok(None),
            Err(errno) => return Err(failed(CgroupStep::Create, errno)),
        }
        // Between the two somebody else may have taken it for a leaf that is left.
        let locked = Leaf::lock(&path).map_err(|errno| {
            let _ = rustix::fs::rmdir(&path);
            failed(CgroupStep::Create, errno)
        })?;
        let Some(leaf) = locked else {
            return Ok(None);
        };
        leaf.publish().map_err(|errno| failed(CgroupStep::Create, errno))?;
        controllers::limit(&leaf, &wanted.limits)?;
        Ok(Some(Cgroup { leaf, _levels: levels }))
    }

    /// Ends what a dead shepherd has left: the VM says that it is dead. What does not end is the error.
    pub(crate) fn sweep(left: &protocol::Cgroup) -> Result<(), Vec<i32>> {
        let mut path = join(Path::new("/"), &left.root);
        let mut levels = Levels::default();
        for part in &left.parts {
            path = join(&path, part);
            levels.find(&path);
        }
        match Leaf::open(&join(&path, &left.leaf)) {
            Ok(leaf) if !leaf.end(UNKILLABLE_AFTER) => Err(leaf.processes()),
            _ended_or_gone => Ok(()),
        }
    }

    /// The directory, for clone3(2).
    #[cfg(target_os = "linux")]
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.leaf.directory()
    }

    /// `cgroup.procs`, for a child that joins by writing to it.
    pub(crate) fn open_procs(&self) -> Result<OwnedFd, Errno> {
        self.leaf.open_file(c"cgroup.procs", rustix::fs::OFlags::WRONLY)
    }

    /// SIGKILL to everything in it, whatever forks meanwhile.
    pub(crate) fn kill(&self) {
        // Where it is refused, its members are killed as our descendants.
        let _ = self.leaf.kill();
    }

    /// What is frozen does not act on a signal.
    pub(crate) fn thaw(&self) {
        let _ = self.leaf.write(c"cgroup.freeze", b"0");
    }

    /// Whether anything lives in it. To be asked whenever [`Cgroup::watched`] was ready.
    pub(crate) fn is_populated(&self) -> bool {
        self.leaf.is_populated()
    }

    /// Nothing, where somebody has removed it.
    pub(crate) fn watched(&self) -> Option<Watched<'_>> {
        self.leaf.events().map(|fd| Watched { fd, read: false, write: false, urgent: true })
    }

    /// Those that live in it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        self.leaf.processes()
    }

    pub(crate) fn stats(&self) -> CgroupStats {
        stats::read(&self.leaf)
    }
}

/// Ends what dead shepherds have left under the same path.
fn sweep_siblings(path: &Path) {
    let end = Instant::now() + SWEEPING;
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if protocol::Cgroup::is_leaf_name(entry.file_name().as_bytes()) {
            drop(Leaf::lock(&entry.path()));
        }
        if Instant::now() >= end {
            return;
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
