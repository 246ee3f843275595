//! Commands on a terminal: it is the controlling one, stays until everything is over, and says SIGHUP.

use std::os::fd::OwnedFd;
use std::time::Duration;

use protocol::{Event, Exit, Request, Stage, Stdio};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;

use crate::support::*;

const SIGUSR1: i32 = 10;
const SIGHUP: u8 = 1;
const SIGTERM: u8 = 15;

/// The ends of a terminal that the tests keep.
struct Terminal {
    leader: OwnedFd,
    follower: OwnedFd,
}

fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let leader = rustix::pty::openpt(flags).unwrap();
    rustix::pty::grantpt(&leader).unwrap();
    rustix::pty::unlockpt(&leader).unwrap();
    let name = rustix::pty::ptsname(&leader, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    (leader, rustix::fs::open(name, flags, Mode::empty()).unwrap())
}

/// As the VM asks for it, with both stop signals.
fn on_terminal(command: Cmd) -> (Cmd, Terminal) {
    let (leader, follower) = terminal();
    let mut command = command.fd(0, follower.try_clone().unwrap()).fd(1, follower.try_clone().unwrap());
    command.fds.push(leader.try_clone().unwrap());
    let command = command.edit(|spawn| {
        spawn.stdio[2] = Stdio::Stdout;
        spawn.terminal = true;
        spawn.stop_signals = vec![SIGHUP, SIGTERM];
        spawn.kill_timeout_ms = 60_000;
    });
    (command, Terminal { leader, follower })
}

fn with_stderr(mut command: Cmd, fd: OwnedFd) -> Cmd {
    // Behind those of stdin and stdout, before the leader.
    command.fds.insert(3, fd);
    command.edit(|spawn| spawn.stdio[2] = Stdio::Fd)
}

/// The terminal hangs up with the last fd of its leader.
fn has_hung_up(follower: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(follower, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::try_from(Duration::ZERO).unwrap())).unwrap();
    fds[0].revents().contains(PollFlags::HUP)
}

#[test]
fn it_is_the_controlling_one_with_the_command_in_the_foreground() {
    let fork_server = ForkServer::start();
    let (command, terminal) = on_terminal(sh("echo by name > /dev/tty; read -r line; echo $line"));
    let mut session = fork_server.run(command);
    let os_pid = session.started();
    let mut screen = Pipe::from(terminal.leader);
    assert_eq!(screen.line(), "by name\r");
    let stat = std::fs::read_to_string(format!("/proc/{os_pid}/stat")).unwrap();
    // proc(5): state, parent, group, session, tty_nr, tpgid.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let os_pid = os_pid.to_string();
    assert_eq!((fields[2], fields[3], fields[5]), (&*os_pid, &*os_pid, &*os_pid));
    assert_ne!(fields[4], "0");
    session.send(&Request::Stop);
    assert_eq!(session.exited().0, Exit::Signal { signal: 1, core_dumped: false });
    session.done();
}

#[test]
fn without_its_fds_or_its_nature_nothing_is_started() {
    let fork_server = ForkServer::start();
    let (mut command, _terminal) = on_terminal(cmd(["/bin/true"]));
    command.fds.pop();
    let mut session = fork_server.run(command);
    assert_eq!(session.failure(), (Stage::Fds, Errno::BADF.raw_os_error()));

    let (reader, _writer) = pipe();
    let (leader, _follower) = terminal();
    let mut command = cmd(["/bin/true"]).fd(0, reader).edit(|spawn| spawn.terminal = true);
    command.fds.push(leader);
    let mut session = fork_server.run(command);
    assert_eq!(session.failure(), (Stage::Setup, Errno::NOTTY.raw_os_error()));
}

#[test]
fn it_does_not_hang_up_when_the_vm_closes_its_ends() {
    let fork_server = ForkServer::start();
    let script = "$SIG{TERM} = 'IGNORE'; $SIG{USR1} = sub { syswrite STDERR, qq(usr1\n) };
                  $SIG{HUP} = sub { syswrite STDERR, qq(hup\n); exit 4 };
                  syswrite STDERR, qq(ready\n); select undef, undef, undef, 0.01 while 1";
    let (command, terminal) = on_terminal(cmd(["perl", "-e", script]));
    let (reader, writer) = pipe();
    let mut session = fork_server.run(with_stderr(command, writer));
    session.started();
    let mut stderr = Pipe::from(reader);
    assert_eq!(stderr.line(), "ready");
    drop(terminal.leader);
    // A SIGHUP would have come first.
    session.send(&Request::Signal(SIGUSR1));
    assert!(matches!(session.event(), Some(Event::Signalled(_))));
    assert_eq!(stderr.line(), "usr1");
    assert!(!has_hung_up(&terminal.follower));
    session.send(&Request::Stop);
    assert_eq!(stderr.line(), "hup");
    assert_eq!(session.exited().0, Exit::Status(4));
    session.done();
}

#[test]
fn the_shepherd_has_the_leader_until_the_last_process_is_gone() {
    let fork_server = ForkServer::start();
    let (command, terminal) = on_terminal(sh("trap '' HUP; (read -r line <&2) & read -r line; exit 3"));
    let (reader, writer) = pipe();
    let mut session = fork_server.run(with_stderr(command, reader).keep());
    let os_pid = session.started();
    let shepherd = parent_of(os_pid).unwrap();
    let leaders = || open_files(shepherd).iter().filter(|file| file.ends_with("ptmx")).count();
    assert_eq!(leaders(), 1);
    rustix::io::write(&terminal.leader, b"\n").unwrap();
    assert_eq!(session.exited().0, Exit::Status(3));
    assert_eq!(leaders(), 1);
    drop(writer);
    session.done();
    eventually("the shepherd has ended", || leaders() == 0);
}

#[test]
fn sighup_comes_before_sigterm() {
    let fork_server = ForkServer::start();
    let script = "$SIG{HUP} = sub { syswrite STDOUT, qq(hup\n) };
                  $SIG{TERM} = sub { syswrite STDOUT, qq(term\n); exit 5 };
                  syswrite STDOUT, qq(ready\n); select undef, undef, undef, 0.01 while 1";
    let (command, terminal) = on_terminal(cmd(["perl", "-e", script]));
    let mut session = fork_server.run(command);
    session.started();
    let mut screen = Pipe::from(terminal.leader);
    assert_eq!(screen.line(), "ready\r");
    session.send(&Request::Stop);
    assert_eq!(screen.line(), "hup\r");
    assert_eq!(screen.line(), "term\r");
    assert_eq!(session.exited().0, Exit::Status(5));
    session.done();
}

#[test]
fn who_has_missed_sighup_before_a_read_hears_another_one() {
    let fork_server = ForkServer::start();
    // Looks for the signal, misses it, and waits: what bash does when it comes between the two.
    let script = "$SIG{TERM} = 'IGNORE'; $SIG{HUP} = sub { $hups++ }; syswrite STDOUT, qq(ready\\n);
                  select undef, undef, undef, 0.01 until $hups;
                  sysread STDIN, $line, 100; exit $hups";
    let (command, terminal) = on_terminal(cmd(["perl", "-e", script]));
    let mut session = fork_server.run(command);
    session.started();
    let mut screen = Pipe::from(terminal.leader);
    assert_eq!(screen.line(), "ready\r");
    session.send(&Request::Stop);
    assert_eq!(session.exited().0, Exit::Status(2));
    session.done();
}
