//! How long /bin/true takes, against std's posix_spawn(3) and wait. A measurement and no test:
//! `cargo test --release -p shepherd --test system -- --ignored --nocapture`

use std::time::{Duration, Instant};

use crate::support::*;

const RUNS: usize = 1_000;

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |permille: usize| times[times.len() * permille / 1_000].as_micros();
    println!("{what:<28} p10 {:>5} µs   median {:>5} µs   p99 {:>5} µs", at(100), at(500), at(990));
}

#[test]
#[ignore = "a measurement"]
fn bin_true() {
    let fork_server = ForkServer::start();
    let (mut started, mut done, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let mut session = fork_server.take_idle();
        let start = Instant::now();
        session.spawn(cmd(["/bin/true"]));
        session.started();
        started.push(start.elapsed());
        session.exited();
        session.over();
        done.push(start.elapsed());
        fork_server.fork_ahead();

        let start = Instant::now();
        std::process::Command::new("/bin/true").env_clear().status().unwrap();
        bare.push(start.elapsed());
    }
    print("request to Started", started);
    print("request to Done", done);
    print("std::process::Command", bare);
}
