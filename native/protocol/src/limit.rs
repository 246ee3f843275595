//! Resource limits, by numbers of our own: those of the systems differ.

use crate::codec::{Reader, Writer};

/// What setrlimit(2) limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

const RESOURCES: [(Resource, &str); 16] = [
    (Resource::As, "as"),
    (Resource::Core, "core"),
    (Resource::Cpu, "cpu"),
    (Resource::Data, "data"),
    (Resource::Fsize, "fsize"),
    (Resource::Locks, "locks"),
    (Resource::Memlock, "memlock"),
    (Resource::Msgqueue, "msgqueue"),
    (Resource::Nice, "nice"),
    (Resource::Nofile, "nofile"),
    (Resource::Nproc, "nproc"),
    (Resource::Rss, "rss"),
    (Resource::Rtprio, "rtprio"),
    (Resource::Rttime, "rttime"),
    (Resource::Sigpending, "sigpending"),
    (Resource::Stack, "stack"),
];

impl Resource {
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    #[must_use]
    pub fn from_number(number: u8) -> Option<Resource> {
        RESOURCES.get(usize::from(number)).map(|(resource, _)| *resource)
    }

    /// The name as in `RLIMIT_*`, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        RESOURCES[usize::from(self.number())].1
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Resource> {
        RESOURCES.iter().find(|(_, other)| *other == name).map(|(resource, _)| *resource)
    }
}

/// A limit to set. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    pub resource: Resource,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

impl Rlimit {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.u8(self.resource.number());
        out.option(self.soft.as_ref(), |out, soft| out.u64(*soft));
        out.option(self.hard.as_ref(), |out, hard| out.u64(*hard));
    }

    pub(crate) fn read(payload: &mut Reader<'_>) -> Option<Rlimit> {
        Some(Rlimit {
            resource: Resource::from_number(payload.u8()?)?,
            soft: payload.option(Reader::u64)?,
            hard: payload.option(Reader::u64)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_lead_back() {
        for (place, (resource, name)) in RESOURCES.into_iter().enumerate() {
            assert_eq!(usize::from(resource.number()), place);
            assert_eq!(Resource::from_number(resource.number()), Some(resource));
            assert_eq!(resource.name(), name);
            assert_eq!(Resource::from_name(name), Some(resource));
        }
        assert_eq!(Resource::from_number(16), None);
        assert_eq!(Resource::from_name("NOFILE"), None);
    }
}
