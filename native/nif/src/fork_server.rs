//! The VM's side of the fork server: one per VM, started here, and the shepherds it has forked ahead.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::socket::{self, Received, Wait};
use protocol::{ADOPT, Decoder, Event, FORK_AHEAD, READY};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustler::{Atom, Encoder, Env, LocalPid, Monitor, Term};

use crate::enif::{self, Direction, Fd, Handle, Resource, ResourceType};
use crate::error::{Failure, Place};
use crate::pool::{Idle, Pool, Returned, Shepherd};
use crate::{atoms, pidfd};

pub(crate) struct ForkServer {
    /// With its death nobody can find this any more, nor what was spawned with it.
    keeper: LocalPid,
    state: Mutex<State>,
}

struct State {
    /// `None` once it has ended or was killed.
    control: Option<Fd>,
    pool: Pool,
    pidfd: Option<OwnedFd>,
    /// What `control` had no room for: some 250 orders wait in it, and the fork server takes 0.1 ms for each.
    unsent: VecDeque<Order>,
    /// The process that reads what the fork server says. It is told when there is room for the unsent.
    listener: LocalPid,
}

enum Order {
    ForkAhead,
    Adopt(OwnedFd),
}

static RESOURCE_TYPE: ResourceType = ResourceType::new();

impl Resource for ForkServer {
    const NAME: &'static std::ffi::CStr = c"net_runner_fork_server";

    fn resource_type() -> &'static ResourceType {
        &RESOURCE_TYPE
    }

    /// Its keeper has died: nobody can find it any more.
    fn down(handle: &Handle<Self>, env: Env<'_>, _monitor: &Monitor) {
        handle.close(env);
    }
}

/// More than a fork server says in its life: one that says more is none.
const MOST_SAID: usize = 16;

/// What the fork server has said.
pub(crate) enum Said {
    /// The system does not have this.
    Lacks(Atom),
    Ready,
    EndOfFile,
}

fn lacking(byte: u8) -> Option<Atom> {
    match byte {
        protocol::LACKS_SUBREAPER => Some(atoms::subreaper()),
        protocol::LACKS_PARENT_DEATH_SIGNAL => Some(atoms::parent_death_signal()),
        protocol::LACKS_PIDFDS => Some(atoms::pidfds()),
        protocol::LACKS_PROC => Some(atoms::proc()),
        protocol::LACKS_WAITID => Some(atoms::waitid()),
        _ => None,
    }
}

impl State {
    /// Also a shepherd in the place of each that is missing. An order that is refused is lost: its shepherd's
    /// socket is closed, which the other end sees.
    fn order(&mut self, order: Option<Order>) -> Result<(), Failure> {
        self.unsent.extend((0..self.pool.order()).map(|_| Order::ForkAhead));
        self.unsent.extend(order);
        self.flush()
    }

    /// Sends what there is room for.
    fn flush(&mut self) -> Result<(), Failure> {
        let Some(control) = &self.control else {
            self.unsent.clear();
            return Err(Failure::NoForkServer);
        };
        while let Some(order) = self.unsent.front() {
            let sent = match order {
                Order::ForkAhead => socket::send(control.as_fd(), &[FORK_AHEAD], &[], Wait::DontBlock),
                Order::Adopt(end) => socket::send(control.as_fd(), &[ADOPT], &[end.as_fd()], Wait::DontBlock),
            };
            match sent {
                Ok(_) => drop(self.unsent.pop_front()),
                Err(Errno::AGAIN) => break,
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.unsent.clear();
                    return Err(Failure::NoForkServer);
                }
                Err(errno) => {
                    if let Some(Order::ForkAhead) = self.unsent.pop_front() {
                        self.pool.refused();
                    }
                    // Others are sent all the same; the last one is the caller's.
                    if self.unsent.is_empty() {
                        return Err(Failure::At(Place::ForkServer, errno));
                    }
                }
            }
        }
        Ok(())
    }

    /// Our ends are closed, but for the one that is returned. A fork server that is ready sees that, and leaves
    /// last. One that is not, as far as is known, may never look: it is killed. If it has forked shepherds after
    /// all, they go on.
    fn end(&mut self) -> Option<Fd> {
        if let Some(pidfd) = self.pidfd.take().filter(|_| !self.pool.is_open()) {
            pidfd::kill(&pidfd);
        }
        self.pool.close();
        self.unsent.clear();
        self.control.take()
    }
}

/// One of which nobody has heard is not closed.
impl Drop for State {
    fn drop(&mut self) {
        drop(self.end());
    }
}

impl ForkServer {
    /// A command that has not been started, or is not known to anybody any more: its shepherd ends with it.
    pub(crate) fn lost(&self) {
        self.lock().pool.end();
    }

