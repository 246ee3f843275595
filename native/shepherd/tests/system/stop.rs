//! The stop sequence: nothing that a command has started is left.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use protocol::socket::{self, Wait};
use protocol::{Event, Exit, Message, Request};

use crate::support::*;

const KILLED: Exit = Exit::Signal { signal: 9, core_dumped: false };
const TERMINATED: Exit = Exit::Signal { signal: 15, core_dumped: false };

/// A running command and the pids that it prints on its first line.
fn run(fork_server: &ForkServer, command: Cmd) -> (Session, Pipe, Vec<Watch>) {
    let (command, mut stdout) = command.stdout();
    let mut session = fork_server.run(command);
    session.started();
    let watches = pids(&stdout.line()).into_iter().map(Watch::new).collect();
    (session, stdout, watches)
}

fn all_have_ended(watches: &[Watch]) -> bool {
    watches.iter().all(Watch::has_ended)
}

#[test]
fn stop_sends_the_stop_signal() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.run(fixture_cmd(["ready-then-block"]));
    session.started();
    session.send(&Request::Stop);
    assert_eq!(session.exited().0, TERMINATED);
    session.done();
}

#[test]
fn stop_signals_are_sent_in_order() {
    let fork_server = ForkServer::start();
    let script =
        "trap 'echo hup' HUP; trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.01; done";
    let (command, mut stdout) = sh(script).stdout();
    let mut session = fork_server.run(command.edit(|spawn| spawn.stop_signals = vec![1, 15]));
    session.started();
    assert_eq!(stdout.line(), "ready");
    session.send(&Request::Stop);
    assert_eq!(stdout.text(), "hup\nterm\n");
    assert_eq!(session.exited().0, Exit::Status(5));
    session.done();
}

#[test]
fn what_ignores_it_is_killed_at_the_kill_timeout() {
    let fork_server = ForkServer::start();
    let (command, mut stdout) = fixture_cmd(["ignore-term"]).kill_timeout(200).stdout();
    let mut session = fork_server.run(command);
    session.started();
    assert_eq!(stdout.line(), "ready");
    let start = Instant::now();
    session.send(&Request::Stop);
    session.send(&Request::Stop);
    assert_eq!(session.exited().0, KILLED);
    session.done();
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_kill_timeout_of_zero_kills_at_once() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.run(fixture_cmd(["ready-then-block"]).kill_timeout(0));
    session.started();
    session.send(&Request::Stop);
    assert_eq!(session.exited().0, KILLED);
    session.done();
}

#[test]
fn a_stopped_command_can_be_stopped() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.run(fixture_cmd(["ready-then-block"]));
    let os_pid = session.started();
    session.send(&Request::Signal(19));
    assert!(matches!(session.event(), Some(Event::Signalled(_))));
    eventually("it is stopped", || state_of(os_pid).as_deref() == Some("T"));
    session.send(&Request::Stop);
    assert_eq!(session.exited().0, TERMINATED);
    session.done();
}

#[test]
fn a_tree_that_ignores_term_and_hides_is_gone_by_done() {
    let fork_server = ForkServer::start();
    let (mut session, mut stdout, watches) =
        run(&fork_server, fixture_cmd(["tree-ignoring-term"]).kill_timeout(100));
    assert_eq!(watches.len(), 4);
    session.send(&Request::Stop);
    assert_eq!(session.exited().0, KILLED);
    session.done();
    assert!(all_have_ended(&watches));
    assert_eq!(stdout.text(), "");
}

#[test]
fn descendants_outside_the_group_get_the_stop_signal_too() {
    let fork_server = ForkServer::start();
    // Its parent lives on meanwhile, so it is no child of the shepherd.
    let script = "trap : TERM; setsid sh -c 'trap \"echo bye; exit\" TERM; echo $$; while :; do sleep 0.01; done' & wait; wait";
    let (mut session, mut stdout, watches) = run(&fork_server, sh(script));
    session.send(&Request::Stop);
    assert_eq!(stdout.text(), "bye\n");
    session.exited();
    session.done();
    assert!(all_have_ended(&watches));
}

#[test]
fn so_does_the_child_of_a_thread_that_is_not_the_first() {
    let fork_server = ForkServer::start();
    let (mut session, mut stdout, watches) =
        run(&fork_server, fixture_cmd(["child-of-thread"]).kill_timeout(200));
    session.send(&Request::Stop);
    assert_eq!(stdout.text(), "bye\n");
    assert_eq!(session.exited().0, KILLED);
    session.done();
    assert!(all_have_ended(&watches));
}

#[test]
fn a_deep_descendant_outside_the_group_is_killed() {
    let fork_server = ForkServer::start();
    let script = "sh -c 'setsid sh -c \"trap : TERM; sh -c \\\"trap : TERM; echo \\$\\$; while :; do sleep 0.01; done\\\"\
                  & while :; do sleep 0.01; done\" & wait' & wait";
    let (mut session, _stdout, watches) = run(&fork_server, sh(script).kill_timeout(100));
    session.send(&Request::Stop);
    session.exited();
    session.done();
    assert!(all_have_ended(&watches));
}

#[test]
fn a_chain_of_forks_is_caught() {
    let fork_server = ForkServer::start();
    let (command, mut stdout) =
        fixture_cmd(["fork-bomb", "chain", "300", "0", "hiding"]).kill_timeout(0).stdout();
    let mut session = fork_server.run(command);
    session.started();
    assert_eq!(session.exited().0, Exit::Status(0));
    session.done_at_last();
    stdout.line();
    assert_eq!(stdout.text(), "", "every link holds stdout");
}

