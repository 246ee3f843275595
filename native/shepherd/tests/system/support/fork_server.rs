use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, ExitStatus, Stdio};

use protocol::socket::{self, Received, Wait};
use protocol::{ADOPT, FORK_AHEAD, IDLE, READY};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::*;

/// The binary under test. The variable of the same name, at run time, says where it is when the tests run from
/// a copy.
pub(crate) fn shepherd() -> String {
    std::env::var("CARGO_BIN_EXE_shepherd").unwrap_or_else(|_| env!("CARGO_BIN_EXE_shepherd").to_owned())
}

pub(crate) struct ForkServer {
    process: std::process::Child,
    /// `None` once the VM has left.
    sockets: Option<(OwnedFd, OwnedFd)>,
    pub(crate) pidfd: OwnedFd,
}

impl ForkServer {
    pub(crate) fn start() -> ForkServer {
        ForkServer::start_with(&mut Command::new(shepherd()))
    }

    pub(crate) fn start_with(command: &mut Command) -> ForkServer {
        let (ours, theirs) = socket::pair().unwrap();
        command.arg("fork-server").stdin(Stdio::from(theirs));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The builder holds their end of the socket.
        command.stdin(Stdio::null());
        let pidfd = pidfd_open(Pid::from_child(&process), PidfdFlags::empty()).unwrap();
        let (byte, mut fds) = receive_byte(&ours);
        assert_eq!((byte, fds.len()), (READY, 2));
        ForkServer { process, sockets: Some((ours, fds.pop_front().unwrap())), pidfd }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    pub(crate) fn control(&self) -> BorrowedFd<'_> {
        self.sockets.as_ref().unwrap().0.as_fd()
    }

    /// A session with a shepherd that was forked ahead; the place it leaves is filled.
    pub(crate) fn idle(&self) -> Session {
        let session = self.take_idle();
        self.fork_ahead();
        session
    }

    pub(crate) fn fork_ahead(&self) {
        socket::send(self.control(), &[FORK_AHEAD], &[], Wait::Block).unwrap();
    }

    pub(crate) fn take_idle(&self) -> Session {
        let (byte, mut fds) = receive_byte(&self.sockets.as_ref().unwrap().1);
        assert_eq!((byte, fds.len()), (IDLE, 1));
        Session::new(fds.pop_front().unwrap())
    }

    /// A session with a shepherd that is forked for it.
    pub(crate) fn adopt(&self) -> Session {
        let (ours, theirs) = socket::pair().unwrap();
        self.adopt_socket(theirs);
        Session::new(ours)
    }

    pub(crate) fn adopt_socket(&self, theirs: OwnedFd) {
        socket::send(self.control(), &[ADOPT], &[theirs.as_fd()], Wait::Block).unwrap();
    }

    pub(crate) fn run(&self, command: Cmd) -> Session {
        let mut session = self.idle();
        session.spawn(command);
        session
    }

    /// The VM ends.
    pub(crate) fn leave(&mut self) {
        self.sockets = None;
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for_end(&self.pidfd);
        self.process.wait().unwrap()
    }

    /// The shepherds that were forked ahead, when they are all there and hold nothing but their own fds.
    pub(crate) fn idle_shepherds(&self) -> Vec<i32> {
        let is_ready = |pid: &i32| open_files(*pid).len() == 4;
        eventually("four idle shepherds", || self.children().iter().filter(|pid| is_ready(pid)).count() == 4);
        self.children()
    }

    pub(crate) fn children(&self) -> Vec<i32> {
        children_of(self.pid())
    }
}

/// Every test ends with the fork server's end, which is that of all shepherds: nothing is left behind.
impl Drop for ForkServer {
    fn drop(&mut self) {
        self.leave();
        if has_ended(&self.pidfd, PATIENCE) {
            let _ = self.process.wait();
        } else if !std::thread::panicking() {
            panic!("the fork server does not end; its children: {:?}", self.children());
        }
    }
}

fn receive_byte(socket: &OwnedFd) -> (u8, VecDeque<OwnedFd>) {
    wait_until_readable(socket);
    let mut byte = [0];
    let mut fds = VecDeque::new();
    let received = socket::receive(socket.as_fd(), &mut byte, &mut fds, Wait::Block).unwrap();
    assert_eq!(received, Received::Bytes(1));
    (byte[0], fds)
}
