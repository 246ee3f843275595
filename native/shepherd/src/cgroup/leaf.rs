//! The group of one command.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use super::is_gone;
use crate::os::{self, Signal};

/// A leaf in our hands: it is ended and removed when it is dropped.
pub(super) struct Leaf {
    path: PathBuf,
    directory: OwnedFd,
    events: OwnedFd,
    /// As the last look has found it.
    removed: Cell<bool>,
}

/// Where killing has to be repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// For so long a drop waits.
const LINGER: Duration = Duration::from_secs(1);

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Leaf {
    /// Nobody but this user can open it before it is locked: whoever can could lock it.
    pub(super) fn make_directory(path: &Path) -> Result<(), Errno> {
        rustix::fs::mkdir(path, Mode::from_raw_mode(0o700))
    }

    /// Once it is locked.
    pub(super) fn publish(&self) -> Result<(), Errno> {
        rustix::fs::fchmod(&self.directory, Mode::from_raw_mode(0o755))
    }

    /// `None`: it has a living shepherd, or is gone.
    pub(super) fn lock(path: &Path) -> Result<Option<Leaf>, Errno> {
        match open_directory(path) {
            Err(errno) if is_gone(errno) => Ok(None),
            directory => Leaf::lock_opened(path, directory?),
        }
    }

    pub(super) fn lock_opened(path: &Path, directory: OwnedFd) -> Result<Option<Leaf>, Errno> {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        // One who had the lock before may have removed it, and another made one of the same name.
        let (this, at_path) = (rustix::fs::fstat(&directory)?, rustix::fs::stat(path));
        if at_path.is_ok_and(|at_path| (at_path.st_dev, at_path.st_ino) == (this.st_dev, this.st_ino)) {
            Leaf::new(path, directory).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Whoever has the lock.
    pub(super) fn open(path: &Path) -> Result<Leaf, Errno> {
        Leaf::new(path, open_directory(path)?)
    }

    fn new(path: &Path, directory: OwnedFd) -> Result<Leaf, Errno> {
        let events = open_at(directory.as_fd(), c"cgroup.events", OFlags::RDONLY)?;
        Ok(Leaf { path: path.to_owned(), directory, events, removed: Cell::new(false) })
    }

    #[cfg(target_os = "linux")]
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// `None`: somebody has removed the leaf, and the file of what is gone is ready for ever (poll(2)).
    pub(super) fn events(&self) -> Option<BorrowedFd<'_>> {
        (!self.removed.get()).then(|| self.events.as_fd())
    }

    pub(super) fn open_file(&self, file: &CStr, mode: OFlags) -> Result<OwnedFd, Errno> {
        open_at(self.directory.as_fd(), file, mode)
    }

    pub(super) fn write(&self, file: &CStr, value: &[u8]) -> Result<(), Errno> {
        write_at(self.directory.as_fd(), file, value)
    }

    pub(super) fn read(&self, file: &CStr) -> Result<String, Errno> {
        read_at(self.directory.as_fd(), file)
    }

    /// Zombies do not count. What cannot be read has been removed.
    pub(super) fn is_populated(&self) -> bool {
        let mut text = [0; 256];
        match rustix::io::retry_on_intr(|| rustix::io::pread(&self.events, &mut text, 0)) {
            Ok(length) => text[..length].split(|byte| *byte == b'\n').any(|line| line == b"populated 1"),
            Err(_) => {
                self.removed.set(true);
                false
            }
        }
    }

    /// SIGKILL to everything in it and below, at once, and whatever forks meanwhile (Linux 5.14).
    pub(super) fn kill(&self) -> Result<(), Errno> {
        match self.write(c"cgroup.kill", b"1") {
            Err(Errno::NOENT) => self.kill_each(),
            killed => killed,
        }
    }

    /// Older kernels: what is frozen forks no more, and can be killed all the same. It stays frozen, for nothing in it
    /// is to go on.
    pub(super) fn kill_each(&self) -> Result<(), Errno> {
        self.write(c"cgroup.freeze", b"1")?;
        for pid in self.processes().into_iter().filter_map(Pid::from_raw) {
            // Pinned first, then looked at: its number may have become another's since it was read.
            if let Some(pinned) = os::pin(pid)
                && self.has(pid)
            {
                let _ = pinned.signal(Signal::KILL);
            }
        }
        Ok(())
    }

    /// The leaf's name is in the path of a process' group: it is like no other's.
    pub(super) fn has(&self, pid: Pid) -> bool {
        let name = self.path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|groups| groups.lines().any(|group| group.split('/').any(|part| part == name)))
    }

    /// Of this group and all below it.
    pub(super) fn processes(&self) -> Vec<i32> {
        let mut processes = Vec::new();
        add_processes(self.directory.as_fd(), &mut processes);
        processes
    }

    /// Kills until nothing lives in it; `false` when the time is up, or when that is refused.
    pub(super) fn end(&self, within: Duration) -> bool {
        let end = Instant::now() + within;
        while self.is_populated() {
            let left = end.saturating_duration_since(Instant::now()).min(AGAIN_AFTER);
            if left.is_zero() || self.kill().is_err() {
                return !self.is_populated();
            }
            let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            let _ = poll(&mut [PollFd::new(&self.events, PollFlags::PRI)], Some(&pause));
        }
        true
    }
}

