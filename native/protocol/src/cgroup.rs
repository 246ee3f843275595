//! Control groups (cgroups(7), version 2): where a command is to live, what limits it has there, what it has used.

use crate::codec::{Reader, Writer};

/// A group for one command: `root/parts…/leaf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// An absolute path, below which everything happens. It is there.
    pub root: Vec<u8>,
    /// The levels below it, outermost first. Those that are missing are made.
    pub parts: Vec<Vec<u8>>,
    /// The group of this command alone, see [`Cgroup::is_leaf_name`].
    pub leaf: Vec<u8>,
    pub limits: Vec<CgroupLimit>,
}

/// A limit of the leaf: what is written to its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupLimit {
    pub name: CgroupLimitName,
    pub value: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupLimitName {
    MemoryMax,
    MemoryHigh,
    MemorySwapMax,
    MemoryOomGroup,
    CpuMax,
    CpuWeight,
    PidsMax,
    IoWeight,
    CpusetCpus,
}

/// Each with its name as an option, and its file. The controller is the first word of both.
const LIMITS: [(CgroupLimitName, &str, &str); 9] = [
    (CgroupLimitName::MemoryMax, "memory_max", "memory.max"),
    (CgroupLimitName::MemoryHigh, "memory_high", "memory.high"),
    (CgroupLimitName::MemorySwapMax, "memory_swap_max", "memory.swap.max"),
    (CgroupLimitName::MemoryOomGroup, "memory_oom_group", "memory.oom.group"),
    (CgroupLimitName::CpuMax, "cpu_max", "cpu.max"),
    (CgroupLimitName::CpuWeight, "cpu_weight", "cpu.weight"),
    (CgroupLimitName::PidsMax, "pids_max", "pids.max"),
    (CgroupLimitName::IoWeight, "io_weight", "io.weight"),
    (CgroupLimitName::CpusetCpus, "cpuset_cpus", "cpuset.cpus"),
];

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupStep {
    /// Opening the root.
    Root,
    /// Making a level, or the leaf.
    Create,
    /// Enabling the controllers of the limits.
    Enable,
    /// Starting the command in the leaf.
    Join,
    /// A limit cannot be had.
    Limit(CgroupLimitName),
}

/// Those without a limit, at the place of their number; the limits follow.
const STEPS: [(CgroupStep, &str); 4] = [
    (CgroupStep::Root, "root"),
    (CgroupStep::Create, "create"),
    (CgroupStep::Enable, "enable"),
    (CgroupStep::Join, "join"),
];

/// What a group has used, and what became of it; `None` where the kernel or the group does not count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupStats {
    pub memory_peak_bytes: Option<u64>,
    /// How often the limit was reached and nothing could be freed.
    pub oom: Option<u64>,
    /// Processes that the OOM killer has killed.
    pub oom_kill: Option<u64>,
    pub cpu_us: Option<u64>,
    pub cpu_user_us: Option<u64>,
    pub cpu_system_us: Option<u64>,
    /// Periods in which it used up its `cpu.max`.
    pub throttled: Option<u64>,
    pub throttled_us: Option<u64>,
    pub pids_peak: Option<u64>,
    /// Forks that `pids.max` has refused.
    pub pids_max: Option<u64>,
}

impl CgroupLimitName {
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    #[must_use]
    pub fn from_number(number: u8) -> Option<CgroupLimitName> {
        LIMITS.get(usize::from(number)).map(|(limit, ..)| *limit)
    }

    /// As the option.
    #[must_use]
    pub fn name(self) -> &'static str {
        LIMITS[usize::from(self.number())].1
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<CgroupLimitName> {
        LIMITS.iter().find(|(_, other, _)| *other == name).map(|(limit, ..)| *limit)
    }

    #[must_use]
    pub fn file(self) -> &'static str {
        LIMITS[usize::from(self.number())].2
    }

    #[must_use]
    pub fn controller(self) -> &'static str {
        self.file().split('.').next().unwrap_or_default()
    }
}

impl CgroupStep {
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            CgroupStep::Root => 0,
            CgroupStep::Create => 1,
            CgroupStep::Enable => 2,
            CgroupStep::Join => 3,
            CgroupStep::Limit(limit) => STEPS.len() as u8 + limit.number(),
        }
    }

    #[must_use]
    pub fn from_number(number: u8) -> Option<CgroupStep> {
        match STEPS.get(usize::from(number)) {
            Some((step, _)) => Some(*step),
            None => CgroupLimitName::from_number(number - STEPS.len() as u8).map(CgroupStep::Limit),
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CgroupStep::Limit(limit) => limit.name(),
            step => STEPS[usize::from(step.number())].1,
        }
    }
}

