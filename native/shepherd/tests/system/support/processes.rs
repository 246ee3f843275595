use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::PATIENCE;

/// A living process that is to end. Made while it lives, so that it cannot be mistaken for another.
pub(crate) struct Watch(OwnedFd);

impl From<OwnedFd> for Watch {
    fn from(pidfd: OwnedFd) -> Watch {
        Watch(pidfd)
    }
}

impl Watch {
    pub(crate) fn new(pid: i32) -> Watch {
        let watch = Watch(pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap());
        assert!(!watch.has_ended(), "process {pid} has ended");
        watch
    }

    pub(crate) fn has_ended(&self) -> bool {
        has_ended(&self.0, Duration::ZERO)
    }

    pub(crate) fn wait(&self) {
        wait_for_end(&self.0);
    }
}

pub(crate) fn wait_for_end(pidfd: &OwnedFd) {
    assert!(has_ended(pidfd, PATIENCE), "a process does not end");
}

/// A pidfd is readable when its process has ended (pidfd_open(2)).
pub(crate) fn has_ended(pidfd: &OwnedFd, patience: Duration) -> bool {
    is_readable(pidfd, patience)
}

pub(crate) fn wait_until_readable(fd: &OwnedFd) {
    assert!(is_readable(fd, PATIENCE), "nothing comes");
}

pub(crate) fn is_readable(fd: &OwnedFd, patience: Duration) -> bool {
    let patience = Timespec::try_from(patience).unwrap();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&patience)).unwrap() > 0
}

/// For what only /proc tells.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

pub(crate) fn exists(pid: i32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

/// "pid (name) state parent …": what comes after the name.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

pub(crate) fn parent_of(pid: i32) -> Option<i32> {
    stat(pid)?[1].parse().ok()
}

pub(crate) fn state_of(pid: i32) -> Option<String> {
    Some(stat(pid)?[0].clone())
}

/// The processor time that a process has used, in clock ticks.
pub(crate) fn processor_time(pid: i32) -> u64 {
    let stat = stat(pid).unwrap();
    stat[11].parse::<u64>().unwrap() + stat[12].parse::<u64>().unwrap()
}

pub(crate) fn children_of(parent: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// What the open fds of a process are, sorted; each socket and pipe only as such.
pub(crate) fn open_files(pid: i32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let mut files: Vec<String> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.to_str().unwrap().split(':').next().unwrap().to_owned())
        .collect();
    files.sort();
    files
}

/// The pids on a line.
pub(crate) fn pids(line: &str) -> Vec<i32> {
    line.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}