#[test]
fn a_burst_of_processes_that_hide_is_caught() {
    let fork_server = ForkServer::start();
    let (command, mut stdout) =
        fixture_cmd(["fork-bomb", "burst", "300", "7", "hiding"]).kill_timeout(0).stdout();
    let mut session = fork_server.run(command);
    session.started();
    (0..128).for_each(|_| assert_eq!(stdout.line(), "ready"));
    session.send(&Request::Stop);
    session.exited();
    session.done_at_last();
    assert_eq!(stdout.text(), "", "each holds stdout");
}

// -- leftovers ---------------------------------------------------------------------------------------

#[test]
fn leftovers_are_killed_after_the_exit_was_told() {
    let fork_server = ForkServer::start();
    let (mut session, mut stdout, watches) = run(&fork_server, sh("sleep 100 & echo $!; exit 3"));
    assert_eq!(session.exited().0, Exit::Status(3));
    session.done();
    assert!(all_have_ended(&watches));
    assert_eq!(stdout.text(), "");
}

#[test]
fn leftovers_may_end_by_themselves() {
    let fork_server = ForkServer::start();
    let (stdin, input) = pipe();
    let (command, mut stdout) = sh("exec 3<&0; (trap '' TERM; read line <&3; echo $line) & exit 0")
        .kill_timeout(60_000)
        .fd(0, stdin)
        .stdout();
    let mut session = fork_server.run(command);
    session.started();
    session.exited();
    rustix::io::write(&input, b"by myself\n").unwrap();
    assert_eq!(stdout.text(), "by myself\n");
    session.done();
}

#[test]
fn a_daemon_is_killed_too() {
    let fork_server = ForkServer::start();
    let (mut session, _stdout, watches) = run(&fork_server, fixture_cmd(["daemonize"]));
    assert_eq!(session.exited().0, Exit::Status(0));
    session.done();
    assert!(all_have_ended(&watches));
}

#[test]
fn leftovers_that_ignore_the_stop_signal_are_killed_at_the_kill_timeout() {
    let fork_server = ForkServer::start();
    let script = "(trap '' TERM; sh -c 'echo $$; while :; do sleep 0.01; done') & sleep 0.1";
    let (mut session, mut stdout, watches) = run(&fork_server, sh(script).kill_timeout(100));
    session.exited();
    session.done();
    assert!(all_have_ended(&watches));
    assert_eq!(stdout.text(), "");
}

#[test]
fn kept_leftovers_live_until_they_end() {
    let fork_server = ForkServer::start();
    let (stdin, input) = pipe();
    let command = sh("exec 3<&0; sh -c 'echo $$; read line <&3' & exit 3").keep().fd(0, stdin);
    let (mut session, _stdout, watches) = run(&fork_server, command);
    assert_eq!(session.exited().0, Exit::Status(3));
    assert!(!is_readable(&session.socket, Duration::from_millis(300)), "no Done while it lives");
    assert!(!all_have_ended(&watches));
    drop(input);
    session.done();
    assert!(all_have_ended(&watches));
}

#[test]
fn kept_leftovers_end_with_the_vm() {
    let fork_server = ForkServer::start();
    for script in ["tree", "daemon"] {
        let command = match script {
            "tree" => fixture_cmd(["hold-stdout"]),
            _ => fixture_cmd(["daemonize"]),
        };
        let (mut session, _stdout, watches) = run(&fork_server, command.keep());
        session.exited();
        assert!(!all_have_ended(&watches));
        drop(session);
        watches.iter().for_each(Watch::wait);
    }
}

#[test]
fn orphans_of_kept_leftovers_are_reaped() {
    let fork_server = ForkServer::start();
    let (stdin, input) = pipe();
    // Each `true` is an orphan of a shell that does not wait for it.
    let orphans = "for i in 1 2 3 4 5; do (true & exec true); done";
    let script = &format!("exec 3<&0; sh -c '{orphans}; echo $$; read line <&3' & exit 0");
    let (mut session, _stdout, _watches) = run(&fork_server, sh(script).keep().fd(0, stdin));
    session.exited();
    let shepherd = fork_server.children().into_iter().find(|pid| !children_of(*pid).is_empty()).unwrap();
    // The command itself stays a zombie, so that its pid and group cannot become another's.
    let zombies = || {
        let zombies = children_of(shepherd).into_iter().filter(|pid| state_of(*pid).as_deref() == Some("Z"));
        zombies.count()
    };
    eventually("one zombie", || zombies() == 1);
    drop(input);
    session.done();
}

// -- the VM ------------------------------------------------------------------------------------------

#[test]
fn the_end_of_the_vm_is_a_stop() {
    let fork_server = ForkServer::start();
    let (session, mut stdout, watches) =
        run(&fork_server, fixture_cmd(["tree-ignoring-term"]).kill_timeout(100));
    drop(session);
    watches.iter().for_each(Watch::wait);
    assert_eq!(stdout.text(), "");
}

#[test]
fn a_vm_that_only_stops_sending_still_hears_the_end() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.run(fixture_cmd(["ready-then-block"]));
    session.started();
    session.shutdown();
    assert_eq!(session.exited().0, TERMINATED);
    session.done();
}

#[test]
fn stop_and_exit_at_the_same_time_do_no_harm() {
    let fork_server = ForkServer::start();
    for _ in 0..100 {
        let mut session = fork_server.run(cmd(["/bin/true"]));
        // It may be over by now.
        let _ = socket::send(session.socket.as_fd(), &Request::Stop.encode(), &[], Wait::Block);
        session.started();
        let (exit, _) = session.exited();
        assert!([Exit::Status(0), TERMINATED].contains(&exit), "{exit:?}");
        session.done();
    }
}
