//! Starting programs. std uses posix_spawn(3) here: no `pre_exec`, no uid, no chdir.

use std::io::{Error, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use crate::Result;

pub(crate) fn one_by_one(count: usize, program: &str) -> Result {
    let mut out = std::io::stdout().lock();
    for _ in 0..count {
        let start = Instant::now();
        run(program)?;
        writeln!(out, "{}", start.elapsed().as_nanos())?;
    }
    Ok(())
}

pub(crate) fn workers(workers: usize, count: usize, program: &str) -> Result {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..workers).map(|_| scope.spawn(move || (0..count).try_for_each(|_| run(program)))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| Error::other("a thread has panicked"))?)
    })?;
    println!("{}", start.elapsed().as_nanos());
    Ok(())
}

fn run(program: &str) -> Result {
    let status = Command::new(program).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(Error::other(format!("{program}: {status}"))) }
}

/// PROGRAM is one that sends back what it gets.
pub(crate) fn hold(count: usize, program: &str) -> Result {
    let start = Instant::now();
    let mut running = (0..count).map(|_| start_piped(program)).collect::<Result<Vec<_>>>()?;
    let mut byte = [b'x'];
    for (_, stdin, _) in &mut running {
        stdin.write_all(&byte)?;
    }
    for (_, _, stdout) in &mut running {
        stdout.read_exact(&mut byte)?;
    }
    println!("{}", start.elapsed().as_nanos());
    for (mut child, stdin, _stdout) in running {
        drop(stdin);
        child.wait()?;
    }
    Ok(())
}

fn start_piped(program: &str) -> Result<(Child, ChildStdin, ChildStdout)> {
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(stdin), Some(stdout)) => Ok((child, stdin, stdout)),
        _ => Err(Error::other("no pipes")),
    }
}
