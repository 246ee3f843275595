//! The NIF of NetRunner: pipes and control sockets for the BEAM.
//!
//! `calls` has the entry points; `pipe`, `control` and `fork_server` are the resources; `enif` holds every
//! raw call of erl_nif and all the `unsafe` of this crate. Nothing here blocks a scheduler: fds are
//! non-blocking, and what can wait (starting the fork server, opening files, looking users up) runs on a dirty one.

mod atoms;
mod calls;
mod cgroup;
mod control;
mod count;
mod enif;
mod error;
mod fork_server;
mod growth;
mod limits;
mod pidfd;
mod pipe;
mod pool;
mod pty;
mod queue;
mod reading;
mod room;
mod spawn;
mod stdio;
mod terminal;
mod users;
mod writing;

use rustler::{Env, Term};

fn load(env: Env<'_>, _info: Term<'_>) -> bool {
    enif::register::<pipe::Pipe>(env)
        && enif::register::<control::Control>(env)
        && enif::register::<fork_server::ForkServer>(env)
}

rustler::init!("Elixir.NetRunner.Nif", load = load);
