//! Linux: what a process is allowed. All of it is called between fork and exec, and only for this one thread: the
//! raw system calls of rustix. (glibc's wrappers tell all threads, with signals and locks: nptl(7).)

use std::ffi::CStr;
use std::mem::MaybeUninit;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::last_errno;

pub(crate) fn set_groups(groups: &[Gid]) -> Result<(), Errno> {
    rustix::thread::set_thread_groups(groups)
}

/// Real, effective and saved group, and makes sure.
pub(crate) fn set_gid(gid: Gid) -> Result<(), Errno> {
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    made_sure(ids(libc::getresgid)? == [gid.as_raw(); 3])
}

/// Real, effective and saved user, and makes sure.
pub(crate) fn set_uid(uid: Uid) -> Result<(), Errno> {
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    made_sure(ids(libc::getresuid)? == [uid.as_raw(); 3])
}

fn made_sure(is_set: bool) -> Result<(), Errno> {
    if is_set { Ok(()) } else { Err(Errno::PERM) }
}

type GetIds = unsafe extern "C" fn(*mut u32, *mut u32, *mut u32) -> libc::c_int;

fn ids(get: GetIds) -> Result<[u32; 3], Errno> {
    let mut ids = MaybeUninit::<[u32; 3]>::uninit();
    let first = ids.as_mut_ptr().cast::<u32>();
    // SAFETY: getresuid(2) and getresgid(2) write three ids, each to its place in the array.
    if unsafe { get(first, first.wrapping_add(1), first.wrapping_add(2)) } != 0 {
        return Err(last_errno());
    }
    // SAFETY: all three have been written.
    Ok(unsafe { ids.assume_init() })
}

/// Every capability, and with them the ambient ones that an exec would give back (capabilities(7)).
pub(crate) fn drop_capabilities() -> Result<(), Errno> {
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )
}

/// To see that it fails.
pub(crate) fn regain_root_user() -> Result<(), Errno> {
    rustix::thread::set_thread_res_uid(None, Uid::ROOT, None)
}

/// To see that it fails.
pub(crate) fn regain_root_group() -> Result<(), Errno> {
    rustix::thread::set_thread_res_gid(None, Gid::ROOT, None)
}

/// The niceness of the whole session. Where there are autogroups, that of a process only counts within its
/// session (sched(7), "The autogroup feature"), and each command has its own. As far as it can be had: without
/// CAP_SYS_ADMIN only one in 100 ms may set it.
pub(crate) fn nice_session(text: &CStr) {
    const FILE: &CStr = c"/proc/self/autogroup";
    if let Ok(file) = rustix::fs::open(FILE, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::io::write(file, text.to_bytes());
    }
}

pub(crate) fn resource(resource: protocol::Resource) -> Option<Resource> {
    Some(match resource {
        protocol::Resource::As => Resource::As,
        protocol::Resource::Core => Resource::Core,
        protocol::Resource::Cpu => Resource::Cpu,
        protocol::Resource::Data => Resource::Data,
        protocol::Resource::Fsize => Resource::Fsize,
        protocol::Resource::Locks => Resource::Locks,
        protocol::Resource::Memlock => Resource::Memlock,
        protocol::Resource::Msgqueue => Resource::Msgqueue,
        protocol::Resource::Nice => Resource::Nice,
        protocol::Resource::Nofile => Resource::Nofile,
        protocol::Resource::Nproc => Resource::Nproc,
        protocol::Resource::Rss => Resource::Rss,
        protocol::Resource::Rtprio => Resource::Rtprio,
        protocol::Resource::Rttime => Resource::Rttime,
        protocol::Resource::Sigpending => Resource::Sigpending,
        protocol::Resource::Stack => Resource::Stack,
    })
}
