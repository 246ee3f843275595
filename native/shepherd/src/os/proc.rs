//! Linux: the table of processes, from /proc.

use std::fmt::Write as _;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, getpid};

use super::Process;

/// How many slices of processes there are: all at once from /proc. Without it, or where it shows those of
/// another PID namespace, there are only our children, and many slices.
pub(crate) fn slices() -> i32 {
    if is_ours() { 1 } else { super::system::SLICES }
}

/// The processes of a slice, from /proc by rising pid. Of many slices the first is that around `near`, which
/// was forked when those were that are looked for. Read while it goes: a process that appears during the
/// walk, with a higher pid, is found by it.
pub(crate) fn processes(slice: i32, near: Pid) -> Option<Box<dyn Iterator<Item = Process>>> {
    if !is_ours() {
        return Some(Box::new(super::system::children_by_number(slice, near)));
    }
    let entries = std::fs::read_dir("/proc").ok()?;
    Some(Box::new(entries.filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        process(Pid::from_raw(pid)?)
    })))
}

/// Whether the pids in /proc are those that this process knows, and the one that it has itself. In a PID
/// namespace with the /proc of the one above, they name other processes (pid_namespaces(7)).
pub(super) fn is_ours() -> bool {
    let me = getpid().to_string();
    let is_own_name = std::fs::read_link("/proc/self").is_ok_and(|name| name.as_os_str() == me.as_str());
    // One pid for each namespace from that of /proc down to ours; before Linux 4.1 the line is missing.
    is_own_name
        && std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
            let mut lines = status.lines();
            lines.find_map(|line| line.strip_prefix("NSpid:")).is_none_or(|pids| pids.trim() == me)
        })
}

/// The children of this process, zombies too. It has one thread, so one list.
pub(crate) fn children(near: Pid) -> Vec<Pid> {
    let me = getpid();
    children_of_thread(me).filter(|_| is_ours()).unwrap_or_else(|| {
        // Of many slices the likely one: who is not reaped now is reaped in the end.
        let children = processes(0, near).into_iter().flatten();
        children
            .filter(|process| process.parent == me.as_raw_nonzero().get())
            .map(|child| child.pid)
            .collect()
    })
}

/// `None` also where the kernel was built without such a list (proc_pid_children(5)).
///
/// While others end, a list may leave out some. Its beginning is exact, and so is the end of a list whose only
/// entry is not reaped: the kernel goes on from the last entry, and puts new ones behind it.
fn children_of_thread(thread: Pid) -> Option<Vec<Pid>> {
    let pids = std::fs::read_to_string(format!("/proc/{thread}/task/{thread}/children")).ok()?;
    Some(pids.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect())
}

/// The only descendant of this process, a subreaper: a child with one thread and no children. `None`: there may
/// be others. Tells in a few small files what else takes a look at every process of the system.
///
/// Whoever was there before is seen. The children of a thread that ends become those of another thread before it
/// is gone, those of a process become ours: so threads are counted before the list is read, and our own children
/// last. The first thread can end as well, and hand its children to one that it has just made: so both are done
/// twice.
pub(crate) fn only_descendant() -> Option<Process> {
    let only_child = || match children_of_thread(getpid())?.as_slice() {
        [child] => Some(*child),
        _ => None,
    };
    let without_children = |pid| {
        let (process, threads) = stat(pid)?;
        (threads == 1 && children_of_thread(pid)?.is_empty()).then_some(process)
    };
    let child = only_child().filter(|_| is_ours())?;
    without_children(child)?;
    without_children(child).filter(|_| only_child() == Some(child))
}

/// One process; `None` when there is none.
pub(crate) fn process(pid: Pid) -> Option<Process> {
    stat(pid).map(|(process, _threads)| process)
}

fn stat(pid: Pid) -> Option<(Process, i32)> {
    let mut path = String::with_capacity(24);
    write!(path, "/proc/{pid}/stat").ok()?;
    let file = rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // The fields that are used end within 64 + 20 * 20 bytes.
    let mut buffer = [0; 512];
    let length = rustix::io::read(&file, &mut buffer).ok()?;
    parse_stat(pid, &buffer[..length])
}

/// proc_pid_stat(5). The name of the program may hold spaces and parentheses: what counts comes after the
/// last `)`. And the number of threads.
fn parse_stat(pid: Pid, stat: &[u8]) -> Option<(Process, i32)> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end_of_name + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    // Field 20; session was field 6.
    let threads: i32 = fields.nth(13)?.parse().ok()?;
    // Field 22.
    let start = fields.nth(1)?.parse().ok()?;
    // A thread group whose leader has ended while others run shows the leader's Z.
    let alive = !matches!(state, "Z" | "X") || threads > 1;
    Some((Process { pid, parent, group, session, start, alive }, threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(stat: &str) -> Option<Process> {
        parse_stat(Pid::from_raw(7).unwrap(), stat.as_bytes()).map(|(process, _threads)| process)
    }

    #[test]
    fn a_program_name_may_hold_anything() {
        for name in ["sh", "a b", ") Z 1 1 (", ")", "((", "\n"] {
            let found = parse(&format!("7 ({name}) S 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9 0")).unwrap();
            assert_eq!((found.parent, found.group, found.session), (3, 4, 5), "{name}");
            assert_eq!((found.start, found.alive), (9, true), "{name}");
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
    fn children_are_found_by_their_numbers_too() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        let find = || {
            super::super::system::children_by_number(0, getpid())
                .find(|found| found.pid.as_raw_nonzero().get() == pid)
        };
        let found = find().unwrap();
        assert!(found.alive);
        assert_eq!(found.parent, getpid().as_raw_nonzero().get());
        child.kill().unwrap();
        while find().unwrap().alive {}
        child.wait().unwrap();
    }

    #[test]
    fn this_process_is_in_the_table() {
        let me = processes(0, getpid()).unwrap().find(|process| process.pid == getpid()).unwrap();
        assert!(me.alive);
        assert_eq!(me.parent, Pid::as_raw(rustix::process::getppid()));
    }
}
