//! Linux: the table of processes, from /proc.

use std::fmt::Write as _;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, getpid};

use super::Process;

/// All processes that /proc shows, by rising pid; `None` without /proc. Read while it goes: a process that
/// appears during the walk, with a higher pid, is found by it.
pub(crate) fn processes() -> Option<impl Iterator<Item = Process>> {
    let entries = std::fs::read_dir("/proc").ok()?;
    // Without a process in it, it is not a proc file system.
    process(getpid())?;
    Some(entries.filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        process(Pid::from_raw(pid)?)
    }))
}

/// The children of this process, zombies too. It has one thread, so one list; a kernel may be built without
/// it (proc_pid_children(5)).
pub(crate) fn children() -> Vec<Pid> {
    let me = getpid();
    match std::fs::read_to_string(format!("/proc/self/task/{me}/children")) {
        Ok(pids) => {
            pids.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
        }
        Err(_) => {
            let children = processes().into_iter().flatten();
            children
                .filter(|process| process.parent == me.as_raw_nonzero().get())
                .map(|child| child.pid)
                .collect()
        }
    }
}

/// One process; `None` when there is none.
pub(crate) fn process(pid: Pid) -> Option<Process> {
    let mut path = String::with_capacity(24);
    write!(path, "/proc/{pid}/stat").ok()?;
    let file = rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // The fields that are used end within 64 + 20 * 20 bytes.
    let mut buffer = [0; 512];
    let length = rustix::io::read(&file, &mut buffer).ok()?;
    parse_stat(pid, &buffer[..length])
}

/// proc_pid_stat(5). The name of the program may hold spaces and parentheses: what counts comes after the
/// last `)`.
fn parse_stat(pid: Pid, stat: &[u8]) -> Option<Process> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end_of_name + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    // Field 20; group was field 5.
    let threads: i32 = fields.nth(14)?.parse().ok()?;
    // Field 22.
    let start = fields.nth(1)?.parse().ok()?;
    // A thread group whose leader has ended while others run shows the leader's Z.
    Some(Process { pid, parent, group, start, alive: !matches!(state, "Z" | "X") || threads > 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(stat: &str) -> Option<Process> {
        parse_stat(Pid::from_raw(7).unwrap(), stat.as_bytes())
    }

    #[test]
    fn a_program_name_may_hold_anything() {
        for name in ["sh", "a b", ") Z 1 1 (", ")", "((", "\n"] {
            let found = parse(&format!("7 ({name}) S 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9 0")).unwrap();
            assert_eq!((found.parent, found.group, found.start, found.alive), (3, 4, 9, true), "{name}");
        }
    }

    #[test]
    fn a_zombie_is_dead_unless_a_thread_runs_on() {
        assert!(!parse("7 (a) Z 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9").unwrap().alive);
        assert!(parse("7 (a) Z 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 2 0 9").unwrap().alive);
    }

    #[test]
    fn a_cut_line_is_no_process() {
        assert_eq!(parse("7 (a) S 3"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_is_in_the_table() {
        let me = processes().unwrap().find(|process| process.pid == getpid()).unwrap();
        assert!(me.alive);
        assert_eq!(me.parent, Pid::as_raw(rustix::process::getppid()));
    }
}
