//! What is done with the pidfds of the fork server, shepherds and commands. Elsewhere than on Linux there are none.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;

use rustix::io::Errno;
use rustix::process::Signal;

/// The pidfd of a child; `None` where it has ended, or where there are none. The VM ignores SIGCHLD, so the kernel
/// reaps a child when it ends (wait(2)), and its number may be a stranger's by then: that the child is still there
/// afterwards says that it is the one that was pinned.
pub(crate) fn of_child(child: &mut Child) -> Result<Option<OwnedFd>, Errno> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        match pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(matches!(child.try_wait(), Ok(None)).then_some(pidfd)),
            // There would be one at another time.
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Err(errno),
            Err(_) => Ok(None),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = child;
        Ok(None)
    }
}

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
