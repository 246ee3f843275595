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

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
