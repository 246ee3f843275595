//! Finds the descendants of this process and signals them, and nobody else.
//!
//! A direct child keeps its pid until we reap it, so its number is safe. A deeper one is pinned by a pidfd
//! first; that the parents still lead to us is checked afterwards, when its number can mean no other.
//!
//! Children are signalled while /proc is being walked, not after it: a process that keeps forking and
//! exiting is caught in the microseconds between being seen and being gone.

use std::collections::BTreeSet;

use rustix::process::{Pid, getpid};

use crate::os::{self, PinnedProcess, Process, Signal};

pub(crate) enum Descendant<'a> {
    Child(&'a Process),
    Deeper(&'a Process, PinnedProcess),
}

impl Descendant<'_> {
    pub(crate) fn process(&self) -> &Process {
        match self {
            Descendant::Child(process) | Descendant::Deeper(process, _) => process,
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended, or be another user's by now (EPERM); who still lives is looked up again.
        let _ = match self {
            Descendant::Child(process) => os::kill_process(process.pid, signal),
            Descendant::Deeper(_, pinned) => pinned.signal(signal),
        };
    }
}

/// Visits the children for which `is_root` holds, zombies too, then everything below them. Without /proc
/// nothing is found.
pub(crate) fn visit(is_root: impl Fn(Pid) -> bool, mut visit: impl FnMut(&Descendant<'_>)) {
    let me = getpid();
    let Some(processes) = os::processes() else {
        return;
    };
    let mut ours = BTreeSet::new();
    let mut others = Vec::new();
    for process in processes {
        if process.parent != me.as_raw_nonzero().get() {
            others.push(process);
        } else if is_root(process.pid) {
            ours.insert(process.pid.as_raw_nonzero().get());
            visit(&Descendant::Child(&process));
        }
    }
    // Parents come before their children, but where pids have wrapped around: until nothing is added.
    while let before = others.len()
        && !ours.is_empty()
    {
        others.retain(|process| {
            let is_ours = ours.contains(&process.parent);
            if is_ours {
                ours.insert(process.pid.as_raw_nonzero().get());
                if let Some(pinned) = os::pin(process.pid)
                    && descends_from(me, process.pid, &is_root)
                {
                    visit(&Descendant::Deeper(process, pinned));
                }
            }
            !is_ours
        });
        if others.len() == before {
            break;
        }
    }
}

/// Whether the parents of `pid`, as they are now, lead to a root among our children.
fn descends_from(me: Pid, pid: Pid, is_root: &impl Fn(Pid) -> bool) -> bool {
    // A chain cannot be longer than there are pids; this only ends a walk through a table that changes.
    const LONGEST: usize = 1 << 16;
    let mut pid = pid;
    for _ in 0..LONGEST {
        let Some(parent) = os::process(pid).and_then(|process| Pid::from_raw(process.parent)) else {
            return false;
        };
        if parent == me {
            return is_root(pid);
        }
        pid = parent;
    }
    false
}
