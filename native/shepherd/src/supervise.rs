//! One shepherd: waits for its command, starts it, watches it and the VM until nothing of the command is left, and
//! then waits for the next one, or for the end of its socket.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use protocol::{Event, Leftovers, Request, SignalResult, Spawn, Stage};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};

use crate::cgroup::Cgroup;
use crate::channel::{Channel, Incoming};
use crate::descendants::{self, Found, Hunt, Place};
use crate::escalation::{Escalation, Step};
use crate::fork::Child;
use crate::launch::{Failure, launch};
use crate::os::{self, EndedChild, Signal, Watched, Woken};
use crate::plan::Plan;
use crate::pty::Terminal;
use crate::stack::Stack;

/// For so long `Started` may wait for the exit, where nobody waits for it.
const SOON: Duration = Duration::from_millis(2);

/// Where orphans do not come to us, nothing tells of their end: so often it is looked whether they live.
const ORPHANS_PAUSE: Duration = Duration::from_millis(10);

/// Returns when everything is over. An error means that this shepherd cannot go on; the fork server, which
/// sees that it did not end well, then kills what it leaves.
pub(crate) fn run(socket: OwnedFd) -> Result<(), Errno> {
    os::become_subreaper()?;
    let mut channel = Channel::new(socket);
    // While nobody waits for it.
    let mut stack = Stack::new().ok();
    loop {
        let spawn = match channel.receive() {
            Incoming::Request(Request::Spawn(spawn)) => *spawn,
            Incoming::Request(Request::Sweep { cgroup, nonce }) => return sweep(channel, &cgroup, nonce),
            Incoming::FdsCut => return refuse(channel, &Failure::new(Stage::Fds, Errno::MFILE)),
            // An idle shepherd that the VM does not want any more, or whose VM is gone; what was still on its way when
            // the command was over; or nonsense, and nobody to answer.
            Incoming::Request(Request::Signal(_) | Request::Stop) | Incoming::End => return Ok(()),
            Incoming::Failed(errno) => return Err(errno),
        };
        match Shepherd::start(&mut channel, spawn, &mut stack) {
            Ok(shepherd) => shepherd.watch(&mut channel)?,
            Err(failure) => return refuse(channel, &failure),
        }
        deliver(&mut channel)?;
    }
}

fn sweep(mut channel: Channel, left: &protocol::Cgroup, nonce: u64) -> Result<(), Errno> {
    channel.send(&match Cgroup::sweep(left) {
        Ok(()) => [Event::Done { nonce }],
        Err(processes) => [Event::Unkillable(processes)],
    });
    deliver(&mut channel)
}

fn refuse(mut channel: Channel, failure: &Failure) -> Result<(), Errno> {
    channel.send(&[failure.event()]);
    deliver(&mut channel)
}

/// Stays until the VM has taken everything, or is gone.
fn deliver(channel: &mut Channel) -> Result<(), Errno> {
    while channel.has_unsent() {
        os::wait(&[Watched { fd: channel.socket(), read: false, write: true, urgent: false }], None)?;
        channel.flush();
    }
    Ok(())
}

struct Shepherd {
    /// Not reaped before everything is over: its pid and the number of its group stay its own.
    command: Pid,
    exited: bool,
    stop_signals: Vec<Signal>,
    leftovers: Leftovers,
    escalation: Escalation,
    /// The command, until the VM has been told that it runs, and when that is due.
    unannounced: Option<(Child, Instant)>,
    hunt: Hunt,
    /// Held until everything is over.
    _terminal: Option<Terminal>,
    /// Removed when everything is over.
    cgroup: Option<Cgroup>,
    /// For `Done`.
    nonce: u64,
}

impl Shepherd {
    fn start(
        channel: &mut Channel,
        mut spawn: Spawn,
        stack: &mut Option<Stack>,
    ) -> Result<Shepherd, Failure> {
        if channel.hung_up() {
            return Err(Failure::new(Stage::Fork, Errno::CANCELED));
        }
        let stop_signals: Vec<Signal> =
            spawn.stop_signals.iter().map(|number| Signal(i32::from(*number))).collect();
        let leftovers = spawn.leftovers;
        let (start_awaited, nonce) = (spawn.start_awaited, spawn.nonce);
        let kill_timeout = Duration::from_millis(u64::from(spawn.kill_timeout_ms));
        let cgroup = spawn.cgroup.take();
        let mut plan =
            Plan::new(spawn, &mut channel.take_fds()).ok_or(Failure::new(Stage::Fds, Errno::BADF))?;
        let cgroup = cgroup.map(|cgroup| Cgroup::make(&cgroup, channel.socket())).transpose()?;
        let stack = match stack {
            Some(stack) => stack,
            None => stack.insert(Stack::new().map_err(|errno| Failure::new(Stage::Fork, errno))?),
        };
        let child = launch(&plan, cgroup.as_ref(), stack, channel, kill_timeout)?;
        let terminal = plan.terminal.take();
        // The command's ends of its pipes: its readers must see end of file when it is gone.
        drop(plan);
        let escalation = match &terminal {
            Some(_) if stop_signals.contains(&Signal::HUP) => Escalation::of_terminal(kill_timeout),
            _ => Escalation::new(kill_timeout),
        };
        let mut shepherd = Shepherd {
            command: child.pid,
            exited: false,
            stop_signals,
            leftovers,
            escalation,
            unannounced: Some((child, Instant::now() + SOON)),
            hunt: Hunt::default(),
            _terminal: terminal,
            cgroup,
            nonce,
        };
        if start_awaited {
            shepherd.announce(channel);
        }
        Ok(shepherd)
    }

