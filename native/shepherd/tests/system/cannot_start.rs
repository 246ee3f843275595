//! Why a command is not started, and what is left of it: nothing.

use protocol::{Exit, Stage, Strings};

use crate::support::*;

const ENOENT: i32 = 2;
const E2BIG: i32 = 7;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;

fn path(command: Cmd, path: &str) -> Cmd {
    let entry = format!("PATH={path}").into_bytes();
    command.edit(|spawn| spawn.env = [&entry].into_iter().collect())
}

#[test]
fn what_cannot_be_executed_says_why() {
    let scratch = Scratch::new("exec");
    let plain = scratch.file("plain", "#!/bin/sh\n", 0o644);
    let unknown = scratch.file("unknown", "no format that a kernel knows\n", 0o755);
    let dangling = scratch.file("dangling", "#!/no/such/interpreter\n", 0o755);
    let fork_server = ForkServer::start();
    let failure = |command| fork_server.run(command).failure();

    assert_eq!(failure(cmd(["no-such-program"])), (Stage::Exec, ENOENT));
    assert_eq!(failure(cmd(["/no/such/program"])), (Stage::Exec, ENOENT));
    assert_eq!(failure(cmd([dangling.as_str()])), (Stage::Exec, ENOENT));
    assert_eq!(failure(cmd([plain.as_str()])), (Stage::Exec, EACCES));
    assert_eq!(failure(cmd(["/tmp"])), (Stage::Exec, EACCES));
    assert_eq!(failure(cmd([format!("{plain}/x").as_str()])), (Stage::Exec, ENOTDIR));
    assert_eq!(failure(cmd([unknown.as_str()])), (Stage::Exec, ENOEXEC), "no /bin/sh for it");
    let long = "x".repeat(200_000);
    assert_eq!(failure(cmd(["/bin/true", long.as_str()])), (Stage::Exec, E2BIG));
}

#[test]
fn a_directory_that_cannot_be_entered_says_why() {
    let fork_server = ForkServer::start();
    let failure = |command| fork_server.run(command).failure();
    assert_eq!(failure(cmd(["/bin/true"]).cd("/no/such/directory")), (Stage::Cd, ENOENT));
    assert_eq!(failure(cmd(["/bin/true"]).cd("/etc/passwd")), (Stage::Cd, ENOTDIR));
}

#[test]
fn path_is_searched_like_execvp_does() {
    let scratch = Scratch::new("path");
    let tool = "#!/bin/sh\necho \"$0\"\n";
    scratch.file("good/tool", tool, 0o755);
    scratch.file("forbidden/tool", tool, 0o644);
    scratch.file("unknown/tool", "no format that a kernel knows\n", 0o755);
    let [good, forbidden, unknown] = ["good", "forbidden", "unknown"].map(|name| scratch.path(name));
    let fork_server = ForkServer::start();
    let found = |command: Cmd| {
        let (command, mut stdout) = command.stdout();
        assert_eq!(fork_server.run(command).finish(), Exit::Status(0));
        stdout.line()
    };
    let failure = |command| fork_server.run(command).failure();
    let nowhere = "/no/such/directory:/etc/passwd";

    assert_eq!(found(path(cmd(["tool"]), &format!("{nowhere}:{good}"))), format!("{good}/tool"));
    assert_eq!(found(path(cmd(["tool"]), &format!("{forbidden}:{good}"))), format!("{good}/tool"));
    assert_eq!(found(path(cmd(["tool"]), &format!("{nowhere}:")).directory(&good)), "./tool");
    assert_eq!(
        found(path(cmd(["tool"]), ".").directory("/").cd(&good)),
        "./tool",
        "after the change of directory"
    );
    assert_eq!(failure(path(cmd(["tool"]), nowhere)), (Stage::Exec, ENOENT));
    assert_eq!(failure(path(cmd(["tool"]), &format!("{forbidden}:{nowhere}"))), (Stage::Exec, EACCES));
    assert_eq!(failure(path(cmd(["tool"]), &format!("{unknown}:{good}"))), (Stage::Exec, ENOEXEC));
    let mut session = fork_server.run(cmd(["true"]).edit(|spawn| spawn.env = Strings::default()));
    assert_eq!(session.finish(), Exit::Status(0), "without PATH: /bin and /usr/bin");
}

#[test]
fn after_a_failure_nothing_is_left() {
    let fork_server = ForkServer::start();
    for _ in 0..20 {
        let mut session = fork_server.run(cmd(["no-such-program"]));
        session.failure();
    }
    eventually("only idle shepherds are left", || fork_server.children().len() == 4);
}

#[test]
fn a_command_whose_vm_hung_up_before_it_started_is_not_started() {
    let scratch = Scratch::new("hung-up");
    let fork_server = ForkServer::start();
    let (ours, theirs) = protocol::socket::pair().unwrap();
    let mut session = Session::new(ours);
    session.spawn(sh(&format!("touch {}", scratch.path("marker"))));
    session.shutdown();
    fork_server.adopt_socket(theirs);
    assert_eq!(session.failure().0, Stage::Fork);
    assert!(!scratch.0.join("marker").exists());
}
