//! The VM's part: a fork server, sessions with shepherds, and commands for them. Nothing waits by time; what
//! waits for data gives up after [`PATIENCE`], which fails the test.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio as ProcessStdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use protocol::socket::{self, Received, Wait};
use protocol::{
    ADOPT, Decoder, Directory, Event, Exit, FORK_AHEAD, IDLE, Leftovers, Message, READY, Request, Rusage,
    Spawn, Stdio,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const SHEPHERD: &str = env!("CARGO_BIN_EXE_shepherd");

/// The fixture beside the shepherd. Cargo gives no path to another package's binary, and builds it only when
/// that package is tested too: here it is built when it is missing or older than its sources.
pub(crate) fn fixture() -> &'static str {
    static FIXTURE: OnceLock<String> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let profile_directory = PathBuf::from(SHEPHERD).parent().unwrap().to_path_buf();
        let binary = profile_directory.join("fixture");
        let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixture/src");
        let modified = |path: PathBuf| path.metadata().and_then(|metadata| metadata.modified());
        let newest = sources.read_dir().unwrap().map(|entry| modified(entry.unwrap().path()).unwrap()).max();
        if modified(binary.clone()).ok() < newest {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--package", "fixture", "--target-dir"]);
            cargo.arg(profile_directory.parent().unwrap());
            if profile_directory.ends_with("release") {
                cargo.arg("--release");
            }
            assert!(cargo.status().unwrap().success());
        }
        binary.into_os_string().into_string().unwrap()
    })
}

// -- the fork server ---------------------------------------------------------------------------------

pub(crate) struct ForkServer {
    process: std::process::Child,
    /// `None` once the VM has left.
    sockets: Option<(OwnedFd, OwnedFd)>,
    pub(crate) pidfd: OwnedFd,
}

impl ForkServer {
    pub(crate) fn start() -> ForkServer {
        ForkServer::start_with(&mut Command::new(SHEPHERD))
    }

    pub(crate) fn start_with(command: &mut Command) -> ForkServer {
        let (ours, theirs) = socket::pair().unwrap();
        command.arg("fork-server").stdin(ProcessStdio::from(theirs));
        let process = command.stdout(ProcessStdio::null()).stderr(ProcessStdio::null()).spawn().unwrap();
        // The builder holds their end of the socket.
        command.stdin(ProcessStdio::null());
        let (byte, mut fds) = receive_byte(&ours);
        assert_eq!((byte, fds.len()), (READY, 2));
        let pool = fds.pop_front().unwrap();
        ForkServer { process, sockets: Some((ours, pool)), pidfd: fds.pop_front().unwrap() }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    pub(crate) fn control(&self) -> BorrowedFd<'_> {
        self.sockets.as_ref().unwrap().0.as_fd()
    }

    /// A session with a shepherd that was forked ahead; the place it leaves is filled.
    pub(crate) fn idle(&self) -> Session {
        let session = self.take_idle();
        socket::send(self.control(), &[FORK_AHEAD], &[], Wait::Block).unwrap();
        session
    }

    pub(crate) fn take_idle(&self) -> Session {
        let (byte, mut fds) = receive_byte(&self.sockets.as_ref().unwrap().1);
        assert_eq!((byte, fds.len()), (IDLE, 1));
        Session::new(fds.pop_front().unwrap())
    }

    /// A session with a shepherd that is forked for it.
    pub(crate) fn adopt(&self) -> Session {
        let (ours, theirs) = socket::pair().unwrap();
        self.adopt_socket(theirs);
        Session::new(ours)
    }

    pub(crate) fn adopt_socket(&self, theirs: OwnedFd) {
        socket::send(self.control(), &[ADOPT], &[theirs.as_fd()], Wait::Block).unwrap();
    }

    pub(crate) fn run(&self, command: Cmd) -> Session {
        let mut session = self.idle();
        session.spawn(command);
        session
    }

    /// The VM ends.
    pub(crate) fn leave(&mut self) {
        self.sockets = None;
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for_end(&self.pidfd);
        self.process.wait().unwrap()
    }

    pub(crate) fn children(&self) -> Vec<i32> {
        children_of(self.pid())
    }
}

/// Every test ends with the fork server's end, which is that of all shepherds: nothing is left behind.
impl Drop for ForkServer {
    fn drop(&mut self) {
        self.leave();
        if has_ended(&self.pidfd, PATIENCE) {
            let _ = self.process.wait();
        } else if !std::thread::panicking() {
            panic!("the fork server does not end; its children: {:?}", self.children());
        }
    }
}

