//! What the VM, a shepherd and the fork server say to each other, and the sockets that carry it.
//!
//! The transport is a stream `socketpair(2)`. A frame is a little-endian `u32` length (of what
//! follows), a tag byte and the payload. File descriptors travel beside the bytes (`SCM_RIGHTS`) and
//! are put into a FIFO as they arrive; a frame takes as many from it as it declares (see
//! [`Spawn::fd_count`], [`Event::fd_count`]).
//!
//! Everything here is pure but for [`socket`]; decoding never trusts a length or a number.
#![forbid(unsafe_code)]

mod cgroup;
mod codec;
mod event;
mod fork_server;
mod limit;
mod request;
pub mod socket;
mod strings;

pub use cgroup::{Cgroup, CgroupLimit, CgroupLimitName, CgroupStats, CgroupStep};
pub use codec::{Decoder, Error, MAX_FRAME, Message};
pub use event::{Event, Exit, Rusage, SignalResult, Stage};
pub use fork_server::{ADOPT, FORK_AHEAD, IDLE, READY, USED};
pub use fork_server::{LACKS_PARENT_DEATH_SIGNAL, LACKS_PIDFDS, LACKS_PROC, LACKS_SUBREAPER, LACKS_WAITID};
pub use limit::{Resource, Rlimit};
pub use request::{Credentials, Directory, Leftovers, Request, Spawn, Stdio};
pub use strings::Strings;
