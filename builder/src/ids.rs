//! The users and groups that files of images can belong to here.

use anyhow::{Result, bail};
use lapstrake_runtime::Identity;

/// What becomes of owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owners {
    /// Files belong to whom their image says.
    Kept,
    /// There is one id: all files belong to root.
    Lost,
}

/// What one id alone means.
pub(crate) const ONE_ID: &str = "files of images belong to root, other users than root cannot be";
/// How to have more.
pub(crate) const REMEDY: &str = "install uidmap and give this account a range in /etc/subuid and /etc/subgid \
     (usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME)";

impl Owners {
    /// What becomes of them when this process is `identity`.
    pub(crate) fn of(identity: Identity) -> Self {
        match identity {
            Identity::Single => Self::Lost,
            Identity::Root | Identity::Range { .. } | Identity::Bare => Self::Kept,
        }
    }

    /// The line that says of a build what it lacks.
    pub(crate) fn notice(self) -> Option<String> {
        (self == Self::Lost).then(|| format!("this account has one id: {ONE_ID}: {REMEDY}"))
    }
}

/// Refuses an owner whom files cannot be given to here.
pub(crate) fn check((uid, gid): (u32, u32)) -> Result<()> {
    if lapstrake_runtime::has_ids(uid, gid)? {
        return Ok(());
    }
    bail!("give files to {uid}:{gid}: this account has no such id, or too few of them: {REMEDY}")
}
