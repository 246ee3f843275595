//! The VM's end of a command's control socket, and the pidfds of the command and its shepherd.
//!
//! Its death is the shepherd's end of file, and so is the death of the *server* (the process that reads the
//! events) or of the *owner*: both are monitored here, so that the stop sequence begins whatever Elixir does.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::socket::{self, Received, Wait};
use protocol::{Decoder, Event, Message, Request};
use rustix::io::Errno;
use rustix::process::Signal;
use rustler::{Env, LocalPid, Monitor, Term};

use crate::enif::{self, Direction, Fd, Handle, Resource, ResourceType};
use crate::fork_server::ForkServer;
use crate::pipe::Pipe;
use crate::pool::{Returned, Shepherd};
use crate::room::{self, Room};
use crate::{atoms, count, pidfd};

/// Events are small: one read takes all that are there.
const READ_BUFFER: usize = 4096;

/// How many reads one call makes at most: a shepherd that never stops writing must neither keep a scheduler
/// nor fill the memory.
const MOST_READS: usize = 16;

pub(crate) struct Control {
    state: Mutex<State>,
}

struct State {
    /// `None` once closed.
    socket: Option<Fd>,
    decoder: Decoder<Event>,
    /// Received fds that no frame has taken yet.
    fds: VecDeque<OwnedFd>,
    /// For the pidfds that have not come.
    room: Room,
    /// Frames, or the rest of one, that the socket had no room for.
    unsent: VecDeque<u8>,
    /// The pidfds that have come.
    shepherd: Option<OwnedFd>,
    command: Option<OwnedFd>,
    /// The process that reads the events, and the one whose command it is.
    server: Option<Monitor>,
    owner: Option<Monitor>,
    /// Of the table, in which the Watcher would find this when the server is dead.
    keeper: Option<Monitor>,
    keeper_died: bool,
    /// Where the shepherd comes from. It is told when this one is over.
    fork_server: Option<Handle<ForkServer>>,
    /// Of the same command: they are closed where this closes itself.
    pipes: [Option<Handle<Pipe>>; 3],
    /// The shepherd can have another command after this one: nothing was out of the ordinary.
    reusable: bool,
    /// It has had another before, which is to be said.
    used: bool,
    /// The fork server has said all that it says of this shepherd.
    forked: bool,
    /// Of the request: who says that it is done has read it.
    nonce: u64,
    /// Its last word has come: nothing of the command is left.
    done: bool,
    /// Our direction has been shut down: nothing more can be sent.
    shut_down: bool,
    /// A broken stream: what else comes is not decoded.
    broken: bool,
}

/// What `read` found.
pub(crate) enum Occurrence {
    Event(Event),
    /// There is a shepherd, and it was there before.
    Used,
    EndOfFile,
    Broken,
    /// No room for the fds that came.
    FdsCut,
}

static RESOURCE_TYPE: ResourceType = ResourceType::new();

impl Resource for Control {
    const NAME: &'static std::ffi::CStr = c"net_runner_control";

    fn resource_type() -> &'static ResourceType {
        &RESOURCE_TYPE
    }

    fn down(handle: &Handle<Self>, env: Env<'_>, monitor: &Monitor) {
        let mut state = handle.lock();
        let is_this = |watched: &mut Monitor| watched == monitor;
        if state.keeper.take_if(is_this).is_some() {
            state.keeper_died = true;
        } else if state.server.take_if(is_this).or(state.owner.take_if(is_this)).is_some() {
            state.shut_down();
        }
        drop(state);
        handle.close_if_lost(env);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        count::CONTROLS.down();
        // Nobody has closed it: it was never armed, and whoever had it has died.
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(fork_server) = state.fork_server.take() {
            fork_server.lost();
        }
    }
}

impl Control {
    /// A shepherd of `fork_server`, to which a request has been sent but for `unsent`.
    pub(crate) fn new(
        shepherd: Shepherd,
        unsent: &[u8],
        nonce: u64,
        reusable: bool,
        mut room: Room,
        fork_server: Handle<ForkServer>,
    ) -> Handle<Control> {
        count::CONTROLS.up();
        if shepherd.used {
            // Its pidfd is there.
            room.free();
        }
        Handle::new(Control {
            state: Mutex::new(State {
                socket: Some(Fd::new(shepherd.socket)),
                decoder: Decoder::default(),
                fds: VecDeque::new(),
                room,
                unsent: unsent.iter().copied().collect(),
                used: shepherd.used,
                forked: shepherd.used,
                shepherd: shepherd.pidfd,
                reusable,
                nonce,
                done: false,
                command: None,
                server: None,
                owner: None,
                keeper: None,
                keeper_died: false,
                fork_server: Some(fork_server),
                pipes: [const { None }; 3],
                shut_down: false,
                broken: false,
            }),
        })
    }

    /// A panic under the lock leaves a state that is still true: each field is changed by one assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request. False when none can be sent any more.
    pub(crate) fn send(&self, request: &Request) -> bool {
        let mut state = self.lock();
        if state.shut_down || state.socket.is_none() {
            return false;
        }
        state.reusable = false;
        state.unsent.extend(request.encode());
        state.flush()
    }

