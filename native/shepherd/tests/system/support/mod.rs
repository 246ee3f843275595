//! The VM's part: a fork server, sessions with shepherds, and commands for them. Nothing waits by time; what
//! waits for data gives up after [`PATIENCE`], which fails the test.

mod cgroups;
mod command;
mod fork_server;
mod processes;
mod scratch;
mod session;

pub(crate) use cgroups::{Group, group_of};
pub(crate) use command::{Cmd, Pipe, cmd, fixture, fixture_cmd, pipe, sh};
pub(crate) use fork_server::{ForkServer, shepherd};
pub(crate) use processes::*;
pub(crate) use scratch::Scratch;
pub(crate) use session::Session;

use std::io::Write as _;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Says aloud what is not tested, and why.
pub(crate) fn skipped(why: &str) {
    let thread = std::thread::current();
    // Not eprintln!, which is kept back for tests that pass.
    let _ = writeln!(std::io::stderr(), "skipped: {}: {why}", thread.name().unwrap_or_default());
}

/// A test that needs root says so where it is not.
pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skipped("only root can become another user");
    }
    is_root
}
