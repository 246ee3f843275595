//! VM → shepherd.

use crate::cgroup::Cgroup;
use crate::codec::{Message, Reader, Writer};
use crate::limit::Rlimit;
use crate::strings::Strings;

/// What the VM asks of a shepherd. `Spawn`, or once `Sweep`, comes first; the next `Spawn` after `Done`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Spawn(Box<Spawn>),
    /// In the place of `Spawn`: the shepherd of this group is dead. What lives in it is killed, and it is removed;
    /// then `Done` comes.
    Sweep {
        cgroup: Box<Cgroup>,
        /// As in [`Spawn`].
        nonce: u64,
    },
    /// Send this signal to the command's group, once. Answered by `Signalled`, in order.
    Signal(i32),
    /// Begin the stop sequence. Repeating it changes nothing. End of file on the socket means the same.
    Stop,
}

/// One of the command's fds 0, 1 and 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// /dev/null.
    Null,
    /// The next fd that came with the request.
    Fd,
    /// The same open file as the command's stdout (for stderr only).
    Stdout,
}

/// What becomes of descendants that are still there when the command has exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// They get 100 ms, then the stop sequence.
    Kill,
    /// They go on until they end, or the VM does.
    Keep,
}

/// Where the command starts: first the directory that came as the first fd of the request (the VM's own
/// at the time of the call), then, from there, `path`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    pub path: Option<Vec<u8>>,
}

/// As whom the command runs; `None` is left as it is. An id is never `u32::MAX`, which means "unchanged" to
/// setresuid(2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// The supplementary groups.
    pub groups: Option<Vec<u32>>,
}

/// A command to run. No field holds a NUL where it becomes a C string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spawn {
    /// Looked up in the PATH of `env` when it has no `/`.
    pub executable: Vec<u8>,
    /// argv, with argv\[0\].
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, each entry `NAME=value`.
    pub env: Strings,
    pub directory: Directory,
    /// File mode creation mask.
    pub umask: u32,
    /// fds 0, 1 and 2 of the command.
    pub stdio: [Stdio; 3],
    /// From the first signal of the stop sequence to SIGKILL, in ms; 0 is SIGKILL at once.
    pub kill_timeout_ms: u32,
    /// What the stop sequence sends first, in this order.
    pub stop_signals: Vec<u8>,
    pub leftovers: Leftovers,
    /// Whether somebody waits for `Started`. If not, it may come with `Exited`, for a command that is over
    /// soon, which saves both sides a wake-up.
    pub start_awaited: bool,
    /// The nice value itself, not what is added to it.
    pub nice: Option<i32>,
    pub rlimits: Vec<Rlimit>,
    pub credentials: Option<Credentials>,
    /// Fd 0 is a terminal, which becomes the command's controlling one. Its leader is the last fd of the
    /// request; the shepherd keeps it open until `Done`, so that the session gets no SIGHUP before.
    pub terminal: bool,
    /// The group that the command is born in.
    pub cgroup: Option<Cgroup>,
    /// What `Done` has to say.
    pub nonce: u64,
}

impl Spawn {
    /// How many fds come with the frame: the directory, then one for each [`Stdio::Fd`] in order, then the
    /// leader of the terminal.
    #[must_use]
    pub fn fd_count(&self) -> usize {
        let stdio = self.stdio.iter().filter(|stdio| **stdio == Stdio::Fd).count();
        1 + stdio + usize::from(self.terminal)
    }

