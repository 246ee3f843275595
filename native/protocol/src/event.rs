//! Shepherd → VM.

use crate::cgroup::{CgroupStats, CgroupStep};
use crate::codec::{Message, Reader, Writer};
use crate::limit::Resource;

/// What a shepherd tells the VM: `Started` or `Failed` first; after `Started` any number of `Signalled`,
/// one `Exited`, perhaps `Unkillable`, `Cgroup` where there is one, and `Done` last. `Failed` is the last frame where it comes. `Forked`
/// comes from the fork server, once, anywhere among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// There is a shepherd. With it comes the shepherd's pidfd (none where the system has no pidfds).
    Forked { fds: u8 },
    /// The command runs (its exec succeeded). With it comes the command's pidfd (none where the system has
    /// no pidfds, and none when the command was over before this was said).
    Started { os_pid: i32, fds: u8 },
    /// The command did not start, and nothing of it is left.
    Failed { stage: Stage, errno: i32 },
    /// The answer to a `Signal`.
    Signalled(SignalResult),
    /// The command has exited. Its descendants may still be there.
    Exited { exit: Exit, rusage: Rusage },
    /// These are alive five seconds after SIGKILL. The shepherd stays to reap them.
    Unkillable(Vec<i32>),
    /// What the command's group has used. Right before `Done`.
    Cgroup(CgroupStats),
    /// No process of the command is left. The nonce is that of the request: only who has read it can say this.
    Done { nonce: u64 },
}

/// What the shepherd was doing when a command could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Receiving fds (`MSG_CTRUNC`: no room in the fd table).
    Fds,
    /// A pipe for exec's error.
    Pipe,
    Fork,
    /// A new session, standard fds, umask, parent-death signal.
    Setup,
    Cd,
    Exec,
    Nice,
    /// Supplementary groups, group and user: setting them, and making sure.
    Credentials,
    Rlimit(Resource),
    Cgroup(CgroupStep),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalResult {
    Ok,
    /// The command has exited; nothing was signalled.
    NotRunning,
    Errno(i32),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Status(u8),
    Signal { signal: u8, core_dumped: bool },
}

/// getrusage(2) of the command and the children it has waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rusage {
    pub user_us: u64,
    pub system_us: u64,
    pub max_rss_bytes: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub blocks_in: u64,
    pub blocks_out: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
}

impl Event {
    /// No more than this many fds come with one frame.
    pub const MOST_FDS: usize = MAX_FDS as usize;

    /// How many fds come with the frame.
    #[must_use]
    pub fn fd_count(&self) -> usize {
        match self {
            Event::Forked { fds } | Event::Started { fds, .. } => usize::from(*fds),
            _ => 0,
        }
    }
}

impl Stage {
    /// Those without a resource, at the place of their number.
    const PLAIN: [Stage; 8] = [
        Stage::Fds,
        Stage::Pipe,
        Stage::Fork,
        Stage::Setup,
        Stage::Cd,
        Stage::Exec,
        Stage::Nice,
        Stage::Credentials,
    ];

    /// Of the first resource; the others follow.
    const FIRST_RLIMIT: u8 = 32;
    /// Of the first step towards a cgroup.
    const FIRST_CGROUP: u8 = 64;

    /// The number of the stage in a frame and in exec's error pipe.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Stage::Fds => 0,
            Stage::Pipe => 1,
            Stage::Fork => 2,
            Stage::Setup => 3,
            Stage::Cd => 4,
            Stage::Exec => 5,
            Stage::Nice => 6,
            Stage::Credentials => 7,
            Stage::Rlimit(resource) => Stage::FIRST_RLIMIT + resource.number(),
            Stage::Cgroup(step) => Stage::FIRST_CGROUP + step.number(),
        }
    }

    #[must_use]
    pub fn from_number(number: u8) -> Option<Stage> {
        if let Some(step) = number.checked_sub(Stage::FIRST_CGROUP) {
            return CgroupStep::from_number(step).map(Stage::Cgroup);
        }
        match number.checked_sub(Stage::FIRST_RLIMIT) {
            Some(resource) => Resource::from_number(resource).map(Stage::Rlimit),
            None => Stage::PLAIN.get(usize::from(number)).copied(),
        }
    }
}

