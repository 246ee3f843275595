//! The processes that wait for one direction of a pipe, first come first served.
//!
//! A process enters when it cannot go on, and is told when it has said by which reference. `enif_select` does not
//! queue: of two processes that arm the same fd only the second is told. So only the head of the queue is armed, and
//! whoever leaves the head arms the next. Every waiter is monitored, for a dead head would hold up all behind it.

use std::collections::VecDeque;

use rustler::env::{OwnedEnv, SavedTerm};
use rustler::{Env, LocalPid, Monitor, Term};

use crate::enif::{self, Cancelled, Direction, Fd, Handle, Resource};

pub(crate) struct Queue {
    direction: Direction,
    waiters: VecDeque<Waiter>,
    /// The head has been armed since it became the head: its message is to come or has come.
    armed: bool,
}

struct Waiter {
    pid: LocalPid,
    monitor: Monitor,
    /// Before, nobody may send it a message.
    reference: Option<Reference>,
}

/// What the waiter's message is to carry. Terms live in environments.
struct Reference {
    term: SavedTerm,
    environment: OwnedEnv,
}

impl Reference {
    fn new(term: Term<'_>) -> Self {
        let environment = OwnedEnv::new();
        Reference { term: environment.save(term), environment }
    }

    fn copy<'a>(&self, env: Env<'a>) -> Term<'a> {
        self.environment.run(|inner| self.term.load(inner).in_env(env))
    }
}

/// What became of a process that wants to be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    Yes,
    /// It was taken out of the queue when everybody was to call again.
    NotAnyMore,
    /// The VM cannot watch this fd.
    Never,
}

impl Queue {
    pub(crate) fn new(direction: Direction) -> Self {
        Queue { direction, waiters: VecDeque::new(), armed: false }
    }

    /// Whether it is this process' turn: nobody waits before it.
    pub(crate) fn is_turn_of(&self, pid: &LocalPid) -> bool {
        self.waiters.front().is_none_or(|head| head.pid == *pid)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Puts the process at the end, or leaves it where it is. False when it is dead.
    pub(crate) fn enter<T: Resource>(&mut self, env: Env<'_>, handle: &Handle<T>, pid: LocalPid) -> bool {
        if let Some(place) = self.place_of(&pid) {
            self.waiters[place].reference = None;
            self.armed &= place > 0;
            return true;
        }
        let Some(monitor) = handle.monitor(env, &pid) else {
            return false;
        };
        self.waiters.push_back(Waiter { pid, monitor, reference: None });
        true
    }

    /// The process, which has entered, is to be told.
    pub(crate) fn wait<T: Resource>(
        &mut self,
        env: Env<'_>,
        handle: &Handle<T>,
        fd: &mut Fd,
        pid: &LocalPid,
        reference: Term<'_>,
    ) -> Waits {
        let Some(place) = self.place_of(pid) else {
            return Waits::NotAnyMore;
        };
        self.waiters[place].reference = Some(Reference::new(reference));
        if place > 0 || self.arm(env, handle, fd) { Waits::Yes } else { Waits::Never }
    }

    fn place_of(&self, pid: &LocalPid) -> Option<usize> {
        self.waiters.iter().position(|waiter| waiter.pid == *pid)
    }

    /// Arms the head, if it is to be told. False when the VM cannot watch the fd.
    fn arm<T: Resource>(&mut self, env: Env<'_>, handle: &Handle<T>, fd: &mut Fd) -> bool {
        let Some(Waiter { pid, reference: Some(reference), .. }) = self.waiters.front() else {
            return true;
        };
        self.armed = enif::arm(env, handle, fd, self.direction, pid, reference.copy(env));
        self.armed
    }

    /// The process, if it is the head, is done; the next is armed.
    pub(crate) fn leave<T: Resource>(
        &mut self,
        env: Env<'_>,
        handle: &Handle<T>,
        fd: &mut Fd,
        pid: &LocalPid,
    ) {
        if self.waiters.front().is_some_and(|head| head.pid == *pid) {
            self.remove_head(env, handle, fd);
        }
    }

    /// The process does not want to wait any longer.
    pub(crate) fn cancel<T: Resource>(
        &mut self,
        env: Env<'_>,
        handle: &Handle<T>,
        fd: Option<&mut Fd>,
        pid: &LocalPid,
    ) -> Cancelled {
        let Some(place) = self.place_of(pid) else {
            // It was taken out when everybody was told.
            return Cancelled::TooLate;
        };
        let Some(fd) = fd else {
            return Cancelled::TooLate;
        };
        if place > 0 {
            if let Some(waiter) = self.waiters.remove(place) {
                handle.demonitor(env, &waiter.monitor);
            }
            return Cancelled::Yes;
        }
        let cancelled =
            if self.armed { enif::cancel(env, handle, fd, self.direction) } else { Cancelled::Yes };
        self.remove_head(env, handle, fd);
        cancelled
    }

    /// A monitored process has died.
    pub(crate) fn down<T: Resource>(
        &mut self,
        env: Env<'_>,
        handle: &Handle<T>,
        fd: &mut Fd,
        monitor: &Monitor,
    ) {
        match self.waiters.iter().position(|waiter| waiter.monitor == *monitor) {
            None => {}
            Some(0) => {
                if self.armed {
                    enif::cancel(env, handle, fd, self.direction);
                }
                self.remove_head(env, handle, fd);
            }
            Some(place) => {
                self.waiters.remove(place);
            }
        }
    }

    /// Empties the queue and tells everybody in it to call again, each exactly once; who has not said by which
    /// reference does so at once.
    pub(crate) fn wake_all<T: Resource>(&mut self, env: Env<'_>, handle: &Handle<T>, fd: &Fd) {
        let mut told = self.armed && enif::cancel(env, handle, fd, self.direction) == Cancelled::TooLate;
        self.armed = false;
        for waiter in self.waiters.drain(..) {
            handle.demonitor(env, &waiter.monitor);
            if let (false, Some(reference)) = (std::mem::take(&mut told), &waiter.reference) {
                enif::send_closed(env, handle, &waiter.pid, reference.copy(env));
            }
        }
    }

    fn remove_head<T: Resource>(&mut self, env: Env<'_>, handle: &Handle<T>, fd: &mut Fd) {
        self.armed = false;
        if let Some(head) = self.waiters.pop_front() {
            handle.demonitor(env, &head.monitor);
        }
        while !self.arm(env, handle, fd) {
            // It calls again, waits again, and hears then that it cannot.
            if let Some(Waiter { pid, monitor, reference: Some(reference) }) = self.waiters.pop_front() {
                handle.demonitor(env, &monitor);
                enif::send_closed(env, handle, &pid, reference.copy(env));
            }
        }
    }
}
