//! The VM's side of the fork server: one per VM, started here, and the shepherds it has forked ahead.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::socket::{self, Received, Wait};
use protocol::{ADOPT, Decoder, Event, FORK_AHEAD, READY, USED};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustler::{Atom, Encoder, Env, LocalPid, Monitor, Term};

use crate::atoms;
use crate::control::pidfd_kill;
use crate::enif::{self, Direction, Fd, Handle, Resource, ResourceType};
use crate::error::{Failure, Place};

pub(crate) struct ForkServer {
    /// With its death nobody can find this any more, nor what was spawned with it.
    keeper: LocalPid,
    state: Mutex<State>,
}

struct State {
    /// `None` once it has ended or was killed.
    control: Option<Fd>,
    /// It comes with READY.
    pool: Option<Pool>,
    pidfd: Option<OwnedFd>,
    /// What `control` had no room for: some 250 orders wait in it, and the fork server takes 0.1 ms for each.
    unsent: VecDeque<Order>,
    /// Idle shepherds beside the usual ones, the ordered ones counted; below zero, those that are missing.
    spare: isize,
    /// Shepherds that have a command.
    busy: usize,
    /// The process that reads what the fork server says. It is told when there is room for the unsent.
    listener: LocalPid,
}

/// The queue of the exit is that of idle shepherds.
struct Pool {
    exit: OwnedFd,
    entrance: OwnedFd,
}

/// A shepherd that a request has been sent to.
pub(crate) struct Asked {
    pub(crate) socket: OwnedFd,
    /// How much of the request was accepted.
    pub(crate) accepted: usize,
    /// Of one that has had a command before, its pidfd, where the system has them. Of a new one the fork server sends
    /// it.
    pub(crate) used: Option<Option<OwnedFd>>,
}

/// A shepherd whose command is over, and which has been asked for nothing else.
pub(crate) struct Returned<'a> {
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) pidfd: Option<BorrowedFd<'a>>,
}

/// So many idle shepherds are missing at most when nobody asks for one.
const MOST_MISSING: isize = 3;

/// So many are kept beside the usual ones while a command runs: those that run come back in bunches, and are taken in
/// bunches.
const MOST_SPARE: isize = 16;

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
        while self.spare < 0 {
            self.unsent.push_back(Order::ForkAhead);
            self.spare += 1;
        }
        self.unsent.extend(order);
        self.flush()
    }

    fn most_spare(&self) -> isize {
        if self.busy == 0 { 0 } else { MOST_SPARE }
    }

    /// Puts a shepherd whose command is over into the pool. False where it is not needed: it goes when its socket is
    /// closed.
    fn put_back(&self, shepherd: &Returned<'_>) -> bool {
        let Some(pool) = self.pool.as_ref().filter(|_| self.spare < self.most_spare()) else {
            return false;
        };
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(shepherd.socket).chain(shepherd.pidfd).collect();
        socket::send(pool.entrance.as_fd(), &[USED], &fds, Wait::DontBlock).is_ok()
    }

    /// Sends those away that are not needed any more: they see the end of file.
    fn trim(&mut self) {
        while self.spare > self.most_spare()
            && let Some(pool) = &self.pool
            // Without room for its fds it is gone as well.
            && let Ok(Received::Bytes(_) | Received::FdsCut) =
                socket::receive(pool.exit.as_fd(), &mut [0], &mut VecDeque::new(), Wait::DontBlock)
        {
            self.spare -= 1;
        }
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
                        self.spare -= 1;
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
}

