//! Nonsense on the socket, too few fds, a VM that does not read.

use std::os::fd::AsFd;
use std::time::Duration;

use protocol::socket::{self, Wait};
use protocol::{Event, Exit, Message, Request, Stage, Stdio};
use rustix::process::{Pid, Resource, Rlimit};

use crate::support::*;

const BAD_FD: i32 = 9;
const NO_FD_FREE: i32 = 24;

const GARBAGE: [&[u8]; 4] = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\0\0\0\xff", b"\x03\0\0\0\x01ab"];

fn shepherd_of(os_pid: i32) -> i32 {
    parent_of(os_pid).unwrap()
}

#[test]
fn garbage_in_place_of_a_request_ends_that_shepherd_alone() {
    let fork_server = ForkServer::start();
    for garbage in GARBAGE {
        let mut session = fork_server.idle();
        session.send_bytes(garbage, &[]);
        assert_eq!(session.event(), None);
    }
    for request in [Request::Stop, Request::Signal(15)] {
        let mut session = fork_server.idle();
        session.send(&request);
        assert_eq!(session.event(), None);
    }
    assert_eq!(fork_server.run(sh("exit 3")).finish(), Exit::Status(3));
}

#[test]
fn garbage_afterwards_is_a_stop() {
    let fork_server = ForkServer::start();
    let mut survivor = fork_server.run(fixture_cmd(["ready-then-block"]));
    for garbage in GARBAGE {
        let mut session = fork_server.run(fixture_cmd(["ready-then-block"]));
        session.started();
        session.send_bytes(garbage, &[]);
        assert!(matches!(session.exited().0, Exit::Signal { signal: 15, .. }));
        session.done();
    }
    survivor.started();
    survivor.send(&Request::Stop);
    survivor.exited();
}

#[test]
fn so_is_a_second_command() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.run(fixture_cmd(["ready-then-block"]));
    session.started();
    session.send(&Request::Spawn(Box::new(sh("exit 0").spawn)));
    assert!(matches!(session.exited().0, Exit::Signal { signal: 15, .. }));
    session.done();
}

#[test]
fn and_so_is_a_sweep_of_one_who_has_a_command() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.run(fixture_cmd(["ready-then-block"]));
    session.started();
    let cgroup = protocol::Cgroup {
        root: b"/nowhere".to_vec(),
        parts: vec![b"a".to_vec()],
        leaf: b"nr-aaaaaaaaaaaaaaaa".to_vec(),
        limits: Vec::new(),
    };
    session.send(&Request::Sweep { cgroup: Box::new(cgroup), nonce: 0 });
    assert!(matches!(session.exited().0, Exit::Signal { signal: 15, .. }));
    session.done();
}

#[test]
fn too_few_fds_are_a_named_failure() {
    let fork_server = ForkServer::start();
    let command = cmd(["/bin/true"]).edit(|spawn| spawn.stdio[1] = Stdio::Fd);
    assert_eq!(fork_server.run(command).failure(), (Stage::Fds, BAD_FD));
    let mut command = cmd(["/bin/true"]);
    command.fds.clear();
    assert_eq!(fork_server.run(command).failure(), (Stage::Fds, BAD_FD));
}

#[test]
fn fds_that_no_frame_declares_are_closed() {
    let fork_server = ForkServer::start();
    let (reader, writer) = pipe();
    let mut command = fixture_cmd(["ready-then-block"]);
    command.fds.push(writer.try_clone().unwrap());
    let mut session = fork_server.run(command);
    session.started();
    session.send_bytes(&Request::Signal(18).encode(), &[writer.as_fd()]);
    assert!(matches!(session.event(), Some(Event::Signalled(_))));
    drop(writer);
    assert_eq!(Pipe::from(reader).text(), "");
    session.send(&Request::Stop);
    session.exited();
    session.done();
}

fn limit_fds(pid: i32, limit: u64) {
    let pid = Pid::from_raw(pid);
    rustix::process::prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(20_000) })
        .unwrap();
}

