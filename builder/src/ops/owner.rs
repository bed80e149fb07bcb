//! Owners as instructions name them, looked up in the image's own passwd and group files.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lapstrake_runtime::{lookup_group, lookup_user};
use rustix::fs::{self, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};

use crate::ids;

/// The owner that `--chown=TEXT` asks for, or for what `WORKDIR` makes `USER TEXT`. As BuildKit has it, a user that the
/// image does not know is root, a group that it does not know is the user's, and a number alone is the group too. One
/// whom files cannot be given to is an error.
pub(super) fn of_chown(view: Option<&OwnedFd>, text: &str) -> Result<(u32, u32)> {
    let (user, group) = split(text);
    let (uid, primary) = match user.parse::<u32>() {
        Ok(uid) => (uid, uid),
        Err(_) if matches!(user, "" | "root") => (0, 0),
        Err(_) => view.map_or((0, 0), |view| by_name(view, user)),
    };
    let gid = group.and_then(|group| group_id(view, group));
    let owner = (uid, gid.unwrap_or(primary));
    ids::check(owner)?;
    Ok(owner)
}

fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)))
}

fn by_name(view: &OwnedFd, user: &str) -> (u32, u32) {
    lookup_user(view.as_fd(), user).map_or((0, 0), |user| (user.uid, user.gid))
}

fn group_id(view: Option<&OwnedFd>, group: &str) -> Option<u32> {
    match (group.parse(), view) {
        // `1000:`, mostly of a variable that is not set.
        _ if group.is_empty() => Some(0),
        (Ok(gid), _) => Some(gid),
        (Err(_), Some(view)) => lookup_group(view.as_fd(), group).ok(),
        (Err(_), None) => None,
    }
}

/// Gives the new directory `path` of the store the mode and owner of the directory `source` of a tree.
pub(super) fn give_as(path: &Path, lowers: &[PathBuf], source: &str) -> Result<()> {
    let view = lapstrake_runtime::view(lowers)?;
    let confined = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let stat = fs::fstat(fs::openat2(&view, source, flags, Mode::empty(), confined)?)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(());
    }
    give(path, stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)
}

/// Gives the new directory `path` of the store its mode and owner.
pub(super) fn give(path: &Path, mode: u32, uid: u32, gid: u32) -> Result<()> {
    ids::check((uid, gid))?;
    let fd = fs::open(
        path,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    fs::fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .context("give the cache mount its owner")?;
    // After the owner: chown(2) clears set-user-ID bits.
    Ok(fs::fchmod(&fd, Mode::from_raw_mode(mode))?)
}
