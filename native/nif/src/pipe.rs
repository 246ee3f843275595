//! Our end of a pipe, or of one direction of a PTY: non-blocking, closed in one place, with a queue for each direction.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustler::{Atom, Binary, Env, Monitor, NewBinary, Term};

use crate::enif::{self, Cancelled, Direction, Fd, Handle, Resource, ResourceType};
use crate::error::posix;
use crate::growth::Growth;
use crate::queue::{Queue, Waits};
use crate::reading::{Reading, available};
use crate::terminal::{Canonical, Line};
use crate::writing::{Stop, write_list, write_terminal};
use crate::{atoms, count, pty};

/// More than a terminal holds: 8 KiB on the way (drivers/tty/pty.c) and 4 KiB that have arrived.
const TERMINAL_HOLDS: u64 = 64 * 1024;

/// erl_nif, "enif_consume_timeslice".
const TIMESLICE: Duration = Duration::from_millis(1);
/// About so much is copied meanwhile.
const BYTES_PER_TIMESLICE: usize = 4 * 1024 * 1024;

#[derive(Debug)]
pub(crate) enum Kind {
    Pipe,
    /// With the line that is being written to it.
    Terminal(Line),
}

impl Kind {
    pub(crate) fn pipe() -> Kind {
        Kind::Pipe
    }

    pub(crate) fn terminal() -> Kind {
        Kind::Terminal(Line::default())
    }
}

pub(crate) struct Pipe {
    state: Mutex<State>,
    /// How many wait for the state. Who reads a stream has it nearly all the time, but hurries then.
    wanted: AtomicUsize,
}

struct State {
    /// `None` once closed; then `end` says why.
    fd: Option<Fd>,
    end: Option<End>,
    kind: Kind,
    /// Bytes that a reader has given back: read before all others.
    unread: Vec<u8>,
    /// After `finish`: how many bytes are still delivered. Of a terminal that is not known before it is empty, so
    /// it is a bound.
    remaining: Option<u64>,
    readers: Queue,
    writers: Queue,
    counters: Counters,
    reading: Reading,
    growth: Growth,
}

/// What every call gets from now on.
#[derive(Clone, Copy)]
enum End {
    Eof,
    Error(Atom),
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) read_bytes: u64,
    pub(crate) reads: u64,
    pub(crate) written_bytes: u64,
    pub(crate) writes: u64,
}

/// What a read brought.
pub(crate) enum Read<'a> {
    Data(Binary<'a>),
    Eof,
    Wait,
    Error(Atom),
}

/// How far a write came.
pub(crate) enum Write<'a> {
    Done,
    /// To go on when the pipe has room: the caller will be told.
    Wait(Term<'a>),
    /// To go on at once.
    Again(Term<'a>),
    Error(Atom),
}

pub(crate) enum EndInput {
    Done,
    /// As of a write; then to be called again.
    Wait,
    /// The terminal is in raw mode, where there is no such thing.
    NotCanonical,
}

pub(crate) enum Resized {
    Done,
    NotAPty,
    Closed,
    Errno(Errno),
}

static RESOURCE_TYPE: ResourceType = ResourceType::new();

impl Resource for Pipe {
    const NAME: &'static std::ffi::CStr = c"net_runner_pipe";

    fn resource_type() -> &'static ResourceType {
        &RESOURCE_TYPE
    }

    fn down(handle: &Handle<Self>, env: Env<'_>, monitor: &Monitor) {
        let mut state = handle.lock();
        let State { fd: Some(fd), readers, writers, .. } = &mut *state else {
            return;
        };
        readers.down(env, handle, fd, monitor);
        writers.down(env, handle, fd, monitor);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        count::PIPES.down();
    }
}

impl Pipe {
    /// Our end; it must be non-blocking.
    pub(crate) fn new(fd: OwnedFd, kind: Kind) -> Handle<Pipe> {
        count::PIPES.up();
        Handle::new(Pipe {
            state: Mutex::new(State {
                fd: Some(Fd::new(fd)),
                end: None,
                reading: match kind {
                    Kind::Pipe => Reading::of_pipe(),
                    Kind::Terminal(_) => Reading::of_terminal(),
                },
                kind,
                unread: Vec::new(),
                remaining: None,
                readers: Queue::new(Direction::Read),
                writers: Queue::new(Direction::Write),
                counters: Counters::default(),
                growth: Growth::default(),
            }),
            wanted: AtomicUsize::new(0),
        })
    }

    /// A panic under the lock leaves a state that is still true: each field is changed by one assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        let guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.wanted.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().counters
    }
}

impl State {
    /// Where nobody has waited for long, replaces the fd that the VM watches by one that it does not. The old one is
    /// returned, to be closed: what epoll(7) watches, for no event too, each write(2) has to call.
    fn unwatch(&mut self) -> Option<Fd> {
        if !self.readers.is_empty() || !self.reading.take_steady() {
            return None;
        }
        let fd = self.fd.as_mut()?;
        let unwatched = fd.unwatched()?;
        Some(std::mem::replace(fd, unwatched))
    }
}

