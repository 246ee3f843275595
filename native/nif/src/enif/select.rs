//! `enif_select`: one message when an fd can be read or written (erl_nif, "enif_select").

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use rustler::sys;
use rustler::{Env, LocalPid, Term};

use super::resource::{Handle, Resource};
use crate::stdio::duplicate;

/// erl_nif.h, `enum ErlNifSelectFlags`; rustler has names for the others only.
const ERL_NIF_SELECT_CANCEL: sys::ErlNifSelectFlags = 1 << 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Direction {
    fn flag(self) -> sys::ErlNifSelectFlags {
        match self {
            Direction::Read => sys::ERL_NIF_SELECT_READ,
            Direction::Write => sys::ERL_NIF_SELECT_WRITE,
        }
    }

    fn cancelled_bit(self) -> sys::ErlNifSelectFlags {
        match self {
            Direction::Read => sys::ERL_NIF_SELECT_READ_CANCELLED,
            Direction::Write => sys::ERL_NIF_SELECT_WRITE_CANCELLED,
        }
    }
}

/// What became of the message of a select that is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancelled {
    /// It will not come.
    Yes,
    /// It has been sent.
    TooLate,
}

/// An fd that a resource owns and may arm. Once armed it belongs to the VM as well, and only the `stop`
/// callback may close it; before that, dropping it does.
#[derive(Debug)]
pub(crate) struct Fd {
    fd: OwnedFd,
    armed_ever: bool,
}

impl Fd {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Fd { fd, armed_ever: false }
    }

    /// Where the VM watches it: another fd for the same open file, which the VM does not know.
    pub(crate) fn unwatched(&self) -> Option<Fd> {
        if !self.armed_ever {
            return None;
        }
        duplicate(self.fd.as_fd()).ok().map(Fd::new)
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Asks for one message `{:select, resource, reference, :ready_input | :ready_output}` to `pid`. A second
/// call for the same direction replaces the first. False when the VM cannot watch this fd.
pub(crate) fn arm<T: Resource>(
    env: Env<'_>,
    handle: &Handle<T>,
    fd: &mut Fd,
    direction: Direction,
    pid: &LocalPid,
    reference: Term<'_>,
) -> bool {
    // SAFETY: erl_nif, "enif_select": the fd is open, for we own it; the object outlives the select, which
    // holds a reference; the reference term is copied.
    let result = unsafe {
        sys::enif_select(
            env.as_c_arg(),
            fd.fd.as_raw_fd(),
            direction.flag(),
            handle.as_object(),
            pid.as_c_arg(),
            reference.as_c_arg(),
        )
    };
    let armed = result >= 0;
    fd.armed_ever |= armed;
    armed
}

/// Withdraws the select of one direction.
pub(crate) fn cancel<T: Resource>(
    env: Env<'_>,
    handle: &Handle<T>,
    fd: &Fd,
    direction: Direction,
) -> Cancelled {
    if !fd.armed_ever {
        return Cancelled::TooLate;
    }
    // SAFETY: as in `arm`; pid and reference are ignored when cancelling (null pid: the caller, who is not
    // looked at; the undefined atom as reference).
    let result = unsafe {
        sys::enif_select(
            env.as_c_arg(),
            fd.fd.as_raw_fd(),
            direction.flag() | ERL_NIF_SELECT_CANCEL,
            handle.as_object(),
            std::ptr::null(),
            crate::atoms::undefined().as_c_arg(),
        )
    };
    if result >= 0 && result & direction.cancelled_bit() != 0 { Cancelled::Yes } else { Cancelled::TooLate }
}

/// Closes an fd, at once or as soon as the VM lets go of it. `stop` may run within this call, on this
/// thread: no lock of the resource may be held, and the resource must not know the fd any more.
pub(crate) fn stop<T: Resource>(env: Env<'_>, handle: &Handle<T>, fd: Fd) {
    let Fd { fd, armed_ever } = fd;
    if !armed_ever {
        return;
    }
    // SAFETY: ownership of the fd goes to the `stop` callback, which is called exactly once; the VM's
    // reference to the object is given back after it.
    unsafe {
        sys::enif_select(
            env.as_c_arg(),
            fd.into_raw_fd(),
            sys::ERL_NIF_SELECT_STOP,
            handle.as_object(),
            std::ptr::null(),
            crate::atoms::undefined().as_c_arg(),
        )
    };
}
