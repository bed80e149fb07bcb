//! The index: from the key of a step to the record of its result, one small file a key.
//!
//! A record is replaced whole (`rename`), so a reader sees the old one or the new one. One that
//! cannot be read, for whatever reason, is no record: the step is run again. Its file's access time
//! says when it was last used, to the hour.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, flock,
    openat, unlinkat,
};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::At;
use crate::lease::Leased;
use crate::store::{KEYS, LOCKS};
use crate::{Error, Key, Meta, Result, Store, dir};

/// A record that is read more than this after its last use is marked as used now.
const TOUCH_AFTER: Duration = Duration::from_secs(3600);
/// No record is longer; a file that is, is not a record.
const LONGEST: u64 = 16 << 20;

impl Store {
    /// The record of a key. One that is corrupt, or of another shape, is none. It will not be pruned
    /// while this process lives.
    pub fn record<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>> {
        let Some(file) = self.open_record(key)? else {
            return Ok(None);
        };
        touch(&file);
        self.leases().take(Leased::Record(*key))?;
        self.read_record(key, file)
    }

    /// As [`Store::record`], but a look that does not count as use.
    pub fn peek_record<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>> {
        match self.open_record(key)? {
            Some(file) => self.read_record(key, file),
            None => Ok(None),
        }
    }

    fn open_record(&self, key: &Key) -> Result<Option<OwnedFd>> {
        let name = record_name(key);
        let path = self.root().join(&name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(self.dir(), &name, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            opened => Ok(Some(opened.at("open", &path)?)),
        }
    }

    fn read_record<T: DeserializeOwned>(&self, key: &Key, file: OwnedFd) -> Result<Option<T>> {
        let read = read_json(file, LONGEST);
        read.at("read", &self.root().join(record_name(key)))
    }

    /// Sets the record of a key.
    pub fn put_record<T: Serialize>(&self, key: &Key, value: &T) -> Result<()> {
        self.leases().take(Leased::Record(*key))?;
        let name = record_name(key);
        let bytes = serde_json::to_vec(value).at("encode", &name)?;
        self.replace_file(&name, &bytes)
    }

    /// Removes the record of a key; whether there was one.
    pub fn remove_record(&self, key: &Key) -> Result<bool> {
        let name = record_name(key);
        match unlinkat(self.dir(), &name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(Error::io("remove", &self.root().join(name), error)),
        }
    }

    /// Locks a key, so that one process at a time works on it. If another holds it, `waiting` is
    /// called once, and the lock is waited for.
    pub fn lock_key(&self, key: &Key, waiting: &mut dyn FnMut()) -> Result<KeyLock> {
        let mut told = false;
        loop {
            if let Some(lock) = self.try_lock_key(key)? {
                return Ok(lock);
            }
            if !told {
                waiting();
                told = true;
            }
            let path = self.root().join(lock_name(key));
            let file = open_lock(self, key)?;
            // Taken here only to wait; whether the file still has its name is asked above.
            flock(&file, FlockOperation::LockExclusive).at("lock", &path)?;
        }
    }

    /// Locks a key if nobody holds it.
    pub fn try_lock_key(&self, key: &Key) -> Result<Option<KeyLock>> {
        let name = lock_name(key);
        let path = self.root().join(&name);
        loop {
            let file = open_lock(self, key)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Ok(None),
                locked => locked.at("lock", &path)?,
            }
            // The last holder removes the file before it lets go.
            let held = dir::stat(&file).at("stat", &path)?;
            let named = dir::lookup(self.dir(), &name).at("look up", &path)?;
            if named.is_some_and(|named| named.ino == held.ino) {
                return Ok(Some(KeyLock {
                    store: self.clone(),
                    name,
                    _file: file,
                }));
            }
        }
    }
}

fn open_lock(store: &Store, key: &Key) -> Result<OwnedFd> {
    let name = lock_name(key);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(store.dir(), &name, flags, Mode::RUSR | Mode::WUSR);
    opened.at("open", &store.root().join(name))
}

fn record_name(key: &Key) -> PathBuf {
    Path::new(KEYS).join(key.to_string())
}

fn lock_name(key: &Key) -> PathBuf {
    Path::new(LOCKS).join(key.to_string())
}

/// What a small file says; none if it is not of that shape.
pub(crate) fn read_json<T: DeserializeOwned>(file: OwnedFd, most: u64) -> io::Result<Option<T>> {
    // Mostly enough, so that nobody asks for the size before.
    let mut bytes = Vec::with_capacity(1024);
    File::from(file).take(most).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes).ok())
}

/// Marks an open file as used now, unless that was done not long ago. Best effort: a store that may
/// only be read can still be used.
pub(crate) fn touch(file: impl AsFd) {
    if dir::stat(&file).is_ok_and(|meta| is_stale(&meta)) {
        let _ = rustix::fs::futimens(file, &used_now());
    }
}

/// As [`touch`], for a file that need not be opened.
pub(crate) fn touch_at(dir: impl AsFd, name: &Path, meta: &Meta) {
    if is_stale(meta) {
        let _ = rustix::fs::utimensat(dir, name, &used_now(), AtFlags::SYMLINK_NOFOLLOW);
    }
}

/// A time in the future is as stale as a time long ago: the clock was wrong then, or is wrong now.
fn is_stale(meta: &Meta) -> bool {
    let used = u64::try_from(meta.atime.max(meta.mtime).secs).unwrap_or(0);
    let used = SystemTime::UNIX_EPOCH + Duration::from_secs(used);
    used.elapsed().map_or(true, |age| age >= TOUCH_AFTER)
}

/// Now, for access only. The time of the last change says when the content was written.
fn used_now() -> Timestamps {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    Timestamps {
        last_access: special(UTIME_NOW),
        last_modification: special(UTIME_OMIT),
    }
}

/// Holds a key until dropped, or until the process dies.
pub struct KeyLock {
    store: Store,
    name: PathBuf,
    _file: OwnedFd,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Removed while still held; who waits on the old file finds out and opens the new one.
        let _ = unlinkat(self.store.dir(), &self.name, AtFlags::empty());
    }
}