impl ForkServer {
    /// A command that has not been started, or is not known to anybody any more: its shepherd ends with it.
    pub(crate) fn lost(&self) {
        let mut state = self.lock();
        state.busy = state.busy.saturating_sub(1);
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
    /// about to start: it waits until a command is over, or the next one is taken.
    fn taken(&self, env: Env<'_>) {
        let mut state = self.lock();
        state.spare -= 1;
        let waits = state.spare > -MOST_MISSING;
        drop(state);
        if !waits {
            self.replace(env);
        }
    }

    /// Orders the shepherds that are missing.
    fn replace(&self, env: Env<'_>) {
        if self.lock().spare < 0 {
            // A fork server that is gone is noticed elsewhere.
            let _ = self.order(env, None);
        }
    }

    /// A command is over. Its shepherd, where it can have another, comes back; where it does not, it is replaced. When
    /// nothing runs any more, there are as many as there were at first.
    pub(crate) fn over(&self, env: Env<'_>, shepherd: Option<&Returned<'_>>) {
        let mut state = self.lock();
        state.busy = state.busy.saturating_sub(1);
        let came_back = shepherd.is_some_and(|shepherd| state.put_back(shepherd));
        state.spare += isize::from(came_back);
        state.trim();
        let at_rest = state.busy == 0;
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

    /// The socket of an idle shepherd, when one is there. The caller asks for another in its place.
    fn take_idle(&self, env: Env<'_>) -> Result<Option<Asked>, Failure> {
        let state = self.lock();
        let (Some(control), Some(pool)) = (&state.control, &state.pool) else {
            return Ok(None);
        };
        // Nobody would catch what its shepherds leave when they are killed.
        if has_ended(control.as_fd()) {
            return Err(Failure::NoForkServer);
        }
        let mut fds = VecDeque::new();
        let mut kind = [0];
        let received = socket::receive(pool.exit.as_fd(), &mut kind, &mut fds, Wait::DontBlock);
        drop(state);
        match received {
            Ok(Received::Bytes(_)) => {
                let idle = fds.pop_front();
                let used = (kind == [USED]).then(|| fds.pop_front());
                Ok(idle.map(|socket| Asked { socket, accepted: 0, used }))
            }
            Ok(Received::WouldBlock | Received::EndOfFile) => Ok(None),
            // The shepherd sees end of file and exits: its socket was closed on the way.
            Ok(Received::FdsCut) => {
                self.taken(env);
                Err(Failure::At(Place::Shepherd(protocol::Stage::Fds), Errno::MFILE))
            }
            Err(errno) => Err(Failure::At(Place::Socket, errno)),
        }
    }

    /// Sends a frame, with its fds, to a shepherd: an idle one, else a new one. Once a byte was
    /// accepted no other shepherd is tried: the command may run.
    pub(crate) fn send_request(
        &self,
        env: Env<'_>,
        frame: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Asked, Failure> {
        self.lock().busy += 1;
        let asked = self.ask(env, frame, fds);
        if asked.is_err() {
            self.lost();
        }
        asked
    }

    fn ask(&self, env: Env<'_>, frame: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Asked, Failure> {
        while let Some(idle) = self.take_idle(env)? {
            let sent = socket::send(idle.socket.as_fd(), frame, fds, Wait::DontBlock);
            self.taken(env);
            match sent {
                Ok(accepted) => return Ok(Asked { accepted, ..idle }),
                // This one has died in the meantime.
                Err(Errno::PIPE | Errno::CONNRESET) => {}
                Err(errno) => return Err(Failure::At(Place::Send, errno)),
            }
        }
        let new = Asked { socket: self.adopt(env)?, accepted: 0, used: None };
        match socket::send(new.socket.as_fd(), frame, fds, Wait::DontBlock) {
            Ok(accepted) => Ok(Asked { accepted, ..new }),
            // It was answered before it was asked: there is no shepherd, and the answer says why.
            Err(Errno::PIPE | Errno::CONNRESET) if was_refused(&new.socket) => Ok(new),
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
        // failed there. The kernel reaps this child for the same reason, so it is not waited for.
        Command::new(std::ffi::OsStr::from_bytes(path))
            .arg("fork-server")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(error.raw_os_error().map_or(Errno::INVAL, Errno::from_raw_os_error)))?;
        let handle = Handle::new(ForkServer {
            keeper,
            state: Mutex::new(State {
                control: Some(Fd::new(ours)),
                pool: None,
                pidfd: None,
                unsent: VecDeque::new(),
                spare: 0,
                busy: 0,
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
            let mut guard = self.lock();
            let State { control, pool, pidfd, .. } = &mut *guard;
            let Some(socket) = control else {
                said.push(Said::EndOfFile);
                return said;
            };
            let mut byte = [0];
            let mut fds = VecDeque::new();
            match socket::receive(socket.as_fd(), &mut byte, &mut fds, Wait::DontBlock) {
                Ok(Received::Bytes(_)) if byte == [READY] => {
                    if let (Some(exit), Some(entrance)) = (fds.pop_front(), fds.pop_front()) {
                        *pool = Some(Pool { exit, entrance });
                    }
                    *pidfd = fds.pop_front();
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
                // Without room for its fds it is of no use: it is ended and a new one started later.
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
            pidfd_kill(pidfd);
        }
        self.close(env);
    }

    /// Our ends closed.
    pub(crate) fn close(&self, env: Env<'_>) {
        let mut state = self.lock();
        let control = state.control.take();
        state.pool = None;
        state.pidfd = None;
        state.unsent.clear();
        drop(state);
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
    matches!(
        rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT),
        Ok((0, _)) | Err(Errno::CONNRESET)
    )
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
