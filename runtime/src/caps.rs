//! The capabilities of a command, and dropping to them.

use std::io;

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use serde::{Deserialize, Serialize};

use crate::user::User;

/// Docker's fourteen: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW,
/// SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP. Fewer would break package managers; `0xa80425fb` as a mask.
pub(crate) const DEFAULT: u64 = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP)
    .bits();

/// What a command keeps of the capabilities of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Capabilities {
    /// No more than these, and only while it is root.
    Bounded(u64),
    /// All, while it is root.
    OfRoot,
    /// All, whoever it is: as BuildKit has it for steps that are not confined.
    OfAnyone,
}

/// Becomes `user` with no more than `capabilities`.
///
/// Unless they are [`Capabilities::OfAnyone`] the inheritable and ambient sets end empty, so that a user other than root has none
/// once the command is executed.
pub(crate) fn drop_to(user: &User, capabilities: Capabilities) -> io::Result<()> {
    if let Capabilities::Bounded(kept) = capabilities {
        bound(CapabilitySet::from_bits_retain(kept))?;
    }
    // Otherwise changing the user would empty the permitted set before it is set to the wanted one.
    set_keep_capabilities(true)?;
    set_ids(user).map_err(|error| explain(user, error))?;
    set_keep_capabilities(false)?;
    if let Capabilities::Bounded(kept) = capabilities {
        let has = rustix::thread::capabilities(None)?.permitted;
        let kept = CapabilitySet::from_bits_retain(kept) & has;
        let effective = if user.uid == 0 {
            kept
        } else {
            CapabilitySet::empty()
        };
        let sets = CapabilitySets {
            effective,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets)?;
    }
    clear_ambient_capability_set()?;
    if capabilities == Capabilities::OfAnyone {
        make_ambient()?;
    }
    Ok(())
}

/// Has all that this process may have survive the change to another program.
fn make_ambient() -> io::Result<()> {
    let all = rustix::thread::capabilities(None)?.permitted;
    let sets = CapabilitySets {
        effective: all,
        permitted: all,
        inheritable: all,
    };
    set_capabilities(None, sets)?;
    all.iter()
        .try_for_each(|one| configure_capability_in_ambient_set(one, true))?;
    Ok(())
}

/// What it takes to put together a root and to change to it where there are no namespaces.
const WITHOUT_NAMESPACES: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::CHOWN, "CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "DAC_OVERRIDE"),
    (CapabilitySet::FOWNER, "FOWNER"),
    (CapabilitySet::SETGID, "SETGID"),
    (CapabilitySet::SETUID, "SETUID"),
    (CapabilitySet::SYS_CHROOT, "SYS_CHROOT"),
];

/// The names of those that this process does not have.
pub(crate) fn missing_without_namespaces() -> io::Result<Vec<&'static str>> {
    let has = rustix::thread::capabilities(None)?.effective;
    let missing = WITHOUT_NAMESPACES
        .iter()
        .filter(|(one, _)| !has.contains(*one));
    Ok(missing.map(|(_, name)| *name).collect())
}

fn set_ids(user: &User) -> rustix::io::Result<()> {
    // None where only one id is mapped: the kernel refuses the call there.
    if !user.groups.is_empty() {
        let gids: Vec<Gid> = user.groups.iter().map(|id| Gid::from_raw(*id)).collect();
        set_thread_groups(&gids)?;
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// The one mistake that a user can make here.
fn explain(user: &User, error: Errno) -> io::Error {
    if error != Errno::INVAL {
        return error.into();
    }
    io::Error::other(format!(
        "user {} or a group of it has no id in this user namespace: give this account a range in /etc/subuid and /etc/subgid",
        user.uid
    ))
}

fn bound(kept: CapabilitySet) -> io::Result<()> {
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The first number that this kernel does not know.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_default_mask_is_that_of_docker() {
        assert_eq!(super::DEFAULT, 0xa804_25fb);
    }
}
