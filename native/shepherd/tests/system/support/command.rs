use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use protocol::{Directory, Leftovers, Spawn, Stdio};
use rustix::fs::{Mode, OFlags};

use super::*;

/// The fixture beside the shepherd. Cargo gives no path to another package's binary, and builds it only when
/// that package is tested too: here it is built when it is missing or older than its sources (a copy, for
/// another user, may be out of sight of them).
pub(crate) fn fixture() -> &'static str {
    static FIXTURE: OnceLock<String> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let profile_directory = PathBuf::from(shepherd()).parent().unwrap().to_path_buf();
        let binary = profile_directory.join("fixture");
        let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixture/src");
        let modified = |path: PathBuf| path.metadata().and_then(|metadata| metadata.modified());
        let files = sources.read_dir().into_iter().flatten();
        let newest = files.map(|entry| modified(entry.unwrap().path()).unwrap()).max();
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
            env: [b"PATH=/usr/bin:/bin"].into_iter().collect(),
            directory: Directory::default(),
            umask: 0o022,
            stdio: [Stdio::Null; 3],
            kill_timeout_ms: 10_000,
            stop_signals: vec![15],
            leftovers: Leftovers::Kill,
            start_awaited: true,
            nice: None,
            rlimits: Vec::new(),
            credentials: None,
            terminal: false,
            cgroup: None,
            nonce: 0,
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

fn open_directory(path: &str) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

/// The reading end of a pipe.
pub(crate) struct Pipe(OwnedFd);

impl From<OwnedFd> for Pipe {
    fn from(reader: OwnedFd) -> Pipe {
        Pipe(reader)
    }
}

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
