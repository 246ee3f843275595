//! The control socket, seen from the shepherd.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::socket::{self, Received, Wait};
use protocol::{Decoder, Event, Message, Request};
use rustix::io::Errno;

use crate::os::{Watched, hung_up};

pub(crate) struct Channel {
    socket: OwnedFd,
    decoder: Decoder<Request>,
    /// Fds that have come and that no frame has taken yet.
    fds: VecDeque<OwnedFd>,
    /// What the socket had no room for. The VM may be stopped: sending never waits.
    unsent: Vec<u8>,
    /// Nothing more is read: end of file, or bytes that are no frame.
    ended: bool,
    /// What was received ahead of its time.
    set_aside: VecDeque<Incoming>,
}

/// Enough for a usual request in one or two reads; on the stack, where it costs an idle shepherd memory.
const READ_BYTES: usize = 4096;
/// With so much unsent, requests are left where they are until the VM reads.
const MOST_UNSENT: usize = 64 * 1024;

/// What the VM wants.
pub(crate) enum Incoming {
    Request(Request),
    /// The VM or the owner is gone, or it sends what is no frame, which is the same to us.
    End,
    /// Fds came that did not fit into our table.
    FdsCut,
    /// The system refuses to receive. What the VM wants is not known any more.
    Failed(Errno),
}

impl Incoming {
    fn is_signal(&self) -> bool {
        matches!(self, Incoming::Request(Request::Signal(_)))
    }
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> Channel {
        Channel {
            socket,
            decoder: Decoder::default(),
            fds: VecDeque::new(),
            unsent: Vec::new(),
            ended: false,
            set_aside: VecDeque::new(),
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Waits for the next frame.
    pub(crate) fn receive(&mut self) -> Incoming {
        if let Some(incoming) = self.set_aside.pop_front() {
            return incoming;
        }
        self.next(Wait::Block).unwrap_or(Incoming::End)
    }

    /// The next frame, if there is one. [`Incoming::End`] comes once.
    pub(crate) fn try_receive(&mut self) -> Option<Incoming> {
        if let Some(incoming) = self.set_aside.pop_front() {
            return Some(incoming);
        }
        self.receive_now()
    }

    /// While the command is being started: what has come is dealt with later. Whether something of it stops the
    /// command; nothing is received behind that.
    pub(crate) fn is_to_stop(&mut self) -> bool {
        while self.set_aside.back().is_none_or(Incoming::is_signal) {
            let Some(incoming) = self.receive_now() else {
                return false;
            };
            self.set_aside.push_back(incoming);
        }
        true
    }

    fn receive_now(&mut self) -> Option<Incoming> {
        if self.ended || self.unsent.len() >= MOST_UNSENT {
            return None;
        }
        self.next(Wait::DontBlock)
    }

    fn next(&mut self, wait: Wait) -> Option<Incoming> {
        loop {
            match self.decoder.next_message() {
                Ok(Some(request)) => return Some(Incoming::Request(request)),
                Ok(None) => {}
                Err(_) => break,
            }
            let mut buffer = [0; READ_BYTES];
            match socket::receive(self.socket.as_fd(), &mut buffer, &mut self.fds, wait) {
                Ok(Received::Bytes(length)) => self.decoder.push(&buffer[..length]),
                Ok(Received::WouldBlock) => return None,
                Ok(Received::FdsCut) => return Some(Incoming::FdsCut),
                Ok(Received::EndOfFile) => break,
                Err(errno) => return Some(Incoming::Failed(errno)),
            }
        }
        self.ended = true;
        Some(Incoming::End)
    }

    /// The fds that have come; what the request does not take is closed.
    pub(crate) fn take_fds(&mut self) -> VecDeque<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Whether the VM has hung up, be it behind frames that are not read yet.
    pub(crate) fn hung_up(&self) -> bool {
        hung_up(self.socket.as_fd())
    }

    /// Sends in one write what fits, and queues the rest.
    pub(crate) fn send(&mut self, events: &[Event]) {
        for event in events {
            self.unsent.extend_from_slice(&event.encode());
        }
        self.flush();
    }

    /// Sends an event with the fds that go with it. It must be the first: nothing is unsent.
    pub(crate) fn send_with_fds(&mut self, event: &Event, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let bytes = event.encode();
        let sent = socket::send(self.socket.as_fd(), &bytes, fds, Wait::DontBlock)?;
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    pub(crate) fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match socket::send(self.socket.as_fd(), &self.unsent, &[], Wait::DontBlock) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(Errno::AGAIN) => return,
                // Nobody reads any more.
                Err(_) => self.unsent.clear(),
            }
        }
        self.unsent = Vec::new();
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// What to wait for. After the end of file, which would be reported again and again, only room to send.
    pub(crate) fn watched(&self) -> Option<Watched<'_>> {
        let read = !self.ended && self.unsent.len() < MOST_UNSENT;
        let write = !self.unsent.is_empty();
        (read || write).then_some(Watched { fd: self.socket.as_fd(), read, write, urgent: false })
    }
}