    pub(crate) fn keeper(&self) -> LocalPid {
        self.keeper
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle<ForkServer> {
    /// What has no room is sent when the listener, who is told, reads.
    fn order(&self, env: Env<'_>, order: Option<Order>) -> Result<(), Failure> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let waits = !state.unsent.is_empty();
        state.order(order)?;
        if !waits
            && !state.unsent.is_empty()
            && let Some(control) = &mut state.control
        {
            let reference = atoms::undefined().encode(env);
            enif::arm(env, self, control, Direction::Write, &state.listener, reference);
        }
        Ok(())
    }

    /// An idle shepherd was taken. The fork of another would take the processor from the command that is just
    /// about to start: it waits until a command is over, or until too many are missing.
    fn taken(&self, env: Env<'_>) {
        if self.lock().pool.taken() {
            self.replace(env);
        }
    }

    /// Orders the shepherds that are missing.
    fn replace(&self, env: Env<'_>) {
        if self.lock().pool.is_short() {
            // A fork server that is gone is noticed elsewhere.
            let _ = self.order(env, None);
        }
    }

    /// A command is over. Its shepherd, where it can have another, comes back; where it does not, it is replaced. When
    /// nothing runs any more, there are as many as there were at first.
    pub(crate) fn over(&self, env: Env<'_>, shepherd: Option<&Returned<'_>>) {
        let mut state = self.lock();
        state.pool.end();
        let came_back = shepherd.is_some_and(|shepherd| state.pool.put_back(shepherd));
        state.pool.trim();
        let at_rest = state.pool.is_at_rest();
        drop(state);
        if !came_back || at_rest {
            self.replace(env);
        }
    }

    /// A new socket pair, of which a new shepherd gets the other end.
    fn adopt(&self, env: Env<'_>) -> Result<OwnedFd, Failure> {
        let (ours, shepherds) = socket::pair().map_err(|errno| Failure::At(Place::Socket, errno))?;
        self.order(env, Some(Order::Adopt(shepherds)))?;
        Ok(ours)
    }

    /// An idle shepherd, when one is there. The caller says that it was taken.
    fn take_idle(&self, env: Env<'_>) -> Result<Option<Shepherd>, Failure> {
        let state = self.lock();
        let Some(control) = state.control.as_ref().filter(|_| state.pool.is_open()) else {
            return Ok(None);
        };
        // Nobody would catch what its shepherds leave when they are killed.
        if has_ended(control.as_fd()) {
            return Err(Failure::NoForkServer);
        }
        let idle = state.pool.take();
        drop(state);
        match idle {
            Ok(Idle::Shepherd(shepherd)) => Ok(Some(shepherd)),
            Ok(Idle::Nobody) => Ok(None),
            Ok(Idle::FdsCut) => {
                self.taken(env);
                Err(Failure::At(Place::Shepherd(protocol::Stage::Fds), Errno::MFILE))
            }
            Err(errno) => Err(Failure::At(Place::Socket, errno)),
        }
    }

    /// Sends a frame, with its fds, to a shepherd: an idle one, else a new one. Once a byte was
    /// accepted no other shepherd is tried: the command may run. With the shepherd comes how many bytes were accepted.
    pub(crate) fn send_request(
        &self,
        env: Env<'_>,
        frame: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Shepherd, usize), Failure> {
        self.lock().pool.begin();
        let sent = self.ask(env, frame, fds);
        if sent.is_err() {
            self.lost();
        }
        sent
    }

    fn ask(&self, env: Env<'_>, frame: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(Shepherd, usize), Failure> {
        while let Some(idle) = self.take_idle(env)? {
            // Whatever one says that nobody has asked is not about this command.
            let is_usable = !idle.used || matches!(peek(idle.socket.as_fd()), Err(Errno::AGAIN));
            let sent = if is_usable {
                socket::send(idle.socket.as_fd(), frame, fds, Wait::DontBlock)
            } else {
                Err(Errno::PIPE)
            };
            self.taken(env);
            match sent {
                Ok(accepted) => return Ok((idle, accepted)),
                // This one has died in the meantime, or speaks unasked: it sees end of file.
                Err(Errno::PIPE | Errno::CONNRESET) => {}
                Err(errno) => return Err(Failure::At(Place::Send, errno)),
            }
        }
        let new = Shepherd::new(self.adopt(env)?);
        match socket::send(new.socket.as_fd(), frame, fds, Wait::DontBlock) {
            Ok(accepted) => Ok((new, accepted)),
            // It was answered before it was asked: there is no shepherd, and the answer says why.
            Err(Errno::PIPE | Errno::CONNRESET) if was_refused(&new.socket) => Ok((new, 0)),
            // The fork server has died with the other end in its queue, or the shepherd as soon as it was
            // forked.
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Failure::NoForkServer),
            Err(errno) => Err(Failure::At(Place::Send, errno)),
        }
    }

    /// Starts the binary. Blocks until its exec has succeeded or failed. It goes with `keeper`: the VM keeps a
    /// resource that is armed, so it would never be collected. That is why it is not armed here: where the caller
    /// is killed meanwhile, nobody has heard of it, and it must be collected.
    pub(crate) fn start(env: Env<'_>, path: &[u8], keeper: LocalPid) -> Result<Self, Failure> {
        let failed = |errno| Failure::At(Place::ForkServer, errno);
        let (ours, theirs) = socket::pair().map_err(|errno| Failure::At(Place::Socket, errno))?;
        check_null().map_err(|errno| Failure::At(Place::DevNull, errno))?;
        // No `pre_exec`: with SIGCHLD ignored, as the VM has it, std cannot wait for a child whose exec
        // failed there. The kernel reaps this child for the same reason, so its end is not waited for.
        let mut child = Command::new(std::ffi::OsStr::from_bytes(path))
            .arg("fork-server")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(error.raw_os_error().map_or(Errno::INVAL, Errno::from_raw_os_error)))?;
        let pidfd = pidfd::of_child(&mut child).map_err(failed)?;
        let handle = Handle::new(ForkServer {
            keeper,
            state: Mutex::new(State {
                control: Some(Fd::new(ours)),
                pool: Pool::default(),
                pidfd,
                unsent: VecDeque::new(),
                listener: enif::self_pid(env),
            }),
        });
        if handle.monitor(env, &keeper).is_none() {
            handle.close(env);
        }
        Ok(handle)
    }