fn receive_byte(socket: &OwnedFd) -> (u8, VecDeque<OwnedFd>) {
    wait_until_readable(socket);
    let mut byte = [0];
    let mut fds = VecDeque::new();
    let received = socket::receive(socket.as_fd(), &mut byte, &mut fds, Wait::Block).unwrap();
    assert_eq!(received, Received::Bytes(1));
    (byte[0], fds)
}

// -- a session with a shepherd -----------------------------------------------------------------------

pub(crate) struct Session {
    pub(crate) socket: OwnedFd,
    decoder: Decoder<Event>,
    /// What has come with events: after `Started`, the command's pidfd and the shepherd's.
    pub(crate) fds: VecDeque<OwnedFd>,
}

impl Session {
    pub(crate) fn new(socket: OwnedFd) -> Session {
        Session { socket, decoder: Decoder::default(), fds: VecDeque::new() }
    }

    pub(crate) fn spawn(&mut self, command: Cmd) {
        let fds: Vec<BorrowedFd<'_>> = command.fds.iter().map(AsFd::as_fd).collect();
        self.send_bytes(&Request::Spawn(Box::new(command.spawn)).encode(), &fds);
    }

    pub(crate) fn send(&self, request: &Request) {
        self.send_bytes(&request.encode(), &[]);
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut sent = socket::send(self.socket.as_fd(), bytes, fds, Wait::Block).unwrap();
        while sent < bytes.len() {
            sent += socket::send(self.socket.as_fd(), &bytes[sent..], &[], Wait::Block).unwrap();
        }
    }

    pub(crate) fn shutdown(&self) {
        socket::shutdown_write(&self.socket).unwrap();
    }

    /// The next event; `None` at the end of file.
    pub(crate) fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.decoder.next_message().unwrap() {
                return Some(event);
            }
            wait_until_readable(&self.socket);
            let mut buffer = [0; 4096];
            match socket::receive(self.socket.as_fd(), &mut buffer, &mut self.fds, Wait::Block).unwrap() {
                Received::Bytes(length) => self.decoder.push(&buffer[..length]),
                Received::EndOfFile => return None,
                other => panic!("{other:?}"),
            }
        }
    }

    /// The os_pid of the command.
    pub(crate) fn started(&mut self) -> i32 {
        match self.event() {
            Some(Event::Started { os_pid, fds: 2 }) => os_pid,
            other => panic!("expected Started with two fds, got {other:?}"),
        }
    }

    pub(crate) fn exited(&mut self) -> (Exit, Rusage) {
        match self.event() {
            Some(Event::Exited { exit, rusage }) => (exit, rusage),
            other => panic!("expected Exited, got {other:?}"),
        }
    }

    /// `Done`, and nothing after it.
    pub(crate) fn done(&mut self) {
        assert_eq!(self.event(), Some(Event::Done));
        assert_eq!(self.event(), None);
    }

    /// Started, exited and done; how.
    pub(crate) fn finish(&mut self) -> Exit {
        self.started();
        let (exit, _) = self.exited();
        self.done();
        exit
    }

    /// The one event of a command that did not start.
    pub(crate) fn failure(&mut self) -> (protocol::Stage, i32) {
        let failed = self.event();
        assert_eq!(self.event(), None);
        match failed {
            Some(Event::Failed { stage, errno }) => (stage, errno),
            other => panic!("expected Failed, got {other:?}"),
        }
    }
}

// -- a command ---------------------------------------------------------------------------------------

pub(crate) struct Cmd {
    pub(crate) spawn: Spawn,
    /// The directory, then the standard fds.
    pub(crate) fds: Vec<OwnedFd>,
}

/// A command with a clean environment, all its fds /dev/null, SIGTERM as stop signal, and 10 s for it.
pub(crate) fn cmd<const N: usize>(argv: [&str; N]) -> Cmd {
    let argv: Vec<Vec<u8>> = argv.iter().map(|argument| argument.as_bytes().to_vec()).collect();
    Cmd {
        spawn: Spawn {
            executable: argv[0].clone(),
            argv,
            env: vec![b"PATH=/usr/bin:/bin".to_vec()],
            directory: Directory::default(),
            umask: 0o022,
            stdio: [Stdio::Null; 3],
            kill_timeout_ms: 10_000,
            stop_signals: vec![15],
            leftovers: Leftovers::Kill,
        },
        fds: vec![open_directory(".")],
    }
}

