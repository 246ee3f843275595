//! Moving bytes from and to a program.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;

use crate::Result;

pub(crate) fn read(size: usize, program: &str, args: &[&str]) -> Result {
    let start = Instant::now();
    let mut child = Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let total = drain(size, taken(child.stdout.take())?)?;
    finish(child, total, start)
}

pub(crate) fn copy(size: usize, bytes: usize, program: &str, args: &[&str]) -> Result {
    let start = Instant::now();
    let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (mut stdin, stdout) = (taken(child.stdin.take())?, taken(child.stdout.take())?);
    let writer = std::thread::spawn(move || -> Result {
        let piece = vec![0; size];
        let mut left = bytes;
        while left > 0 {
            let count = left.min(size);
            stdin.write_all(&piece[..count])?;
            left -= count;
        }
        Ok(())
    });
    let total = drain(size, stdout)?;
    writer.join().map_err(|_| Error::other("the writer has panicked"))??;
    finish(child, total, start)
}

pub(crate) fn ping(count: usize, program: &str, args: &[&str]) -> Result {
    let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (mut stdin, mut stdout) = (taken(child.stdin.take())?, taken(child.stdout.take())?);
    let mut out = std::io::stdout().lock();
    let mut byte = [b'x'];
    for _ in 0..count {
        let start = Instant::now();
        stdin.write_all(&byte)?;
        stdout.read_exact(&mut byte)?;
        writeln!(out, "{}", start.elapsed().as_nanos())?;
    }
    drop(stdin);
    child.wait()?;
    Ok(())
}

pub(crate) fn terminal(size: usize, program: &str, args: &[&str]) -> Result {
    let start = Instant::now();
    let leader = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&leader)?;
    rustix::pty::unlockpt(&leader)?;
    let name = rustix::pty::ptsname(&leader, Vec::new())?;
    // Not our controlling terminal: its end would be ours.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let follower = File::from(rustix::fs::open(name.as_c_str(), flags, Mode::empty())?);
    let mut command = Command::new(program);
    command.args(args).stdin(follower.try_clone()?).stdout(follower.try_clone()?).stderr(follower);
    let child = command.spawn()?;
    // It has the follower's other copies.
    drop(command);
    let total = drain(size, File::from(leader))?;
    finish(child, total, start)
}

/// A terminal ends with EIO.
fn drain(size: usize, mut from: impl Read) -> Result<usize> {
    let mut buffer = vec![0; size];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => total += count,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                return Ok(total);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn taken<T>(pipe: Option<T>) -> Result<T> {
    pipe.ok_or_else(|| Error::other("no pipe"))
}

fn finish(mut child: Child, total: usize, start: Instant) -> Result {
    child.wait()?;
    println!("{total} {}", start.elapsed().as_nanos());
    Ok(())
}
