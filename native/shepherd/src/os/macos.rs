//! macOS, by its manual pages (it is checked by the compiler only): no subreaper, no pidfds, no parent-death
//! signal, no /proc. Only the process group is reachable.

use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::select::{FdSet, pselect};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;
use protocol::Rusage;
use rustix::event::PollFlags;
use rustix::io::{Errno, FdFlags};
use rustix::process::{Gid, Pid, Resource, Uid};

use super::unix::{exit, from_nix, last_errno};
use super::{EndedChild, Process, Signal, Watched, Woken};

pub(crate) const HIGHEST_SIGNAL: c_int = 31;

/// The VM asks for none here; who asks all the same is told.
pub(crate) const HAS_CGROUPS: bool = false;

/// That the peer has closed its end; poll(2) has nothing for its sending direction alone.
pub(crate) const HANG_UP: PollFlags = PollFlags::HUP;

pub(crate) fn become_subreaper() -> Result<(), Errno> {
    Ok(())
}

pub(crate) fn is_subreaper() -> bool {
    false
}

pub(crate) fn die_with_parent() {}

/// What no macOS has is no news.
pub(crate) fn lacks() -> Vec<u8> {
    Vec::new()
}

pub(crate) fn pidfd(_pid: Pid) -> Option<OwnedFd> {
    None
}

pub(crate) fn reset_disposition(number: c_int) {
    // SAFETY: SIG_DFL is no code that could run.
    unsafe { libc::signal(number, libc::SIG_DFL) };
}

/// pipe(2) takes no flags here.
pub(crate) fn error_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let pipe = rustix::pipe::pipe()?;
    for end in [&pipe.0, &pipe.1] {
        rustix::io::fcntl_setfd(end, FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(end, true)?;
    }
    Ok(pipe)
}

/// Closes every fd from 3 up but `keep`.
pub(crate) fn close_all_but(keep: BorrowedFd<'_>) {
    let entries = std::fs::read_dir("/dev/fd").into_iter().flatten();
    let open: Vec<c_int> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && *fd != keep.as_raw_fd()) {
        // SAFETY: nothing that is used later owns an fd other than 0, 1, 2 and `keep`.
        unsafe { libc::close(fd) };
    }
}

/// Waits until an fd may be ready, a child has ended or the time is up. There is no ppoll(2).
pub(crate) fn wait(watched: &[Watched<'_>], timeout: Option<Duration>) -> Result<Woken, Errno> {
    let (mut readable, mut writable, mut urgent) = (FdSet::new(), FdSet::new(), FdSet::new());
    for watched in watched {
        if watched.read {
            readable.insert(watched.fd);
        }
        if watched.write {
            writable.insert(watched.fd);
        }
        if watched.urgent {
            urgent.insert(watched.fd);
        }
    }
    let timeout = timeout.map(TimeSpec::from_duration);
    let unblocked = SigSet::empty();
    match pselect(None, &mut readable, &mut writable, &mut urgent, timeout.as_ref(), Some(&unblocked)) {
        Ok(_) => Ok(Woken::ByFdOrTime),
        Err(nix::errno::Errno::EINTR) => Ok(Woken::ByChild),
        Err(errno) => Err(from_nix(errno)),
    }
}

/// A child that has ended. It is not reaped. Nothing here tells what a zombie has used (wait4(2) would reap
/// it), so that is all zeros.
pub(crate) fn ended_child() -> Result<Option<EndedChild>, Errno> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid(2) writes a siginfo_t.
    if unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) } != 0 {
        return match last_errno() {
            Errno::CHILD => Ok(None),
            errno => Err(errno),
        };
    }
    // SAFETY: zeros are a siginfo_t, and so is what was written over them.
    let info = unsafe { info.assume_init() };
    let exit = exit(info.si_code, info.si_status);
    Ok(Pid::from_raw(info.si_pid).map(|pid| EndedChild { pid, exit, rusage: Rusage::default() }))
}

/// Whether anything in the group lives: kill(2) finds no zombies.
pub(crate) fn any_child_alive(group: Pid) -> bool {
    rustix::process::test_kill_process_group(group).is_ok()
}

pub(crate) fn set_groups(groups: &[Gid]) -> Result<(), Errno> {
    let count = c_int::try_from(groups.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `Gid` is transparent to gid_t, and `count` of them are there.
    done(unsafe { libc::setgroups(count, groups.as_ptr().cast()) })
}

/// With root's rights it sets all three: real, effective and saved (setgid(2)).
pub(crate) fn set_gid(gid: Gid) -> Result<(), Errno> {
    // SAFETY: setgid(2) takes a number.
    done(unsafe { libc::setgid(gid.as_raw()) })?;
    let is_set = rustix::process::getgid() == gid && rustix::process::getegid() == gid;
    if is_set { Ok(()) } else { Err(Errno::PERM) }
}

/// With root's rights it sets all three: real, effective and saved (setuid(2)).
pub(crate) fn set_uid(uid: Uid) -> Result<(), Errno> {
    // SAFETY: setuid(2) takes a number.
    done(unsafe { libc::setuid(uid.as_raw()) })?;
    let is_set = rustix::process::getuid() == uid && rustix::process::geteuid() == uid;
    if is_set { Ok(()) } else { Err(Errno::PERM) }
}

pub(crate) fn drop_capabilities() -> Result<(), Errno> {
    Ok(())
}

/// To see that it fails.
pub(crate) fn regain_root_user() -> Result<(), Errno> {
    // SAFETY: seteuid(2) takes a number.
    done(unsafe { libc::seteuid(0) })
}

/// To see that it fails.
pub(crate) fn regain_root_group() -> Result<(), Errno> {
    // SAFETY: setegid(2) takes a number.
    done(unsafe { libc::setegid(0) })
}

fn done(result: c_int) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

pub(crate) fn nice_session(_text: &CStr) {}

pub(crate) fn resource(resource: protocol::Resource) -> Option<Resource> {
    Some(match resource {
        protocol::Resource::As => Resource::As,
        protocol::Resource::Core => Resource::Core,
        protocol::Resource::Cpu => Resource::Cpu,
        protocol::Resource::Data => Resource::Data,
        protocol::Resource::Fsize => Resource::Fsize,
        protocol::Resource::Memlock => Resource::Memlock,
        protocol::Resource::Nofile => Resource::Nofile,
        protocol::Resource::Nproc => Resource::Nproc,
        protocol::Resource::Rss => Resource::Rss,
        protocol::Resource::Stack => Resource::Stack,
        protocol::Resource::Locks
        | protocol::Resource::Msgqueue
        | protocol::Resource::Nice
        | protocol::Resource::Rtprio
        | protocol::Resource::Rttime
        | protocol::Resource::Sigpending => return None,
    })
}

pub(crate) fn slices() -> i32 {
    1
}

pub(crate) fn only_descendant() -> Option<Process> {
    None
}

pub(crate) fn processes(_slice: i32, _near: Pid) -> Option<std::iter::Empty<Process>> {
    None
}

/// The command, which is not reaped here.
pub(crate) fn children(_near: Pid) -> Vec<Pid> {
    Vec::new()
}

pub(crate) fn process(_pid: Pid) -> Option<Process> {
    None
}

/// Nothing is found that would have to be pinned.
pub(crate) struct PinnedProcess(Pid);

pub(crate) fn pin(pid: Pid) -> Option<PinnedProcess> {
    Some(PinnedProcess(pid))
}

impl PinnedProcess {
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        super::kill_process(self.0, signal)
    }
}
