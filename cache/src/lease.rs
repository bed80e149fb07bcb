//! Why a prune never breaks a build: each process writes down what it uses.
//!
//! A build that learns that a layer, a blob or a record exists, or is about to make one, first adds its name
//! to the file `leases` in its folder below `tmp`, under the store's lock (shared, for a few
//! microseconds). A prune takes the lock exclusively, reads the leases of the processes that live,
//! moves away what nobody leased, and lets go. So a build waits for a prune only that long, and a
//! prune never waits for a build to end.
//!
//! The file may be one of an earlier process (see `session`). What this process leased ends with the line [`END`], over
//! which it writes the next lease; what follows was leased by those before it.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};

use crate::error::At;
use crate::session::lock_named;
use crate::store::open_lock;
use crate::{Digest, Key, Result, dir};

pub(crate) const FILE: &CStr = c"leases";
const END: &str = ".\n";
/// A longer file is not worth keeping: whoever prunes reads all of it.
const WORTH_KEEPING: u64 = 64 << 10;

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Leased {
    Blob(Digest),
    Layer(Digest),
    Record(Key),
}

/// The leases of this process.
pub(crate) struct Leases {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    lock: OwnedFd,
    file: File,
    /// Where the next lease is written.
    end: u64,
    held: HashSet<Leased>,
}

impl Leases {
    pub(crate) fn start(
        root: &Path,
        store: BorrowedFd<'_>,
        session: BorrowedFd<'_>,
    ) -> Result<Self> {
        let lock = open_lock(root, store)?;
        let file = begin(session).at("create leases in", root)?;
        let state = State {
            lock,
            file,
            end: 0,
            held: HashSet::new(),
        };
        Ok(Self {
            path: root.join("lock"),
            state: Mutex::new(state),
        })
    }

    /// After this returns, and as long as this process lives, the thing is not pruned if it is
    /// there.
    pub(crate) fn take(&self, what: Leased) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.held.contains(&what) {
            return Ok(());
        }
        let line = line(what);
        flock(&state.lock, FlockOperation::LockShared).at("lock", &self.path)?;
        let text = line.clone() + END;
        let written = state.file.write_all_at(text.as_bytes(), state.end);
        flock(&state.lock, FlockOperation::Unlock).at("unlock", &self.path)?;
        written.at("write leases beside", &self.path)?;
        state.end += line.len() as u64;
        state.held.insert(what);
        Ok(())
    }

    /// Whether another process can go on with the file.
    pub(crate) fn is_worth_keeping(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.end <= WORTH_KEEPING
    }
}

/// A file in which nothing is leased.
fn begin(session: BorrowedFd<'_>) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(session, FILE, flags, Mode::RUSR | Mode::WUSR)?);
    if file.metadata()?.len() > 0 {
        file.write_all_at(END.as_bytes(), 0)?;
    }
    Ok(file)
}

fn line(what: Leased) -> String {
    match what {
        Leased::Blob(digest) => format!("b {}\n", digest.hex()),
        Leased::Layer(digest) => format!("l {}\n", digest.hex()),
        Leased::Record(key) => format!("r {key}\n"),
    }
}

fn parse(line: &str) -> Option<Leased> {
    let (kind, hex) = line.split_once(' ')?;
    let digest = || Digest::from_hex(hex).ok();
    match kind {
        "b" => Some(Leased::Blob(digest()?)),
        "l" => Some(Leased::Layer(digest()?)),
        "r" => Some(Leased::Record(hex.parse().ok()?)),
        _ => None,
    }
}

/// What living processes leased. The caller holds the store's lock exclusively.
pub(crate) fn leased(tmp: BorrowedFd<'_>) -> io::Result<HashSet<Leased>> {
    let mut all = HashSet::new();
    for session in dir::names(tmp)? {
        if lock_named(tmp, &session).is_some() {
            continue;
        }
        let Ok(session) = dir::open_child(tmp, &session) else {
            continue;
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = openat(session.as_fd(), FILE, flags, Mode::empty()) else {
            continue;
        };
        let mut bytes = Vec::new();
        File::from(file).read_to_end(&mut bytes)?;
        // Beyond the end, a power cut may have left anything.
        let text = String::from_utf8_lossy(&bytes);
        let leased = text.lines().take_while(|line| *line != END.trim_end());
        all.extend(leased.filter_map(parse));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::Store;

    #[test]
    fn a_kept_file_holds_the_leases_of_its_process_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = HashSet::new();
        for names in [&["a", "b", "c"][..], &["d"], &[]] {
            let store = Store::open(dir.path()).unwrap();
            let names = names.iter();
            let leases = names.map(|name| Leased::Blob(Digest::of(name.as_bytes())));
            let leases: HashSet<_> = leases.collect();
            for lease in &leases {
                store.leases().take(*lease).unwrap();
            }
            assert_eq!(store.leased().unwrap(), leases);
            drop(store);
            files.insert(dir.path().join("idle/leases").metadata().unwrap().ino());
        }
        assert_eq!(files.len(), 1);
    }
}
