//! The fork server: what it is, what it survives, what it cleans up.

use std::process::{Command, Stdio};

use protocol::{Event, Exit, Request};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::*;

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[test]
fn it_is_no_program_for_users() {
    for arguments in [&[][..], &["fork-server"], &["fork-server", "x"], &["--help"]] {
        let output = Command::new(shepherd()).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1);
        assert!(said.contains("internal"), "{said}");
    }
}

#[test]
fn each_process_holds_exactly_its_fds() {
    let fork_server = ForkServer::start();
    let idle = fork_server.idle_shepherds();
    let (command, mut stdout) = fixture_cmd(["ready-then-block"]).stdout();
    let mut session = fork_server.run(command);
    let os_pid = session.started();
    assert_eq!(stdout.line(), "ready");
    let null = ["/dev/null"; 3];
    let with_sockets = |count: usize| [&null[..], &vec!["socket"; count][..]].concat();
    // Both close a pidfd right behind the message that hands it over.
    let holds = |pid: i32, sockets: usize| eventually("its fds", || open_files(pid) == with_sockets(sockets));
    // Control and pool.
    holds(fork_server.pid(), 2);
    holds(parent_of(os_pid).unwrap(), 1);
    for pid in idle {
        assert_eq!(open_files(pid), with_sockets(1), "forked ahead, {pid}");
    }
    assert_eq!(open_files(os_pid), ["/dev/null", "/dev/null", "pipe"]);
}

#[test]
fn it_leads_a_session_in_the_root_directory() {
    let fork_server = ForkServer::start();
    let pid = fork_server.pid();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().to_owned();
    assert_eq!(session, pid.to_string());
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
}

#[test]
fn the_signals_of_terminals_and_service_managers_do_nothing() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.run(fixture_cmd(["ready-then-block"]));
    let os_pid = session.started();
    let shepherd = parent_of(os_pid).unwrap();
    let signals = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::TSTP, Signal::TTIN];
    for pid in fork_server.children().into_iter().chain([fork_server.pid(), shepherd]) {
        for signal in signals {
            kill(pid, signal);
        }
    }
    assert_eq!(fork_server.run(sh("exit 3")).finish(), Exit::Status(3));
    session.send(&Request::Stop);
    session.exited();
    session.done();
}

#[test]
fn it_leaves_when_the_vm_does() {
    let mut fork_server = ForkServer::start();
    fork_server.leave();
    assert!(fork_server.wait().success());
}

#[test]
fn it_leaves_last() {
    let mut fork_server = ForkServer::start();
    let (command, mut stdout) = fixture_cmd(["tree-ignoring-term"]).kill_timeout(300).stdout();
    let mut session = fork_server.run(command);
    session.started();
    let watches: Vec<Watch> = pids(&stdout.line()).into_iter().map(Watch::new).collect();
    fork_server.leave();
    drop(session);
    assert!(fork_server.wait().success());
    assert!(watches.iter().all(Watch::has_ended));
}

#[test]
fn it_leaves_no_zombies() {
    let fork_server = ForkServer::start();
    for _ in 0..50 {
        assert_eq!(fork_server.run(cmd(["/bin/true"])).finish(), Exit::Status(0));
    }
    eventually("idle shepherds only", || fork_server.children().len() == 4);
}

#[test]
fn many_at_once() {
    let fork_server = ForkServer::start();
    let mut sessions: Vec<Session> = (0..100).map(|_| fork_server.adopt()).collect();
    for session in &mut sessions {
        session.spawn(sh("exit 3"));
    }
    for session in &mut sessions {
        assert_eq!(session.finish(), Exit::Status(3));
    }
}

