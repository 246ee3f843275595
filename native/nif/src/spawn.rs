//! One command: its request is made here and queued; nothing is waited for.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::{Credentials, Directory, Leftovers, MAX_FRAME, Message, Request, Spawn, Stage, Strings};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustler::{Atom, Binary, Decoder, Env, LocalPid, NifMap, NifResult, Term};

use crate::atoms;
use crate::cgroup::Group;
use crate::control::Control;
use crate::enif::{self, Handle};
use crate::error::{Failure, Place};
use crate::fork_server::ForkServer;
use crate::limits::Limit;
use crate::pipe::{Kind, Pipe};
use crate::pty::{self, Pty};
use crate::room::Room;
use crate::stdio::{self, End, Target};
use crate::users::{self, Identity};

/// What Elixir asks for; see `t:NetRunner.Nif.request/0`.
#[derive(NifMap)]
#[rustler(decode)]
pub(crate) struct Command<'a> {
    executable: Binary<'a>,
    argv: Vec<Binary<'a>>,
    env: Environment,
    cd: Option<Binary<'a>>,
    umask: Option<u32>,
    stdin: Target<'a>,
    stdout: Target<'a>,
    stderr: Target<'a>,
    kill_timeout: u32,
    stop_signals: Vec<u8>,
    leftovers: Atom,
    start_awaited: bool,
    nice: Option<i32>,
    rlimits: Vec<Limit>,
    credentials: Option<Identity<'a>>,
    /// Then stdin, stdout and stderr are this terminal.
    pty: Option<Pty>,
    cgroup: Option<Group<'a>>,
}

/// `NetRunner.Environment.block/1`.
struct Environment(Strings);

impl<'a> Decoder<'a> for Environment {
    fn decode(term: Term<'a>) -> NifResult<Self> {
        let block: Binary<'a> = term.decode()?;
        Strings::from_bytes(block.as_slice().to_vec()).map(Environment).ok_or(rustler::Error::BadArg)
    }
}

/// A running command, or one about to run.
pub(crate) struct Spawned {
    pub(crate) control: Handle<Control>,
    /// Our ends of stdin, stdout and stderr, where they are pipes.
    pub(crate) pipes: [Option<Handle<Pipe>>; 3],
}

/// In bytes, of a request.
const LARGEST_REUSABLE: usize = 64 * 1024;

pub(crate) fn spawn(
    env: Env<'_>,
    fork_server: &Handle<ForkServer>,
    command: &Command<'_>,
    owner: Option<LocalPid>,
) -> Result<Spawned, Failure> {
    let credentials = command.credentials.as_ref().map(users::look_up).transpose()?;
    let (ends, leader) = match &command.pty {
        None => (pipes(command)?, None),
        Some(pty) => {
            let user = credentials.as_ref().and_then(|credentials| credentials.uid);
            let (ends, leader) = terminal(pty, user).map_err(|errno| Failure::At(Place::Pty, errno))?;
            (ends, Some(leader))
        }
    };
    let directory = current_directory().map_err(|errno| Failure::At(Place::Shepherd(Stage::Cd), errno))?;
    let umask = match command.umask {
        Some(umask) => umask,
        None => umask_of_the_vm().map_err(|errno| Failure::At(Place::Shepherd(Stage::Setup), errno))?,
    };
    let nonce = nonce();
    let request = Request::Spawn(Box::new(request(command, umask, &ends, credentials, nonce)));
    let frame = request.encode();
    if frame.len() > MAX_FRAME {
        return Err(Failure::At(Place::Shepherd(Stage::Exec), Errno::TOOBIG));
    }
    let fds: Vec<BorrowedFd<'_>> = std::iter::once(directory.as_fd())
        .chain(ends.iter().filter_map(End::theirs))
        .chain(leader.as_ref().map(AsFd::as_fd))
        .collect();
    let room =
        Room::reserve(directory.as_fd()).map_err(|errno| Failure::At(Place::Shepherd(Stage::Fds), errno))?;
    let (shepherd, accepted) = fork_server.send_request(env, &frame, &fds)?;

    // What it has allocated for a larger one it would keep.
    let reusable = leader.is_none() && command.cgroup.is_none() && frame.len() <= LARGEST_REUSABLE;
    let control = Control::new(shepherd, &frame[accepted..], nonce, reusable, room, fork_server.clone());
    control.set_server(env, enif::self_pid(env));
    control.set_owner(env, owner);
    // The command's ends are closed by this: the shepherd has its own.
    let kind = if leader.is_some() { Kind::terminal } else { Kind::pipe };
    let pipes = ends.map(|end| end.into_ours().map(|fd| Pipe::new(fd, kind())));
    control.set_keeper(env, fork_server.keeper(), pipes.clone());
    Ok(Spawned { control, pipes })
}