impl Handle<Pipe> {
    pub(crate) fn read<'a>(&self, env: Env<'a>, max: usize) -> Read<'a> {
        let me = enif::self_pid(env);
        let mut guard = self.lock();
        let state = &mut *guard;
        let fd = match (state.end, &mut state.fd) {
            (Some(End::Eof), Some(fd)) if !state.unread.is_empty() => fd,
            (Some(End::Eof), _) => return Read::Eof,
            (Some(End::Error(reason)), _) => return Read::Error(reason),
            (None, Some(fd)) => fd,
            (None, None) => return Read::Error(atoms::closed()),
        };
        if !state.readers.is_turn_of(&me) {
            return entered(state.readers.enter(env, self, me));
        }
        if !state.unread.is_empty() {
            let count = state.unread.len().min(max);
            let mut binary = NewBinary::new(env, count);
            binary.as_mut_slice().copy_from_slice(&state.unread[..count]);
            state.unread.drain(..count);
            state.readers.leave(env, self, fd, &me);
            return Read::Data(binary.into());
        }
        let max = match state.remaining {
            None => max,
            Some(remaining) => max.min(usize::try_from(remaining).unwrap_or(usize::MAX)),
        };
        match state.reading.read(env, fd.as_fd(), &mut state.growth, max, &self.wanted) {
            Ok(Some(binary)) => {
                let length = binary.as_slice().len() as u64;
                state.counters.read_bytes += length;
                state.counters.reads += 1;
                state.readers.leave(env, self, fd, &me);
                if let Some(remaining) = &mut state.remaining {
                    *remaining = remaining.saturating_sub(length);
                    if *remaining == 0 {
                        state.end = Some(End::Eof);
                        state.readers.wake_all(env, self, fd);
                    }
                }
                let paused = state.reading.paused();
                let watched = state.unwatch();
                drop(guard);
                if let Some(watched) = watched {
                    enif::stop(env, self, watched);
                }
                consume_timeslice(env, binary.as_slice().len(), paused);
                Read::Data(binary)
            }
            Ok(None) => {
                state.readers.leave(env, self, fd, &me);
                Read::Eof
            }
            // After `finish`, of a terminal: it is empty.
            Err(Errno::AGAIN) if state.remaining.is_some() => {
                state.end = Some(End::Eof);
                state.readers.wake_all(env, self, fd);
                Read::Eof
            }
            Err(Errno::AGAIN) => entered(state.readers.enter(env, self, me)),
            Err(errno) => {
                state.readers.leave(env, self, fd, &me);
                Read::Error(posix(env, errno))
            }
        }
    }

    pub(crate) fn write<'a>(&self, env: Env<'a>, iovec: Term<'a>) -> Option<Write<'a>> {
        let me = enif::self_pid(env);
        let mut guard = self.lock();
        let state = &mut *guard;
        let fd = match (state.end, &mut state.fd) {
            (Some(End::Error(reason)), _) => return Some(Write::Error(reason)),
            (_, Some(fd)) => fd,
            (_, None) => return Some(Write::Error(atoms::closed())),
        };
        if !state.writers.is_turn_of(&me) {
            state.writers.enter(env, self, me);
            return Some(Write::Wait(iovec));
        }
        let progress = match &mut state.kind {
            Kind::Pipe => {
                let progress = write_list(env, fd.as_fd(), iovec)?;
                if matches!(progress.stop, Stop::Full) {
                    state.growth.written(fd.as_fd());
                }
                progress
            }
            Kind::Terminal(line) => write_terminal(env, fd.as_fd(), line, iovec)?,
        };
        state.counters.written_bytes += progress.bytes as u64;
        state.counters.writes += u64::from(progress.bytes > 0);
        consume_timeslice(env, progress.bytes, Duration::ZERO);
        Some(match progress.stop {
            Stop::Done => {
                state.writers.leave(env, self, fd, &me);
                Write::Done
            }
            Stop::Slice => {
                state.writers.enter(env, self, me);
                Write::Again(progress.rest)
            }
            Stop::Full => {
                state.writers.enter(env, self, me);
                Write::Wait(progress.rest)
            }
            Stop::Error(errno) => {
                state.writers.leave(env, self, fd, &me);
                Write::Error(posix(env, errno))
            }
            Stop::LineTooLong => {
                state.writers.leave(env, self, fd, &me);
                Write::Error(atoms::line_too_long())
            }
        })
    }

    /// The end of the input: of a pipe, our end is closed; a terminal gets its end-of-file character first, when
    /// it is this process' turn, so behind all that was written before.
    pub(crate) fn end_input(&self, env: Env<'_>) -> EndInput {
        let me = enif::self_pid(env);
        let mut guard = self.lock();
        let state = &mut *guard;
        if let (Kind::Terminal(line), None, Some(fd)) = (&mut state.kind, state.end, &mut state.fd) {
            if !state.writers.is_turn_of(&me) {
                state.writers.enter(env, self, me);
                return EndInput::Wait;
            }
            let canonical = Canonical::of(fd.as_fd()).ok().flatten();
            let Some((canonical, bytes)) =
                canonical.and_then(|canonical| canonical.end_of_file(line).map(|bytes| (canonical, bytes)))
            else {
                state.writers.leave(env, self, fd, &me);
                return EndInput::NotCanonical;
            };
            let written = match rustix::io::retry_on_intr(|| rustix::io::write(&*fd, &bytes)) {
                Ok(written) => written,
                Err(Errno::AGAIN) => 0,
                // Nobody is there to read it.
                Err(_) => bytes.len(),
            };
            canonical.written(line, &bytes[..written]);
            if written < bytes.len() && state.writers.enter(env, self, me) {
                return EndInput::Wait;
            }
        }
        // Also where it was closed before, since nobody read any more.
        state.end = Some(End::Error(atoms::closed()));
        drop(guard);
        self.close(env, atoms::closed());
        EndInput::Done
    }

    /// What was read is put back before all that is there.
    pub(crate) fn unread(&self, env: Env<'_>, bytes: &[u8]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(fd) = &state.fd {
            state.unread.splice(0..0, bytes.iter().copied());
            state.readers.wake_all(env, self, fd);
        }
    }

    pub(crate) fn set_window_size(&self, rows: u16, cols: u16) -> Resized {
        let state = self.lock();
        match (&state.kind, &state.fd) {
            (Kind::Pipe, _) => Resized::NotAPty,
            (Kind::Terminal(_), None) => Resized::Closed,
            (Kind::Terminal(_), Some(fd)) => match pty::set_size(fd, rows, cols) {
                Ok(()) => Resized::Done,
                Err(errno) => Resized::Errno(errno),
            },
        }
    }

    /// After a call that said to wait: the message will come, exactly once.
    pub(crate) fn wait(&self, env: Env<'_>, direction: Direction, reference: Term<'_>) {
        let me = enif::self_pid(env);
        let mut guard = self.lock();
        let State { fd: Some(fd), end, readers, writers, .. } = &mut *guard else {
            return enif::send_closed(env, self, &me, reference);
        };
        let queue = match direction {
            Direction::Read => &mut *readers,
            Direction::Write => &mut *writers,
        };
        match queue.wait(env, self, fd, &me, reference) {
            Waits::Yes => {}
            Waits::NotAnyMore => enif::send_closed(env, self, &me, reference),
            Waits::Never => {
                *end = Some(End::Error(posix(env, Errno::NODEV)));
                readers.wake_all(env, self, fd);
                writers.wake_all(env, self, fd);
            }
        }
    }

    pub(crate) fn cancel(&self, env: Env<'_>, direction: Direction) -> Cancelled {
        let me = enif::self_pid(env);
        let mut guard = self.lock();
        let State { fd, readers, writers, .. } = &mut *guard;
        let queue = match direction {
            Direction::Read => readers,
            Direction::Write => writers,
        };
        queue.cancel(env, self, fd.as_mut(), &me)
    }

    /// Closes our end. The first reason stays.
    pub(crate) fn close(&self, env: Env<'_>, reason: Atom) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(fd) = state.fd.take() else {
            return;
        };
        state.end = Some(End::Error(reason));
        state.growth.shrink(fd.as_fd());
        if state.remaining.is_some() {
            // The command is over.
            state.growth = Growth::default();
        }
        state.unread = Vec::new();
        state.readers.wake_all(env, self, &fd);
        state.writers.wake_all(env, self, &fd);
        drop(guard);
        enif::stop(env, self, fd);
    }

    /// Closes our end: the command is over.
    pub(crate) fn fail(&self, env: Env<'_>, reason: Atom) {
        self.close(env, reason);
        self.lock().growth = Growth::default();
    }

    /// Delivers what is in the pipe now, then end of file: the command is over.
    pub(crate) fn finish(&self, env: Env<'_>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.fd.is_none() {
            state.growth = Growth::default();
        }
        let (None, Some(fd)) = (state.end, &mut state.fd) else {
            return;
        };
        if let Kind::Terminal(_) = state.kind {
            // FIONREAD does not count what is on the way. Whoever reads next finds out.
            state.remaining = Some(TERMINAL_HOLDS);
            state.readers.wake_all(env, self, fd);
            return;
        }
        let remaining = available(fd.as_fd());
        state.remaining = Some(remaining as u64);
        if remaining == 0 {
            state.end = Some(End::Eof);
            state.readers.wake_all(env, self, fd);
        }
    }
}

fn entered<'a>(entered: bool) -> Read<'a> {
    if entered { Read::Wait } else { Read::Error(atoms::closed()) }
}

fn consume_timeslice(env: Env<'_>, bytes: usize, paused: Duration) {
    let copying = bytes * 100 / BYTES_PER_TIMESLICE;
    let pausing = paused.as_nanos() * 100 / TIMESLICE.as_nanos();
    let percent = i32::try_from(copying as u128 + pausing).map_or(100, |percent| percent.clamp(1, 100));
    rustler::schedule::consume_timeslice(env, percent);
}
