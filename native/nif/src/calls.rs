//! The entry points: decode, call, encode. Their contract is in `NetRunner.Nif`.

use std::os::unix::ffi::OsStrExt;

use protocol::{Event, Exit, Rusage, SignalResult};
use protocol::{Request, Stage};
use rustix::io::Errno;
use rustler::{Atom, Binary, Decoder, Encoder, Env, LocalPid, NifMap, NifResult, Term};

use crate::cgroup::{Group, StatsMap};
use crate::control::{Control, Occurrence};
use crate::enif::{Cancelled, Direction, Handle};
use crate::error::{Failure, posix, staged};
use crate::fork_server::{ForkServer, Said};
use crate::pipe::{EndInput, Pipe, Read, Resized, Write};
use crate::{atoms, count, room, spawn};

#[rustler::nif(schedule = "DirtyIo")]
fn fork_server_start<'a>(env: Env<'a>, path: Binary<'a>, keeper: LocalPid) -> Term<'a> {
    match Handle::<ForkServer>::start(env, path.as_slice(), keeper) {
        Ok(fork_server) => (atoms::ok(), fork_server).encode(env),
        Err(failure) => failure.encode(env),
    }
}

#[rustler::nif]
fn fork_server_read<'a>(env: Env<'a>, fork_server: Handle<ForkServer>, reference: Term<'a>) -> Term<'a> {
    let said = fork_server.read(env, reference);
    said.iter()
        .map(|said| match said {
            Said::Lacks(lacking) => (atoms::lacks(), *lacking).encode(env),
            Said::Ready => atoms::ready().encode(env),
            Said::EndOfFile => atoms::eof().encode(env),
        })
        .collect::<Vec<_>>()
        .encode(env)
}

#[rustler::nif]
fn fork_server_kill(env: Env<'_>, fork_server: Handle<ForkServer>) -> Atom {
    fork_server.kill(env);
    atoms::ok()
}

#[rustler::nif]
fn fork_server_close(env: Env<'_>, fork_server: Handle<ForkServer>) -> Atom {
    fork_server.close(env);
    atoms::ok()
}

#[rustler::nif(name = "spawn")]
fn spawn_command<'a>(
    env: Env<'a>,
    fork_server: Handle<ForkServer>,
    command: spawn::Command<'a>,
    owner: Option<LocalPid>,
) -> Term<'a> {
    spawn_now(env, &fork_server, &command, owner)
}

/// For what can take long: opening files, looking users up.
#[rustler::nif(schedule = "DirtyIo")]
fn spawn_dirty<'a>(
    env: Env<'a>,
    fork_server: Handle<ForkServer>,
    command: spawn::Command<'a>,
    owner: Option<LocalPid>,
) -> Term<'a> {
    spawn_now(env, &fork_server, &command, owner)
}

fn spawn_now<'a>(
    env: Env<'a>,
    fork_server: &Handle<ForkServer>,
    command: &spawn::Command<'a>,
    owner: Option<LocalPid>,
) -> Term<'a> {
    match spawn::spawn(env, fork_server, command, owner) {
        Ok(spawn::Spawned { control, pipes: [stdin, stdout, stderr] }) => {
            (atoms::ok(), control, stdin, stdout, stderr).encode(env)
        }
        Err(failure) => {
            if let Failure::At(_, Errno::MFILE) = failure {
                room::fds_are_short();
            }
            failure.encode(env)
        }
    }
}

#[rustler::nif]
fn sweep<'a>(env: Env<'a>, fork_server: Handle<ForkServer>, group: Group<'a>) -> Term<'a> {
    match spawn::sweep(env, &fork_server, &group) {
        Ok(control) => (atoms::ok(), control).encode(env),
        Err(failure) => failure.encode(env),
    }
}

#[rustler::nif]
fn control_read<'a>(env: Env<'a>, control: Handle<Control>, reference: Term<'a>) -> Vec<Term<'a>> {
    control.read(env, reference).iter().map(|occurrence| encode_occurrence(env, occurrence)).collect()
}

