//! The processes that wait for one direction of a pipe, first come first served.
//!
//! `enif_select` does not queue: of two processes that arm the same fd only the second is told. So only the
//! head of the queue is armed, and whoever leaves the head arms the next. Every waiter is monitored, for a
//! dead head would hold up all behind it.

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
    /// The reference that the waiter's message is to carry. Terms live in environments.
    reference: SavedTerm,
    environment: OwnedEnv,
}

impl Queue {
    pub(crate) fn new(direction: Direction) -> Self {
        Queue { direction, waiters: VecDeque::new(), armed: false }
    }

    /// Whether it is this process' turn: nobody waits before it.
    pub(crate) fn is_turn_of(&self, pid: &LocalPid) -> bool {
        self.waiters.front().is_none_or(|head| head.pid == *pid)
    }

    /// Puts the process at the end, or leaves it where it is. False when it is dead.
    pub(crate) fn enter<T: Resource>(
        &mut self,
        env: Env<'_>,
        handle: &Handle<T>,
        pid: LocalPid,
        reference: Term<'_>,
    ) -> bool {
        let environment = OwnedEnv::new();
        let reference = environment.save(reference);
        if let Some(waiter) = self.waiters.iter_mut().find(|waiter| waiter.pid == pid) {
            waiter.reference = reference;
            waiter.environment = environment;
            return true;
        }
        let Some(monitor) = handle.monitor(env, &pid) else {
            return false;
        };
        self.waiters.push_back(Waiter { pid, monitor, reference, environment });
        true
    }

    /// Arms the head, whether or not it is armed already. False when the VM cannot watch the fd.
    pub(crate) fn arm<T: Resource>(&mut self, env: Env<'_>, handle: &Handle<T>, fd: &mut Fd) -> bool {
        let Some(head) = self.waiters.front() else {
            return true;
        };
        let reference = head.environment.run(|inner| head.reference.load(inner).in_env(env));
        self.armed = enif::arm(env, handle, fd, self.direction, &head.pid, reference);
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
        let Some(place) = self.waiters.iter().position(|waiter| waiter.pid == *pid) else {
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

    /// Empties the queue and tells everybody in it to call again, each exactly once.
    pub(crate) fn wake_all<T: Resource>(&mut self, env: Env<'_>, handle: &Handle<T>, fd: &Fd) {
        let mut told = self.armed && enif::cancel(env, handle, fd, self.direction) == Cancelled::TooLate;
        self.armed = false;
        for waiter in self.waiters.drain(..) {
            handle.demonitor(env, &waiter.monitor);
            if !std::mem::take(&mut told) {
                waiter.environment.run(|inner| {
                    let reference = waiter.reference.load(inner).in_env(env);
                    enif::send_closed(env, handle, &waiter.pid, reference);
                });
            }
        }
    }

    fn remove_head<T: Resource>(&mut self, env: Env<'_>, handle: &Handle<T>, fd: &mut Fd) {
        self.armed = false;
        if let Some(head) = self.waiters.pop_front() {
            handle.demonitor(env, &head.monitor);
        }
        if !self.waiters.is_empty() {
            self.arm(env, handle, fd);
        }
    }
}
