use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use protocol::{Cgroup, CgroupLimit, CgroupLimitName, Event, Exit};

use super::*;

/// A directory of this test's own in the version 2 hierarchy, with nothing in it when it is over.
pub(crate) struct Group(pub(crate) PathBuf);

impl Group {
    /// `None`, said aloud, where none can be made.
    pub(crate) fn new(name: &str) -> Option<Group> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let path = mount.map(|line| {
            let mount = line.split(' ').nth(4).unwrap();
            Path::new(mount).join(format!("nr_shepherd_{name}_{}", std::process::id()))
        });
        match path
            .ok_or(std::io::ErrorKind::NotFound.into())
            .and_then(|path| fs::create_dir(&path).map(|()| path))
        {
            Ok(path) => Some(Group(path)),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "skipped: no cgroup can be made here: {error}");
                None
            }
        }
    }

    /// A leaf for one command, by the last letter of its name.
    pub(crate) fn request(&self, parts: &str, leaf: char) -> Cgroup {
        Cgroup {
            root: self.0.to_str().unwrap().as_bytes().to_vec(),
            parts: parts.split('/').map(|part| part.as_bytes().to_vec()).collect(),
            leaf: format!("nr-aaaaaaaaaaaaaaa{leaf}").into_bytes(),
            limits: Vec::new(),
        }
    }

    pub(crate) fn leaf(&self, parts: &str, leaf: char) -> PathBuf {
        self.0.join(parts).join(format!("nr-aaaaaaaaaaaaaaa{leaf}"))
    }

    /// The directories in it, sorted.
    pub(crate) fn below(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap());
        let directories = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        let mut names: Vec<String> =
            directories.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = fs::write(self.0.join("cgroup.kill"), "1");
            return;
        }
        fs::remove_dir(&self.0).unwrap();
    }
}

impl Cmd {
    pub(crate) fn cgroup(self, cgroup: Cgroup) -> Cmd {
        self.edit(|spawn| spawn.cgroup = Some(cgroup))
    }

    pub(crate) fn limit(self, name: CgroupLimitName, value: &str) -> Cmd {
        let value = value.as_bytes().to_vec();
        self.edit(|spawn| spawn.cgroup.as_mut().unwrap().limits.push(CgroupLimit { name, value }))
    }
}

impl Session {
    /// The statistics and `Done`, and nothing after it.
    pub(crate) fn done_with_stats(&mut self) -> protocol::CgroupStats {
        let event = self.event();
        let Some(Event::Cgroup(stats)) = event else { panic!("expected Cgroup, got {event:?}") };
        self.done();
        stats
    }

    pub(crate) fn finish_with_stats(&mut self) -> (Exit, protocol::CgroupStats) {
        self.started();
        let (exit, _) = self.exited();
        (exit, self.done_with_stats())
    }
}

/// The path of a process' group in the version 2 hierarchy, from the root of the hierarchy.
pub(crate) fn group_of(pid: i32) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}