    /// Until nothing of the command is left, which is said.
    fn watch(mut self, channel: &mut Channel) -> Result<(), Errno> {
        // For what has ended before, SIGCHLD is pending: the first wait returns at once.
        let mut woken = Woken::ByFdOrTime;
        loop {
            if woken == Woken::ByChild && self.look_after_children(channel)? {
                return Ok(());
            }
            while let Some(incoming) = channel.try_receive() {
                self.obey(incoming, channel)?;
            }
            // What a step makes due at once has a later time, so it waits until children were looked after.
            let now = Instant::now();
            while let Some(step) = self.escalation.step(now) {
                self.take(step, channel);
            }
            if self.unannounced.as_ref().is_some_and(|(_, due)| *due <= now) {
                self.announce(channel);
            }
            channel.flush();
            let announcement = self.unannounced.as_ref().map(|(_, due)| *due);
            let orphans_elsewhere = self.exited && !os::is_subreaper();
            let look = orphans_elsewhere.then(|| now + ORPHANS_PAUSE);
            let deadline = self.escalation.deadline().into_iter().chain(announcement).chain(look).min();
            let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // Before the exit only children count.
            let cgroup = self.cgroup.as_ref().filter(|_| self.exited).and_then(Cgroup::watched);
            let watched: Vec<Watched<'_>> = channel.watched().into_iter().chain(cgroup).collect();
            woken = os::wait(&watched, timeout)?;
            if orphans_elsewhere {
                woken = Woken::ByChild;
            }
        }
    }

    /// Says, once, that the command runs, with its pidfd, so that the VM can kill it for certain.
    fn announce(&mut self, channel: &mut Channel) {
        let Some((child, _)) = self.unannounced.take() else {
            return;
        };
        if let Some(command) = &child.pidfd
            && channel.send_with_fds(&started(&child, 1), &[command.as_fd()]).is_ok()
        {
            return;
        }
        // No pidfds on this system, or too many in flight (unix(7), ETOOMANYREFS): it must be said all the
        // same.
        channel.send(&[started(&child, 0)]);
    }

    /// Reaps what has ended, but for the command. `true`: everything is over, reaped and said.
    fn look_after_children(&mut self, channel: &mut Channel) -> Result<bool, Errno> {
        if self.exited {
            if self.anybody_alive() {
                self.reap_orphans();
                self.escalation.look_again(Instant::now());
                return Ok(false);
            }
            let over = self.over();
            channel.send(&over);
            return Ok(true);
        }
        while let Some(ended) = os::ended_child()? {
            if ended.pid == self.command {
                return Ok(self.command_exited(&ended, channel));
            }
            reap(ended.pid);
            self.escalation.look_again(Instant::now());
        }
        Ok(false)
    }

    fn command_exited(&mut self, ended: &EndedChild, channel: &mut Channel) -> bool {
        self.exited = true;
        let exited = Event::Exited { exit: ended.exit, rusage: ended.rusage };
        if self.anybody_alive() {
            self.announce(channel);
            channel.send(&[exited]);
            let now = Instant::now();
            if self.leftovers == Leftovers::Kill {
                self.escalation.leftovers(now);
            }
            self.escalation.look_again(now);
            return false;
        }
        // Nobody is left to be killed through a pidfd.
        let started = self.unannounced.take().map(|(child, _)| started(&child, 0));
        let over = self.over();
        channel.send(&started.into_iter().chain([exited]).chain(over).collect::<Vec<_>>());
        true
    }

    /// Beside the command. The group is asked in any case, for it is watched.
    fn anybody_alive(&self) -> bool {
        let group_lives = self.cgroup.as_ref().is_some_and(Cgroup::is_populated);
        group_lives || os::any_child_alive(self.command)
    }

