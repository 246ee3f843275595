//! The real binary, driven over its sockets as the VM drives it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

mod cannot_start;
mod cgroup;
mod fork_server;
mod pty;
mod reuse;
mod rights;
mod robustness;
mod signals;
mod start;
mod stop;
mod support;
mod timing;
mod unprivileged;