fn encode_occurrence<'a>(env: Env<'a>, occurrence: &Occurrence) -> Term<'a> {
    match occurrence {
        Occurrence::Event(event) => encode_event(env, event),
        Occurrence::Used => atoms::used().encode(env),
        Occurrence::EndOfFile => atoms::eof().encode(env),
        Occurrence::Broken => (atoms::error(), atoms::protocol()).encode(env),
        Occurrence::FdsCut => {
            (atoms::error(), staged(env, Stage::Fds, Errno::MFILE.raw_os_error())).encode(env)
        }
    }
}

fn encode_event<'a>(env: Env<'a>, event: &Event) -> Term<'a> {
    match event {
        Event::Started { os_pid, .. } => (atoms::started(), os_pid).encode(env),
        Event::Failed { stage, errno } => (atoms::failed(), staged(env, *stage, *errno)).encode(env),
        Event::Signalled(result) => {
            let result = match result {
                SignalResult::Ok => atoms::ok().encode(env),
                SignalResult::NotRunning => (atoms::error(), atoms::not_running()).encode(env),
                SignalResult::Errno(errno) => {
                    (atoms::error(), posix(env, Errno::from_raw_os_error(*errno))).encode(env)
                }
            };
            (atoms::signalled(), result).encode(env)
        }
        Event::Exited { exit, rusage } => {
            let exit = match exit {
                Exit::Status(status) => (atoms::status(), status).encode(env),
                Exit::Signal { signal, core_dumped } => (atoms::signal(), signal, core_dumped).encode(env),
            };
            (atoms::exited(), exit, RusageMap::from(rusage)).encode(env)
        }
        Event::Unkillable(os_pids) => (atoms::unkillable(), os_pids).encode(env),
        Event::Cgroup(stats) => (atoms::cgroup(), StatsMap::from(stats)).encode(env),
        Event::Done { .. } => atoms::done().encode(env),
        Event::Forked { .. } => atoms::forked().encode(env),
    }
}

/// `t:NetRunner.Nif.rusage/0`.
#[derive(NifMap)]
struct RusageMap {
    user_us: u64,
    system_us: u64,
    max_rss_bytes: u64,
    minor_faults: u64,
    major_faults: u64,
    blocks_in: u64,
    blocks_out: u64,
    voluntary_switches: u64,
    involuntary_switches: u64,
}

impl From<&Rusage> for RusageMap {
    fn from(rusage: &Rusage) -> Self {
        RusageMap {
            user_us: rusage.user_us,
            system_us: rusage.system_us,
            max_rss_bytes: rusage.max_rss_bytes,
            minor_faults: rusage.minor_faults,
            major_faults: rusage.major_faults,
            blocks_in: rusage.blocks_in,
            blocks_out: rusage.blocks_out,
            voluntary_switches: rusage.voluntary_switches,
            involuntary_switches: rusage.involuntary_switches,
        }
    }
}

#[rustler::nif]
fn control_take_over(env: Env<'_>, control: Handle<Control>) -> Atom {
    control.set_server(env, env.pid());
    atoms::ok()
}

#[rustler::nif]
fn control_set_owner<'a>(env: Env<'a>, control: Handle<Control>, owner: Option<LocalPid>) -> Term<'a> {
    if control.set_owner(env, owner) { atoms::ok().encode(env) } else { env.error_tuple(atoms::closed()) }
}

#[rustler::nif]
fn control_signal<'a>(env: Env<'a>, control: Handle<Control>, signal: i32) -> Term<'a> {
    if control.send(&Request::Signal(signal)) {
        atoms::ok().encode(env)
    } else {
        env.error_tuple(atoms::closed())
    }
}

#[rustler::nif]
fn control_stop(control: Handle<Control>) -> Atom {
    // A shepherd that cannot be told any more is stopping already.
    control.send(&Request::Stop);
    atoms::ok()
}

#[rustler::nif]
fn control_kill<'a>(env: Env<'a>, control: Handle<Control>) -> Term<'a> {
    if control.kill() { atoms::ok().encode(env) } else { env.error_tuple(atoms::no_pidfd()) }
}

#[rustler::nif]
fn control_close(env: Env<'_>, control: Handle<Control>) -> Atom {
    control.close(env);
    atoms::ok()
}

