//! Names of users and groups to numbers, in the VM: the shepherd is linked statically and knows no NSS. May ask
//! a server in the network, and so take long.

use std::collections::BTreeSet;
#[cfg(not(target_vendor = "apple"))]
use std::ffi::CString;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};
use protocol::Credentials;
use rustler::{Binary, NifMap, NifUntaggedEnum};

use crate::error::{Failure, Place};

/// As whom a command is to run; see `t:NetRunner.Nif.request/0`.
#[derive(NifMap)]
#[rustler(decode)]
pub(crate) struct Identity<'a> {
    user: Option<Principal<'a>>,
    group: Option<Principal<'a>>,
    groups: Option<Vec<Principal<'a>>>,
}

/// A user or a group.
#[derive(NifUntaggedEnum)]
#[rustler(decode)]
pub(crate) enum Principal<'a> {
    Number(u32),
    Name(Binary<'a>),
}

/// Where only the user is given, group and groups are those of a login of that user. One without a passwd entry
/// needs a group: that of the VM would mostly be root's.
pub(crate) fn look_up(identity: &Identity<'_>) -> Result<Credentials, Failure> {
    let group = identity.group.as_ref().map(|group| gid(group, Place::Group)).transpose()?;
    let groups = identity.groups.as_ref().map(|groups| groups.iter().map(|group| gid(group, Place::Groups)));
    let groups = groups.map(Iterator::collect::<Result<Vec<_>, _>>).transpose()?;
    let Some(principal) = &identity.user else {
        return Ok(credentials(None, group, groups));
    };
    let Some((uid, user)) = find_user(principal)? else {
        return Err(Failure::at(Place::User, Errno::ENOENT));
    };
    let gid = group.or(user.as_ref().map(|user| user.gid)).ok_or(Failure::at(Place::Group, Errno::ENOENT))?;
    let groups = match (groups, &user) {
        (Some(groups), _) => groups,
        (None, Some(user)) => groups_of(user, gid)?,
        (None, None) => vec![gid],
    };
    Ok(credentials(Some(uid), Some(gid), Some(groups)))
}

fn credentials(uid: Option<Uid>, gid: Option<Gid>, groups: Option<Vec<Gid>>) -> Credentials {
    // Setting them takes a right even where nothing changes (setgroups(2)), which only root has for sure.
    let groups = groups.filter(|groups| Uid::effective().is_root() || !has_groups(groups, gid));
    Credentials {
        uid: uid.map(Uid::as_raw),
        gid: gid.map(Gid::as_raw),
        groups: groups.map(|groups| groups.into_iter().map(Gid::as_raw).collect()),
    }
}

/// Whether these are the supplementary groups already. That the group itself is among them, or not, gives no right.
fn has_groups(wanted: &[Gid], gid: Option<Gid>) -> bool {
    let gid = gid.map(Gid::as_raw);
    let others =
        |groups: Vec<u32>| groups.into_iter().filter(|group| Some(*group) != gid).collect::<BTreeSet<_>>();
    let wanted = others(wanted.iter().map(|group| group.as_raw()).collect());
    rustix::process::getgroups()
        .is_ok_and(|groups| others(groups.into_iter().map(rustix::process::Gid::as_raw).collect()) == wanted)
}

/// With the passwd entry, which a number need not have.
fn find_user(principal: &Principal<'_>) -> Result<Option<(Uid, Option<User>)>, Failure> {
    let found = match principal {
        Principal::Number(number) => {
            let uid = Uid::from_raw(*number);
            known(User::from_uid(uid)).map(|user| Some((uid, user)))
        }
        Principal::Name(name) => match std::str::from_utf8(name.as_slice()) {
            Ok(name) => known(User::from_name(name)).map(|user| user.map(|user| (user.uid, Some(user)))),
            Err(_) => Ok(None),
        },
    };
    found.map_err(|errno| Failure::at(Place::User, errno))
}

fn gid(principal: &Principal<'_>, place: Place) -> Result<Gid, Failure> {
    match principal {
        Principal::Number(number) => Ok(Gid::from_raw(*number)),
        Principal::Name(name) => {
            let group =
                std::str::from_utf8(name.as_slice()).map_or(Ok(None), |name| known(Group::from_name(name)));
            match group {
                Ok(Some(group)) => Ok(group.gid),
                Ok(None) => Err(Failure::at(place, Errno::ENOENT)),
                Err(errno) => Err(Failure::at(place, errno)),
            }
        }
    }
}

/// getpwnam(3): "0 or ENOENT or ESRCH or EBADF or EPERM or ...: the given name or uid was not found". The last two
/// may mean something else as well.
fn known<T>(found: nix::Result<Option<T>>) -> nix::Result<Option<T>> {
    match found {
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        other => other,
    }
}

#[cfg(not(target_vendor = "apple"))]
fn groups_of(user: &User, gid: Gid) -> Result<Vec<Gid>, Failure> {
    let name = CString::new(user.name.as_str()).map_err(|_| Failure::at(Place::User, Errno::EINVAL))?;
    nix::unistd::getgrouplist(&name, gid).map_err(|errno| Failure::at(Place::Groups, errno))
}

/// There the kernel asks a directory service for the others (getgrouplist(3)).
#[cfg(target_vendor = "apple")]
fn groups_of(_user: &User, gid: Gid) -> Result<Vec<Gid>, Failure> {
    Ok(vec![gid])
}