impl Drop for Leaf {
    /// While we have the lock nobody else removes it.
    fn drop(&mut self) {
        let end = Instant::now() + LINGER;
        while self.end(end.saturating_duration_since(Instant::now())) {
            let removed = remove_below(self.directory.as_fd()).and_then(|()| rustix::fs::rmdir(&self.path));
            // Where it could not be seen whether somebody lives there, this tells.
            if removed != Err(Errno::BUSY) || Instant::now() >= end {
                return;
            }
            let _ = self.kill();
            let pause = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            let _ = poll(&mut [PollFd::new(&self.events, PollFlags::PRI)], Some(&pause));
        }
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::io::retry_on_intr(|| rustix::fs::open(path, DIRECTORY, Mode::empty()))
}

fn open_at(directory: BorrowedFd<'_>, name: &CStr, mode: OFlags) -> Result<OwnedFd, Errno> {
    rustix::io::retry_on_intr(|| rustix::fs::openat(directory, name, mode | OFlags::CLOEXEC, Mode::empty()))
}

fn write_at(directory: BorrowedFd<'_>, file: &CStr, value: &[u8]) -> Result<(), Errno> {
    let file = open_at(directory, file, OFlags::WRONLY)?;
    rustix::io::retry_on_intr(|| rustix::io::write(&file, value)).map(drop)
}

fn read_at(directory: BorrowedFd<'_>, file: &CStr) -> Result<String, Errno> {
    let file = open_at(directory, file, OFlags::RDONLY)?;
    std::io::read_to_string(std::fs::File::from(file))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// The groups below a group.
fn groups(directory: BorrowedFd<'_>) -> impl Iterator<Item = CString> {
    Dir::read_from(directory).into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        let name = entry.file_name();
        let is_group = entry.file_type() == FileType::Directory && !matches!(name.to_bytes(), b"." | b"..");
        is_group.then(|| name.to_owned())
    })
}

fn add_processes(group: BorrowedFd<'_>, processes: &mut Vec<i32>) {
    let pids = read_at(group, c"cgroup.procs").unwrap_or_default();
    // Those of another PID namespace are 0.
    processes.extend(pids.lines().filter_map(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for name in groups(group) {
        if let Ok(below) = open_at(group, &name, DIRECTORY) {
            add_processes(below.as_fd(), processes);
        }
    }
}

/// Removes the groups that the command has made in its own, deepest first: however deep they are, with one fd.
fn remove_below(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut way = Vec::new();
    let mut here = open_at(directory, c".", DIRECTORY)?;
    loop {
        let below = groups(here.as_fd()).next();
        if let Some(name) = below {
            here = open_at(here.as_fd(), &name, DIRECTORY)?;
            way.push(name);
            continue;
        }
        let Some(name) = way.pop() else {
            return Ok(());
        };
        here = open_at(here.as_fd(), c"..", DIRECTORY)?;
        rustix::fs::unlinkat(&here, &name, AtFlags::REMOVEDIR)?;
    }
}
