//! What the pipes of another process hold: fcntl(2), F_GETPIPE_SZ, which only somebody with the pipe open can ask.

use std::collections::HashMap;

use rustix::fs::{Mode, OFlags};

use crate::Result;

pub(crate) fn count(pid: &str) -> Result {
    let directory = format!("/proc/{pid}/fd");
    let mut pipes = HashMap::new();
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        let target = std::fs::read_link(&path)?;
        if !target.to_string_lossy().starts_with("pipe:") {
            continue;
        }
        // Without O_NONBLOCK it would wait for somebody at the other end.
        let pipe =
            rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        pipes.insert(target, rustix::pipe::fcntl_getpipe_size(&pipe)?);
    }
    println!("{} {}", pipes.len(), pipes.values().sum::<usize>());
    Ok(())
}
