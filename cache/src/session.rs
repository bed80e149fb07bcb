//! The folder of one process: what it writes before it is visible, and what it leases.
//!
//! The folder is locked as long as the process lives. One that is not locked was left by a process
//! that was killed, and is removed by whoever comes next. One that ended in order leaves its folder to the next process, with
//! the file of leases in it: a disk that is told of each free block answers before the folder is gone, which takes as long
//! as a third of a cached build.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{
    FlockOperation, IFlags, Mode, OFlags, RenameFlags, flock, ioctl_getflags, ioctl_setflags,
    mkdirat, openat, renameat_with,
};
use rustix::io::Errno;

use crate::error::At;
use crate::store::c_string;
use crate::{Error, Result, Store, dir, lease, remove};

pub(crate) const TMP: &str = "tmp";
/// The folder of a process that ended, in the store's folder.
const IDLE: &CStr = c"idle";
/// How long [`Store::close`] competes with threads that go on writing.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// The folder `tmp/<pid>-<n>` of this process, locked as long as it lives.
pub(crate) struct Session {
    path: PathBuf,
    name: CString,
    tmp: OwnedFd,
    dir: OwnedFd,
    count: AtomicU64,
    closed: RwLock<bool>,
    janitor: OnceLock<Option<Janitor>>,
}

/// A thread that removes what nobody waits for. To remove the folders of one RUN step is some ten calls, and a disk that
/// is told of each free block answers each of them.
struct Janitor {
    names: Sender<CString>,
    thread: JoinHandle<()>,
}

impl Janitor {
    /// For what is in `dir`; none where threads cannot be had.
    fn start(dir: &OwnedFd) -> Option<Self> {
        let dir = dir.try_clone().ok()?;
        let (names, todo) = channel::<CString>();
        let work = move || {
            for name in todo {
                // What is left is removed with the session's folder.
                let _ = remove::remove_all(dir.as_fd(), &name);
            }
        };
        let thread = std::thread::Builder::new().name("janitor".into());
        let thread = thread.spawn(work).ok()?;
        Some(Self { names, thread })
    }
}

impl Session {
    pub(crate) fn start(root: &Path, store: &OwnedFd) -> Result<Self> {
        let tmp_path = root.join(TMP);
        let tmp = dir::open_child(store, c"tmp").at("open", &tmp_path)?;
        for attempt in 0.. {
            let name = format!("{}-{attempt}", std::process::id());
            let path = tmp_path.join(&name);
            let name = c_string(&name);
            let taken = renameat_with(store, IDLE, &tmp, &name, RenameFlags::NOREPLACE);
            match taken.or_else(|_| mkdirat(&tmp, &name, Mode::RWXU)) {
                Err(Errno::EXIST) => continue,
                made => made.at("create", &path)?,
            }
            // None if a sweep came between making the folder and locking it.
            if let Some(dir) = lock_named(tmp.as_fd(), &name) {
                spread(&dir);
                let count = AtomicU64::new(0);
                return Ok(Self {
                    path,
                    name,
                    tmp,
                    dir,
                    count,
                    closed: RwLock::new(false),
                    janitor: OnceLock::new(),
                });
            }
        }
        Err(Error::io("create", &tmp_path, Errno::EXIST))
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// All folders of processes.
    pub(crate) fn all(&self) -> BorrowedFd<'_> {
        self.tmp.as_fd()
    }

    /// A name that is not in use.
    pub(crate) fn fresh_name(&self) -> (CString, PathBuf) {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        // Unlike those of other processes, for the sake of `spread`.
        let name = format!("{}-{count}", self.name.to_string_lossy());
        let path = self.path.join(&name);
        (c_string(&name), path)
    }

