//! What can go wrong with a store, in the terms a caller branches on.

use std::io;
use std::path::{Path, PathBuf};

use crate::DiffId;

/// The result of an operation on the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{action} {}: {source}", .path.display())]
    Io {
        /// What was being done: a verb, such as `open`.
        action: &'static str,
        /// The file it was done to.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The device (or the user's quota) is full.
    #[error("{action} {}: no space left on the device; free some, or prune the store", .path.display())]
    Full {
        /// What was being done.
        action: &'static str,
        /// The file it was done to.
        path: PathBuf,
    },
    /// Bytes are not what their digest or size says.
    #[error("{what} is corrupt: expected {expected}, found {found}")]
    Corrupt {
        /// What was read or received.
        what: String,
        /// The digest or size it should have.
        expected: String,
        /// The digest or size it has.
        found: String,
    },
    /// The folder holds a store of another kind or version.
    #[error("store {} has version {found:?}; this program reads {expected:?}: use another folder", .path.display())]
    Version {
        /// The store's folder.
        path: PathBuf,
        /// What its version file says.
        found: String,
        /// What this program writes.
        expected: String,
    },
    /// An archive is malformed, or asks for something that no layer may have.
    #[error("read archive{}: {reason}", entry_suffix(.entry))]
    Archive {
        /// The entry's name, escaped; empty where the archive itself is broken.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something of a layer would not be seen as it is if the layer amended another.
    #[error("\"{0}\" cannot be seen through a layer that amends another")]
    Unamendable(String),
    /// Something that was asked for is not in the store.
    #[error("{0} is not in the store")]
    Missing(String),
    /// [`Store::close`](crate::Store::close) was called.
    #[error("the store was closed")]
    Closed,
    /// The archive of a layer that another program made cannot be made again byte by byte.
    #[error("layer {0} was made by another program: use the blob it came in")]
    Foreign(DiffId),
}

impl Error {
    /// Whether the cause is a full device.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { action, path }
            }
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}

fn entry_suffix(entry: &str) -> String {
    if entry.is_empty() {
        String::new()
    } else {
        format!(" entry \"{entry}\"")
    }
}

/// Adds what was done, and to what, to a system call's error.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::io(action, path, source))
    }
}

/// A name from an archive, made fit to be shown: no control characters, bounded length.
pub(crate) fn shown(name: &[u8]) -> String {
    const LONGEST: usize = 200;
    let cut = &name[..name.len().min(LONGEST)];
    let mut text: String = String::from_utf8_lossy(cut).escape_debug().collect();
    if name.len() > LONGEST {
        text.push('…');
    }
    text
}
