//! What a command is started with.

use std::fs;

use protocol::{Event, Exit, Request, Stdio, Strings};

use crate::support::*;

const ENOENT: i32 = 2;

#[test]
fn the_status_is_that_of_the_command() {
    let fork_server = ForkServer::start();
    for status in [0, 1, 3, 127, 137, 255] {
        let mut session = fork_server.run(sh(&format!("exit {status}")));
        assert_eq!(session.finish(), Exit::Status(status));
    }
}

#[test]
fn so_is_the_signal_that_killed_it_real_time_signals_too() {
    let fork_server = ForkServer::start();
    for signal in [1, 9, 15, 34, 64] {
        let mut session = fork_server.run(fixture_cmd(["kill-self", &signal.to_string()]));
        assert_eq!(session.finish(), Exit::Signal { signal, core_dumped: false });
    }
}

#[test]
fn an_adopted_shepherd_does_what_an_idle_one_does() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.adopt();
    session.spawn(sh("exit 3"));
    assert_eq!(session.finish(), Exit::Status(3));
}

#[test]
fn rusage_is_that_of_the_command() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.run(sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"));
    session.started();
    let (_, rusage) = session.exited();
    assert!(rusage.user_us + rusage.system_us > 1_000, "{rusage:?}");
    assert!(rusage.max_rss_bytes > 100_000 && rusage.max_rss_bytes < 1_000_000_000, "{rusage:?}");
    assert!(rusage.minor_faults > 0, "{rusage:?}");
    session.done();
}

#[test]
fn it_is_reaped_before_done() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.run(sh("exit 0"));
    let os_pid = session.started();
    session.exited();
    session.done();
    assert!(!exists(os_pid));
}

#[test]
fn the_pidfds_are_those_of_the_command_and_the_shepherd() {
    let fork_server = ForkServer::start();
    let pid_of = |pidfd: &Option<std::os::fd::OwnedFd>| {
        let fd = std::os::fd::AsRawFd::as_raw_fd(pidfd.as_ref().unwrap());
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse::<i32>().unwrap()
    };
    let mut session = fork_server.run(fixture_cmd(["ready-then-block"]));
    let os_pid = session.started();
    assert_eq!(pid_of(&session.command), os_pid);
    assert_eq!(Some(pid_of(&session.shepherd)), parent_of(os_pid));

    // Forked when it is asked for, a shepherd may be faster than the fork server's word.
    let mut session = fork_server.adopt();
    session.spawn(sh("exit 3"));
    session.finish();
    assert!(session.shepherd.is_some());
}

#[test]
fn the_command_has_fds_0_1_2_and_clean_signals() {
    let mut messy = std::process::Command::new("env");
    messy.args(["--ignore-signal=USR1,CHLD,HUP", "--block-signal=USR2,TERM", &shepherd()]);
    for fork_server in [ForkServer::start(), ForkServer::start_with(&mut messy)] {
        let (command, mut stdout) = fixture_cmd(["echo-fds"]).stdout();
        assert_eq!(fork_server.run(command).finish(), Exit::Status(0));
        assert_eq!(stdout.text(), "0 1 2\n");
        let (command, mut stdout) = fixture_cmd(["signals"]).stdout();
        assert_eq!(fork_server.run(command).finish(), Exit::Status(0));
        let none = "0000000000000000";
        assert_eq!(stdout.text(), format!("blocked {none} ignored {none} caught {none}\n"));
    }
}

#[test]
fn the_command_leads_a_session_of_its_own() {
    let fork_server = ForkServer::start();
    let (command, mut stdout) = sh("cut -d' ' -f1,5,6 /proc/$$/stat").stdout();
    let mut session = fork_server.run(command);
    let os_pid = session.started();
    assert_eq!(stdout.text(), format!("{os_pid} {os_pid} {os_pid}\n"));
    session.exited();
}

#[test]
fn standard_fds_are_what_was_asked_for() {
    let fork_server = ForkServer::start();
    let script = "cat; echo out; echo err >&2; readlink /proc/self/fd/0";

    let ((stdin, input), (output, stdout), (errors, stderr)) = (pipe(), pipe(), pipe());
    let mut session = fork_server.run(sh(script).fd(0, stdin).fd(1, stdout).fd(2, stderr));
    assert_eq!(rustix::io::write(&input, b"in\n").unwrap(), 3);
    drop(input);
    assert!(Pipe::from(output).text().starts_with("in\nout\npipe:"));
    assert_eq!(Pipe::from(errors).text(), "err\n");
    session.finish();

    let (command, mut stdout) = sh(script).stdout();
    let mut session = fork_server.run(command.edit(|spawn| spawn.stdio[2] = Stdio::Stdout));
    assert_eq!(stdout.text(), "out\nerr\n/dev/null\n");
    session.finish();

    let (errors, stderr) = pipe();
    let mut session = fork_server.run(sh(script).fd(2, stderr));
    assert_eq!(Pipe::from(errors).text(), "err\n");
    session.finish();
}

#[test]
fn a_pipe_ends_with_the_command_for_nobody_else_holds_it() {
    let fork_server = ForkServer::start();
    let _other = fork_server.run(fixture_cmd(["ready-then-block"]));
    let (command, mut stdout) = fixture_cmd(["ready-then-block"]).stdout();
    let mut session = fork_server.run(command);
    session.started();
    assert_eq!(stdout.line(), "ready");
    // Forked while the command runs.
    let _later = fork_server.run(fixture_cmd(["ready-then-block"]));
    session.send(&Request::Signal(9));
    assert_eq!(stdout.text(), "");
}