    fn arm(&self, env: Env<'_>, reference: Term<'_>) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.listener = enif::self_pid(env);
        // A fork server that is gone is noticed by reading.
        let _ = state.flush();
        let Some(control) = &mut state.control else {
            return false;
        };
        let me = &state.listener;
        (state.unsent.is_empty() || enif::arm(env, self, control, Direction::Write, me, reference))
            && enif::arm(env, self, control, Direction::Read, me, reference)
    }

    pub(crate) fn read(&self, env: Env<'_>, reference: Term<'_>) -> Vec<Said> {
        let mut said = Vec::new();
        loop {
            if said.len() > MOST_SAID {
                self.close(env);
            }
            let mut guard = self.lock();
            let State { control, pool, .. } = &mut *guard;
            let Some(socket) = control else {
                said.push(Said::EndOfFile);
                return said;
            };
            let mut byte = [0];
            let mut fds = VecDeque::new();
            match socket::receive(socket.as_fd(), &mut byte, &mut fds, Wait::DontBlock) {
                Ok(Received::Bytes(_)) if byte == [READY] && fds.len() == 2 => {
                    if let (Some(exit), Some(entrance)) = (fds.pop_front(), fds.pop_front()) {
                        pool.open(exit, entrance);
                    }
                    said.push(Said::Ready);
                }
                Ok(Received::WouldBlock) => {
                    drop(guard);
                    if self.arm(env, reference) {
                        return said;
                    }
                    // Nobody would be told of anything.
                    self.close(env);
                }
                Ok(Received::Bytes(_)) if lacking(byte[0]).is_some() => {
                    said.extend(lacking(byte[0]).map(Said::Lacks));
                }
                // No fork server, or one of no use, for there was no room for its fds: it is ended and a new one
                // started later.
                Ok(Received::Bytes(_) | Received::EndOfFile | Received::FdsCut) | Err(_) => {
                    drop(guard);
                    self.close(env);
                }
            }
        }
    }

    /// SIGKILL, and our ends closed: idle shepherds see end of file and leave.
    pub(crate) fn kill(&self, env: Env<'_>) {
        if let Some(pidfd) = &self.lock().pidfd {
            pidfd::kill(pidfd);
        }
        self.close(env);
    }

    /// Our ends closed, and SIGKILL where it is not ready.
    pub(crate) fn close(&self, env: Env<'_>) {
        let control = self.lock().end();
        if let Some(control) = control {
            enif::stop(env, self, control);
        }
    }
}

/// That /dev/null is one. Where `rm` has met root, it is a file, in which what commands say would pile up for
/// others to read.
fn check_null() -> Result<(), Errno> {
    match FileType::from_raw_mode(rustix::fs::stat("/dev/null")?.st_mode) {
        FileType::CharacterDevice => Ok(()),
        _ => Err(Errno::NODEV),
    }
}

/// Whether the peer is gone.
fn has_ended(socket: BorrowedFd<'_>) -> bool {
    matches!(peek(socket), Ok(0) | Err(Errno::CONNRESET))
}

/// How many bytes there are to read, 1 at most; 0 is the end.
fn peek(socket: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut buffer = [0; 1];
    rustix::io::retry_on_intr(|| {
        rustix::net::recv(socket, &mut buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT)
    })
    .map(|(count, _)| count)
}

/// Whether the first thing to read is the fork server's `Failed`.
fn was_refused(socket: &OwnedFd) -> bool {
    let mut buffer = [0; 64];
    let peeked = rustix::io::retry_on_intr(|| {
        rustix::net::recv(socket, &mut buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT)
    });
    let mut decoder = Decoder::default();
    if let Ok((count, _)) = peeked {
        decoder.push(&buffer[..count]);
    }
    matches!(decoder.next_message(), Ok(Some(Event::Failed { .. })))
}
