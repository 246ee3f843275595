use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::socket::{self, Received, Wait};
use protocol::{Decoder, Event, Exit, Message, Request, Rusage};

use super::*;

/// A control socket, and so a shepherd.
pub(crate) struct Session {
    pub(crate) socket: OwnedFd,
    decoder: Decoder<Event>,
    /// What no event has taken.
    pub(crate) fds: VecDeque<OwnedFd>,
    /// Their pidfds.
    pub(crate) shepherd: Option<OwnedFd>,
    pub(crate) command: Option<OwnedFd>,
    /// Of the last request.
    nonce: u64,
}

impl Session {
    pub(crate) fn new(socket: OwnedFd) -> Session {
        Session {
            socket,
            decoder: Decoder::default(),
            fds: VecDeque::new(),
            shepherd: None,
            command: None,
            nonce: 0,
        }
    }

    pub(crate) fn spawn(&mut self, mut command: Cmd) {
        self.nonce += 1;
        command.spawn.nonce = self.nonce;
        let fds: Vec<BorrowedFd<'_>> = command.fds.iter().map(AsFd::as_fd).collect();
        self.send_bytes(&Request::Spawn(Box::new(command.spawn)).encode(), &fds);
    }

    pub(crate) fn sweep(&mut self, cgroup: protocol::Cgroup) {
        self.nonce += 1;
        self.send(&Request::Sweep { cgroup: Box::new(cgroup), nonce: self.nonce });
    }

    pub(crate) fn send(&self, request: &Request) {
        self.send_bytes(&request.encode(), &[]);
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut sent = socket::send(self.socket.as_fd(), bytes, fds, Wait::Block).unwrap();
        while sent < bytes.len() {
            sent += socket::send(self.socket.as_fd(), &bytes[sent..], &[], Wait::Block).unwrap();
        }
    }

    pub(crate) fn shutdown(&self) {
        socket::shutdown_write(&self.socket).unwrap();
    }

    /// The next event of the shepherd; `None` at the end of file. `Forked`, which may come anywhere among
    /// them, is only taken note of.
    pub(crate) fn event(&mut self) -> Option<Event> {
        loop {
            match self.decoder.next_message().unwrap() {
                Some(Event::Forked { fds: 1 }) => {
                    let pidfd = self.fds.pop_front().unwrap();
                    assert!(self.shepherd.replace(pidfd).is_none(), "Forked comes once");
                    continue;
                }
                Some(Event::Started { os_pid, fds: 1 }) => {
                    self.command = self.fds.pop_front();
                    return Some(Event::Started { os_pid, fds: 1 });
                }
                Some(event) => return Some(event),
                None => {}
            }
            wait_until_readable(&self.socket);
            let mut buffer = [0; 4096];
            match socket::receive(self.socket.as_fd(), &mut buffer, &mut self.fds, Wait::Block).unwrap() {
                Received::Bytes(length) => self.decoder.push(&buffer[..length]),
                Received::EndOfFile => return None,
                other => panic!("{other:?}"),
            }
        }
    }

    /// The os_pid of the command.
    pub(crate) fn started(&mut self) -> i32 {
        match self.event() {
            Some(Event::Started { os_pid, fds: 1 }) => os_pid,
            other => panic!("expected Started with one fd, got {other:?}"),
        }
    }

    pub(crate) fn exited(&mut self) -> (Exit, Rusage) {
        match self.event() {
            Some(Event::Exited { exit, rusage }) => (exit, rusage),
            other => panic!("expected Exited, got {other:?}"),
        }
    }

    /// `Done`, with the nonce of the last request.
    pub(crate) fn over(&mut self) {
        assert_eq!(self.event(), Some(Event::Done { nonce: self.nonce }));
    }

    /// As [`Session::over`], and nothing after it: when we hang up, the shepherd leaves.
    pub(crate) fn done(&mut self) {
        self.over();
        self.leaves();
    }

    /// Without another word, now that we hang up.
    pub(crate) fn leaves(&mut self) {
        // It may have left already.
        let _ = socket::shutdown_write(&self.socket);
        assert_eq!(self.event(), None);
    }

    /// As [`Session::done`], of a command that forks all the time: where others have the processor, it may
    /// take longer than the five seconds after which the shepherd says that it does.
    pub(crate) fn done_at_last(&mut self) {
        match self.event() {
            Some(Event::Unkillable(_)) => self.done(),
            event => {
                assert_eq!(event, Some(Event::Done { nonce: self.nonce }));
                self.leaves();
            }
        }
    }

    /// Started, exited and done; how.
    pub(crate) fn finish(&mut self) -> Exit {
        self.started();
        let (exit, _) = self.exited();
        self.done();
        exit
    }

    /// The one event of a command that did not start.
    pub(crate) fn failure(&mut self) -> (protocol::Stage, i32) {
        let failed = self.event();
        assert_eq!(self.event(), None);
        match failed {
            Some(Event::Failed { stage, errno }) => (stage, errno),
            other => panic!("expected Failed, got {other:?}"),
        }
    }
}
