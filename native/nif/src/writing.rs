//! How much is written at once, and what is left: to a pipe without copying, to a terminal line by line.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustler::{Binary, Encoder, Env, Term};

use crate::terminal::{Canonical, Line, TooLong};

/// How much one call to `write` may put into the pipe before it gives way to other processes.
const WRITE_SLICE: usize = 1024 * 1024;

/// Segments per writev(2); POSIX promises IOV_MAX >= 16, Linux and macOS have 1,024.
const WRITE_SEGMENTS: usize = 64;

/// How much is written to a terminal at a time: more than a line can have.
const TERMINAL_WRITE: usize = 8192;

pub(crate) enum Stop {
    Done,
    /// There is no room for the rest.
    Full,
    /// Enough for one call.
    Slice,
    LineTooLong,
    Error(Errno),
}

pub(crate) struct Progress<'a> {
    pub(crate) bytes: usize,
    pub(crate) stop: Stop,
    /// What has not been written.
    pub(crate) rest: Term<'a>,
}

/// Writes a list of binaries from its start; `None` when it is something else.
pub(crate) fn write_list<'a>(env: Env<'a>, fd: BorrowedFd<'_>, list: Term<'a>) -> Option<Progress<'a>> {
    let mut bytes = 0;
    let mut rest = list;
    loop {
        let (segments, behind) = take_segments(rest)?;
        if segments.is_empty() {
            return Some(Progress { bytes, stop: Stop::Done, rest: behind });
        }
        let slices: Vec<IoSlice<'_>> =
            segments.iter().map(|segment| IoSlice::new(segment.as_slice())).collect();
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let stop = match rustix::io::retry_on_intr(|| rustix::io::writev(fd, &slices)) {
            Ok(written) => {
                bytes += written;
                rest = unwritten(env, &segments, written, behind)?;
                match written < length {
                    true => Some(Stop::Full),
                    false if bytes >= WRITE_SLICE => Some(Stop::Slice),
                    false => None,
                }
            }
            Err(Errno::AGAIN) => Some(Stop::Full),
            Err(errno) => Some(Stop::Error(errno)),
        };
        match stop {
            Some(Stop::Slice) if rest.is_empty_list() => {
                return Some(Progress { bytes, stop: Stop::Done, rest });
            }
            Some(stop) => return Some(Progress { bytes, stop, rest }),
            None => {}
        }
    }
}

/// As `write_list`, to a terminal: in canonical mode lines that are too long are refused, before anything of them
/// is written.
pub(crate) fn write_terminal<'a>(
    env: Env<'a>,
    fd: BorrowedFd<'_>,
    line: &mut Line,
    list: Term<'a>,
) -> Option<Progress<'a>> {
    let mut bytes = 0;
    let mut rest = list;
    while !rest.is_empty_list() {
        let mut segments = Vec::new();
        let mut window = Vec::new();
        let mut behind = rest;
        while window.len() < TERMINAL_WRITE && !behind.is_empty_list() {
            let (head, tail) = behind.list_get_cell().ok()?;
            let segment = head.decode_as_binary().ok()?;
            window.extend_from_slice(segment.as_slice());
            segments.push(segment);
            behind = tail;
        }
        let is_all = window.len() <= TERMINAL_WRITE && behind.is_empty_list();
        window.truncate(TERMINAL_WRITE);
        if window.is_empty() {
            rest = behind;
            continue;
        }
        let stop = |stop, rest| Some(Progress { bytes, stop, rest });
        let canonical = match Canonical::of(fd) {
            Ok(canonical) => canonical,
            Err(errno) => return stop(Stop::Error(errno), rest),
        };
        let admitted = match &canonical {
            None => window.len(),
            Some(canonical) => match canonical.admit(line, &window, is_all) {
                Ok(admitted) => admitted,
                Err(TooLong) => return stop(Stop::LineTooLong, rest),
            },
        };
        let written = match rustix::io::retry_on_intr(|| rustix::io::write(fd, &window[..admitted])) {
            Ok(written) => written,
            Err(Errno::AGAIN) => 0,
            // Nobody has the other end any more.
            Err(Errno::IO) => return stop(Stop::Error(Errno::PIPE), rest),
            Err(errno) => return stop(Stop::Error(errno), rest),
        };
        match &canonical {
            None => line.forget(),
            Some(canonical) => canonical.written(line, &window[..written]),
        }
        bytes += written;
        rest = unwritten(env, &segments, written, behind)?;
        if written < admitted {
            return Some(Progress { bytes, stop: Stop::Full, rest });
        }
    }
    Some(Progress { bytes, stop: Stop::Done, rest })
}

/// The first non-empty binaries of a list, and the list behind them.
fn take_segments<'a>(list: Term<'a>) -> Option<(Vec<Binary<'a>>, Term<'a>)> {
    let mut segments = Vec::with_capacity(4);
    let mut rest = list;
    while segments.len() < WRITE_SEGMENTS && !rest.is_empty_list() {
        let (head, tail) = rest.list_get_cell().ok()?;
        let segment = head.decode_as_binary().ok()?;
        if !segment.as_slice().is_empty() {
            segments.push(segment);
        }
        rest = tail;
    }
    Some((segments, rest))
}

/// The segments without their first `written` bytes, in front of `behind`. No byte is copied.
fn unwritten<'a>(
    env: Env<'a>,
    segments: &[Binary<'a>],
    written: usize,
    behind: Term<'a>,
) -> Option<Term<'a>> {
    let mut skip = written;
    let mut left: Vec<Binary<'a>> = Vec::new();
    for segment in segments {
        let length = segment.as_slice().len();
        if skip >= length {
            skip -= length;
        } else {
            left.push(segment.make_subbinary(skip, length - skip).ok()?);
            skip = 0;
        }
    }
    Some(left.into_iter().rev().fold(behind, |list, segment| list.list_prepend(segment.encode(env))))
}
