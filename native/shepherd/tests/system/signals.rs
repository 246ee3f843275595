//! Signals to the command on request.

use protocol::{Event, Exit, Request, SignalResult};

use crate::support::*;

const USR1: i32 = 10;

#[test]
fn usr1_arrives_exactly_once() {
    let fork_server = ForkServer::start();
    let (command, mut stdout) = fixture_cmd(["count-usr1"]).stdout();
    let mut session = fork_server.run(command);
    session.started();
    assert_eq!(stdout.line(), "ready");
    for _ in 0..5 {
        session.send(&Request::Signal(USR1));
        assert_eq!(session.event(), Some(Event::Signalled(SignalResult::Ok)));
        assert_eq!(stdout.line(), "usr1");
    }
    session.send(&Request::Signal(9));
    assert_eq!(session.event(), Some(Event::Signalled(SignalResult::Ok)));
    assert_eq!(stdout.text(), "", "no second one");
    assert_eq!(session.exited().0, Exit::Signal { signal: 9, core_dumped: false });
    session.done();
}

#[test]
fn it_goes_to_the_whole_group() {
    let fork_server = ForkServer::start();
    let (command, mut stdout) = sh("trap 'echo parent' TERM
        sh -c 'trap \"echo child; exit\" TERM; echo ready; while :; do sleep 0.01; done' &
        wait; wait")
    .stdout();
    let mut session = fork_server.run(command);
    session.started();
    assert_eq!(stdout.line(), "ready");
    session.send(&Request::Signal(15));
    assert_eq!(session.event(), Some(Event::Signalled(SignalResult::Ok)));
    let text = stdout.text();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["child", "parent"]);
    session.exited();
    session.done();
}

#[test]
fn after_the_exit_nothing_is_signalled() {
    let fork_server = ForkServer::start();
    // The leftover is in the command's group, and would end of it.
    let (command, mut stdout) = fixture_cmd(["hold-stdout"]).keep().stdout();
    let mut session = fork_server.run(command);
    session.started();
    let leftover = Watch::new(pids(&stdout.line())[0]);
    session.exited();
    session.send(&Request::Signal(USR1));
    assert_eq!(session.event(), Some(Event::Signalled(SignalResult::NotRunning)));
    assert!(!leftover.has_ended());
    session.send(&Request::Stop);
    session.done();
    assert!(leftover.has_ended());
}

#[test]
fn real_time_signals_work() {
    let fork_server = ForkServer::start();
    let (command, mut stdout) = fixture_cmd(["ready-then-block"]).stdout();
    let mut session = fork_server.run(command);
    session.started();
    assert_eq!(stdout.line(), "ready");
    session.send(&Request::Signal(40));
    assert_eq!(session.event(), Some(Event::Signalled(SignalResult::Ok)));
    assert_eq!(session.exited().0, Exit::Signal { signal: 40, core_dumped: false });
    session.done();
}
