//! Stream sockets that carry fds. The only part of this crate that calls the system.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// More fds than any message of ours carries; a peer that sends more has them closed (`MSG_CTRUNC`).
const MAX_FDS: usize = 8;

/// A connected pair of close-on-exec stream sockets.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    #[cfg(not(target_vendor = "apple"))]
    return rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);

    // socketpair(2) of macOS takes no flags, and SIGPIPE is switched off by socket there, not by call.
    #[cfg(target_vendor = "apple")]
    {
        let pair =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)?;
        for end in [&pair.0, &pair.1] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
            rustix::net::sockopt::set_socket_nosigpipe(end, true)?;
        }
        Ok(pair)
    }
}

#[cfg(not(target_vendor = "apple"))]
const NOSIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NOSIGNAL: SendFlags = SendFlags::empty();

/// Whether a call may wait. Sockets themselves stay blocking: the flag is the call's, not the open file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Block,
    DontBlock,
}

/// Sends what fits; `fds` go with the first byte. Never raises SIGPIPE.
///
/// Returns how many bytes were accepted; at least one, and then the fds were as well.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    wait: Wait,
) -> Result<usize, Errno> {
    let flags = match wait {
        Wait::Block => NOSIGNAL,
        Wait::DontBlock => NOSIGNAL | SendFlags::DONTWAIT,
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    // The space is rounded up: it may have room for one more, which the receiver need not have.
    if fds.len() > MAX_FDS {
        return Err(Errno::INVAL);
    }
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags))
}

/// What a call to [`receive`] brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Bytes(usize),
    /// Nothing is there now (only with [`Wait::DontBlock`]).
    WouldBlock,
    EndOfFile,
    /// Fds came that this process has no room for (`MSG_CTRUNC`); those that had room are closed again.
    FdsCut,
}

/// Receives bytes into `buffer` and fds, close-on-exec, to the end of `fds`.
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut VecDeque<OwnedFd>,
    wait: Wait,
) -> Result<Received, Errno> {
    let mut flags = RecvFlags::empty();
    #[cfg(not(target_vendor = "apple"))]
    {
        flags |= RecvFlags::CMSG_CLOEXEC;
    }
    if wait == Wait::DontBlock {
        flags |= RecvFlags::DONTWAIT;
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(buffer)];
    let received = loop {
        match rustix::net::recvmsg(socket, &mut slices, &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Received::WouldBlock),
            // The peer closed with unread data of ours in its queue: it is gone all the same.
            Err(Errno::CONNRESET) => return Ok(Received::EndOfFile),
            other => break other?,
        }
    };
    let mut came: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            came.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Ok(Received::FdsCut);
    }
    #[cfg(target_vendor = "apple")]
    for fd in &came {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    }
    fds.extend(came);
    Ok(if received.bytes == 0 { Received::EndOfFile } else { Received::Bytes(received.bytes) })
}

/// Ends our direction: the peer reads end of file once it has read what was sent. Reading goes on.
pub fn shutdown_write(socket: impl AsFd) -> Result<(), Errno> {
    rustix::net::shutdown(socket, rustix::net::Shutdown::Write)
}