    /// SIGKILL to the shepherd, then to the command, which may have cleared its parent-death signal by
    /// executing a setuid program (prctl(2), PR_SET_PDEATHSIG). False without the shepherd's pidfd.
    pub(crate) fn kill(&self) -> bool {
        let mut state = self.lock();
        state.reusable = false;
        [&state.shepherd, &state.command].into_iter().flatten().for_each(pidfd::kill);
        state.shepherd.is_some()
    }
}

impl Handle<Control> {
    /// What has arrived, all of it or as much as one call takes; sends what is queued, and arms for what is to
    /// come.
    pub(crate) fn read(&self, env: Env<'_>, reference: Term<'_>) -> Vec<Occurrence> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut found = Vec::new();
        if std::mem::take(&mut state.used) {
            found.push(Occurrence::Used);
        }
        if state.done {
            // What its shepherd says next is about another command.
            found.push(Occurrence::EndOfFile);
            return found;
        }
        let open = state.flush() && state.receive(&mut found);
        state.done = found.iter().any(|one| matches!(one, Occurrence::Event(Event::Done { .. })));
        if state.done || found.iter().any(|one| matches!(one, Occurrence::Event(Event::Failed { .. }))) {
            // Its last word. (The fork server's may come behind it.)
            return found;
        }
        if open {
            let me = enif::self_pid(env);
            let Some(socket) = &mut state.socket else {
                return found;
            };
            let mut armed = enif::arm(env, self, socket, Direction::Read, &me, reference);
            if armed && !state.unsent.is_empty() {
                armed = enif::arm(env, self, socket, Direction::Write, &me, reference);
            }
            if armed {
                return found;
            }
        }
        // Nothing more can come: without the socket the shepherd ends.
        found.push(Occurrence::EndOfFile);
        found
    }

    /// The new monitor is armed before the old one is dropped: there is no moment without one.
    pub(crate) fn set_server(&self, env: Env<'_>, server: LocalPid) {
        let monitor = self.monitor(env, &server);
        let mut state = self.lock();
        let old = state.server.take();
        match monitor {
            Some(monitor) => state.server = Some(monitor),
            None => state.shut_down(),
        }
        drop(state);
        self.forget(env, old);
        self.close_if_lost(env);
    }

    /// Whoever could find this, and the pipes, when its server is dead.
    pub(crate) fn set_keeper(&self, env: Env<'_>, keeper: LocalPid, pipes: [Option<Handle<Pipe>>; 3]) {
        let monitor = self.monitor(env, &keeper);
        let mut state = self.lock();
        state.keeper_died = monitor.is_none();
        state.keeper = monitor;
        state.pipes = pipes;
    }

    /// Nobody reads it any more, and nobody can find it. The VM keeps a resource that is armed, so it would never
    /// be collected.
    fn close_if_lost(&self, env: Env<'_>) {
        let mut state = self.lock();
        if !(state.keeper_died && state.server.is_none()) {
            return;
        }
        let pipes = std::mem::take(&mut state.pipes);
        drop(state);
        for pipe in pipes.iter().flatten() {
            pipe.close(env, atoms::closed());
        }
        self.close(env);
    }

    /// False when the stop sequence has begun already, for the owner before or the server is dead.
    pub(crate) fn set_owner(&self, env: Env<'_>, owner: Option<LocalPid>) -> bool {
        let monitor = owner.map(|pid| self.monitor(env, &pid));
        let mut state = self.lock();
        let in_time = !state.shut_down;
        let old = state.owner.take();
        match monitor {
            None => {}
            Some(Some(monitor)) => state.owner = Some(monitor),
            // It died before it could be monitored.
            Some(None) => state.shut_down(),
        }
        drop(state);
        self.forget(env, old);
        in_time
    }

    fn forget(&self, env: Env<'_>, monitor: Option<Monitor>) {
        if let Some(monitor) = monitor {
            self.demonitor(env, &monitor);
        }
    }

    /// Closes the socket and the pidfds.
    pub(crate) fn close(&self, env: Env<'_>) {
        let mut state = self.lock();
        let socket = state.socket.take();
        let monitors = [state.server.take(), state.owner.take(), state.keeper.take()];
        let pipes = std::mem::take(&mut state.pipes);
        if let Some(shepherd) = &state.shepherd {
            // One that was stopped after its last word would stay, and nobody would know.
            pidfd::signal(shepherd, Signal::CONT);
        }
        let shepherd = state.shepherd.take();
        let fork_server = state.fork_server.take();
        let goes_on = state.goes_on();
        state.fds.clear();
        state.room.clear();
        state.unsent = VecDeque::new();
        state.command = None;
        drop(state);
        drop(pipes);
        if let Some(fork_server) = fork_server {
            let returned = socket
                .as_ref()
                .filter(|_| goes_on)
                .map(|socket| Returned { socket: socket.as_fd(), pidfd: shepherd.as_ref().map(AsFd::as_fd) });
            fork_server.over(env, returned.as_ref());
        }
        for monitor in monitors {
            self.forget(env, monitor);
        }
        if let Some(socket) = socket {
            enif::stop(env, self, socket);
        }
    }
}