pub(crate) fn fixture_cmd<const N: usize>(arguments: [&str; N]) -> Cmd {
    let mut command = cmd([fixture()]);
    command.spawn.argv.extend(arguments.iter().map(|argument| argument.as_bytes().to_vec()));
    command
}

pub(crate) fn sh(script: &str) -> Cmd {
    cmd(["sh", "-c", script])
}

impl Cmd {
    /// Fd `number` of the command becomes `fd`. In rising order.
    pub(crate) fn fd(mut self, number: usize, fd: OwnedFd) -> Cmd {
        self.spawn.stdio[number] = Stdio::Fd;
        self.fds.push(fd);
        self
    }

    /// stdout goes into a pipe, whose other end is returned.
    pub(crate) fn stdout(self) -> (Cmd, Pipe) {
        let (reader, writer) = pipe();
        (self.fd(1, writer), Pipe(reader))
    }

    pub(crate) fn edit(mut self, change: impl FnOnce(&mut Spawn)) -> Cmd {
        change(&mut self.spawn);
        self
    }

    pub(crate) fn keep(self) -> Cmd {
        self.edit(|spawn| spawn.leftovers = Leftovers::Keep)
    }

    pub(crate) fn kill_timeout(self, ms: u32) -> Cmd {
        self.edit(|spawn| spawn.kill_timeout_ms = ms)
    }

    pub(crate) fn directory(mut self, path: &str) -> Cmd {
        self.fds[0] = open_directory(path);
        self
    }

    pub(crate) fn cd(self, path: &str) -> Cmd {
        self.edit(|spawn| spawn.directory.path = Some(path.as_bytes().to_vec()))
    }
}

pub(crate) fn open_directory(path: &str) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

/// The reading end of a pipe.
pub(crate) struct Pipe(OwnedFd);

impl Pipe {
    /// Up to and without the next newline.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            wait_until_readable(&self.0);
            match rustix::io::read(&self.0, &mut byte).unwrap() {
                1 if byte[0] != b'\n' => line.push(byte[0]),
                _ => return String::from_utf8(line).unwrap(),
            }
        }
    }

    /// Up to the end of file, which comes when nobody has the other end any more.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let mut buffer = [0; 65536];
            wait_until_readable(&self.0);
            match rustix::io::read(&self.0, &mut buffer).unwrap() {
                0 => return bytes,
                length => bytes.extend_from_slice(&buffer[..length]),
            }
        }
    }

    pub(crate) fn text(&mut self) -> String {
        String::from_utf8(self.rest()).unwrap()
    }
}

// -- processes ---------------------------------------------------------------------------------------

/// A living process that is to end. Made while it lives, so that it cannot be mistaken for another.
pub(crate) struct Watch(OwnedFd);

impl Watch {
    pub(crate) fn new(pid: i32) -> Watch {
        let watch = Watch(pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap());
        assert!(!watch.has_ended(), "process {pid} has ended");
        watch
    }

    pub(crate) fn has_ended(&self) -> bool {
        has_ended(&self.0, Duration::ZERO)
    }

    pub(crate) fn wait(&self) {
        wait_for_end(&self.0);
    }
}

pub(crate) fn wait_for_end(pidfd: &OwnedFd) {
    assert!(has_ended(pidfd, PATIENCE), "a process does not end");
}

/// A pidfd is readable when its process has ended (pidfd_open(2)).
pub(crate) fn has_ended(pidfd: &OwnedFd, patience: Duration) -> bool {
    is_readable(pidfd, patience)
}

fn wait_until_readable(fd: &OwnedFd) {
    assert!(is_readable(fd, PATIENCE), "nothing comes");
}

pub(crate) fn is_readable(fd: &OwnedFd, patience: Duration) -> bool {
    let patience = Timespec::try_from(patience).unwrap();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&patience)).unwrap() > 0
}

/// For what only /proc tells.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

pub(crate) fn exists(pid: i32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

/// "pid (name) state parent …": what comes after the name.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

pub(crate) fn parent_of(pid: i32) -> Option<i32> {
    stat(pid)?[1].parse().ok()
}

pub(crate) fn state_of(pid: i32) -> Option<String> {
    Some(stat(pid)?[0].clone())
}

pub(crate) fn children_of(parent: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// What the open fds of a process are, sorted; each socket and pipe only as such.
pub(crate) fn open_files(pid: i32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut files: Vec<String> = entries
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.to_str().unwrap().split(':').next().unwrap().to_owned())
        .collect();
    files.sort();
    files
}

/// The pids on a line.
pub(crate) fn pids(line: &str) -> Vec<i32> {
    line.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

pub(crate) fn read_to_end(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}
