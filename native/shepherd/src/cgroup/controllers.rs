//! Limits, and the controllers that they need.

use std::ffi::CString;
use std::path::Path;

use protocol::{CgroupLimit, CgroupStep};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::leaf::Leaf;
use super::{failed, is_gone};
use crate::launch::Failure;

/// Before anything is made: that the root is there, and has what the limits need.
pub(super) fn check(root: &Path, limits: &[CgroupLimit]) -> Result<(), Failure> {
    let available =
        read(&root.join("cgroup.controllers")).map_err(|errno| failed(CgroupStep::Root, errno))?;
    let available: Vec<&str> = available.split_ascii_whitespace().collect();
    match limits.iter().find(|limit| !available.contains(&limit.name.controller())) {
        None => Ok(()),
        Some(limit) => Err(failed(CgroupStep::Limit(limit.name), Errno::OPNOTSUPP)),
    }
}

pub(super) fn needed(limits: &[CgroupLimit]) -> Vec<&'static str> {
    let mut controllers: Vec<_> = limits.iter().map(|limit| limit.name.controller()).collect();
    controllers.sort_unstable();
    controllers.dedup();
    controllers
}

/// Has the groups below this one have these controllers. What is enabled stays so: others may count on it.
/// `false`: it has been removed.
pub(super) fn enable(group: &Path, controllers: &[&str]) -> Result<bool, Failure> {
    if controllers.is_empty() {
        return Ok(true);
    }
    match try_to_enable(group, controllers) {
        Ok(()) => Ok(true),
        // Of the file, or of a controller that the group above has no more.
        Err(errno) if is_gone(errno) => Ok(false),
        Err(errno) => Err(failed(CgroupStep::Enable, errno)),
    }
}

fn try_to_enable(group: &Path, controllers: &[&str]) -> Result<(), Errno> {
    let file = group.join("cgroup.subtree_control");
    let enabled = read(&file)?;
    let enabled: Vec<&str> = enabled.split_ascii_whitespace().collect();
    let missing: Vec<String> =
        controllers.iter().filter(|one| !enabled.contains(one)).map(|one| format!("+{one}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if has_processes(group)? {
        return Err(Errno::BUSY);
    }
    let file = rustix::fs::open(&file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::retry_on_intr(|| rustix::io::write(&file, missing.join(" ").as_bytes())).map(drop)
}

/// Whether processes are in this group itself. The kernel refuses controllers for those below it then; but not cpu and
/// pids, which it takes for the wish to have threads there, and no process, ours or another's, can be in one below it
/// any more (cgroup-v2.rst, "Threads"). The root of the hierarchy may have both.
fn has_processes(group: &Path) -> Result<bool, Errno> {
    let is_root = !group.join("cgroup.type").exists();
    Ok(!is_root && !read(&group.join("cgroup.procs"))?.is_empty())
}

pub(super) fn limit(leaf: &Leaf, limits: &[CgroupLimit]) -> Result<(), Failure> {
    for limit in limits {
        let file = CString::new(limit.name.file()).unwrap_or_default();
        leaf.write(&file, &limit.value).map_err(|errno| {
            // The controller is there, and this kernel's does not know the limit.
            let errno = if errno == Errno::NOENT { Errno::OPNOTSUPP } else { errno };
            failed(CgroupStep::Limit(limit.name), errno)
        })?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Errno> {
    std::fs::read_to_string(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