impl State {
    /// Whether the shepherd can have another command: this one is over, and nothing is on its way in either direction.
    fn goes_on(&self) -> bool {
        let ordinary = self.done && self.forked && self.reusable && !self.shut_down;
        let quiet = self.unsent.is_empty() && self.fds.is_empty() && !self.decoder.is_in_a_frame();
        ordinary && quiet
    }

    /// Our direction ends: the shepherd reads end of file and begins the stop sequence. Its events still
    /// come.
    fn shut_down(&mut self) {
        self.shut_down = true;
        self.unsent.clear();
        if let Some(socket) = &self.socket {
            // ENOTCONN: the shepherd is gone, which is noticed by reading.
            let result = socket::shutdown_write(socket);
            debug_assert!(matches!(result, Ok(()) | Err(Errno::NOTCONN)));
        }
    }

    /// Sends what there is room for. False when the socket is closed; a shepherd that is gone is noticed by
    /// reading.
    fn flush(&mut self) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        while !self.unsent.is_empty() {
            let (bytes, _) = self.unsent.as_slices();
            match socket::send(socket.as_fd(), bytes, &[], Wait::DontBlock) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.unsent.clear();
                    self.shut_down = true;
                }
            }
        }
        if self.unsent.is_empty() {
            self.unsent.shrink_to_fit();
        }
        true
    }

    /// Receives and decodes what is there, or a part of it: the socket can then be read again at once. False
    /// at the end.
    fn receive(&mut self, found: &mut Vec<Occurrence>) -> bool {
        for _ in 0..MOST_READS {
            let Some(socket) = &self.socket else {
                return false;
            };
            let mut buffer = [0; READ_BUFFER];
            let fds = self.fds.len();
            let freed = self.room.free();
            let received = socket::receive(socket.as_fd(), &mut buffer, &mut self.fds, Wait::DontBlock);
            if freed && self.fds.len() == fds {
                self.room.keep(socket.as_fd());
            }
            match received {
                Ok(Received::Bytes(_)) if self.broken => self.fds.clear(),
                Ok(Received::Bytes(count)) => {
                    // A read ends behind fds, full or not (unix(7)).
                    let partial = count < READ_BUFFER && self.fds.len() == fds;
                    self.decoder.push(&buffer[..count]);
                    self.decode(found);
                    if partial {
                        break;
                    }
                }
                Ok(Received::WouldBlock) => break,
                Ok(Received::EndOfFile) | Err(_) => return false,
                Ok(Received::FdsCut) if self.broken => {}
                Ok(Received::FdsCut) => {
                    room::fds_are_short();
                    self.give_up(found, Occurrence::FdsCut);
                }
            }
        }
        true
    }

    fn decode(&mut self, found: &mut Vec<Occurrence>) {
        while !self.broken {
            match self.decoder.next_message() {
                Ok(Some(event)) => {
                    if self.take_fds(&event) && self.is_not_made_up(&event) {
                        found.push(Occurrence::Event(event));
                    } else {
                        self.give_up(found, Occurrence::Broken);
                    }
                }
                Ok(None) if self.has_stray_fds() => self.give_up(found, Occurrence::Broken),
                Ok(None) => break,
                Err(_) => self.give_up(found, Occurrence::Broken),
            }
        }
    }

    /// After the last whole frame. Fds come with the first byte of the frame that declares them.
    fn has_stray_fds(&self) -> bool {
        let most = if self.decoder.is_in_a_frame() { Event::MOST_FDS } else { 0 };
        self.fds.len() > most
    }

    /// The fds that the event declares. False when they are not there, or no pidfds. The first of each kind stay:
    /// what comes later cannot change whom we would kill.
    fn take_fds(&mut self, event: &Event) -> bool {
        self.forked |= matches!(event, Event::Forked { .. });
        let place = match event {
            Event::Forked { fds: 1 } => &mut self.shepherd,
            Event::Started { fds: 1, .. } => &mut self.command,
            Event::Forked { .. } | Event::Started { .. } => {
                // There are no pidfds.
                self.room.free();
                return true;
            }
            _ => return true,
        };
        match self.fds.pop_front() {
            Some(pidfd) if pidfd::is_pidfd(&pidfd) => {
                place.get_or_insert(pidfd);
                true
            }
            _ => false,
        }
    }

    /// Who says that it is done has read the request.
    fn is_not_made_up(&self, event: &Event) -> bool {
        !matches!(event, Event::Done { nonce } if *nonce != self.nonce)
    }

    /// Ends this command: nothing that comes after this can be understood. Said once.
    fn give_up(&mut self, found: &mut Vec<Occurrence>, reason: Occurrence) {
        self.fds.clear();
        self.room.clear();
        self.shut_down();
        if !self.broken {
            found.push(reason);
        }
        self.broken = true;
    }
}
