//! Without root's rights: what cannot be forked, and what cannot be killed. The tests start as root and say
//! so where they cannot.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use protocol::{Event, Exit, Request, Stage};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::support::*;

/// A user of this test file alone: limits on processes count all that a user has.
const USER: u32 = 64_123;
const TRY_AGAIN: i32 = 11;

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can become another user");
    }
    is_root
}

/// A fork server of another user, from a copy that this user can reach; and a set-user-ID fixture beside it.
fn start(scratch: &Scratch, user: u32) -> (ForkServer, String) {
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(SHEPHERD, scratch.path("shepherd")).unwrap();
    fs::copy(fixture(), scratch.path("fixture")).unwrap();
    chown(scratch.path("fixture"), Some(0), Some(0)).unwrap();
    fs::set_permissions(scratch.path("fixture"), fs::Permissions::from_mode(0o4755)).unwrap();
    let mut setpriv = Command::new("setpriv");
    setpriv.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
    let fork_server = ForkServer::start_with(setpriv.arg(scratch.path("shepherd")));
    (fork_server, scratch.path("fixture"))
}

fn limit_processes(pid: i32, limit: u64) {
    let limit = Rlimit { current: Some(limit), maximum: Some(1_000) };
    prlimit(Pid::from_raw(pid), Resource::Nproc, limit).unwrap();
}

#[test]
fn what_cannot_be_forked_says_why_and_is_tried_again() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("forked");
    let (fork_server, _) = start(&scratch, USER);
    for pid in fork_server.idle_shepherds().into_iter().chain([fork_server.pid()]) {
        limit_processes(pid, 1);
    }
    assert_eq!(fork_server.adopt().failure(), (Stage::Fork, TRY_AGAIN), "a shepherd");
    // Its place cannot be filled now.
    let mut session = fork_server.idle();
    session.spawn(cmd(["/bin/true"]));
    assert_eq!(session.failure(), (Stage::Fork, TRY_AGAIN), "a command");
    for _ in 0..3 {
        fork_server.take_idle();
    }
    limit_processes(fork_server.pid(), 1_000);
    // The next occasion fills all places.
    assert_eq!(fork_server.run(sh("exit 3")).finish(), Exit::Status(3));
}

#[test]
fn what_cannot_be_killed_is_reported_and_awaited() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("unkillable");
    let (fork_server, fixture) = start(&scratch, USER + 1);
    let (command, mut stdout) = cmd([fixture.as_str(), "become-root"]).kill_timeout(0).stdout();
    let mut session = fork_server.run(command);
    let os_pid = session.started();
    if stdout.line() != "ready" {
        eprintln!("skipped: the file system of {} knows no set-user-ID", scratch.0.display());
        return;
    }
    session.send(&Request::Signal(15));
    const NOT_PERMITTED: i32 = 1;
    let result = protocol::SignalResult::Errno(NOT_PERMITTED);
    assert_eq!(session.event(), Some(Event::Signalled(result)));
    session.send(&Request::Stop);
    assert_eq!(session.event(), Some(Event::Unkillable(vec![os_pid])));
    kill_process(Pid::from_raw(os_pid).unwrap(), Signal::KILL).unwrap();
    assert_eq!(session.exited().0, Exit::Signal { signal: 9, core_dumped: false });
    session.done();
}
