//! Sockets that carry fds.
#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::socket::{Received, Wait, pair, receive, send, shutdown_write};
use rustix::io::Errno;

fn get(socket: &OwnedFd, fds: &mut VecDeque<OwnedFd>) -> Received {
    receive(socket.as_fd(), &mut [0; 64], fds, Wait::DontBlock).unwrap()
}

/// A pipe whose reader never waits.
fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    (reader, writer)
}

/// Whether nobody has the writer any more.
fn is_at_end(reader: &OwnedFd) -> bool {
    match rustix::io::read(reader, &mut [0; 8]) {
        Ok(0) => true,
        Err(Errno::AGAIN) => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn fds_come_with_their_byte_close_on_exec() {
    let (ours, theirs) = pair().unwrap();
    let (reader, writer) = pipe();
    send(ours.as_fd(), b"a", &[], Wait::Block).unwrap();
    send(ours.as_fd(), b"bc", &[writer.as_fd(), writer.as_fd()], Wait::Block).unwrap();
    drop(writer);
    let mut fds = VecDeque::new();
    // A read may take the byte before as well, but never goes beyond fds.
    let mut bytes = 0;
    while bytes < 3 {
        match get(&theirs, &mut fds) {
            Received::Bytes(length) => bytes += length,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fds.len(), 2);
    for fd in &fds {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
    assert!(!is_at_end(&reader));
    drop(fds);
    assert!(is_at_end(&reader));
}

#[test]
fn nothing_yet_and_nothing_more_are_told_apart() {
    let (ours, theirs) = pair().unwrap();
    let mut fds = VecDeque::new();
    assert_eq!(get(&theirs, &mut fds), Received::WouldBlock);
    send(ours.as_fd(), b"last", &[], Wait::Block).unwrap();
    shutdown_write(&ours).unwrap();
    assert_eq!(get(&theirs, &mut fds), Received::Bytes(4));
    assert_eq!(get(&theirs, &mut fds), Received::EndOfFile);
    send(theirs.as_fd(), b"answer", &[], Wait::Block).unwrap();
    assert_eq!(get(&ours, &mut fds), Received::Bytes(6), "the other direction goes on");
}

#[test]
fn a_peer_that_leaves_unread_bytes_is_an_end_of_file() {
    let (ours, theirs) = pair().unwrap();
    send(ours.as_fd(), b"unread", &[], Wait::Block).unwrap();
    drop(theirs);
    assert_eq!(get(&ours, &mut VecDeque::new()), Received::EndOfFile);
}

#[test]
fn sending_to_nobody_is_an_error_and_no_signal() {
    let (ours, theirs) = pair().unwrap();
    drop(theirs);
    assert_eq!(send(ours.as_fd(), b"x", &[], Wait::Block), Err(Errno::PIPE));
}

#[test]
fn a_full_socket_takes_a_part_and_then_nothing() {
    let (ours, _theirs) = pair().unwrap();
    let bytes = vec![0; 1 << 20];
    let first = send(ours.as_fd(), &bytes, &[], Wait::DontBlock).unwrap();
    assert!(first > 0 && first < bytes.len());
    while send(ours.as_fd(), &bytes, &[], Wait::DontBlock).is_ok() {}
    assert_eq!(send(ours.as_fd(), b"x", &[], Wait::DontBlock), Err(Errno::AGAIN));
}

#[test]
fn more_fds_than_any_message_has_are_refused() {
    let (ours, theirs) = pair().unwrap();
    let (reader, writer) = pipe();
    let fds: Vec<BorrowedFd<'_>> = vec![writer.as_fd(); 9];
    assert_eq!(send(ours.as_fd(), b"x", &fds, Wait::Block), Err(Errno::INVAL));
    assert_eq!(get(&theirs, &mut VecDeque::new()), Received::WouldBlock);
    drop(writer);
    assert!(is_at_end(&reader));
}

/// The limit is the process's, so this runs in one of its own: this test again, under its name.
#[test]
#[cfg(target_os = "linux")]
fn fds_without_room_are_named_and_those_that_had_it_closed() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const CHILD: &str = "PROTOCOL_TEST_FDS_CUT";
    if std::env::var_os(CHILD).is_none() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "fds_without_room_are_named_and_those_that_had_it_closed"]).env(CHILD, "1");
        assert!(command.status().unwrap().success());
        return;
    }
    let (ours, theirs) = pair().unwrap();
    let (reader, writer) = pipe();
    send(ours.as_fd(), b"x", &[writer.as_fd(), writer.as_fd()], Wait::Block).unwrap();
    drop(writer);
    // Room for one: all below the highest in use, and one more.
    let probe = rustix::io::dup(&reader).unwrap();
    let next = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&probe)).unwrap();
    drop(probe);
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(next + 1), ..before }).unwrap();
    let mut fds = VecDeque::new();
    let received = get(&theirs, &mut fds);
    setrlimit(Resource::Nofile, before).unwrap();
    assert_eq!((received, fds.len()), (Received::FdsCut, 0));
    assert!(is_at_end(&reader));
}
