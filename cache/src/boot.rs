//! What a power cut may do to a store, without a sync for every step.
//!
//! Files are written and renamed without waiting for the disk. The kernel keeps the order of what
//! processes see, but after a power cut a name may lead to fewer bytes than were written. So the first open of
//! a boot leaves a synced file `dirty-<boot id>`. As long as the machine runs, it means nothing. An
//! open that finds the file of *another* boot cannot know whether that boot ended well: it removes what was
//! written since that file's time. [`Store::sync`](crate::Store::sync) moves the time forward.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use crate::error::At;
use crate::store::{BLOBS, KEYS, LAYERS, MOUNTS, REFS, STATS, c_string, create_file, exclusive};
use crate::{Result, Time, dir, remove};

const PREFIX: &str = "dirty-";
/// The clock of the file system is coarse, and may be set back a little.
const SLACK: i64 = 2;

/// The id of the machine's current boot.
pub(crate) fn current_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let id = std::fs::read_to_string(path).at("read", path)?;
    Ok(id.trim().to_owned())
}

/// Makes sure that this boot has its marker, and deals with one of another boot.
pub(crate) fn mark(root: &Path, store: &OwnedFd, boot_id: &str) -> Result<()> {
    let name = format!("{PREFIX}{}", safe(boot_id));
    let path = root.join(&name);
    if dir::lookup(store, name.as_str())
        .at("look up", &path)?
        .is_some()
    {
        return Ok(());
    }
    let _lock = exclusive(root, store.as_fd())?;
    for other in markers(root, store)? {
        recover(root, store, &other)?;
    }
    let file = match create_file(store, &c_string(&name)) {
        Err(Errno::EXIST) => return Ok(()),
        made => made.at("create", &path)?,
    };
    rustix::fs::fsync(&file).at("sync", &path)?;
    rustix::fs::fsync(store).at("sync", root)
}

/// Writes everything to the disk, then moves the marker's time to when this began.
pub(crate) fn sync(root: &Path, store: &OwnedFd) -> Result<()> {
    let (probe, path) = (c"synced", root.join("synced"));
    let _ = unlinkat(store, probe, AtFlags::empty());
    let file = create_file(store, probe).at("create", &path)?;
    let begun = dir::stat(&file).at("read the time of", &path)?.mtime;
    rustix::fs::syncfs(&file).at("sync", root)?;
    unlinkat(store, probe, AtFlags::empty()).at("remove", &path)?;
    for name in markers(root, store)? {
        let marker = root.join(OsStr::from_bytes(name.to_bytes()));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(store, &name, &begun.as_timestamps(), flags)
            .at("set the time of", &marker)?;
    }
    rustix::fs::fsync(store).at("sync", root)
}

fn safe(boot_id: &str) -> String {
    boot_id
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect()
}

fn markers(root: &Path, store: &OwnedFd) -> Result<Vec<CString>> {
    let mut names = dir::names(store.as_fd()).at("list", root)?;
    names.retain(|name| name.to_bytes().starts_with(PREFIX.as_bytes()));
    Ok(names)
}

fn recover(root: &Path, store: &OwnedFd, marker: &CString) -> Result<()> {
    let path = root.join(OsStr::from_bytes(marker.to_bytes()));
    let Some(found) = dir::lookup(store, marker).at("look up", &path)? else {
        return Ok(());
    };
    let since = Time::from_secs(found.mtime.secs - SLACK);
    for folder in [LAYERS, KEYS, STATS, REFS, MOUNTS] {
        drop_since(store.as_fd(), &root.join(folder), folder, since)?;
    }
    let blobs = root.join(BLOBS);
    let shards = dir::open(&blobs).at("open", &blobs)?;
    for shard in dir::names(shards.as_fd()).at("list", &blobs)? {
        let shard = shard.to_string_lossy();
        drop_since(shards.as_fd(), &blobs.join(&*shard), &shard, since)?;
    }
    unlinkat(store, marker, AtFlags::empty()).at("remove", &path)
}

/// Removes the entries of a folder that changed at or after a moment.
fn drop_since(parent: BorrowedFd<'_>, path: &Path, folder: &str, since: Time) -> Result<()> {
    let drop = || -> io::Result<()> {
        let folder = dir::open_child(parent, &c_string(folder))?;
        for name in dir::names(folder.as_fd())? {
            let found = dir::lookup(&folder, &name)?;
            if found.is_some_and(|found| found.mtime >= since) {
                remove::remove_all(folder.as_fd(), &name)?;
            }
        }
        Ok(())
    };
    drop().at("recover", &PathBuf::from(path))
}
