//! Memory for a child that shares ours to run on.

use std::ffi::c_void;

use rustix::io::Errno;

use crate::os;

/// With a part below it that nothing may touch. It stays until this process ends, whose commands run on it one
/// after the other.
pub(crate) struct Stack {
    top: *mut c_void,
}

const BYTES: usize = 64 * 1024;
/// At least a page, on every system.
const GUARD_BYTES: usize = 64 * 1024;

impl Stack {
    pub(crate) fn new() -> Result<Stack, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), GUARD_BYTES + BYTES, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(os::last_errno());
        }
        let usable = base.wrapping_byte_add(GUARD_BYTES);
        // SAFETY: inside the mapping just made, which nothing uses yet.
        match unsafe { libc::mprotect(usable, BYTES, libc::PROT_READ | libc::PROT_WRITE) } {
            0 => Ok(Stack { top: usable.wrapping_byte_add(BYTES) }),
            _ => Err(os::last_errno()),
        }
    }

    /// Stacks grow down; the end of a page is aligned for every ABI.
    pub(crate) fn top(&self) -> *mut c_void {
        self.top
    }
}