    /// Held while something from the folder gets its name in the store; fails once the session was
    /// closed.
    pub(crate) fn publishing(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let closed = self.closed.read().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            Err(Error::Closed)
        } else {
            Ok(closed)
        }
    }

    /// Removes `name` from the folder, soon.
    fn remove_later(&self, name: &CStr) {
        let janitor = self.janitor.get_or_init(|| Janitor::start(&self.dir));
        let told = |janitor: &Janitor| janitor.names.send(name.to_owned()).is_ok();
        if !janitor.as_ref().is_some_and(told) {
            let _ = remove::remove_all(self.dir.as_fd(), name);
        }
    }

    /// Leaves the folder, in which nobody works any more, to a later process, if none is there for it.
    pub(crate) fn leave(&mut self, store: BorrowedFd<'_>) {
        self.end_janitor();
        let is_closed = self
            .closed
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if *is_closed {
            return;
        }
        let left = || -> std::io::Result<()> {
            for name in dir::names(self.dir.as_fd())? {
                if *name != *lease::FILE {
                    remove::remove_all(self.dir.as_fd(), &name)?;
                }
            }
            Ok(renameat_with(
                &self.tmp,
                &self.name,
                store,
                IDLE,
                RenameFlags::NOREPLACE,
            )?)
        };
        *is_closed = left().is_ok();
    }

    fn end_janitor(&mut self) {
        if let Some(Some(Janitor { names, thread })) = self.janitor.take() {
            drop(names);
            let _ = thread.join();
        }
    }

    fn close(&self) {
        *self.closed.write().unwrap_or_else(PoisonError::into_inner) = true;
        let deadline = Instant::now() + CLOSE_TIME;
        // Whoever still works in there may add to a folder that is being emptied.
        while remove::remove_all(self.tmp.as_fd(), &self.name).is_err() && Instant::now() < deadline
        {
            std::thread::yield_now();
        }
    }

    /// Removes the folders of processes that were killed, until a moment if one is given.
    pub(crate) fn sweep(&self, deadline: Option<Instant>) -> Result<()> {
        let path = self.path.parent().unwrap_or(&self.path);
        for name in dir::names(self.all()).at("list", path)? {
            if name == self.name {
                continue;
            }
            // Held while the folder is removed, so that nobody else does the same.
            let Some(_abandoned) = lock_named(self.all(), &name) else {
                continue;
            };
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            if !remove::remove_until(self.all(), &name, deadline).at("remove", &path)? {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_janitor();
        let is_closed = self.closed.get_mut();
        if !*is_closed.unwrap_or_else(PoisonError::into_inner) {
            // What cannot be removed now is left to the sweep of a later open.
            let _ = remove::remove_all(self.tmp.as_fd(), &self.name);
        }
    }
}

/// A folder that is removed when dropped.
pub struct Scratch {
    store: Store,
    name: CString,
    path: PathBuf,
}

impl Scratch {
    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets go of the folder, which is removed while the caller goes on.
    pub(crate) fn remove_later(mut self) {
        let name = std::mem::take(&mut self.name);
        self.store.session().remove_later(&name);
    }

    /// The folder, opened.
    pub(crate) fn open(&self) -> Result<OwnedFd> {
        dir::open_child(self.store.temp_dir(), &self.name).at("open", &self.path)
    }
}

impl Store {
    /// Ends the work of this process although threads of it may still be at it: from now on nothing
    /// gets a name in the store, and the folder of this process is removed. What those threads do
    /// next fails. Where there are none, the folder is left to others when the store is dropped.
    pub fn close(&self) {
        if !self.is_last() {
            self.session().close();
        }
    }

    /// A new empty folder of mode 0700, removed when dropped (or, if this process is killed, by a
    /// later [`Store::open`]).
    pub fn scratch(&self) -> Result<Scratch> {
        let (name, path) = self.temp_name();
        mkdirat(self.temp_dir(), &name, Mode::RWXU).at("create", &path)?;
        let store = self.clone();
        Ok(Scratch { store, name, path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // What cannot be removed now is removed with the session's folder.
            let _ = remove::remove_all(self.store.temp_dir(), &self.name);
        }
    }
}

/// Asks the file system to lay out each scratch folder for itself, away from the others, as it does
/// for home directories. Without it ext4 puts all of them close together, and files of one build
/// have to find room between those of another that were just removed: measured with 16,000 files,
/// ten times the cost. Best effort.
fn spread(dir: &OwnedFd) {
    if let Ok(flags) = ioctl_getflags(dir) {
        let _ = ioctl_setflags(dir, flags | IFlags::TOPDIR);
    }
}

/// Takes an exclusive lock on `name`, a file or a folder in `parent`; none if somebody holds it, as its owner does while it
/// lives.
///
/// What was opened may have lost its name before it was locked, and the name may be another's by then: names hold the ids
/// of processes, which come again. Only who holds the lock of what has the name may remove it.
pub(crate) fn lock_named(parent: BorrowedFd<'_>, name: &CStr) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(parent, name, flags, Mode::empty()).ok()?;
    flock(&fd, FlockOperation::NonBlockingLockExclusive).ok()?;
    let held = dir::stat(&fd).ok()?;
    let named = dir::lookup(parent, name).ok()??;
    (held.ino == named.ino).then_some(fd)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use crate::{Error, Store};

    #[test]
    fn a_closed_store_publishes_nothing_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let active = store.snapshot(&[]).unwrap();
        let mut blob = store.ingest().unwrap();
        blob.write_all(b"half").unwrap();
        store.close();
        assert!(matches!(blob.commit(), Err(Error::Closed)));
        store.commit(active).unwrap_err();
        assert!(store.scratch().is_err());
        let tmp = dir.path().join("tmp");
        assert_eq!(std::fs::read_dir(tmp).unwrap().count(), 0);
    }
}
