//! One shepherd, one command after the other: nothing of the first is there for the second.

use std::os::fd::AsFd;

use protocol::socket::{self, Wait};
use protocol::{Credentials, Exit, Message, Request, Resource, Rlimit, Stage, Stdio};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::*;

impl Session {
    /// Started, exited and over; the shepherd stays. How it has exited.
    fn play(&mut self, command: Cmd) -> Exit {
        self.spawn(command);
        let os_pid = self.started();
        let (exit, _) = self.exited();
        self.over();
        assert!(!exists(os_pid));
        exit
    }

    fn said(&mut self, command: Cmd) -> String {
        let (command, mut output) = command.stdout();
        assert_eq!(self.play(command), Exit::Status(0));
        output.text()
    }

    /// That of the shepherd.
    fn pid(&mut self) -> i32 {
        self.said(sh("echo $PPID")).trim().parse().unwrap()
    }
}

/// All that a command can ask the system about itself, but for its own pid.
const SELF: &str = "env | sort; pwd; umask; ulimit -a; nice; id; readlink /proc/self/fd/0 /proc/self/fd/2; \
    ls /proc/self/fd; grep -E '^(Sig[PBIC]|Shd|NoNewPrivs|Seccomp|Cap|CoreDumping|THP|Cpus_allowed)' /proc/self/status; \
    cat /proc/self/oom_score_adj /proc/self/timerslack_ns /proc/self/autogroup 2>&1 | sed s/-[0-9]*//";

#[test]
fn a_command_sees_nothing_of_the_one_before() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.idle();
    let before = session.said(sh(SELF));
    let scratch = Scratch::new("reuse");
    let (reader, _writer) = pipe();
    let (_reader, writer) = pipe();
    let limit = Rlimit { resource: Resource::Nofile, soft: Some(77), hard: Some(77) };
    let other = cmd(["sh", "-c", "trap '' TERM HUP; cd /; umask 0; ulimit -c 0; exit 3"])
        .fd(0, reader)
        .fd(2, writer)
        .cd(&scratch.path(""))
        .edit(|spawn| {
            spawn.env = [&b"PATH=/usr/bin:/bin"[..], b"SECRET=x"].into_iter().collect();
            spawn.umask = 0o077;
            spawn.rlimits = vec![limit];
            spawn.nice = Some(5);
            spawn.stop_signals = vec![1, 2];
            spawn.kill_timeout_ms = 1;
        });
    assert_eq!(session.play(other), Exit::Status(3));
    if is_root() {
        let nobody = Credentials { uid: Some(65534), gid: Some(65534), groups: Some(vec![65534]) };
        let other = sh("exit 4").edit(|spawn| spawn.credentials = Some(nobody));
        assert_eq!(session.play(other), Exit::Status(4));
    }
    assert_eq!(session.said(sh(SELF)), before);
    session.leaves();
}

#[test]
fn it_is_the_same_shepherd_and_holds_nothing_but_its_own_fds() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.idle();
    let shepherd = session.pid();
    let idle = open_files(shepherd);
    for _ in 0..3 {
        let (reader, _) = pipe();
        let (_reader, writer) = pipe();
        assert_eq!(session.play(sh("cat").fd(0, reader).fd(1, writer)), Exit::Status(0));
        assert_eq!(session.pid(), shepherd);
        assert_eq!(open_files(shepherd), idle);
        assert_eq!(children_of(shepherd), []);
    }
    session.leaves();
    eventually("it has left", || !exists(shepherd));
}

/// Kilobytes.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn it_does_not_grow() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.idle();
    let shepherd = session.pid();
    let mut many = |count: usize| {
        for number in 0..count {
            // Of changing sizes.
            let variable = [b"A=".to_vec(), vec![b'a'; number * 37 % 30_000]].concat();
            let command = cmd(["true"]).edit(|spawn| spawn.env = [variable].into_iter().collect());
            session.play(command);
        }
        resident(shepherd)
    };
    let before = many(1_000);
    let after = many(2_000);
    assert!(after <= before + 64, "{before} kB, {after} kB");
}

#[test]
fn leftovers_of_one_are_not_those_of_the_next() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.idle();
    for _ in 0..3 {
        let (command, mut output) = fixture_cmd(["daemonize"]).stdout();
        session.spawn(command);
        let daemons: Vec<Watch> = pids(&output.line()).into_iter().map(Watch::new).collect();
        session.started();
        session.exited();
        session.over();
        assert!(!daemons.is_empty() && daemons.iter().all(Watch::has_ended));
        // The one before was killed; this one lives longer than that took, and is not.
        let (command, mut output) = sh("sleep 0.3; echo alive").stdout();
        assert_eq!(session.play(command), Exit::Status(0));
        assert_eq!(output.text(), "alive\n");
    }
}

#[test]
fn what_was_meant_for_one_never_reaches_the_next() {
    let fork_server = ForkServer::start();
    for late in [Request::Signal(9), Request::Stop] {
        let mut session = fork_server.idle();
        let shepherd = session.pid();
        assert_eq!(session.play(sh("exit 3")), Exit::Status(3));
        // It was on its way when the command ended. A VM that has sent it sends no other command.
        session.send(&late);
        let (command, mut output) = sh("echo runs").stdout();
        // It may have left already.
        let frame = Request::Spawn(Box::new(command.spawn)).encode();
        let fds: Vec<_> = command.fds.iter().map(AsFd::as_fd).collect();
        let _ = socket::send(session.socket.as_fd(), &frame, &fds, Wait::Block);
        drop(fds);
        drop(command.fds);
        assert_eq!(session.event(), None);
        assert_eq!(output.text(), "");
        eventually("it has left", || !exists(shepherd));
    }
}

#[test]
fn a_command_that_cannot_start_is_the_last_one() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.idle();
    assert_eq!(session.play(sh("exit 3")), Exit::Status(3));
    session.spawn(cmd(["/does/not/exist"]).edit(|spawn| spawn.stdio = [Stdio::Null; 3]));
    assert_eq!(session.failure(), (Stage::Exec, 2));
}

#[test]
fn the_next_one_is_stopped_as_any_other() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.idle();
    assert_eq!(session.play(sh("exit 3")), Exit::Status(3));
    session.spawn(sh("sleep 1000 & sleep 1000"));
    let command = Watch::new(session.started());
    session.shutdown();
    assert_eq!(session.exited().0, Exit::Signal { signal: 15, core_dumped: false });
    session.done();
    assert!(command.has_ended());
}

#[test]
fn a_shepherd_that_dies_with_its_second_command_leaves_nothing() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.idle();
    let shepherd = session.pid();
    let (command, mut output) = fixture_cmd(["tree-ignoring-term"]).stdout();
    session.spawn(command);
    session.started();
    let all: Vec<Watch> = pids(&output.line()).into_iter().map(Watch::new).collect();
    kill_process(Pid::from_raw(shepherd).unwrap(), Signal::KILL).unwrap();
    assert_eq!(session.event(), None);
    assert!(all.len() > 1);
    all.iter().for_each(Watch::wait);
}
