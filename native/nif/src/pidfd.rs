//! What is done with the pidfds of shepherds and commands. Elsewhere than on Linux there are none.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Signal;

/// SIGKILL to the process behind a pidfd. It may have ended, which is what is wanted.
pub(crate) fn kill(pidfd: &OwnedFd) {
    signal(pidfd, Signal::KILL);
}

pub(crate) fn signal(pidfd: &OwnedFd, signal: Signal) {
    #[cfg(target_os = "linux")]
    {
        let result = rustix::process::pidfd_send_signal(pidfd, signal);
        // ENOSYS: a sandbox came after the start.
        debug_assert!(matches!(result, Ok(()) | Err(Errno::SRCH | Errno::PERM | Errno::NOSYS)));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (pidfd, signal, Errno::SRCH);
}

/// Whether a received fd is a pidfd. That the process behind it is not ours to wait for (ECHILD) is only found
/// when it is one (`kernel/exit.c`, `kernel_waitid_prepare`). `pidfd_send_signal(2)` would take a directory of
/// /proc as well.
pub(crate) fn is_pidfd(fd: &OwnedFd) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let looking_only = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::PidFd(fd.as_fd()), looking_only), Err(Errno::BADF))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = fd.as_fd();
        false
    }
}
