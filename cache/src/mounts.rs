//! Cache mounts: folders that outlive the steps that use them.
//!
//! `mounts-v1/<digest of the id>/` holds one folder for each instance, named by a number, and
//! beside it a lock file. Which instance a step gets depends on how it shares: see [`Sharing`].

use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, flock, mkdirat, openat,
};
use rustix::io::Errno;

use crate::error::At;
use crate::layer::diff::{Against, Diff};
use crate::layer::folder::Folder;
use crate::layer::stream::{self, Want};
use crate::store::{MOUNTS, c_string};
use crate::{DiffId, Error, Result, Store, dir, remove};

/// More steps than this cannot use instances of one cache mount at once.
const MAX_INSTANCES: u32 = 10_000;

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Any number of steps.
    #[default]
    Shared,
    /// One step for each instance; another step gets another instance.
    Private,
    /// One step; another one waits.
    Locked,
}

/// A cache mount in use. It is given back when dropped.
pub struct CacheMount {
    path: PathBuf,
    fresh: bool,
    _lock: OwnedFd,
}

impl CacheMount {
    /// The folder to mount.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder was made just now, so that it is empty and has no owner or mode yet.
    pub fn fresh(&self) -> bool {
        self.fresh
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> Result<bool> {
        let folder = dir::open(&self.path).at("open", &self.path)?;
        Ok(dir::names(folder.as_fd())
            .at("list", &self.path)?
            .is_empty())
    }

    /// Writes what it holds as the tar of a layer, and returns the digest of that.
    pub fn write_tar(&self, out: &mut dyn Write) -> Result<DiffId> {
        let folder = Folder::open(&self.path)?;
        let diff = Diff::new(&folder, Against::Files)?;
        let summary = stream::run(diff, &folder, Want::Tar, out)?;
        Ok(summary.diff_id)
    }

    /// Removes all that is in it.
    pub fn clear(&self) -> Result<()> {
        let folder = dir::open(&self.path).at("open", &self.path)?;
        for name in dir::names(folder.as_fd()).at("list", &self.path)? {
            remove::remove_all(folder.as_fd(), &name).at("remove from", &self.path)?;
        }
        Ok(())
    }
}

impl Store {
    /// Takes the cache mount `id` into use, making it if there is none. With [`Sharing::Locked`]
    /// this may wait long.
    pub fn cache_mount(&self, id: &str, sharing: Sharing) -> Result<CacheMount> {
        let (name, path) = mount_name(self, id);
        match mkdirat(self.dir(), &name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::io("create", &path, error)),
        }
        let folder = dir::open(&path).at("open", &path)?;
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let now = Timestamps {
            last_access: now,
            last_modification: now,
        };
        // The time of the folder says when it was last used.
        rustix::fs::futimens(&folder, &now).at("set the time of", &path)?;
        match sharing {
            Sharing::Shared => instance(&folder, &path, 0, FlockOperation::LockShared),
            Sharing::Locked => instance(&folder, &path, 0, FlockOperation::LockExclusive),
            Sharing::Private => private(&folder, &path),
        }
    }

    /// The cache mount `id`, if there is one that no step has for itself alone.
    pub fn find_cache_mount(&self, id: &str) -> Result<Option<CacheMount>> {
        let (_, path) = mount_name(self, id);
        let folder = match dir::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.at("open", &path)?,
        };
        let lock = open_lock(&folder, &path, 0)?;
        let locked = flock(&lock, FlockOperation::NonBlockingLockShared);
        let path = path.join("0");
        let there = locked.is_ok() && path.is_dir();
        Ok(there.then_some(CacheMount {
            path,
            fresh: false,
            _lock: lock,
        }))
    }

    /// Removes what a cache mount holds, as far as no step uses it; whether all of it is gone.
    pub fn reset_cache_mount(&self, id: &str) -> Result<bool> {
        let (_, path) = mount_name(self, id);
        let folder = match dir::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            opened => opened.at("open", &path)?,
        };
        reset(&folder, &path, &|name| {
            remove::remove_all(folder.as_fd(), name)
        })
    }
}

/// Removes the instances that are not in use; whether that is all of them. The lock files stay, so
/// that two processes never hold "the" lock on different files.
pub(crate) fn reset(
    folder: &OwnedFd,
    path: &Path,
    remove: &dyn Fn(&CStr) -> io::Result<()>,
) -> Result<bool> {
    let mut all = true;
    for (number, name) in instances(folder.as_fd()).at("list", path)? {
        let lock = open_lock(folder, path, number)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => remove(&name).at("remove", path)?,
            Err(_) => all = false,
        }
    }
    Ok(all)
}

/// The instances of a cache mount.
pub(crate) fn instances(folder: BorrowedFd<'_>) -> io::Result<Vec<(u32, CString)>> {
    let names = dir::names(folder)?.into_iter();
    let numbered = names.map(|name| (name.to_string_lossy().parse(), name));
    Ok(numbered
        .filter_map(|(number, name)| Some((number.ok()?, name)))
        .collect())
}

/// Whether something in the folder of a cache mount is an instance or the lock of one.
pub(crate) fn is_known(name: &str, path: &Path) -> bool {
    let Ok(found) = path.symlink_metadata() else {
        return false;
    };
    match name.strip_suffix(".lock") {
        Some(number) => number.parse::<u32>().is_ok() && found.is_file(),
        None => name.parse::<u32>().is_ok() && found.is_dir(),
    }
}

fn mount_name(store: &Store, id: &str) -> (PathBuf, PathBuf) {
    let digest = blake3::hash(id.as_bytes()).to_hex();
    let name = Path::new(MOUNTS).join(digest.as_str());
    let path = store.root().join(&name);
    (name, path)
}

fn private(folder: &OwnedFd, path: &Path) -> Result<CacheMount> {
    for number in 0..MAX_INSTANCES {
        match instance(
            folder,
            path,
            number,
            FlockOperation::NonBlockingLockExclusive,
        ) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
    Err(Error::io("lock an instance of", path, Errno::USERS))
}

fn instance(
    folder: &OwnedFd,
    path: &Path,
    number: u32,
    operation: FlockOperation,
) -> Result<CacheMount> {
    let lock = open_lock(folder, path, number)?;
    flock(&lock, operation).at("lock", path)?;
    let name = number.to_string();
    let path = path.join(&name);
    let fresh = match mkdirat(folder, c_string(&name), Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            let mode = Mode::from_raw_mode(0o755);
            rustix::fs::chmodat(folder, c_string(&name), mode, AtFlags::empty())
                .at("set the mode of", &path)?;
            true
        }
        Err(Errno::EXIST) => false,
        Err(error) => return Err(Error::io("create", &path, error)),
    };
    Ok(CacheMount {
        path,
        fresh,
        _lock: lock,
    })
}

fn open_lock(folder: &OwnedFd, path: &Path, number: u32) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = format!("{number}.lock");
    let opened = openat(folder, c_string(&name), flags, Mode::RUSR | Mode::WUSR);
    opened.at("open", &path.join(name))
}