    /// The value of a variable of the command's environment, as getenv(3) finds it.
    #[must_use]
    pub fn variable(&self, name: &[u8]) -> Option<&[u8]> {
        self.env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix(b"="))
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(&self.executable);
        out.list(&self.argv, |out, arg| out.bytes(arg));
        out.bytes(self.env.as_bytes());
        out.option(self.directory.path.as_ref(), |out, path| out.bytes(path));
        out.u32(self.umask);
        for stdio in self.stdio {
            out.u8(match stdio {
                Stdio::Null => 0,
                Stdio::Fd => 1,
                Stdio::Stdout => 2,
            });
        }
        out.u32(self.kill_timeout_ms);
        out.list(&self.stop_signals, |out, signal| out.u8(*signal));
        out.u8(match self.leftovers {
            Leftovers::Kill => 0,
            Leftovers::Keep => 1,
        });
        out.u8(u8::from(self.start_awaited));
        out.option(self.nice.as_ref(), |out, nice| out.i32(*nice));
        out.list(&self.rlimits, |out, rlimit| rlimit.write(out));
        out.option(self.credentials.as_ref(), |out, credentials| credentials.write(out));
        out.u8(u8::from(self.terminal));
        out.option(self.cgroup.as_ref(), |out, cgroup| cgroup.write(out));
        out.u64(self.nonce);
    }

    fn read(payload: &mut Reader<'_>) -> Option<Spawn> {
        let stdio = |payload: &mut Reader<'_>| match payload.u8()? {
            0 => Some(Stdio::Null),
            1 => Some(Stdio::Fd),
            2 => Some(Stdio::Stdout),
            _ => None,
        };
        let bool = |payload: &mut Reader<'_>| match payload.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        Some(Spawn {
            executable: payload.c_bytes().filter(|bytes| !bytes.is_empty())?.to_vec(),
            argv: payload
                .list(|payload| payload.c_bytes().map(<[u8]>::to_vec))
                .filter(|argv| !argv.is_empty())?,
            env: Strings::from_bytes(payload.bytes()?.to_vec())?,
            directory: Directory { path: payload.option(|payload| payload.c_bytes().map(<[u8]>::to_vec))? },
            umask: payload.u32().filter(|mask| *mask <= 0o777)?,
            // stdin cannot be a copy of stdout, nor stdout of itself.
            stdio: [
                stdio(payload).filter(|stdio| *stdio != Stdio::Stdout)?,
                stdio(payload).filter(|stdio| *stdio != Stdio::Stdout)?,
                stdio(payload)?,
            ],
            kill_timeout_ms: payload.u32()?,
            stop_signals: payload
                .list(|payload| payload.u8().filter(|signal| (1..=64).contains(signal)))
                .filter(|signals| !signals.is_empty())?,
            leftovers: match payload.u8()? {
                0 => Leftovers::Kill,
                1 => Leftovers::Keep,
                _ => return None,
            },
            start_awaited: bool(payload)?,
            nice: payload.option(|payload| payload.i32().filter(|nice| (-20..=19).contains(nice)))?,
            rlimits: payload.list(Rlimit::read)?,
            credentials: payload.option(Credentials::read)?,
            terminal: bool(payload)?,
            cgroup: payload.option(Cgroup::read)?,
            nonce: payload.u64()?,
        })
    }
}

impl Credentials {
    fn write(&self, out: &mut Writer) {
        out.option(self.uid.as_ref(), |out, uid| out.u32(*uid));
        out.option(self.gid.as_ref(), |out, gid| out.u32(*gid));
        out.option(self.groups.as_ref(), |out, groups| out.list(groups, |out, gid| out.u32(*gid)));
    }

    fn read(payload: &mut Reader<'_>) -> Option<Credentials> {
        let id = |payload: &mut Reader<'_>| payload.u32().filter(|id| *id != u32::MAX);
        Some(Credentials {
            uid: payload.option(id)?,
            gid: payload.option(id)?,
            groups: payload.option(|payload| payload.list(id))?,
        })
    }
}

const SPAWN: u8 = 1;
const SIGNAL: u8 = 2;
const STOP: u8 = 3;
const SWEEP: u8 = 4;

impl Request {
    /// How many fds come with the frame.
    #[must_use]
    pub fn fd_count(&self) -> usize {
        match self {
            Request::Spawn(spawn) => spawn.fd_count(),
            Request::Sweep { .. } | Request::Signal(_) | Request::Stop => 0,
        }
    }
}

impl Message for Request {
    fn tag(&self) -> u8 {
        match self {
            Request::Spawn(_) => SPAWN,
            Request::Signal(_) => SIGNAL,
            Request::Stop => STOP,
            Request::Sweep { .. } => SWEEP,
        }
    }

    fn write(&self, out: &mut Writer) {
        match self {
            Request::Spawn(spawn) => spawn.write(out),
            Request::Signal(signal) => out.i32(*signal),
            Request::Stop => {}
            Request::Sweep { cgroup, nonce } => {
                cgroup.write(out);
                out.u64(*nonce);
            }
        }
    }

    fn read(tag: u8, payload: &mut Reader<'_>) -> Option<Option<Self>> {
        Some(Some(match tag {
            SPAWN => Request::Spawn(Box::new(Spawn::read(payload)?)),
            SIGNAL => Request::Signal(payload.i32().filter(|signal| (1..=64).contains(signal))?),
            STOP => Request::Stop,
            SWEEP => Request::Sweep { cgroup: Box::new(Cgroup::read(payload)?), nonce: payload.u64()? },
            _ => return Some(None),
        }))
    }
}
