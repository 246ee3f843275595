//! `priv/shepherd`: started once per VM as the fork server, which forks the shepherds.

mod cgroup;
mod channel;
mod child;
mod credentials;
mod descendants;
mod escalation;
mod fork;
mod fork_server;
mod launch;
mod limits;
mod os;
mod plan;
mod pty;
mod stack;
mod stdio;
mod supervise;

use std::process::ExitCode;

/// sysexits.h, `EX_USAGE`.
const USAGE: u8 = 64;
/// sysexits.h, `EX_OSERR`.
const OS_ERROR: u8 = 71;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let is_fork_server = arguments.next().is_some_and(|role| role == "fork-server");
    if !is_fork_server || arguments.next().is_some() || !fork_server::has_control_socket() {
        return refuse();
    }
    match fork_server::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(OS_ERROR),
    }
}

fn refuse() -> ExitCode {
    eprintln!("shepherd: an internal part of NetRunner, started by its NIF with a control socket as fd 0");
    ExitCode::from(USAGE)
}