const LEAF_PREFIX: &[u8] = b"nr-";
const LEAF_ID_BYTES: usize = 16;

impl Cgroup {
    /// `nr-` and 16 of a to z and 2 to 7: what looks so is taken for a group of NetRunner's, and removed when its
    /// shepherd is dead.
    #[must_use]
    pub fn is_leaf_name(name: &[u8]) -> bool {
        name.strip_prefix(LEAF_PREFIX).is_some_and(|id| {
            id.len() == LEAF_ID_BYTES && id.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
        })
    }

    /// A name of one directory, which is not the parent's, and no leaf's.
    fn is_part(name: &[u8]) -> bool {
        let is_special = matches!(name, b"" | b"." | b"..") || Cgroup::is_leaf_name(name);
        !is_special && !name.iter().any(|byte| matches!(byte, b'/' | b'\n' | 0))
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.bytes(&self.root);
        out.list(&self.parts, |out, part| out.bytes(part));
        out.bytes(&self.leaf);
        out.list(&self.limits, |out, limit| {
            out.u8(limit.name.number());
            out.bytes(&limit.value);
        });
    }

    pub(crate) fn read(payload: &mut Reader<'_>) -> Option<Cgroup> {
        Some(Cgroup {
            root: payload.c_bytes().filter(|root| root.starts_with(b"/"))?.to_vec(),
            parts: payload
                .list(|payload| payload.bytes().filter(|part| Cgroup::is_part(part)).map(<[u8]>::to_vec))
                .filter(|parts| !parts.is_empty())?,
            leaf: payload.bytes().filter(|leaf| Cgroup::is_leaf_name(leaf))?.to_vec(),
            limits: payload.list(|payload| {
                Some(CgroupLimit {
                    name: CgroupLimitName::from_number(payload.u8()?)?,
                    value: payload.c_bytes().filter(|value| !value.is_empty())?.to_vec(),
                })
            })?,
        })
    }
}

impl CgroupStats {
    /// Every number, in the order in which they are sent.
    fn numbers(&mut self) -> [&mut Option<u64>; 10] {
        [
            &mut self.memory_peak_bytes,
            &mut self.oom,
            &mut self.oom_kill,
            &mut self.cpu_us,
            &mut self.cpu_user_us,
            &mut self.cpu_system_us,
            &mut self.throttled,
            &mut self.throttled_us,
            &mut self.pids_peak,
            &mut self.pids_max,
        ]
    }

    pub(crate) fn write(mut self, out: &mut Writer) {
        for number in self.numbers() {
            out.option(number.as_ref(), |out, number| out.u64(*number));
        }
    }

    pub(crate) fn read(payload: &mut Reader<'_>) -> Option<CgroupStats> {
        let mut stats = CgroupStats::default();
        for number in stats.numbers() {
            *number = payload.option(Reader::u64)?;
        }
        Some(stats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_lead_back() {
        for (place, (limit, name, file)) in LIMITS.into_iter().enumerate() {
            assert_eq!(usize::from(limit.number()), place);
            assert_eq!(CgroupLimitName::from_number(limit.number()), Some(limit));
            assert_eq!(CgroupLimitName::from_name(name), Some(limit));
            assert_eq!((limit.name(), limit.file()), (name, file));
            assert!(name.starts_with(limit.controller()));
        }
        assert_eq!(CgroupLimitName::from_name("memory.max"), None);
        for number in 0..13 {
            assert_eq!(CgroupStep::from_number(number).map(CgroupStep::number), Some(number));
        }
        assert_eq!(CgroupStep::from_number(13), None);
        assert_eq!(CgroupStep::Join.name(), "join");
        assert_eq!(CgroupStep::Limit(CgroupLimitName::PidsMax).name(), "pids_max");
    }

    #[test]
    fn a_leaf_has_a_name_that_nothing_else_has() {
        assert!(Cgroup::is_leaf_name(b"nr-abcdefghijkl2345"));
        for other in [
            "nr-",
            "nr-abcdefghijkl234",
            "nr-abcdefghijkl23456",
            "nr-abcdefghijkl2341",
            "nx-abcdefghijkl2345",
        ] {
            assert!(!Cgroup::is_leaf_name(other.as_bytes()), "{other}");
        }
    }
}
