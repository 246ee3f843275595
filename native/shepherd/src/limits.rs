//! Niceness and resource limits of the command.

use std::ffi::CString;

use protocol::{Rlimit, Stage};
use rustix::io::Errno;

use crate::os;

pub(crate) struct Limits {
    nice: Option<Nice>,
    rlimits: Vec<Rlimit>,
}

struct Nice {
    value: i32,
    text: CString,
}

impl Limits {
    pub(crate) fn new(nice: Option<i32>, rlimits: Vec<Rlimit>) -> Limits {
        let nice =
            nice.map(|value| Nice { value, text: CString::new(value.to_string()).unwrap_or_default() });
        Limits { nice, rlimits }
    }

    /// Between fork and exec, while the process has the VM's rights: only they may raise a limit. Niceness first,
    /// for it takes an fd, of which a limit may leave none.
    pub(crate) fn apply(&self) -> Result<(), (Stage, Errno)> {
        if let Some(nice) = &self.nice {
            rustix::process::setpriority_process(None, nice.value).map_err(|errno| (Stage::Nice, errno))?;
            os::nice_session(&nice.text);
        }
        for rlimit in &self.rlimits {
            set(rlimit).map_err(|errno| (Stage::Rlimit(rlimit.resource), errno))?;
        }
        Ok(())
    }
}

fn set(limit: &Rlimit) -> Result<(), Errno> {
    let resource = os::resource(limit.resource).ok_or(Errno::INVAL)?;
    let new = rustix::process::Rlimit { current: limit.soft, maximum: limit.hard };
    rustix::process::setrlimit(resource, new)
}
