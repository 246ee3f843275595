//! The fork server speaks in single bytes, each with its fd beside it where it has one: there is nothing
//! to frame, and a byte with an fd is received alone, for the kernel ends a read of a stream socket where
//! fds begin (unix(7), "SCM_RIGHTS").
//!
//! It has two sockets. Its control socket, which is its fd 0:
//!
//! * fork server → VM, once: [`READY`] with its fds: the VM's end of the pool socket and a copy of the other end.
//!   Afterwards only end of file means anything.
//! * fork server → VM, before that: one byte, `LACKS_…`, for each thing that the system does not have. Without
//!   waitid(2) nothing can be done, and no [`READY`] comes.
//! * VM → fork server: [`ADOPT`] with an fd: the shepherd's end of a new control socket. Fork a shepherd
//!   for it. If that fails, `Failed { stage: Fork, .. }` is written to that socket.
//! * VM → fork server: [`FORK_AHEAD`]: an idle shepherd is missing. Fork another.
//!
//! The pool socket, fork server → VM: [`IDLE`] with an fd: the VM's end of an idle shepherd's control
//! socket. VM → VM: [`USED`], the same of a shepherd whose command is over, with the shepherd's pidfd (where the
//! system has pidfds). They wait in the socket's queue until the VM takes them one by one.

pub const READY: u8 = b'R';
pub const ADOPT: u8 = b'A';
pub const FORK_AHEAD: u8 = b'F';
pub const IDLE: u8 = b'I';
pub const USED: u8 = b'U';

/// prctl(2), `PR_SET_CHILD_SUBREAPER`.
pub const LACKS_SUBREAPER: u8 = b's';
/// prctl(2), `PR_SET_PDEATHSIG`.
pub const LACKS_PARENT_DEATH_SIGNAL: u8 = b'd';
/// pidfd_open(2) and pidfd_send_signal(2).
pub const LACKS_PIDFDS: u8 = b'p';
/// /proc, with the processes of this PID namespace.
pub const LACKS_PROC: u8 = b'/';
/// waitid(2).
pub const LACKS_WAITID: u8 = b'w';
