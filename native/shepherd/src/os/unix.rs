//! Signals and sockets, as POSIX has them.

use std::os::fd::BorrowedFd;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, sigaction};
use protocol::Exit;
use rustix::event::{PollFd, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Pid;

/// A signal number, 1 to 64. nix and rustix know no numbers for real-time signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signal(pub(crate) i32);

impl Signal {
    pub(crate) const HUP: Signal = Signal(libc::SIGHUP);
    pub(crate) const KILL: Signal = Signal(libc::SIGKILL);
    pub(crate) const STOP: Signal = Signal(libc::SIGSTOP);
    pub(crate) const CONT: Signal = Signal(libc::SIGCONT);
}

/// What the fork server and its shepherds ignore: only frames and end of file end them. Ctrl-C in a
/// terminal or `systemctl stop` must not beat the stop sequence.
const IGNORED: [nix::sys::signal::Signal; 8] = {
    use nix::sys::signal::Signal::*;
    [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGPIPE]
};

pub(crate) fn kill_process(pid: Pid, signal: Signal) -> Result<(), Errno> {
    // SAFETY: kill(2) takes two numbers; a pid newtype is never 0 or negative, so it is one process.
    sent(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal.0) })
}

pub(crate) fn kill_group(group: Pid, signal: Signal) -> Result<(), Errno> {
    // SAFETY: kill(2) takes two numbers.
    sent(unsafe { libc::kill(-group.as_raw_nonzero().get(), signal.0) })
}

fn sent(result: libc::c_int) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// How a child has ended, from `si_code` and `si_status` of waitid(2).
pub(super) fn exit(code: libc::c_int, status: libc::c_int) -> Exit {
    let number = u8::try_from(status & 0xff).unwrap_or(0);
    match code {
        libc::CLD_EXITED => Exit::Status(number),
        code => Exit::Signal { signal: number, core_dumped: code == libc::CLD_DUMPED },
    }
}

/// errno of the libc call that has just failed.
pub(crate) fn last_errno() -> Errno {
    Errno::from_raw_os_error(nix::errno::Errno::last_raw())
}

pub(super) fn from_nix(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}

/// Sets every disposition to its default, then ignores [`IGNORED`]. What the VM ignores (SIGCHLD, and what
/// its own parent ignored) is inherited through exec (execve(2)) and must not reach a command.
pub(crate) fn ignore_terminal_and_stop_signals() -> Result<(), Errno> {
    for number in 1..=super::HIGHEST_SIGNAL {
        super::reset_disposition(number);
    }
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    set_dispositions(&ignore)
}

/// The command's side: whatever is ignored here is default there; handlers do not survive exec anyway.
/// Async-signal-safe (signal-safety(7): sigaction).
pub(crate) fn restore_default_signals() -> Result<(), Errno> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    set_dispositions(&default)
}

fn set_dispositions(action: &SigAction) -> Result<(), Errno> {
    for signal in IGNORED {
        // SAFETY: neither SIG_IGN nor SIG_DFL is code that a signal could run.
        unsafe { sigaction(signal, action) }.map_err(from_nix)?;
    }
    Ok(())
}

/// No signal is blocked. Async-signal-safe.
pub(crate) fn reset_signal_mask() -> Result<(), Errno> {
    SigSet::empty().thread_set_mask().map_err(from_nix)
}

extern "C" fn wake(_signal: libc::c_int) {}

/// From now on SIGCHLD is blocked but in [`super::wait`], which it interrupts: an exit is never missed
/// between looking and waiting (pselect(2), "The reason that pselect() is needed"). The handler does
/// nothing; being there is what makes the signal interrupt. A child that stops is not news (SA_NOCLDSTOP).
pub(crate) fn watch_children() -> Result<(), Errno> {
    let mut blocked = SigSet::empty();
    blocked.add(nix::sys::signal::Signal::SIGCHLD);
    blocked.thread_swap_mask(SigmaskHow::SIG_SETMASK).map_err(from_nix)?;
    let handler = SigAction::new(SigHandler::Handler(wake), SaFlags::SA_NOCLDSTOP, SigSet::empty());
    // SAFETY: the handler is empty, which is async-signal-safe.
    unsafe { sigaction(nix::sys::signal::Signal::SIGCHLD, &handler) }.map_err(from_nix)?;
    Ok(())
}

/// Whether the peer has hung up, be it behind bytes that are not read yet.
pub(crate) fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket, super::HANG_UP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}
