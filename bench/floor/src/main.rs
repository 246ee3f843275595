//! What the machine itself takes, without any VM: the limit that NetRunner is compared with.
//!
//! `floor spawn COUNT PROGRAM` starts PROGRAM with no input and waits for it, COUNT times, and prints the
//! nanoseconds of each on a line. std uses posix_spawn(3) here: no `pre_exec`, no uid, no chdir.
//! `floor read SIZE PROGRAM ARGS…` reads the program's stdout in pieces of at most SIZE bytes to its end,
//! and prints the bytes and the nanoseconds.

use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["spawn", count, program] => number(count).and_then(|count| spawn(count, program)),
        ["read", size, program, rest @ ..] => number(size).and_then(|size| read(size, program, rest)),
        _ => Err(std::io::Error::other("usage: floor spawn COUNT PROGRAM | floor read SIZE PROGRAM ARGS…")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> std::io::Result<usize> {
    text.parse().map_err(std::io::Error::other)
}

fn spawn(count: usize, program: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for _ in 0..count {
        let start = Instant::now();
        let status = Command::new(program).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        let nanoseconds = start.elapsed().as_nanos();
        if !status.success() {
            return Err(std::io::Error::other(format!("{program}: {status}")));
        }
        writeln!(out, "{nanoseconds}")?;
    }
    Ok(())
}

fn read(size: usize, program: &str, args: &[&str]) -> std::io::Result<()> {
    let start = Instant::now();
    let mut child = Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("no stdout"))?;
    let mut buffer = vec![0; size];
    let mut total = 0;
    loop {
        match stdout.read(&mut buffer)? {
            0 => break,
            count => total += count,
        }
    }
    child.wait()?;
    println!("{total} {}", start.elapsed().as_nanos());
    Ok(())
}
