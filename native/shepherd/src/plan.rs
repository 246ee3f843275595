//! All that the child needs between fork and exec, made before the fork: afterwards nothing may allocate.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char};
use std::os::fd::OwnedFd;

use protocol::{Spawn, Strings};
use rustix::fs::{Mode, RawMode};
use rustix::process::{Pid, getpid};

use crate::credentials::Credentials;
use crate::limits::Limits;
use crate::pty::Terminal;
use crate::stdio::StdioFds;

pub(crate) struct Plan {
    /// The files to try in turn.
    pub(crate) candidates: Vec<CString>,
    /// They come from PATH: that one of them is missing is no news.
    pub(crate) searched: bool,
    pub(crate) argv: CStrings,
    pub(crate) env: CStrings,
    /// Where the command starts, and where `path` starts unless it is absolute.
    pub(crate) directory: OwnedFd,
    pub(crate) path: Option<CString>,
    pub(crate) umask: Mode,
    pub(crate) stdio: StdioFds,
    pub(crate) limits: Limits,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) terminal: Option<Terminal>,
    pub(crate) shepherd: Pid,
}

impl Plan {
    /// `None` when fewer fds have come than the request declares.
    pub(crate) fn new(spawn: Spawn, fds: &mut VecDeque<OwnedFd>) -> Option<Plan> {
        let directory = fds.pop_front()?;
        Some(Plan {
            candidates: candidates(&spawn.executable, spawn.variable(b"PATH")),
            searched: !spawn.executable.contains(&b'/'),
            argv: CStrings::new(spawn.argv.iter().collect()),
            env: CStrings::new(spawn.env),
            directory,
            path: spawn.directory.path.as_deref().map(c_string),
            umask: Mode::from_raw_mode((spawn.umask & 0o777) as RawMode),
            stdio: StdioFds::take(spawn.stdio, fds)?,
            // Behind the others.
            terminal: if spawn.terminal { Some(Terminal::take(fds)?) } else { None },
            limits: Limits::new(spawn.nice, spawn.rlimits),
            credentials: spawn.credentials.map(Credentials::from),
            shepherd: getpid(),
        })
    }
}

/// The paths that execvp(3) would try. `PATH` is the command's, not ours.
fn candidates(executable: &[u8], path: Option<&[u8]>) -> Vec<CString> {
    if executable.contains(&b'/') {
        return vec![c_string(executable)];
    }
    // confstr(3), _CS_PATH.
    const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
    path.unwrap_or(DEFAULT_PATH)
        .split(|byte| *byte == b':')
        .map(|directory| match directory {
            // An empty element is the current directory. "./" says so even to execve(2).
            b"" => c_string(&[b"./", executable].concat()),
            directory => c_string(&[directory, b"/", executable].concat()),
        })
        .collect()
}

/// The codec has refused what holds a NUL; should one come all the same, the string ends there.
fn c_string(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

/// A null-terminated array of C strings, as execve(2) takes it.
pub(crate) struct CStrings {
    /// What `pointers` point into; never changed again.
    _strings: Strings,
    pointers: Vec<*const c_char>,
}

impl CStrings {
    fn new(strings: Strings) -> CStrings {
        let pointers = strings.iter().map(|string| string.as_ptr().cast());
        let pointers = pointers.chain([std::ptr::null()]).collect();
        CStrings { _strings: strings, pointers }
    }

    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

impl Plan {
    pub(crate) fn path(&self) -> Option<&CStr> {
        self.path.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(executable: &str, path: Option<&str>) -> Vec<String> {
        candidates(executable.as_bytes(), path.map(str::as_bytes))
            .into_iter()
            .map(|candidate| candidate.into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_slash_means_no_lookup() {
        assert_eq!(tried("./a", Some("/bin")), ["./a"]);
        assert_eq!(tried("a/b", None), ["a/b"]);
    }

    #[test]
    fn path_is_tried_in_order_and_an_empty_element_is_the_current_directory() {
        assert_eq!(tried("a", Some("/x:/y")), ["/x/a", "/y/a"]);
        assert_eq!(tried("a", Some(":/y:")), ["./a", "/y/a", "./a"]);
        assert_eq!(tried("a", Some("")), ["./a"]);
        assert_eq!(tried("a", None), ["/bin/a", "/usr/bin/a"]);
    }
}
