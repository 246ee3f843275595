//! Finds the descendants of this process and signals them, and nobody else.
//!
//! A direct child keeps its pid until we reap it, so its number is safe. A deeper one is pinned by a pidfd
//! first; that the parents still lead to us is checked afterwards, when its number can mean no other.
//!
//! They are signalled while /proc is being walked, not after it: a process that keeps forking and exiting is
//! caught in the microseconds between being seen and being gone.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rustix::process::{Pid, getpid};

use crate::os::{self, Identity, Process, Signal};

/// Where to look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// A process that was forked when those were that are looked for.
    pub(crate) near: Pid,
    /// Where orphans do not become ours: the session that is ours. Its leader must not be reaped yet.
    pub(crate) session: Option<Pid>,
}

impl Place {
    fn has(&self, process: &Process) -> bool {
        self.session.is_some() && Pid::from_raw(process.session) == self.session
    }
}

/// Who descends from us, from one of the children for which `is_root` holds.
pub(crate) struct Family<'a> {
    me: Pid,
    place: Place,
    is_root: &'a dyn Fn(Pid) -> bool,
    /// Those that were proven to: that stays so.
    proven: BTreeSet<Identity>,
}

impl Family<'_> {
    /// Whether it was signalled. It may have ended, or be another user's by now (EPERM), which is no reason to
    /// try again at once; that its parents do not lead to us at the moment is.
    pub(crate) fn signal(&mut self, process: &Process, signal: Signal) -> bool {
        if process.parent == self.me.as_raw_nonzero().get() {
            let _ = os::kill_process(process.pid, signal);
            return true;
        }
        let Some(pinned) = os::pin(process.pid) else {
            return true;
        };
        let is_ours =
            self.has(process.pid) || os::process(process.pid).is_some_and(|process| self.place.has(&process));
        if is_ours {
            let _ = pinned.signal(signal);
        }
        is_ours
    }

    /// Whether the parents of `pid`, as they are now, lead to a root among our children.
    fn has(&mut self, pid: Pid) -> bool {
        // A chain cannot be longer than there are pids; this only ends a walk through a table that changes.
        const LONGEST: usize = 1 << 16;
        let mut line = Vec::new();
        let mut pid = pid;
        for _ in 0..LONGEST {
            let Some(process) = os::process(pid) else {
                return false;
            };
            let is_proven = self.proven.contains(&process.identity());
            line.push(process.identity());
            if is_proven || process.parent == self.me.as_raw_nonzero().get() {
                let is_ours = is_proven || (self.is_root)(pid);
                if is_ours {
                    self.proven.extend(line);
                }
                return is_ours;
            }
            let Some(parent) = Pid::from_raw(process.parent) else {
                return false;
            };
            pid = parent;
        }
        false
    }
}

