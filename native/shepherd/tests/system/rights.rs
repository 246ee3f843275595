//! Niceness, limits and credentials. What takes root's rights says so where it has none.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use protocol::{Credentials, Exit, Resource, Rlimit, Stage};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::*;

const NOT_PERMITTED: i32 = 1;
const NO_ACCESS: i32 = 13;
const INVALID: i32 = 22;
/// Without a passwd entry.
const USER: u32 = 64_200;

fn nice(command: Cmd, nice: i32) -> Cmd {
    command.edit(|spawn| spawn.nice = Some(nice))
}

fn limit(command: Cmd, resource: Resource, soft: Option<u64>, hard: Option<u64>) -> Cmd {
    command.edit(|spawn| spawn.rlimits.push(Rlimit { resource, soft, hard }))
}

fn become_user(command: Cmd, uid: u32, gid: u32, groups: &[u32]) -> Cmd {
    let groups = Some(groups.to_vec());
    let credentials = Credentials { uid: Some(uid), gid: Some(gid), groups };
    command.edit(|spawn| spawn.credentials = Some(credentials)).cd("/")
}

fn output(command: Cmd) -> String {
    let (command, mut stdout) = command.stdout();
    let fork_server = ForkServer::start();
    assert_eq!(fork_server.run(command).finish(), Exit::Status(0));
    stdout.text()
}

#[test]
fn niceness_is_the_value_itself_and_that_of_the_session() {
    assert_eq!(output(nice(sh("nice"), 7)), "7\n");
    // Without CAP_SYS_ADMIN only one process of the whole system may set it in 100 ms.
    if is_root() {
        if fs::exists("/proc/self/autogroup").unwrap() {
            assert!(output(nice(sh("cat /proc/self/autogroup"), 7)).ends_with(" nice 7\n"));
        } else {
            skipped("this kernel has no autogroups");
        }
        assert_eq!(output(nice(sh("nice"), -3)), "-3\n");
        assert_eq!(output(become_user(nice(sh("nice"), -3), USER, USER, &[])), "-3\n");
    }
}

#[test]
fn limits_are_set_and_may_leave_no_fd_at_all() {
    let script = "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Sf";
    let command = limit(sh(script), Resource::Nofile, Some(33), Some(44));
    let command = limit(command, Resource::Core, Some(0), Some(0));
    assert_eq!(output(command), "33\n44\n0\nunlimited\n");
    // The loader of a dynamically linked program finds no libraries then.
    let none = nice(limit(cmd(["true"]), Resource::Nofile, Some(0), Some(0)), 5);
    assert!(matches!(ForkServer::start().run(none).finish(), Exit::Status(0 | 127)));
}

#[test]
fn a_limit_that_cannot_be_set_has_its_name() {
    let fork_server = ForkServer::start();
    let twisted = limit(cmd(["true"]), Resource::Fsize, Some(2), Some(1));
    assert_eq!(fork_server.run(twisted).failure(), (Stage::Rlimit(Resource::Fsize), INVALID));
    let files = limit(cmd(["true"]), Resource::Nofile, None, None);
    assert_eq!(fork_server.run(files).failure(), (Stage::Rlimit(Resource::Nofile), NOT_PERMITTED));
}

#[test]
fn the_user_is_another_one_in_every_respect_and_still_dies_with_the_shepherd() {
    if !is_root() {
        return;
    }
    let status =
        output(become_user(cmd(["cat", "/proc/self/status"]), USER, USER + 1, &[USER + 2, USER + 3]));
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line("Uid:"), [USER; 4].map(|id| id.to_string()));
    assert_eq!(line("Gid:"), [USER + 1; 4].map(|id| id.to_string()));
    assert_eq!(line("Groups:"), [USER + 2, USER + 3].map(|id| id.to_string()));
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(line(set), ["0000000000000000"], "{set}");
    }

    // Without the fork server only the parent-death signal is left, which a change of credentials clears.
    let fork_server = ForkServer::start();
    let mut session = fork_server.run(become_user(cmd(["sleep", "100"]), USER, USER, &[]));
    let command = session.started();
    let watch = Watch::new(command);
    let kill = |pid| kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let shepherd = parent_of(command).unwrap();
    kill(fork_server.pid());
    wait_for_end(&fork_server.pidfd);
    kill(shepherd);
    watch.wait();
    assert_eq!(session.event(), None);
}

#[test]
fn of_another_user_too_nothing_is_left() {
    if !is_root() {
        return;
    }
    let fork_server = ForkServer::start();
    let mut session =
        fork_server.run(become_user(sh("sleep 100 & setsid sleep 100 & wait"), USER, USER, &[]));
    session.started();
    session.send(&protocol::Request::Stop);
    session.exited();
    session.done();
}

#[test]
fn what_the_user_may_not_enter_is_not_entered() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("rights");
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o700)).unwrap();
    let fork_server = ForkServer::start();
    let path = scratch.0.to_str().unwrap();
    let command = || become_user(cmd(["pwd"]), USER, USER, &[]);
    assert_eq!(fork_server.run(command().cd(path)).failure(), (Stage::Cd, NO_ACCESS));
    let inherited = command().directory(path).edit(|spawn| spawn.directory.path = None);
    assert_eq!(fork_server.run(inherited).failure(), (Stage::Cd, NO_ACCESS));
    let relative = command().directory(path).cd("..");
    assert_eq!(fork_server.run(relative).failure(), (Stage::Cd, NO_ACCESS));
    // Nothing leads through it.
    assert_eq!(output(command().directory(path)), "/\n");
}

#[test]
fn without_roots_rights_it_is_refused() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("refused");
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(shepherd(), scratch.path("shepherd")).unwrap();
    let start = |options: &[&str]| {
        let mut unprivileged = std::process::Command::new("setpriv");
        unprivileged.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        ForkServer::start_with(unprivileged.args(options).arg(scratch.path("shepherd")))
    };
    let fork_server = start(&[]);
    let failure = |command| fork_server.run(command).failure();
    let refused = (Stage::Credentials, NOT_PERMITTED);
    let only = |credentials| cmd(["true"]).edit(|spawn| spawn.credentials = Some(credentials)).cd("/");
    assert_eq!(failure(become_user(cmd(["true"]), USER, USER, &[])), refused, "groups");
    assert_eq!(failure(only(Credentials { uid: Some(0), ..Credentials::default() })), refused, "user");
    assert_eq!(failure(only(Credentials { gid: Some(0), ..Credentials::default() })), refused, "group");
    assert_eq!(failure(nice(cmd(["true"]), -1)), (Stage::Nice, NO_ACCESS));
    // It is that user already.
    let same = Credentials { uid: Some(USER), gid: Some(USER), groups: None };
    assert_eq!(fork_server.run(only(same)).finish(), Exit::Status(0));

    // Not root, but with the right to become anybody: a right that must not go with the command.
    let capable = "+setuid,+setgid";
    let fork_server = start(&[&format!("--inh-caps={capable}"), &format!("--ambient-caps={capable}")]);
    let (command, mut stdout) = become_user(
        sh("grep ^Uid: /proc/self/status; grep CapPrm: /proc/self/status"),
        USER + 1,
        USER + 1,
        &[],
    )
    .stdout();
    let mut session = fork_server.run(command);
    assert_eq!(session.finish(), Exit::Status(0));
    let user = USER + 1;
    assert_eq!(stdout.line(), format!("Uid:\t{user}\t{user}\t{user}\t{user}"));
    assert_eq!(stdout.line(), "CapPrm:\t0000000000000000");
}
