//! Why a prune never breaks a build: each process writes down what it uses.
//!
//! A build that learns that a layer, a blob or a record exists, or is about to make one, first adds its name
//! to the file `leases` in its folder below `tmp`, under the store's lock (shared, for a few
//! microseconds). A prune takes the lock exclusively, reads the leases of the processes that live,
//! moves away what nobody leased, and lets go. So a build waits for a prune only that long, and a
//! prune never waits for a build to end.

use std::collections::HashSet;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};

use crate::error::At;
use crate::session::lock_named;
use crate::store::{create_file, open_lock};
use crate::{Digest, Key, Result, dir};

const FILE: &std::ffi::CStr = c"leases";

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
    file: std::fs::File,
    held: HashSet<Leased>,
}

impl Leases {
    pub(crate) fn start(
        root: &Path,
        store: BorrowedFd<'_>,
        session: BorrowedFd<'_>,
    ) -> Result<Self> {
        let lock = open_lock(root, store)?;
        let file = create_file(session, FILE).at("create leases in", root)?;
        let state = State {
            lock,
            file: file.into(),
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
        flock(&state.lock, FlockOperation::LockShared).at("lock", &self.path)?;
        let written = state.file.write_all(line(what).as_bytes());
        flock(&state.lock, FlockOperation::Unlock).at("unlock", &self.path)?;
        written.at("write leases beside", &self.path)?;
        state.held.insert(what);
        Ok(())
    }
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
        let text = io::read_to_string(std::fs::File::from(file))?;
        all.extend(text.lines().filter_map(parse));
    }
    Ok(all)
}
