//! In real groups: as root, or not at all.
#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::path::PathBuf;
use std::process::{Child, Command};

use rustix::process::Pid;

use super::*;

/// A directory of this test's own in the version 2 hierarchy; `None`, said aloud, where there is none.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Option<Scratch> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
        let path = Path::new(mount).join(format!("nr_unit_{name}_{}", std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => Some(Scratch(path)),
            Err(error) => {
                use std::io::Write as _;
                let _ = writeln!(std::io::stderr(), "skipped: no cgroup can be made here: {error}");
                None
            }
        }
    }

    fn leaf(&self) -> PathBuf {
        let path = self.0.join("nr-aaaaaaaaaaaaaaaa");
        std::fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn sleeper_in(group: &Path) -> Child {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    std::fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
    child
}

#[test]
fn without_cgroup_kill_each_is_killed_in_nested_groups_too() {
    let Some(scratch) = Scratch::new("kill_each") else { return };
    let path = scratch.leaf();
    let mut sleepers = vec![sleeper_in(&path)];
    let mut nested = path.clone();
    for name in ["a", "b"] {
        nested.push(name);
        std::fs::create_dir(&nested).unwrap();
        sleepers.push(sleeper_in(&nested));
    }
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let leaf = Leaf::lock(&path).unwrap().unwrap();
    let mut listed = leaf.processes();
    listed.sort_unstable();
    let mut there: Vec<i32> = sleepers.iter().map(|child| child.id().cast_signed()).collect();
    there.sort_unstable();
    assert_eq!(listed, there);
    leaf.kill_each().unwrap();
    for sleeper in &mut sleepers {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(sleeper.wait().unwrap().signal(), Some(9));
    }
    assert!(!leaf.is_populated());
    assert!(!leaf.has(Pid::from_raw(stranger.id().cast_signed()).unwrap()));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    drop(leaf);
    assert!(!path.exists(), "with the groups in it");
}

#[test]
fn a_leaf_is_locked_once_and_only_while_it_is_there() {
    let Some(scratch) = Scratch::new("lock") else { return };
    let path = scratch.leaf();
    let leaf = Leaf::lock(&path).unwrap().unwrap();
    assert!(Leaf::lock(&path).unwrap().is_none(), "somebody has it");
    assert!(leaf.end(Duration::ZERO));
    drop(leaf);
    assert!(!path.exists());
    assert!(Leaf::lock(&path).unwrap().is_none(), "it is gone");

    // Who comes late has the one that was removed, not the new one of that name.
    let late = std::fs::File::open(scratch.leaf()).unwrap();
    std::fs::remove_dir(&path).unwrap();
    scratch.leaf();
    assert!(Leaf::lock_opened(&path, late.into()).unwrap().is_none());
    assert!(path.exists());
    drop(Leaf::lock(&path).unwrap().unwrap());
}

#[test]
fn levels_that_were_there_stay_and_those_that_were_made_go_with_the_last() {
    let Some(scratch) = Scratch::new("levels") else { return };
    let (old, new) = (scratch.0.join("old"), scratch.0.join("old/new"));
    std::fs::create_dir(&old).unwrap();
    let enter = || {
        let mut levels = Levels::default();
        assert!(levels.enter(&old).is_ok_and(|entered| entered));
        assert!(levels.enter(&new).is_ok_and(|entered| entered));
        levels
    };
    let (first, second) = (enter(), enter());
    assert!(first.innermost_is_new() && !second.innermost_is_new());
    // The first one leaves first.
    let leaf = new.join("nr-aaaaaaaaaaaaaaaa");
    std::fs::create_dir(&leaf).unwrap();
    drop(first);
    assert!(new.exists());
    std::fs::remove_dir(&leaf).unwrap();
    drop(second);
    assert!(!new.exists() && old.exists());
    std::fs::remove_dir(&old).unwrap();
}

/// As `protocol::Cgroup` has it: `a/b` below the scratch directory.
fn wanted(scratch: &Scratch) -> protocol::Cgroup {
    use std::os::unix::ffi::OsStrExt;
    protocol::Cgroup {
        root: scratch.0.as_os_str().as_bytes().to_vec(),
        parts: vec![b"a".to_vec(), b"b".to_vec()],
        leaf: b"nr-aaaaaaaaaaaaaaaa".to_vec(),
        limits: Vec::new(),
    }
}

#[test]
fn a_sweep_removes_the_levels_of_one_that_died_before_it_had_made_all() {
    let Some(scratch) = Scratch::new("sweep_levels") else { return };
    let outer = scratch.0.join("a");
    let mut levels = Levels::default();
    assert!(levels.enter(&outer).is_ok_and(|entered| entered));
    // Killed here.
    std::mem::forget(levels);
    assert!(Cgroup::sweep(&wanted(&scratch)).is_ok());
    let left = outer.exists();
    let _ = std::fs::remove_dir(&outer);
    assert!(!left, "the outer level is marked, and empty");
}

#[test]
fn nothing_is_made_for_a_vm_that_has_hung_up() {
    let Some(scratch) = Scratch::new("hung_up") else { return };
    let (vm, ours) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(vm);
    let made = Cgroup::make(&wanted(&scratch), std::os::fd::AsFd::as_fd(&ours));
    let failure = made.err().map(|failure| failure.event());
    let errno = Errno::CANCELED.raw_os_error();
    assert_eq!(failure, Some(protocol::Event::Failed { stage: Stage::Fork, errno }));
}

#[test]
fn a_leaf_is_its_makers_alone_until_it_is_locked() {
    use std::os::unix::fs::PermissionsExt;
    let Some(scratch) = Scratch::new("mode") else { return };
    // No name that is swept.
    let wanted = protocol::Cgroup { leaf: b"leaf".to_vec(), ..wanted(&scratch) };
    let path = scratch.0.join("a/b/leaf");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    Leaf::make_directory(&path).unwrap();
    assert_eq!(mode(), 0o700);
    // That of an attempt before, which nobody has removed.
    let (_vm, ours) = std::os::unix::net::UnixStream::pair().unwrap();
    let Ok(cgroup) = Cgroup::make(&wanted, std::os::fd::AsFd::as_fd(&ours)) else { panic!("not made") };
    assert_eq!(mode(), 0o755);
    drop(cgroup);
    assert!(!path.exists());
    for level in ["a/b", "a"] {
        std::fs::remove_dir(scratch.0.join(level)).unwrap();
    }
}
