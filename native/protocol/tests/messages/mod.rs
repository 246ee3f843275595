//! Every message that can be sent.

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::{
    Cgroup, CgroupLimit, CgroupLimitName, CgroupStats, Credentials, Directory, Event, Exit, Leftovers,
    Request, Resource, Rlimit, Rusage, SignalResult, Spawn, Stage, Stdio, Strings,
};

fn c_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(1..=u8::MAX, 0..40)
}

fn leftovers() -> impl Strategy<Value = Leftovers> {
    prop_oneof![Just(Leftovers::Kill), Just(Leftovers::Keep)]
}

fn stdio() -> impl Strategy<Value = [Stdio; 3]> {
    let input = || prop_oneof![Just(Stdio::Null), Just(Stdio::Fd)];
    (input(), input(), prop_oneof![input(), Just(Stdio::Stdout)]).prop_map(<[Stdio; 3]>::from)
}

fn rlimit() -> impl Strategy<Value = Rlimit> {
    let resource =
        (0..16_u8).prop_map(|number| Resource::from_number(number).expect("there are sixteen resources"));
    (resource, any::<Option<u64>>(), any::<Option<u64>>()).prop_map(|(resource, soft, hard)| Rlimit {
        resource,
        soft,
        hard,
    })
}

fn credentials() -> impl Strategy<Value = Credentials> {
    let id = || 0..u32::MAX;
    (prop::option::of(id()), prop::option::of(id()), prop::option::of(vec(id(), 0..5)))
        .prop_map(|(uid, gid, groups)| Credentials { uid, gid, groups })
}

fn cgroup() -> impl Strategy<Value = Cgroup> {
    let limit = (0..9_u8, vec(1..=u8::MAX, 1..20)).prop_map(|(number, value)| CgroupLimit {
        name: CgroupLimitName::from_number(number).expect("there are nine limits"),
        value,
    });
    ("/[a-z/]{0,20}", vec("[a-zA-Z0-9 ]{1,10}", 1..4), "nr-[a-z2-7]{16}", vec(limit, 0..4)).prop_map(
        |(root, parts, leaf, limits)| Cgroup {
            root: root.into_bytes(),
            parts: parts.into_iter().map(String::into_bytes).collect(),
            leaf: leaf.into_bytes(),
            limits,
        },
    )
}

fn spawn() -> impl Strategy<Value = Spawn> {
    let names =
        (vec(1..=u8::MAX, 1..40), vec(c_bytes(), 1..5), vec(c_bytes(), 0..5), prop::option::of(c_bytes()));
    let ending = (any::<u32>(), vec(1..=64_u8, 1..4), leftovers(), any::<bool>());
    let rights = (
        prop::option::of(-20..=19_i32),
        vec(rlimit(), 0..4),
        prop::option::of(credentials()),
        any::<bool>(),
        prop::option::of(cgroup()),
        any::<u64>(),
    );
    (names, 0..=0o777_u32, stdio(), ending, rights).prop_map(
        |(
            (executable, argv, env, path),
            umask,
            stdio,
            (kill_timeout_ms, stop_signals, leftovers, start_awaited),
            (nice, rlimits, credentials, terminal, cgroup, nonce),
        )| Spawn {
            executable,
            argv,
            env: env.into_iter().collect(),
            directory: Directory { path },
            umask,
            stdio,
            kill_timeout_ms,
            stop_signals,
            leftovers,
            start_awaited,
            nice,
            rlimits,
            credentials,
            terminal,
            cgroup,
            nonce,
        },
    )
}

pub(crate) fn smallest_spawn() -> Spawn {
    Spawn {
        executable: b"a".to_vec(),
        argv: vec![Vec::new()],
        env: Strings::default(),
        directory: Directory::default(),
        umask: 0,
        stdio: [Stdio::Null; 3],
        kill_timeout_ms: 0,
        stop_signals: vec![15],
        leftovers: Leftovers::Kill,
        start_awaited: false,
        nice: None,
        rlimits: Vec::new(),
        credentials: None,
        terminal: false,
        cgroup: None,
        nonce: 0,
    }
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        3 => spawn().prop_map(|spawn| Request::Spawn(Box::new(spawn))),
        1 => (1..=64).prop_map(Request::Signal),
        1 => Just(Request::Stop),
        1 => (cgroup(), any::<u64>()).prop_map(|(cgroup, nonce)| Request::Sweep { cgroup: Box::new(cgroup), nonce }),
    ]
}

fn stage() -> impl Strategy<Value = Stage> {
    // Those of their own, of resource limits, of cgroups.
    let numbers = prop_oneof![0..8_u8, 32..48_u8, 64..77_u8];
    numbers.prop_map(|number| Stage::from_number(number).expect("these are all stages"))
}

fn rusage() -> impl Strategy<Value = Rusage> {
    any::<[u64; 9]>().prop_map(
        |[
            user_us,
            system_us,
            max_rss_bytes,
            minor_faults,
            major_faults,
            blocks_in,
            blocks_out,
            waited,
            forced,
        ]| Rusage {
            user_us,
            system_us,
            max_rss_bytes,
            minor_faults,
            major_faults,
            blocks_in,
            blocks_out,
            voluntary_switches: waited,
            involuntary_switches: forced,
        },
    )
}

fn cgroup_stats() -> impl Strategy<Value = CgroupStats> {
    any::<[Option<u64>; 10]>().prop_map(
        |[
            memory,
            oom,
            oom_kill,
            cpu_us,
            cpu_user_us,
            cpu_system_us,
            throttled,
            throttled_us,
            pids,
            refused,
        ]| {
            CgroupStats {
                memory_peak_bytes: memory,
                oom,
                oom_kill,
                cpu_us,
                cpu_user_us,
                cpu_system_us,
                throttled,
                throttled_us,
                pids_peak: pids,
                pids_max: refused,
            }
        },
    )
}

fn exit() -> impl Strategy<Value = Exit> {
    prop_oneof![
        any::<u8>().prop_map(Exit::Status),
        (1..=64_u8, any::<bool>()).prop_map(|(signal, core_dumped)| Exit::Signal { signal, core_dumped }),
    ]
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let positive = || 1..=i32::MAX;
    let errno = || 1..=4095;
    prop_oneof![
        (0..=1_u8).prop_map(|fds| Event::Forked { fds }),
        (positive(), 0..=1_u8).prop_map(|(os_pid, fds)| Event::Started { os_pid, fds }),
        (stage(), errno()).prop_map(|(stage, errno)| Event::Failed { stage, errno }),
        Just(Event::Signalled(SignalResult::Ok)),
        Just(Event::Signalled(SignalResult::NotRunning)),
        errno().prop_map(|errno| Event::Signalled(SignalResult::Errno(errno))),
        (exit(), rusage()).prop_map(|(exit, rusage)| Event::Exited { exit, rusage }),
        vec(positive(), 0..10).prop_map(Event::Unkillable),
        cgroup_stats().prop_map(Event::Cgroup),
        any::<u64>().prop_map(|nonce| Event::Done { nonce }),
    ]
}
