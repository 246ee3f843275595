//! What the systems do differently, behind the same functions. `unix` is what they do alike.

mod unix;
pub(crate) use unix::{
    Signal, hung_up, ignore_terminal_and_stop_signals, kill_group, kill_process, last_errno,
    reset_signal_mask, restore_default_signals, watch_children,
};

#[cfg(target_os = "linux")]
mod proc;
#[cfg(target_os = "linux")]
mod rights;
#[cfg(target_os = "linux")]
pub(crate) use rights::{
    drop_capabilities, nice_session, regain_root_group, regain_root_user, resource, set_gid, set_groups,
    set_uid,
};
#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod system;
#[cfg(target_os = "linux")]
pub(crate) use proc::{children, only_descendant, process, processes, slices};

#[cfg(target_vendor = "apple")]
#[path = "macos.rs"]
mod system;
#[cfg(target_vendor = "apple")]
pub(crate) use system::{
    children, drop_capabilities, nice_session, only_descendant, process, processes, regain_root_group,
    regain_root_user, resource, set_gid, set_groups, set_uid, slices,
};

pub(crate) use system::{
    HANG_UP, HAS_CGROUPS, HIGHEST_SIGNAL, any_child_alive, become_subreaper, close_all_but, die_with_parent,
    ended_child, error_pipe, is_subreaper, lacks, pidfd, pin, reset_disposition, wait,
};

use std::os::fd::BorrowedFd;

use protocol::{Exit, Rusage};
use rustix::process::Pid;

/// An fd and what is awaited of it. That it has ended is always awaited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched<'fd> {
    pub(crate) fd: BorrowedFd<'fd>,
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// An event of a cgroup (cgroups(7), `cgroup.events`), which counts as that of a child.
    pub(crate) urgent: bool,
}

/// Why a wait has ended. That a cgroup has become empty is like the end of a child. A child that ends while an fd is ready is told by the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    ByChild,
    ByFdOrTime,
}

/// A child that has ended and is not reaped yet.
#[derive(Debug)]
pub(crate) struct EndedChild {
    pub(crate) pid: Pid,
    pub(crate) exit: Exit,
    pub(crate) rusage: Rusage,
}

/// A process as the system's table shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// 0 where there is none.
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// Clock ticks since the system has started.
    pub(crate) start: u64,
    /// Not a zombie, or one whose other threads run on.
    pub(crate) alive: bool,
}

/// Pid and start: a pid does not come round within a clock tick.
pub(crate) type Identity = (i32, u64);

impl Process {
    pub(crate) fn identity(&self) -> Identity {
        (self.pid.as_raw_nonzero().get(), self.start)
    }
}
