//! As whom the command runs.

use rustix::io::Errno;
use rustix::process::{Gid, Uid, getuid};

use crate::os;

/// `None` stays as it is.
pub(crate) struct Credentials {
    uid: Option<Uid>,
    gid: Option<Gid>,
    /// The supplementary groups.
    groups: Option<Vec<Gid>>,
}

impl From<protocol::Credentials> for Credentials {
    fn from(wanted: protocol::Credentials) -> Credentials {
        Credentials {
            uid: wanted.uid.map(Uid::from_raw),
            gid: wanted.gid.map(Gid::from_raw),
            groups: wanted.groups.map(|groups| groups.into_iter().map(Gid::from_raw).collect()),
        }
    }
}

impl Credentials {
    /// Between fork and exec. The user comes last, for with it goes the right to set the others. Each call sets
    /// all of an id (real, effective, saved), and what was set is read back: a sandbox may only pretend.
    pub(crate) fn assume(&self) -> Result<(), Errno> {
        let before = getuid();
        if let Some(groups) = &self.groups {
            os::set_groups(groups)?;
        }
        if let Some(gid) = self.gid {
            os::set_gid(gid)?;
        }
        match self.uid {
            Some(uid) => {
                os::set_uid(uid)?;
                if uid.is_root() || uid == before { Ok(()) } else { self.give_up_root() }
            }
            None => Ok(()),
        }
    }

    /// From another user nothing leads back: not capabilities that survive the change (of a VM that had them
    /// without being root, or with the securebits of capabilities(7)), and that is tried.
    fn give_up_root(&self) -> Result<(), Errno> {
        os::drop_capabilities()?;
        let group_is_root = self.gid.is_none_or(Gid::is_root);
        if os::regain_root_user().is_ok() || (!group_is_root && os::regain_root_group().is_ok()) {
            return Err(Errno::PERM);
        }
        Ok(())
    }
}
