//! What a power cut may do to a store, without a sync for every step.
//!
//! Files are written and renamed without waiting for the disk. The kernel keeps the order of what
//! processes see, but after a power cut a name may lead to fewer bytes than were written. So the
//! first open of a boot leaves a synced file `dirty-<boot id>`. As long as the machine runs, it
//! means nothing. An open that finds the file of *another* boot cannot know whether that boot ended
//! well: it checks what was written since that file's time, and removes what is not whole.
//! [`Store::sync`](crate::Store::sync) moves the time forward.
//!
//! Blobs are hashed; layers that were made here are hashed as their tars; layers of other programs
//! are removed, since they can be unpacked again from their blobs; records and names must be
//! readable; the stat index checks itself. Cache mounts belong to the programs that use them.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rayon::prelude::*;
use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use crate::error::At;
use crate::store::{BLOBS, KEYS, LAYERS, REFS, c_string, create_file, exclusive};
use crate::{Result, Time, blob, dir, remove, snapshot};

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
    for folder in [KEYS, REFS] {
        check_since(store.as_fd(), root, folder, since, &is_json)?;
    }
    check_since(store.as_fd(), root, LAYERS, since, &snapshot::is_whole)?;
    for shard in 0..=u8::MAX {
        let folder = format!("{BLOBS}/{shard:02x}");
        check_since(store.as_fd(), root, &folder, since, &blob::is_whole)?;
    }
    unlinkat(store, marker, AtFlags::empty()).at("remove", &path)
}

/// Whether a file is whole JSON.
pub(crate) fn is_json(path: &Path) -> bool {
    let text = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok()
}

/// Removes the entries of a folder that changed at or after a moment and are not whole.
fn check_since(
    store: BorrowedFd<'_>,
    root: &Path,
    folder: &str,
    since: Time,
    is_whole: &(dyn Fn(&Path) -> bool + Sync),
) -> Result<()> {
    let path = root.join(folder);
    let check = || -> io::Result<()> {
        let folder = match dir::open_child(store, &c_string(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let names = dir::names(folder.as_fd())?;
        crate::threads::prepare_rayon()?;
        names.par_iter().try_for_each(|name| {
            let written = dir::lookup(&folder, name)?;
            let suspect = written.is_some_and(|written| written.mtime >= since);
            if suspect && !is_whole(&path.join(OsStr::from_bytes(name.to_bytes()))) {
                remove::remove_all(folder.as_fd(), name)?;
            }
            Ok(())
        })
    };
    check().at("recover", &path)
}