#[test]
fn what_a_killed_shepherd_leaves_is_killed() {
    let fork_server = ForkServer::start();
    let (command, mut stdout) = fixture_cmd(["tree-ignoring-term"]).kill_timeout(60_000).stdout();
    let mut session = fork_server.run(command);
    let os_pid = session.started();
    let watches: Vec<Watch> = pids(&stdout.line()).into_iter().map(Watch::new).collect();
    kill(parent_of(os_pid).unwrap(), Signal::KILL);
    assert_eq!(session.event(), None, "no made-up status");
    watches.iter().for_each(Watch::wait);
    assert_eq!(stdout.text(), "");
    assert_eq!(fork_server.run(sh("exit 3")).finish(), Exit::Status(3), "others are served");
    eventually("all are reaped", || fork_server.children().len() == 4);
}

#[test]
fn other_commands_do_not_suffer_from_it() {
    let fork_server = ForkServer::start();
    let mut others: Vec<Session> =
        (0..3).map(|_| fork_server.run(fixture_cmd(["ready-then-block"]))).collect();
    let mut session = fork_server.run(fixture_cmd(["ready-then-block"]));
    let command = session.started();
    let watch = Watch::new(command);
    kill(parent_of(command).unwrap(), Signal::KILL);
    watch.wait();
    for other in &mut others {
        other.started();
        other.send(&Request::Signal(18));
        assert!(matches!(other.event(), Some(Event::Signalled(protocol::SignalResult::Ok))));
    }
}

#[test]
fn a_chain_of_forks_of_a_killed_shepherd_is_caught() {
    let fork_server = ForkServer::start();
    let (command, mut stdout) = fixture_cmd(["fork-bomb", "chain", "30", "0", "hiding"]).keep().stdout();
    let mut session = fork_server.run(command);
    session.started();
    session.exited();
    stdout.line();
    kill_shepherd(&session);
    assert_eq!(stdout.text(), "", "every link holds stdout");
}

fn kill_shepherd(session: &Session) {
    rustix::process::pidfd_send_signal(session.shepherd.as_ref().unwrap(), Signal::KILL).unwrap();
}

#[test]
fn shepherd_and_vm_together() {
    let mut fork_server = ForkServer::start();
    let (command, mut stdout) = fixture_cmd(["tree-ignoring-term"]).kill_timeout(60_000).stdout();
    let mut session = fork_server.run(command);
    session.started();
    let watches: Vec<Watch> = pids(&stdout.line()).into_iter().map(Watch::new).collect();
    kill_shepherd(&session);
    fork_server.leave();
    drop(session);
    assert!(fork_server.wait().success());
    assert!(watches.iter().all(Watch::has_ended));
}

#[test]
fn a_command_goes_on_without_the_fork_server() {
    let mut fork_server = ForkServer::start();
    let (command, mut stdout) = fixture_cmd(["count-usr1"]).stdout();
    let mut session = fork_server.run(command);
    session.started();
    assert_eq!(stdout.line(), "ready");
    kill(fork_server.pid(), Signal::KILL);
    fork_server.wait();
    session.send(&Request::Signal(10));
    assert!(matches!(session.event(), Some(Event::Signalled(protocol::SignalResult::Ok))));
    assert_eq!(stdout.line(), "usr1");
    // What was forked ahead is there still.
    let mut idle = fork_server.take_idle();
    idle.spawn(sh("exit 3"));
    assert_eq!(idle.finish(), Exit::Status(3));
    session.send(&Request::Stop);
    session.exited();
    session.done();
    Watch::from(session.shepherd.unwrap()).wait();
}

#[test]
fn and_dies_with_a_shepherd_that_is_killed_afterwards() {
    let mut fork_server = ForkServer::start();
    let mut session = fork_server.run(fixture_cmd(["ready-then-block"]));
    let watch = Watch::new(session.started());
    kill(fork_server.pid(), Signal::KILL);
    fork_server.wait();
    kill_shepherd(&session);
    watch.wait();
}

#[test]
fn nonsense_on_the_control_socket_is_its_end() {
    let mut fork_server = ForkServer::start();
    let mut session = fork_server.run(sh("exit 3"));
    protocol::socket::send(fork_server.control(), b"?", &[], protocol::socket::Wait::Block).unwrap();
    assert_eq!(session.finish(), Exit::Status(3));
    fork_server.leave();
    assert!(fork_server.wait().success());
}
