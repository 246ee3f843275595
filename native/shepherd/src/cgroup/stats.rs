//! What a group has used.

use std::ffi::CStr;

use protocol::CgroupStats;

use super::leaf::Leaf;

/// What the kernel counts: without a controller its files are missing; `cpu.stat` is always there, in part.
pub(super) fn read(leaf: &Leaf) -> CgroupStats {
    let text = |file: &CStr| leaf.read(file).unwrap_or_default();
    let number = |file: &CStr| text(file).trim().parse().ok();
    let memory = text(c"memory.events");
    let cpu = text(c"cpu.stat");
    CgroupStats {
        memory_peak_bytes: number(c"memory.peak"),
        oom: value(&memory, "oom"),
        oom_kill: value(&memory, "oom_kill"),
        cpu_us: value(&cpu, "usage_usec"),
        cpu_user_us: value(&cpu, "user_usec"),
        cpu_system_us: value(&cpu, "system_usec"),
        throttled: value(&cpu, "nr_throttled"),
        throttled_us: value(&cpu, "throttled_usec"),
        pids_peak: number(c"pids.peak"),
        pids_max: value(&text(c"pids.events"), "max"),
    }
}

/// Of a "flat keyed" file: a name and a number on each line.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_the_whole_name() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(value(events, "oom"), Some(3));
        assert_eq!(value(events, "oom_kill"), Some(2));
        assert_eq!(value(events, "peak"), None);
        assert_eq!(value("max max\n", "max"), None);
    }
}