#[test]
fn the_environment_is_exactly_what_was_sent() {
    let fork_server = ForkServer::start();
    let entries: [&[u8]; 5] = [b"A=1", b"EMPTY=", b"LINES=a\nb", b"RAW=\xff\xfe", b"EQUALS=a=b"];
    let (command, mut stdout) = fixture_cmd(["print-env"]).stdout();
    let mut session = fork_server.run(command.edit(|spawn| {
        spawn.env = entries.iter().collect();
    }));
    let printed = stdout.rest();
    assert_eq!(printed.split(|byte| *byte == 0).collect::<Vec<_>>(), [&entries[..], &[b""]].concat());
    session.finish();

    let (command, mut stdout) = fixture_cmd(["print-env"]).stdout();
    fork_server.run(command.edit(|spawn| spawn.env = Strings::default())).finish();
    assert_eq!(stdout.rest(), b"");
}

#[test]
fn a_megabyte_of_arguments_and_a_large_environment_arrive() {
    let fork_server = ForkServer::start();
    let (command, mut stdout) = cmd(["/bin/sh", "-c", "printf %s \"$@\"; printf %s \"$V7\"", "sh"]).stdout();
    let arguments: Vec<Vec<u8>> = (b'a'..=b'k').map(|byte| vec![byte; 100_000]).collect();
    let expected = [arguments.concat(), vec![b'7'; 10_000]].concat();
    let mut session = fork_server.run(command.edit(|spawn| {
        spawn.argv.extend(arguments);
        spawn.env.extend((0..10).map(|i| format!("V{i}={}", i.to_string().repeat(10_000))));
    }));
    assert!(stdout.rest() == expected);
    assert_eq!(session.finish(), Exit::Status(0));
}

#[test]
fn a_request_may_come_in_pieces_with_others_behind_it() {
    let fork_server = ForkServer::start();
    let mut session = fork_server.idle();
    let command = fixture_cmd(["ready-then-block"]);
    let mut bytes = protocol::Message::encode(&Request::Spawn(Box::new(command.spawn)));
    for request in [Request::Signal(18), Request::Stop] {
        bytes.extend(protocol::Message::encode(&request));
    }
    let (first, rest) = bytes.split_first().unwrap();
    session.send_bytes(&[*first], &[std::os::fd::AsFd::as_fd(&command.fds[0])]);
    for byte in rest {
        session.send_bytes(&[*byte], &[]);
    }
    session.started();
    assert_eq!(session.event(), Some(Event::Signalled(protocol::SignalResult::Ok)));
    assert_eq!(session.exited().0, Exit::Signal { signal: 15, core_dumped: false });
    session.done();
}

#[test]
fn the_directory_is_the_one_that_came_then_the_path_from_there() {
    let scratch = Scratch::new("directory");
    fs::create_dir_all(scratch.path("a/b")).unwrap();
    let fork_server = ForkServer::start();
    let real = fs::canonicalize(&scratch.0).unwrap().to_str().unwrap().to_owned();
    let cwd = |command: Cmd| {
        let (command, mut stdout) = command.stdout();
        assert_eq!(fork_server.run(command).finish(), Exit::Status(0));
        stdout.line()
    };
    assert_eq!(cwd(fixture_cmd(["print-cwd"]).directory(&real)), real);
    assert_eq!(cwd(fixture_cmd(["print-cwd"]).directory(&real).cd("a/b")), format!("{real}/a/b"));
    assert_eq!(cwd(fixture_cmd(["print-cwd"]).directory(&real).cd("/")), "/");

    let command = fixture_cmd(["print-cwd"]).directory(&scratch.path("a/b"));
    fs::remove_dir(scratch.path("a/b")).unwrap();
    assert_eq!(cwd(command), format!("error {}", ENOENT), "a deleted one works");
}

#[test]
fn the_umask_is_the_one_that_was_sent() {
    let fork_server = ForkServer::start();
    for umask in [0o022, 0o077, 0] {
        let (command, mut stdout) = fixture_cmd(["print-umask"]).stdout();
        fork_server.run(command.edit(|spawn| spawn.umask = umask)).finish();
        assert_eq!(stdout.line(), format!("{umask:03o}"));
    }
}

#[test]
fn where_nobody_waits_for_the_start_it_may_come_with_the_exit_but_comes() {
    let fork_server = ForkServer::start();
    let unawaited = |command: Cmd| command.edit(|spawn| spawn.start_awaited = false);

    let mut session = fork_server.run(unawaited(cmd(["/bin/true"])));
    // With its pidfd where the machine was too busy for it to be over in 2 ms.
    assert!(matches!(session.event(), Some(Event::Started { fds: 0 | 1, .. })));
    assert_eq!(session.exited().0, Exit::Status(0));
    session.done();

    // It is said although nothing happens,
    let mut session = fork_server.run(unawaited(cmd(["sleep", "100"])));
    assert!(matches!(session.event(), Some(Event::Started { fds: 1, .. })));
    session.send(&Request::Stop);
    session.exited();
    session.done();

    // and before the answer to a signal.
    let mut session = fork_server.run(unawaited(cmd(["sleep", "100"])));
    session.send(&Request::Signal(15));
    assert!(matches!(session.event(), Some(Event::Started { .. })));
    assert!(matches!(session.event(), Some(Event::Signalled(_))));
    session.exited();
    session.done();
}
