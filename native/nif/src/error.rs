//! What went wrong, as the terms that Elixir gets: `{:error, {stage, posix}}`.

use protocol::Stage;
use rustix::io::Errno;
use rustler::{Atom, Encoder, Env, Term};

use crate::atoms;

/// Why a command, or the fork server, could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The system refused something; `Place` says what was being done.
    At(Place, Errno),
    /// There is no shepherd and no fork server; nothing was sent.
    NoForkServer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    ForkServer,
    DevNull,
    Socket,
    Send,
    Stdout,
    Stderr,
    Pty,
    User,
    Group,
    Groups,
    Shepherd(Stage),
}

impl Failure {
    /// With an errno of nix.
    pub(crate) fn at(place: Place, errno: nix::errno::Errno) -> Failure {
        Failure::At(place, Errno::from_raw_os_error(errno as i32))
    }
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::ForkServer => "fork_server",
            Place::DevNull => "dev_null",
            Place::Socket => "socket",
            Place::Send => "send",
            Place::Stdout => "stdout",
            Place::Stderr => "stderr",
            Place::Pty => "pty",
            Place::User => "user",
            Place::Group => "group",
            Place::Groups => "groups",
            Place::Shepherd(stage) => match stage {
                Stage::Fds => "fds",
                Stage::Pipe => "pipe",
                Stage::Fork => "fork",
                Stage::Setup => "setup",
                Stage::Cd => "cd",
                Stage::Exec => "exec",
                Stage::Nice => "nice",
                Stage::Credentials => "credentials",
                Stage::Rlimit(_) => "rlimits",
                Stage::Cgroup(_) => "cgroup",
            },
        }
    }
}

impl Encoder for Failure {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let reason = match self {
            Failure::At(place, errno) => (atom(env, place.name()), posix(env, *errno)).encode(env),
            Failure::NoForkServer => atoms::no_fork_server().encode(env),
        };
        (atoms::error(), reason).encode(env)
    }
}

/// A stage and an errno from a shepherd, as `{stage, posix}`; of a limit or a cgroup, `{stage, {what, posix}}`.
pub(crate) fn staged<'a>(env: Env<'a>, stage: Stage, errno: i32) -> Term<'a> {
    let name = atom(env, Place::Shepherd(stage).name());
    let posix = posix(env, Errno::from_raw_os_error(errno));
    match stage {
        Stage::Rlimit(resource) => (name, (atom(env, resource.name()), posix)).encode(env),
        Stage::Cgroup(step) => (name, (atom(env, step.name()), posix)).encode(env),
        _ => (name, posix).encode(env),
    }
}

/// The names are a closed set of literals of this file and of protocol, so no atom is made from outside data.
fn atom(env: Env<'_>, name: &'static str) -> Atom {
    Atom::from_str(env, name).expect("a literal name is a legal atom")
}

macro_rules! errnos {
    ($($constant:ident => $name:literal,)*) => {
        /// An errno as Erlang's `file` and `inet` name it: `:enoent`. One without a name here is
        /// `:eunknown`.
        pub(crate) fn posix(env: Env<'_>, errno: Errno) -> Atom {
            let name = match errno.raw_os_error() {
                $(libc::$constant => $name,)*
                _ => "eunknown",
            };
            atom(env, name)
        }
    };
}

errnos! {
    E2BIG => "e2big",
    EACCES => "eacces",
    EAGAIN => "eagain",
    EBADF => "ebadf",
    EBUSY => "ebusy",
    ECANCELED => "ecanceled",
    ECHILD => "echild",
    ECONNRESET => "econnreset",
    EDQUOT => "edquot",
    EEXIST => "eexist",
    EFAULT => "efault",
    EFBIG => "efbig",
    EINTR => "eintr",
    EINVAL => "einval",
    EIO => "eio",
    EISDIR => "eisdir",
    ELOOP => "eloop",
    EMFILE => "emfile",
    EMLINK => "emlink",
    EMSGSIZE => "emsgsize",
    ENAMETOOLONG => "enametoolong",
    ENFILE => "enfile",
    ENOBUFS => "enobufs",
    ENODEV => "enodev",
    ENOENT => "enoent",
    ENOEXEC => "enoexec",
    ENOMEM => "enomem",
    ENOSPC => "enospc",
    ENOSYS => "enosys",
    ENOTCONN => "enotconn",
    ENOTDIR => "enotdir",
    ENOTSUP => "enotsup",
    ENOTTY => "enotty",
    ENXIO => "enxio",
    EOVERFLOW => "eoverflow",
    EPERM => "eperm",
    EPIPE => "epipe",
    EPROTO => "eproto",
    ERANGE => "erange",
    EROFS => "erofs",
    ESPIPE => "espipe",
    ESRCH => "esrch",
    ESTALE => "estale",
    ETIMEDOUT => "etimedout",
    ETOOMANYREFS => "etoomanyrefs",
    ETXTBSY => "etxtbsy",
    EXDEV => "exdev",
}