/// Visits the children for which `is_root` holds, zombies too, and everything below them, until one visit
/// says that it is enough.
///
/// Without /proc only children are found, slice by slice ([`os::slices`]): what is below them becomes our
/// child when its parents have ended.
pub(crate) fn visit(
    place: Place,
    slice: i32,
    is_root: impl Fn(Pid) -> bool,
    mut visit: impl FnMut(&Process, &mut Family<'_>) -> ControlFlow<()>,
) {
    let me = getpid();
    let mut family = Family { me, place, is_root: &is_root, proven: BTreeSet::new() };
    // So that it takes the same time with one command and with thousands of them.
    if place.session.is_none()
        && let Some(process) = os::only_descendant()
    {
        if is_root(process.pid) {
            let _ = visit(&process, &mut family);
        }
        return;
    }
    let Some(processes) = os::processes(slice, place.near) else {
        return;
    };
    let mut ours = BTreeSet::new();
    let mut others = Vec::new();
    let is_ours = |process: &Process, ours: &BTreeSet<i32>| {
        if process.parent == me.as_raw_nonzero().get() {
            is_root(process.pid)
        } else {
            ours.contains(&process.parent) || place.has(process)
        }
    };
    for process in processes {
        if !is_ours(&process, &ours) {
            others.push(process);
        } else {
            ours.insert(process.pid.as_raw_nonzero().get());
            if visit(&process, &mut family).is_break() {
                return;
            }
        }
    }
    // Parents come before their children, but where pids have wrapped around: until nothing is added.
    while let Some(next) = others.iter().position(|process| is_ours(process, &ours)) {
        let process = others.swap_remove(next);
        ours.insert(process.pid.as_raw_nonzero().get());
        if visit(&process, &mut family).is_break() {
            return;
        }
    }
}

/// Ends descendants, also those that fork faster than they can be killed one by one.
///
/// They are stopped first, until a look finds nobody new, and killed then. A process with SIGSTOP pending forks
/// no more: fork(2) is begun again when it goes on. Neither does one with SIGKILL, but one that is dead makes
/// room for another where a limit has been reached, and those that still run compete with us for the processor;
/// a stopped one does neither, so each look leaves fewer.
#[derive(Debug, Default)]
pub(crate) struct Hunt {
    /// All have been stopped that the last look has found.
    killing: bool,
    /// Those that the last look has signalled, or found signalled.
    known: BTreeSet<Identity>,
    /// Where there are many: the next one.
    slice: i32,
}

/// Those that are hunted may leave little of the processor to us. After so long a look ends, for there may be
/// somebody to answer; the next one goes on with those that are new to it.
const LONGEST_LOOK: Duration = Duration::from_millis(50);

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nobody,
    /// They are dying.
    Dying,
    /// The next look is due at once.
    More,
}

impl Hunt {
    pub(crate) fn look(&mut self, place: Place, is_root: impl Fn(Pid) -> bool) -> Found {
        if os::slices() > 1 { self.look_at_slice(place, is_root) } else { self.look_at_all(place, is_root) }
    }

    /// Those that the last look has found.
    pub(crate) fn found(&self) -> impl Iterator<Item = i32> {
        self.known.iter().map(|(pid, _)| *pid)
    }

    /// A long search: whoever is found is killed at once, and looked for from the beginning.
    fn look_at_slice(&mut self, place: Place, is_root: impl Fn(Pid) -> bool) -> Found {
        let mut found = BTreeSet::new();
        visit(place, self.slice, is_root, |process, family| {
            if process.alive && family.signal(process, Signal::KILL) {
                found.insert(process.identity());
            }
            ControlFlow::Continue(())
        });
        let next = self.slice + 1;
        self.slice = if found.is_empty() && next < os::slices() { next } else { 0 };
        if self.slice > 0 {
            return Found::More;
        }
        let is_new = !found.is_subset(&self.known);
        self.known = found;
        match (self.known.is_empty(), is_new) {
            (true, _) => Found::Nobody,
            (false, true) => Found::More,
            (false, false) => Found::Dying,
        }
    }

    fn look_at_all(&mut self, place: Place, is_root: impl Fn(Pid) -> bool) -> Found {
        const ALL: i32 = 0;
        let begin = Instant::now();
        let mut found = BTreeSet::new();
        let mut more = false;
        let mut cut = false;
        visit(place, ALL, is_root, |process, family| {
            if !process.alive {
                return ControlFlow::Continue(());
            }
            let one = process.identity();
            let is_new = !self.known.contains(&one);
            more |= is_new;
            let signalled = match (self.killing, is_new) {
                (true, _) => family.signal(process, Signal::KILL),
                (false, true) => family.signal(process, Signal::STOP),
                (false, false) => true,
            };
            if signalled {
                found.insert(one);
            }
            cut = !self.killing && is_new && begin.elapsed() > LONGEST_LOOK;
            if cut { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if cut {
            self.known.append(&mut found);
        } else {
            self.known = found;
        }
        let was_killing = std::mem::replace(&mut self.killing, !more && !self.known.is_empty());
        match (more, was_killing) {
            (false, _) if self.known.is_empty() => Found::Nobody,
            (false, true) => Found::Dying,
            (false, false) | (true, _) => Found::More,
        }
    }
}
