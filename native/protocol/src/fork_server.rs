//! The fork server speaks in single bytes, each with its fd beside it where it has one: there is nothing
//! to frame, and a byte with an fd is received alone, for the kernel ends a read of a stream socket where
//! fds begin (unix(7), "SCM_RIGHTS").
//!
//! It has two sockets. Its control socket, which is its fd 0:
//!
//! * fork server → VM, once: [`READY`] with two fds: the VM's end of the pool socket, and the fork server's
//!   own pidfd (where the system has pidfds). Afterwards only end of file means anything.
//! * VM → fork server: [`ADOPT`] with an fd: the shepherd's end of a new control socket. Fork a shepherd
//!   for it. If that fails, `Failed { stage: Fork, .. }` is written to that socket.
//! * VM → fork server: [`FORK_AHEAD`]: an idle shepherd was taken. Fork another.
//!
//! The pool socket, fork server → VM: [`IDLE`] with an fd: the VM's end of an idle shepherd's control
//! socket. They wait in the socket's queue until the VM takes them one by one.

pub const READY: u8 = b'R';
pub const ADOPT: u8 = b'A';
pub const FORK_AHEAD: u8 = b'F';
pub const IDLE: u8 = b'I';