impl Rusage {
    /// Every number, in the order in which they are sent.
    fn numbers(&mut self) -> [&mut u64; 9] {
        [
            &mut self.user_us,
            &mut self.system_us,
            &mut self.max_rss_bytes,
            &mut self.minor_faults,
            &mut self.major_faults,
            &mut self.blocks_in,
            &mut self.blocks_out,
            &mut self.voluntary_switches,
            &mut self.involuntary_switches,
        ]
    }
}

const STARTED: u8 = 65;
const FAILED: u8 = 66;
const SIGNALLED: u8 = 67;
const EXITED: u8 = 68;
const UNKILLABLE: u8 = 69;
const DONE: u8 = 70;
const FORKED: u8 = 71;
const CGROUP: u8 = 72;

/// No more than this many fds come with one frame: what is declared is bounded by what we send.
const MAX_FDS: u8 = 1;

/// No system call of Linux returns a greater one (`MAX_ERRNO`, linux/err.h), and types of an errno have no room for it.
const MAX_ERRNO: i32 = 4095;

impl Message for Event {
    fn tag(&self) -> u8 {
        match self {
            Event::Started { .. } => STARTED,
            Event::Failed { .. } => FAILED,
            Event::Signalled(_) => SIGNALLED,
            Event::Exited { .. } => EXITED,
            Event::Unkillable(_) => UNKILLABLE,
            Event::Cgroup(_) => CGROUP,
            Event::Done { .. } => DONE,
            Event::Forked { .. } => FORKED,
        }
    }

    fn write(&self, out: &mut Writer) {
        match self {
            Event::Started { os_pid, fds } => {
                out.i32(*os_pid);
                out.u8(*fds);
            }
            Event::Failed { stage, errno } => {
                out.u8(stage.number());
                out.i32(*errno);
            }
            Event::Signalled(result) => match result {
                SignalResult::Ok => out.u8(0),
                SignalResult::NotRunning => out.u8(1),
                SignalResult::Errno(errno) => {
                    out.u8(2);
                    out.i32(*errno);
                }
            },
            Event::Exited { exit, rusage } => {
                match exit {
                    Exit::Status(status) => {
                        out.u8(0);
                        out.u8(*status);
                    }
                    Exit::Signal { signal, core_dumped } => {
                        out.u8(1);
                        out.u8(*signal);
                        out.u8(u8::from(*core_dumped));
                    }
                }
                for number in rusage.clone().numbers() {
                    out.u64(*number);
                }
            }
            Event::Unkillable(os_pids) => out.list(os_pids, |out, os_pid| out.i32(*os_pid)),
            Event::Cgroup(stats) => stats.write(out),
            Event::Done { nonce } => out.u64(*nonce),
            Event::Forked { fds } => out.u8(*fds),
        }
    }

    fn read(tag: u8, payload: &mut Reader<'_>) -> Option<Option<Self>> {
        let os_pid = |payload: &mut Reader<'_>| payload.i32().filter(|os_pid| *os_pid > 0);
        let errno = |payload: &mut Reader<'_>| payload.i32().filter(|errno| (1..=MAX_ERRNO).contains(errno));
        let fds = |payload: &mut Reader<'_>| payload.u8().filter(|fds| *fds <= MAX_FDS);
        Some(Some(match tag {
            FORKED => Event::Forked { fds: fds(payload)? },
            STARTED => Event::Started { os_pid: os_pid(payload)?, fds: fds(payload)? },
            FAILED => Event::Failed { stage: Stage::from_number(payload.u8()?)?, errno: errno(payload)? },
            SIGNALLED => Event::Signalled(match payload.u8()? {
                0 => SignalResult::Ok,
                1 => SignalResult::NotRunning,
                2 => SignalResult::Errno(errno(payload)?),
                _ => return None,
            }),
            EXITED => {
                let exit = match payload.u8()? {
                    0 => Exit::Status(payload.u8()?),
                    1 => Exit::Signal {
                        signal: payload.u8().filter(|signal| (1..=64).contains(signal))?,
                        core_dumped: match payload.u8()? {
                            0 => false,
                            1 => true,
                            _ => return None,
                        },
                    },
                    _ => return None,
                };
                let mut rusage = Rusage::default();
                for number in rusage.numbers() {
                    *number = payload.u64()?;
                }
                Event::Exited { exit, rusage }
            }
            UNKILLABLE => Event::Unkillable(payload.list(os_pid)?),
            CGROUP => Event::Cgroup(CgroupStats::read(payload)?),
            DONE => Event::Done { nonce: payload.u64()? },
            _ => return Some(None),
        }))
    }
}
