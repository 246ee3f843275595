//! One command: its pipes are made here, and the request is queued; nothing is waited for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::{Directory, Leftovers, MAX_FRAME, Message, Request, Spawn, Stage, Stdio};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustler::{Atom, Binary, Env, LocalPid, NifMap};

use crate::atoms;
use crate::control::Control;
use crate::enif::{self, Handle};
use crate::error::{Failure, Place};
use crate::fork_server::ForkServer;
use crate::pipe::Pipe;

/// What Elixir asks for; see `t:NetRunner.Nif.request/0`.
#[derive(NifMap)]
pub(crate) struct Command<'a> {
    executable: Binary<'a>,
    argv: Vec<Binary<'a>>,
    env: Vec<Binary<'a>>,
    cd: Option<Binary<'a>>,
    umask: Option<u32>,
    stdin: Atom,
    stdout: Atom,
    stderr: Atom,
    kill_timeout: u32,
    stop_signals: Vec<u8>,
    leftovers: Atom,
    start_awaited: bool,
}

/// A running command, or one about to run.
pub(crate) struct Spawned {
    pub(crate) control: Handle<Control>,
    /// Our ends of stdin, stdout and stderr, where they are pipes.
    pub(crate) pipes: [Option<Handle<Pipe>>; 3],
}

/// Both ends of one of the command's standard fds.
struct Ends {
    ours: OwnedFd,
    theirs: OwnedFd,
}

pub(crate) fn spawn(
    env: Env<'_>,
    fork_server: &Handle<ForkServer>,
    command: &Command<'_>,
    owner: Option<LocalPid>,
) -> Result<Spawned, Failure> {
    let ends = [
        ends(command.stdin, Side::Write)?,
        ends(command.stdout, Side::Read)?,
        ends(command.stderr, Side::Read)?,
    ];
    let directory = current_directory().map_err(|errno| Failure::At(Place::Shepherd(Stage::Cd), errno))?;
    let umask = match command.umask {
        Some(umask) => umask,
        None => current_umask().map_err(|errno| Failure::At(Place::Shepherd(Stage::Setup), errno))?,
    };
    let request = Request::Spawn(Box::new(request(command, umask)));
    let frame = request.encode();
    if frame.len() > MAX_FRAME {
        return Err(Failure::At(Place::Shepherd(Stage::Exec), Errno::TOOBIG));
    }
    let fds: Vec<BorrowedFd<'_>> = std::iter::once(directory.as_fd())
        .chain(ends.iter().flatten().map(|ends| ends.theirs.as_fd()))
        .collect();
    let (socket, accepted) = fork_server.send_spawn(env, &frame, &fds)?;

    let control = Control::new(socket, &frame[accepted..]);
    control.set_server(env, enif::self_pid(env));
    control.set_owner(env, owner);
    // The command's ends are closed by this: the shepherd has its own.
    let pipes = ends.map(|ends| ends.map(|Ends { ours, theirs: _ }| Pipe::new(ours)));
    Ok(Spawned { control, pipes })
}

fn request(command: &Command<'_>, umask: u32) -> Spawn {
    let bytes = |binary: &Binary<'_>| binary.as_slice().to_vec();
    let stdio = |kind: Atom| {
        if kind == atoms::pipe() {
            Stdio::Fd
        } else if kind == atoms::stdout() {
            Stdio::Stdout
        } else {
            Stdio::Null
        }
    };
    Spawn {
        executable: bytes(&command.executable),
        argv: command.argv.iter().map(bytes).collect(),
        env: command.env.iter().map(bytes).collect(),
        directory: Directory { path: command.cd.as_ref().map(bytes) },
        umask,
        stdio: [stdio(command.stdin), stdio(command.stdout), stdio(command.stderr)],
        kill_timeout_ms: command.kill_timeout,
        stop_signals: command.stop_signals.clone(),
        leftovers: if command.leftovers == atoms::keep() { Leftovers::Keep } else { Leftovers::Kill },
        start_awaited: command.start_awaited,
        nice: None,
        rlimits: Vec::new(),
        credentials: None,
    }
}

enum Side {
    Read,
    Write,
}

/// A pipe, where one is asked for. Only our end is non-blocking: the two are different open files, and
/// programs expect blocking ones.
fn ends(kind: Atom, ours: Side) -> Result<Option<Ends>, Failure> {
    if kind != atoms::pipe() {
        return Ok(None);
    }
    let failed = |errno| Failure::At(Place::Shepherd(Stage::Pipe), errno);
    let (reader, writer) = pipe().map_err(failed)?;
    let ends = match ours {
        Side::Read => Ends { ours: reader, theirs: writer },
        Side::Write => Ends { ours: writer, theirs: reader },
    };
    rustix::fs::fcntl_setfl(&ends.ours, OFlags::NONBLOCK).map_err(failed)?;
    Ok(Some(ends))
}

#[cfg(target_os = "linux")]
fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
}

#[cfg(not(target_os = "linux"))]
fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let pipe = rustix::pipe::pipe()?;
    for end in [&pipe.0, &pipe.1] {
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
    }
    Ok(pipe)
}

/// The VM's directory at this moment, as an fd: one that was deleted or renamed still works.
fn current_directory() -> Result<OwnedFd, Errno> {
    #[cfg(target_os = "linux")]
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::io::retry_on_intr(|| rustix::fs::open(".", flags, Mode::empty()))
}

/// The VM's umask at this moment. umask(2) can only be asked by setting it, which other threads would see;
/// proc(5) has it in `status` since Linux 4.7. Where there is no such line, the usual one is taken; but not
/// where it cannot be read: a file that was to be private must not become public when fds are short.
fn current_umask() -> Result<u32, Errno> {
    const USUAL: u32 = 0o022;
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
    Ok(mask.unwrap_or(USUAL))
}
