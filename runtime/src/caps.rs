//! The capabilities of a command, and dropping to them.

use std::io;

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

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

/// Becomes `user` with no more than `capabilities`, in every set; `None` keeps what there is.
///
/// The inheritable and ambient sets end empty, so that a user other than root has none once the command is executed.
pub(crate) fn drop_to(user: &User, capabilities: Option<u64>) -> io::Result<()> {
    if let Some(kept) = capabilities {
        bound(CapabilitySet::from_bits_retain(kept))?;
    }
    // Otherwise changing the user would empty the permitted set before it is set to the wanted one.
    set_keep_capabilities(true)?;
    set_ids(user).map_err(|error| explain(user, error))?;
    set_keep_capabilities(false)?;
    if let Some(kept) = capabilities {
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
    Ok(())
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