/// A shepherd without a command: it ends what the dead one of this group has left, and says `Done`. What comes is the
/// caller's, and with the caller it goes.
pub(crate) fn sweep(
    env: Env<'_>,
    fork_server: &Handle<ForkServer>,
    group: &Group<'_>,
) -> Result<Handle<Control>, Failure> {
    let nonce = nonce();
    let frame = Request::Sweep { cgroup: Box::new(group.into()), nonce }.encode();
    let (shepherd, accepted) = fork_server.send_request(env, &frame, &[])?;
    let control =
        Control::new(shepherd, &frame[accepted..], nonce, false, Room::default(), fork_server.clone());
    control.set_server(env, enif::self_pid(env));
    control.set_keeper(env, enif::self_pid(env), [const { None }; 3]);
    Ok(control)
}

fn request(
    command: &Command<'_>,
    umask: u32,
    ends: &[End; 3],
    credentials: Option<Credentials>,
    nonce: u64,
) -> Spawn {
    let bytes = |binary: &Binary<'_>| binary.as_slice().to_vec();
    Spawn {
        executable: bytes(&command.executable),
        argv: command.argv.iter().map(bytes).collect(),
        env: command.env.0.clone(),
        directory: Directory { path: command.cd.as_ref().map(bytes) },
        umask,
        stdio: [ends[0].stdio(), ends[1].stdio(), ends[2].stdio()],
        kill_timeout_ms: command.kill_timeout,
        stop_signals: command.stop_signals.clone(),
        leftovers: if command.leftovers == atoms::keep() { Leftovers::Keep } else { Leftovers::Kill },
        start_awaited: command.start_awaited,
        nice: command.nice,
        rlimits: command.rlimits.iter().map(|limit| limit.0).collect(),
        credentials,
        terminal: command.pty.is_some(),
        cgroup: command.cgroup.as_ref().map(Into::into),
        nonce,
    }
}

/// Not to be guessed: keyed with random numbers of the system (std, `RandomState`).
fn nonce() -> u64 {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    KEY.get_or_init(RandomState::new).hash_one(NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn pipes(command: &Command<'_>) -> Result<[End; 3], Failure> {
    Ok([
        stdio::stdin(&command.stdin)?,
        stdio::output(&command.stdout, Place::Stdout)?,
        stdio::output(&command.stderr, Place::Stderr)?,
    ])
}

/// A terminal as all three, and its leader for the shepherd. What we write to and what we read from are two fds
/// of the one open file, each with a resource of its own: so each can be closed alone, as with pipes.
fn terminal(pty: &Pty, user: Option<u32>) -> Result<([End; 3], OwnedFd), Errno> {
    let pty::Ends { leader, follower } = pty::open(pty, user)?;
    let theirs = stdio::duplicate(follower.as_fd())?;
    let input = End::Pipe { ours: stdio::duplicate(leader.as_fd())?, theirs: follower };
    let output = End::Pipe { ours: stdio::duplicate(leader.as_fd())?, theirs };
    Ok(([input, output, End::Stdout], leader))
}

/// The VM's directory at this moment, as an fd: one that was deleted or renamed still works.
fn current_directory() -> Result<OwnedFd, Errno> {
    #[cfg(target_os = "linux")]
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::io::retry_on_intr(|| rustix::fs::open(".", flags, Mode::empty()))
}

/// The VM's umask, as it was when it was first asked for. umask(2) can only be asked by setting it, which other
/// threads would see; proc(5) has it in `status` since Linux 4.7, a third of the time that a spawn takes here, and
/// nothing in OTP changes it. Where there is no such line, the usual one is taken; but not where it cannot be
/// read: a file that was to be private must not become public when fds are short.
fn umask_of_the_vm() -> Result<u32, Errno> {
    static UMASK: OnceLock<u32> = OnceLock::new();
    const USUAL: u32 = 0o022;
    if let Some(umask) = UMASK.get() {
        return Ok(*umask);
    }
    let mut status = [0; 256];
    let opened = rustix::io::retry_on_intr(|| {
        rustix::fs::open("/proc/self/status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    });
    let count = match opened {
        Ok(file) => rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut status))?,
        Err(Errno::NOENT) => return Ok(USUAL),
        Err(errno) => return Err(errno),
    };
    let mask = status[..count]
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Umask:"))
        .and_then(|mask| u32::from_str_radix(std::str::from_utf8(mask).ok()?.trim(), 8).ok());
    Ok(*UMASK.get_or_init(|| mask.unwrap_or(USUAL)))
}
