//! What the shepherd relies on: waitid(2) that asks for stopped children only fails with ECHILD exactly when
//! no child is alive. The one test of its process, for it counts all children.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid};

fn any_child_alive() -> bool {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::All, options) {
        Ok(_) => true,
        Err(errno) => {
            assert_eq!(errno, Errno::CHILD);
            false
        }
    }
}

fn cat() -> Child {
    Command::new("cat").stdin(Stdio::piped()).spawn().unwrap()
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Ends it without reaping it.
fn make_zombie(child: &mut Child) {
    let pidfd = pidfd_open(pid(child), PidfdFlags::empty()).unwrap();
    drop(child.stdin.take());
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
}

#[test]
fn no_child_is_alive_means_echild() {
    assert!(!any_child_alive(), "no child at all");
    let mut first = cat();
    assert!(any_child_alive(), "one that lives");
    make_zombie(&mut first);
    assert!(!any_child_alive(), "a zombie");
    let mut second = cat();
    assert!(any_child_alive(), "a zombie, then one that lives");
    let mut third = cat();
    make_zombie(&mut third);
    assert!(any_child_alive(), "one that lives between zombies");
    kill_process(pid(&second), Signal::STOP).unwrap();
    waitid(WaitId::Pid(pid(&second)), WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT).unwrap();
    assert!(any_child_alive(), "a stopped one that nobody has waited for");
    waitid(WaitId::Pid(pid(&second)), WaitIdOptions::STOPPED).unwrap();
    assert!(any_child_alive(), "a stopped one");
    kill_process(pid(&second), Signal::CONT).unwrap();
    make_zombie(&mut second);
    assert!(!any_child_alive(), "zombies only");
    for child in [&mut first, &mut second, &mut third] {
        child.wait().unwrap();
    }
    assert!(!any_child_alive(), "all reaped");
}