#[test]
fn no_room_for_the_fds_is_a_named_failure() {
    let fork_server = ForkServer::start();
    // Each has four of its own, so there is room for three.
    fork_server.idle_shepherds().into_iter().for_each(|pid| limit_fds(pid, 7));
    let ((stdin, _input), (_output, stdout), (_errors, stderr)) = (pipe(), pipe(), pipe());
    let with_three = || cmd(["cat"]).fd(0, stdin.try_clone().unwrap()).fd(1, stdout.try_clone().unwrap());
    let mut session = fork_server.take_idle();
    session.spawn(with_three().fd(2, stderr));
    assert_eq!(session.failure(), (Stage::Fds, NO_FD_FREE));
    // Three fit, but no pidfd of the command beside them.
    let mut session = fork_server.take_idle();
    session.spawn(with_three());
    assert_eq!(session.failure(), (Stage::Fork, NO_FD_FREE));
}

#[test]
fn no_room_for_an_adopted_socket_is_its_end_of_file() {
    let fork_server = ForkServer::start();
    limit_fds(fork_server.pid(), 5);
    let mut session = fork_server.adopt();
    assert_eq!(session.event(), None);
    limit_fds(fork_server.pid(), 20_000);
    let mut session = fork_server.adopt();
    session.spawn(sh("exit 3"));
    assert_eq!(session.finish(), Exit::Status(3));
}

#[test]
fn a_vm_that_does_not_read_blocks_nothing() {
    let fork_server = ForkServer::start();
    let (command, mut stdout) = fixture_cmd(["ready-then-block"]).stdout();
    let session = fork_server.run(command);
    assert_eq!(stdout.line(), "ready");
    // Until the answers fill the socket, the queue behind it, and then the requests the way there.
    let request = Request::Signal(18).encode();
    let mut sent = 0_u32;
    while is_writable(&session.socket, Duration::from_millis(200)) {
        match socket::send(session.socket.as_fd(), &request, &[], Wait::DontBlock) {
            Ok(length) => assert_eq!(length, request.len()),
            Err(errno) => assert_eq!(errno, rustix::io::Errno::AGAIN),
        }
        sent += 1;
    }
    assert!(sent > 1_000, "{sent}");
    drop(session);
    assert_eq!(stdout.text(), "");
}

#[test]
fn a_vm_that_reads_late_gets_everything() {
    let fork_server = ForkServer::start();
    let (command, mut stdout) = fixture_cmd(["ready-then-block"]).stdout();
    let mut session = fork_server.run(command);
    assert_eq!(stdout.line(), "ready");
    const SIGNALS: usize = 5_000;
    for _ in 0..SIGNALS {
        session.send(&Request::Signal(18));
    }
    session.send(&Request::Stop);
    session.shutdown();
    session.started();
    for _ in 0..SIGNALS {
        assert!(matches!(session.event(), Some(Event::Signalled(_))));
    }
    session.exited();
    session.done();
}

fn is_writable(socket: &std::os::fd::OwnedFd, patience: Duration) -> bool {
    let patience = rustix::event::Timespec::try_from(patience).unwrap();
    let mut fds = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::OUT)];
    rustix::event::poll(&mut fds, Some(&patience)).unwrap() > 0
}

/// Nanoseconds on a CPU so far (proc_pid_schedstat(5)).
fn cpu_time(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap()
}

#[test]
fn who_waits_does_not_wake_up() {
    let fork_server = ForkServer::start();
    let mut running = fork_server.run(fixture_cmd(["ready-then-block"]));
    let (command, mut stdout) = fixture_cmd(["hold-stdout"]).keep().stdout();
    let mut keeping = fork_server.run(command);
    keeping.started();
    let kept = pids(&stdout.line())[0];
    let (command, mut stdout) = fixture_cmd(["ignore-term"]).kill_timeout(60_000).stdout();
    let mut stopping = fork_server.run(command);
    assert_eq!(stdout.line(), "ready");
    let stopped = stopping.started();
    let shepherds = [running.started(), kept, stopped].map(shepherd_of);
    keeping.exited();
    let last_words = stopping.shepherd.take().unwrap();
    // The shepherd of the last one sees an end of file that stays.
    drop(stopping);
    let all = || shepherds.iter().chain([&fork_server.pid()]).map(|pid| cpu_time(*pid)).collect::<Vec<_>>();
    let mut before = all();
    eventually("they sleep", || {
        let nothing_came = !is_readable(&running.socket, Duration::from_millis(300));
        let now = all();
        std::mem::replace(&mut before, now.clone()) == now && nothing_came
    });
    rustix::process::pidfd_send_signal(&last_words, rustix::process::Signal::KILL).unwrap();
}