#[rustler::nif]
fn read(env: Env<'_>, pipe: Handle<Pipe>, max: usize) -> Term<'_> {
    match pipe.read(env, max.max(1)) {
        Read::Data(binary) => (atoms::ok(), binary).encode(env),
        Read::Eof => atoms::eof().encode(env),
        Read::Wait => atoms::wait().encode(env),
        Read::Error(reason) => env.error_tuple(reason),
    }
}

#[rustler::nif]
fn write<'a>(env: Env<'a>, pipe: Handle<Pipe>, iovec: Term<'a>) -> NifResult<Term<'a>> {
    let written = pipe.write(env, iovec).ok_or(rustler::Error::BadArg)?;
    Ok(match written {
        Write::Done => atoms::ok().encode(env),
        Write::Wait(rest) => (atoms::wait(), rest).encode(env),
        Write::Again(rest) => (atoms::again(), rest).encode(env),
        Write::Error(reason) => env.error_tuple(reason),
    })
}

#[rustler::nif]
fn end_input(env: Env<'_>, pipe: Handle<Pipe>) -> Term<'_> {
    match pipe.end_input(env) {
        EndInput::Done => atoms::ok().encode(env),
        EndInput::Wait => atoms::wait().encode(env),
        EndInput::NotCanonical => env.error_tuple(atoms::not_canonical()),
    }
}

#[rustler::nif]
fn unread(env: Env<'_>, pipe: Handle<Pipe>, bytes: Binary<'_>) -> Atom {
    pipe.unread(env, bytes.as_slice());
    atoms::ok()
}

#[rustler::nif]
fn set_window_size(env: Env<'_>, pipe: Handle<Pipe>, rows: u16, cols: u16) -> Term<'_> {
    match pipe.set_window_size(rows, cols) {
        Resized::Done => atoms::ok().encode(env),
        Resized::NotAPty => env.error_tuple(atoms::not_a_pty()),
        Resized::Closed => env.error_tuple(atoms::closed()),
        Resized::Errno(errno) => env.error_tuple(posix(env, errno)),
    }
}

impl<'a> Decoder<'a> for Direction {
    fn decode(term: Term<'a>) -> NifResult<Self> {
        match Atom::from_term(term)? {
            atom if atom == atoms::read() => Ok(Direction::Read),
            atom if atom == atoms::write() => Ok(Direction::Write),
            _other => Err(rustler::Error::BadArg),
        }
    }
}

#[rustler::nif]
fn wait(env: Env<'_>, pipe: Handle<Pipe>, direction: Direction, reference: Term<'_>) -> Atom {
    pipe.wait(env, direction, reference);
    atoms::ok()
}

#[rustler::nif]
fn cancel(env: Env<'_>, pipe: Handle<Pipe>, direction: Direction) -> Atom {
    match pipe.cancel(env, direction) {
        Cancelled::Yes => atoms::cancelled(),
        Cancelled::TooLate => atoms::sent(),
    }
}

#[rustler::nif]
fn close(env: Env<'_>, pipe: Handle<Pipe>) -> Atom {
    pipe.close(env, atoms::closed());
    atoms::ok()
}

#[rustler::nif]
fn fail(env: Env<'_>, pipe: Handle<Pipe>, reason: Atom) -> Atom {
    pipe.fail(env, reason);
    atoms::ok()
}

#[rustler::nif]
fn finish(env: Env<'_>, pipe: Handle<Pipe>) -> Atom {
    pipe.finish(env);
    atoms::ok()
}

#[rustler::nif]
fn counters(pipe: Handle<Pipe>) -> (u64, u64, u64, u64) {
    let counters = pipe.counters();
    (counters.read_bytes, counters.reads, counters.written_bytes, counters.writes)
}

#[rustler::nif]
fn environ<'a>(env: Env<'a>) -> Vec<Term<'a>> {
    std::env::vars_os()
        .map(|(name, value)| {
            let entry = [name.as_bytes(), b"=", value.as_bytes()].concat();
            let mut binary = rustler::NewBinary::new(env, entry.len());
            binary.as_mut_slice().copy_from_slice(&entry);
            Binary::from(binary).encode(env)
        })
        .collect()
}

#[derive(NifMap)]
struct ResourceCounts {
    pipes: u64,
    controls: u64,
}

#[rustler::nif]
fn resource_counts() -> ResourceCounts {
    ResourceCounts { pipes: count::PIPES.get(), controls: count::CONTROLS.get() }
}

#[rustler::nif]
fn panic() -> Atom {
    panic!("asked for, to show that a panic is an Elixir error")
}
