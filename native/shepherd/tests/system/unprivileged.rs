//! Without root's rights: what cannot be forked, and what cannot be killed. The tests start as root and say
//! so where they cannot.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use protocol::{Event, Exit, Request, Stage};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::*;

/// A user of this test file alone: limits on processes count all that a user has.
const USER: u32 = 64_123;
const TRY_AGAIN: i32 = 11;

/// A fork server of another user, from a copy that this user can reach; and a set-user-ID fixture beside it.
fn start(scratch: &Scratch, user: u32, most_processes: u32) -> (ForkServer, String) {
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(shepherd(), scratch.path("shepherd")).unwrap();
    fs::copy(fixture(), scratch.path("fixture")).unwrap();
    chown(scratch.path("fixture"), Some(0), Some(0)).unwrap();
    fs::set_permissions(scratch.path("fixture"), fs::Permissions::from_mode(0o4755)).unwrap();
    let mut limited = Command::new("prlimit");
    limited.args([&format!("--nproc={most_processes}"), "setpriv", "--clear-groups"]);
    limited.args([&format!("--reuid={user}"), &format!("--regid={user}")]);
    let fork_server = ForkServer::start_with(limited.arg(scratch.path("shepherd")));
    (fork_server, scratch.path("fixture"))
}

#[test]
fn what_cannot_be_forked_says_why_and_is_tried_again() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("forked");
    // The fork server and four idle shepherds are all that there can be.
    let (fork_server, _) = start(&scratch, USER, 5);
    fork_server.idle_shepherds();
    assert_eq!(fork_server.adopt().failure(), (Stage::Fork, TRY_AGAIN), "a shepherd");
    let mut session = fork_server.take_idle();
    session.spawn(cmd(["/bin/true"]));
    assert_eq!(session.failure(), (Stage::Fork, TRY_AGAIN), "a command");
    // That shepherd is gone, which leaves room for one command, but not for new shepherds.
    eventually("three shepherds", || fork_server.children().len() == 3);
    let mut session = fork_server.take_idle();
    session.spawn(cmd(["sleep", "100"]));
    session.started();
    fork_server.fork_ahead();
    fork_server.fork_ahead();
    session.send(&Request::Stop);
    session.exited();
    session.done();
    // The end of that shepherd is the next occasion.
    eventually("four are ready again", || fork_server.children().len() == 4);
    fork_server.idle_shepherds();
}

#[test]
fn what_cannot_be_killed_is_reported_and_awaited() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("unkillable");
    let (fork_server, fixture) = start(&scratch, USER + 1, 1_000);
    let (command, mut stdout) = cmd([fixture.as_str(), "become-root"]).kill_timeout(0).stdout();
    let mut session = fork_server.run(command);
    let os_pid = session.started();
    if stdout.line() != "ready" {
        skipped(&format!("the file system of {} knows no set-user-ID", scratch.0.display()));
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

/// At its limit a death makes room for another process: one that is only killed is replaced as fast.
#[test]
fn those_that_fork_at_their_limit_are_caught() {
    if !is_root() {
        return;
    }
    let fork_server = ForkServer::start();
    let (command, mut stdout) =
        fixture_cmd(["fork-bomb", "tree", "300", "100", "hiding"]).kill_timeout(0).stdout();
    let mut session = fork_server.run(command);
    session.started();
    assert_eq!(stdout.line(), "ready");
    session.send(&Request::Stop);
    session.exited();
    session.done_at_last();
    assert_eq!(stdout.text(), "", "each holds stdout");
}

/// Unlike with execvp(3), which cannot tell it from a program that must not be run.
#[test]
fn a_directory_of_path_that_must_not_be_searched_has_no_programs() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("searched");
    let (fork_server, _) = start(&scratch, USER + 2, 1_000);
    fs::create_dir(scratch.path("secret")).unwrap();
    fs::set_permissions(scratch.path("secret"), fs::Permissions::from_mode(0o700)).unwrap();
    let path = format!("PATH={}:/nowhere", scratch.path("secret")).into_bytes();
    let command = cmd(["tool"]).edit(|spawn| spawn.env = [&path].into_iter().collect());
    const NO_SUCH_FILE: i32 = 2;
    assert_eq!(fork_server.run(command).failure(), (Stage::Exec, NO_SUCH_FILE));
}