    /// Nothing is alive: reaps what is left, and removes the group. The last events.
    fn over(&mut self) -> Vec<Event> {
        reap_all();
        let stats = self.cgroup.take().map(|cgroup| cgroup.stats());
        stats.map(Event::Cgroup).into_iter().chain([Event::Done { nonce: self.nonce }]).collect()
    }

    /// Once the command is a zombie, waiting for any child always gives that one: the others one by one.
    fn reap_orphans(&self) {
        os::children(self.command).into_iter().filter(|child| *child != self.command).for_each(reap);
    }

    /// An error is no wish of the VM's: a stop would look as if the command had ended by itself.
    fn obey(&mut self, incoming: Incoming, channel: &mut Channel) -> Result<(), Errno> {
        // The answer to a signal comes behind it.
        self.announce(channel);
        match incoming {
            Incoming::Request(Request::Signal(number)) => {
                let result = self.signal_command(Signal(number));
                channel.send(&[Event::Signalled(result)]);
            }
            // A second command is nonsense, which is answered like all nonsense.
            Incoming::Request(Request::Stop | Request::Spawn(_) | Request::Sweep { .. })
            | Incoming::End
            | Incoming::FdsCut => {
                self.escalation.stop();
            }
            Incoming::Failed(errno) => return Err(errno),
        }
        // Fds that no frame declares.
        drop(channel.take_fds());
        Ok(())
    }

    fn signal_command(&self, signal: Signal) -> SignalResult {
        if self.exited {
            return SignalResult::NotRunning;
        }
        match os::kill_group(self.command, signal) {
            Ok(()) => SignalResult::Ok,
            Err(Errno::SRCH) => SignalResult::NotRunning,
            Err(errno) => SignalResult::Errno(errno.raw_os_error()),
        }
    }

    fn take(&mut self, step: Step, channel: &mut Channel) {
        match step {
            Step::StopGroup => self.stop_group(&self.stop_signals),
            Step::StopOthers => self.stop_others(&self.stop_signals),
            Step::HangUpAgain => {
                self.stop_group(&[Signal::HUP]);
                self.stop_others(&[Signal::HUP]);
            }
            Step::KillGroup => self.kill_group(),
            Step::KillAll => self.kill_all(),
            Step::ReportUnkillable => channel.send(&[Event::Unkillable(self.living())]),
        }
    }

    fn stop_group(&self, signals: &[Signal]) {
        for signal in and_continue(signals) {
            // No such group: all of it has ended.
            let _ = os::kill_group(self.command, signal);
        }
        self.cgroup.iter().for_each(Cgroup::thaw);
    }

    /// Not for longer than until SIGKILL is due: they may leave little of the processor to us.
    fn stop_others(&self, signals: &[Signal]) {
        let kill_at = self.escalation.deadline();
        descendants::visit(
            self.place(),
            0,
            |_| true,
            |process, family| {
                if process.group != self.command.as_raw_nonzero().get() {
                    for signal in and_continue(signals) {
                        family.signal(process, signal);
                    }
                }
                if kill_at.is_some_and(|kill_at| kill_at <= Instant::now()) {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            },
        );
    }

    fn kill_group(&self) {
        let _ = os::kill_group(self.command, Signal::KILL);
        self.cgroup.iter().for_each(Cgroup::kill);
    }

    fn kill_all(&mut self) {
        self.kill_group();
        if self.hunt.look(self.place(), |_| true) == Found::More {
            self.escalation.look_again(Instant::now());
        }
    }

    fn place(&self) -> Place {
        Place { near: self.command, session: (!os::is_subreaper()).then_some(self.command) }
    }

    fn living(&self) -> Vec<i32> {
        // As the last look has found them: a new one would take too long.
        if os::slices() > 1 {
            return self.hunt.found().collect();
        }
        let mut living = self.cgroup.as_ref().map(Cgroup::processes).unwrap_or_default();
        descendants::visit(
            self.place(),
            0,
            |_| true,
            |process, _family| {
                let pid = process.pid.as_raw_nonzero().get();
                if process.alive && !living.contains(&pid) {
                    living.push(pid);
                }
                ControlFlow::Continue(())
            },
        );
        living
    }
}

/// SIGCONT comes last, so that a stopped process can act on the others.
fn and_continue(signals: &[Signal]) -> impl Iterator<Item = Signal> {
    signals.iter().copied().chain([Signal::CONT])
}

fn started(child: &Child, fds: u8) -> Event {
    Event::Started { os_pid: child.pid.as_raw_nonzero().get(), fds }
}

fn reap(pid: Pid) {
    let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
}

/// Nothing is alive: this ends when nothing is left.
fn reap_all() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}
