//! Cgroups as Elixir has them.

use protocol::{Cgroup, CgroupLimit, CgroupLimitName, CgroupStats};
use rustler::{Binary, Decoder, Error, NifMap, NifResult, Term};

/// `t:NetRunner.Cgroup.t/0`.
#[derive(NifMap)]
#[rustler(decode)]
pub(crate) struct Group<'a> {
    root: Binary<'a>,
    parts: Vec<Binary<'a>>,
    leaf: Binary<'a>,
    limits: Vec<Limit<'a>>,
}

/// `{name, value}`, the value as the file takes it.
struct Limit<'a> {
    name: CgroupLimitName,
    value: Binary<'a>,
}

impl<'a> Decoder<'a> for Limit<'a> {
    fn decode(term: Term<'a>) -> NifResult<Limit<'a>> {
        let (name, value): (Term<'a>, Binary<'a>) = term.decode()?;
        let name = CgroupLimitName::from_name(&name.atom_to_string()?).ok_or(Error::BadArg)?;
        Ok(Limit { name, value })
    }
}

impl From<&Group<'_>> for Cgroup {
    fn from(group: &Group<'_>) -> Cgroup {
        let bytes = |binary: &Binary<'_>| binary.as_slice().to_vec();
        let limit = |limit: &Limit<'_>| CgroupLimit { name: limit.name, value: bytes(&limit.value) };
        Cgroup {
            root: bytes(&group.root),
            parts: group.parts.iter().map(bytes).collect(),
            leaf: bytes(&group.leaf),
            limits: group.limits.iter().map(limit).collect(),
        }
    }
}

/// `t:NetRunner.Stats.cgroup/0`.
#[derive(NifMap)]
#[rustler(encode)]
pub(crate) struct StatsMap {
    memory_peak_bytes: Option<u64>,
    oom: Option<u64>,
    oom_kill: Option<u64>,
    cpu_us: Option<u64>,
    cpu_user_us: Option<u64>,
    cpu_system_us: Option<u64>,
    throttled: Option<u64>,
    throttled_us: Option<u64>,
    pids_peak: Option<u64>,
    pids_max: Option<u64>,
}

impl From<&CgroupStats> for StatsMap {
    fn from(stats: &CgroupStats) -> StatsMap {
        StatsMap {
            memory_peak_bytes: stats.memory_peak_bytes,
            oom: stats.oom,
            oom_kill: stats.oom_kill,
            cpu_us: stats.cpu_us,
            cpu_user_us: stats.cpu_user_us,
            cpu_system_us: stats.cpu_system_us,
            throttled: stats.throttled,
            throttled_us: stats.throttled_us,
            pids_peak: stats.pids_peak,
            pids_max: stats.pids_max,
        }
    }
}
