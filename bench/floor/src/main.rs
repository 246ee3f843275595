//! What the machine itself takes, without any VM: the limit that NetRunner is compared with. Prints numbers only;
//! times are nanoseconds.
//!
//! | `floor …` | prints |
//! | --- | --- |
//! | `spawn COUNT PROGRAM` | of each posix_spawn(3) + wait, on a line of its own |
//! | `workers WORKERS COUNT PROGRAM` | of COUNT of these in each of so many threads, all together |
//! | `hold COUNT PROGRAM` | until COUNT copies that run at the same time have sent a byte back |
//! | `read SIZE PROGRAM ARGS…` | bytes, and time, of the program's stdout, in reads of at most SIZE |
//! | `copy SIZE BYTES PROGRAM ARGS…` | the same, with so many bytes written to its stdin meanwhile |
//! | `ping COUNT PROGRAM ARGS…` | of each byte that goes to the program and comes back, on a line of its own |
//! | `terminal SIZE PROGRAM ARGS…` | as `read`, from a terminal |
//! | `pipes PID` | how many pipes the process has open, and the sum of their capacities in bytes |

mod data;
mod pipes;
mod spawn;

use std::io::Error;
use std::process::ExitCode;

type Result<T = ()> = std::io::Result<T>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result {
    match *args {
        ["spawn", count, program] => spawn::one_by_one(number(count)?, program),
        ["workers", workers, count, program] => spawn::workers(number(workers)?, number(count)?, program),
        ["hold", count, program] => spawn::hold(number(count)?, program),
        ["read", size, program, ref rest @ ..] => data::read(number(size)?, program, rest),
        ["copy", size, bytes, program, ref rest @ ..] => {
            data::copy(number(size)?, number(bytes)?, program, rest)
        }
        ["ping", count, program, ref rest @ ..] => data::ping(number(count)?, program, rest),
        ["terminal", size, program, ref rest @ ..] => data::terminal(number(size)?, program, rest),
        ["pipes", pid] => pipes::count(pid),
        _ => Err(Error::other("there is no such measurement, or not with these arguments")),
    }
}

fn number(text: &str) -> Result<usize> {
    text.parse().map_err(Error::other)
}
