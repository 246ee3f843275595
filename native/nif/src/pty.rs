//! Makes pseudo-terminals (pty(7)). Size and echo are set before anything runs on one.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions, Winsize};
use rustler::NifMap;

/// `t:NetRunner.Options.pty/0`.
#[derive(NifMap)]
#[rustler(decode)]
pub(crate) struct Pty {
    rows: u16,
    cols: u16,
    echo: bool,
}

pub(crate) struct Ends {
    /// Ours, non-blocking.
    pub(crate) leader: OwnedFd,
    /// The command's.
    pub(crate) follower: OwnedFd,
}

/// `user`: whose terminal it is to be, where that is not the VM's own user (chown(2) by login(1)).
pub(crate) fn open(pty: &Pty, user: Option<u32>) -> Result<Ends, Errno> {
    let leader = leader()?;
    rustix::pty::grantpt(&leader)?;
    rustix::pty::unlockpt(&leader)?;
    let follower = follower(&leader)?;
    set_size(&leader, pty.rows, pty.cols)?;
    if !pty.echo {
        let mut modes = rustix::termios::tcgetattr(&follower)?;
        modes.local_modes.remove(LocalModes::ECHO);
        rustix::termios::tcsetattr(&follower, OptionalActions::Now, &modes)?;
    }
    if let Some(user) = user {
        // One that may not do this may not become that user, which is said when it is tried.
        let _ = rustix::fs::fchown(&follower, Some(Uid::from_raw(user)), None);
    }
    rustix::fs::fcntl_setfl(&leader, OFlags::NONBLOCK)?;
    Ok(Ends { leader, follower })
}

/// Sends SIGWINCH to the foreground group, if the size is another one (tty_ioctl(4), `TIOCSWINSZ`).
pub(crate) fn set_size(terminal: impl std::os::fd::AsFd, rows: u16, cols: u16) -> Result<(), Errno> {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

#[cfg(target_os = "linux")]
fn leader() -> Result<OwnedFd, Errno> {
    rustix::io::retry_on_intr(|| {
        rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
    })
}

#[cfg(not(target_os = "linux"))]
fn leader() -> Result<OwnedFd, Errno> {
    let leader = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    rustix::io::fcntl_setfd(&leader, rustix::io::FdFlags::CLOEXEC)?;
    Ok(leader)
}

/// Without a path where the system can do that: /dev/pts may not be that of the leader's devpts(5).
fn follower(leader: &OwnedFd) -> Result<OwnedFd, Errno> {
    #[cfg(target_os = "linux")]
    match rustix::pty::ioctl_tiocgptpeer(
        leader,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    ) {
        // Linux before 4.13.
        Err(Errno::INVAL | Errno::NOTTY) => {}
        other => return other,
    }
    let path = rustix::pty::ptsname(leader, Vec::new())?;
    rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}
