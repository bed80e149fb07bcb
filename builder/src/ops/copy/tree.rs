//! A tree that copies read from: a local context behind its ignore list, or layers seen as one.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use lapstrake_cache::{Content, Entry, Kind, Meta, Owners, StatIndex, Time, Visit, Xattrs};
use lapstrake_frontend::ignore::Ignore;
use rustix::fs::{self, Mode, OFlags};

use super::canvas::{open_below, open_directory, read_link_below, stat_below};
use super::select::visit;
use crate::cli::ContextModes;
use crate::paths::shown;

/// The bits by which checkouts with different umasks differ.
const WRITABLE: u32 = 0o022;

/// What counts of a mode.
fn counted(modes: ContextModes, mode: u32) -> u32 {
    match modes {
        ContextModes::Exact => mode,
        ContextModes::Normalized => mode & !WRITABLE,
        ContextModes::Checkout => {
            let shared = mode & 0o500;
            (mode & 0o700) | (shared >> 3) | (shared >> 6)
        }
    }
}

/// A readable tree. Paths are relative to its root and free of links.
pub(crate) struct Tree {
    root: OwnedFd,
    /// Of a local context: what it leaves out.
    ignore: Option<Arc<Ignore>>,
    /// Of a local context: files whose content is known.
    index: Option<Arc<StatIndex>>,
    /// Which mode bits of a local context count.
    modes: ContextModes,
    /// Of other trees: the beginnings of the digests of files that were read.
    seen: Mutex<HashMap<PathBuf, [u8; 8]>>,
}

fn beginning(digest: &[u8; 32]) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    first
}

fn hex(bytes: [u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(bytes))
}

impl Tree {
    /// A local directory. Everything in it belongs to root, as in any context.
    pub(crate) fn of_context(
        root: OwnedFd,
        ignore: Arc<Ignore>,
        index: Option<Arc<StatIndex>>,
        modes: ContextModes,
    ) -> Self {
        Self {
            root,
            ignore: Some(ignore),
            index,
            modes,
            seen: Mutex::default(),
        }
    }

    /// A git checkout, with nothing hidden. Everything in it belongs to root.
    pub(crate) fn of_checkout(path: &Path) -> Result<Self> {
        let root = fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self::of_context(
            root,
            Arc::default(),
            None,
            ContextModes::Checkout,
        ))
    }

    /// Layers, lowest first, seen as one tree.
    pub(crate) fn of_layers(lowers: &[PathBuf]) -> Result<Self> {
        let root = lapstrake_runtime::view(lowers).context("show layers as one tree")?;
        Ok(Self {
            root,
            ignore: None,
            index: None,
            modes: ContextModes::Exact,
            seen: Mutex::default(),
        })
    }

    /// What lies at `path`; `None` when nothing does or the ignore list hides it.
    pub(crate) fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        let Some(stat) = stat_below(self.root.as_fd(), path)? else {
            return Ok(None);
        };
        let meta = self.owned(Meta::from(&stat));
        if !path.as_os_str().is_empty() && self.visit(path, meta.is_dir()) == Visit::Skip {
            return Ok(None);
        }
        let link = match meta.kind {
            Kind::Symlink => Some(read_link_below(self.root.as_fd(), path)?),
            _ => None,
        };
        let xattrs = match meta.kind {
            Kind::Dir => lapstrake_cache::kept_xattrs(self.open_directory(path)?.as_fd())?,
            _ => Xattrs::new(),
        };
        Ok(Some(Entry {
            path: path.to_path_buf(),
            meta,
            link,
            xattrs,
        }))
    }

    /// What the ignore list says of `path`.
    pub(crate) fn visit(&self, path: &Path, is_dir: bool) -> Visit {
        self.ignore
            .as_ref()
            .map_or(Visit::Take, |ignore| visit(ignore, path, is_dir))
    }

    /// All below the directory `start` that `filter` takes, parents first, paths relative to `start`.
    pub(crate) fn walk(
        &self,
        start: &Path,
        filter: &(dyn Fn(&Path, bool) -> Visit + Sync),
    ) -> Result<Vec<Entry>> {
        let walked = lapstrake_cache::walk(self.root.as_fd(), start, filter);
        let walked = walked.with_context(|| format!("read the files in {}", shown(start)))?;
        let mut seen: HashSet<PathBuf> = HashSet::new();
        let mut entries = Vec::with_capacity(walked.len());
        for entry in walked
            .into_iter()
            .filter(|entry| !entry.path.as_os_str().is_empty())
        {
            self.add_parents(start, &entry.path, &mut seen, &mut entries)?;
            if entry.meta.is_dir() {
                seen.insert(entry.path.clone());
            }
            entries.push(Entry {
                meta: self.owned(entry.meta),
                ..entry
            });
        }
        Ok(entries)
    }

    /// Adds the directories above `path` that are there only because something in them was taken.
    fn add_parents(
        &self,
        start: &Path,
        path: &Path,
        seen: &mut HashSet<PathBuf>,
        entries: &mut Vec<Entry>,
    ) -> Result<()> {
        let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        else {
            return Ok(());
        };
        if seen.contains(parent) {
            return Ok(());
        }
        self.add_parents(start, parent, seen, entries)?;
        seen.insert(parent.to_path_buf());
        if let Some(entry) = self.entry(&start.join(parent))? {
            entries.push(Entry {
                path: parent.to_path_buf(),
                ..entry
            });
        }
        Ok(())
    }

    /// Files of a context belong to root, whoever owns them here.
    fn owned(&self, meta: Meta) -> Meta {
        if self.ignore.is_some() {
            let mode = match meta.kind {
                Kind::File | Kind::Dir => counted(self.modes, meta.mode),
                _ => meta.mode,
            };
            Meta {
                uid: 0,
                gid: 0,
                mode,
                ..meta
            }
        } else {
            // Files of layers stay as they are, but each view that is a copy of layers adds names to them.
            Meta {
                ctime: Time::ANY,
                ..meta
            }
        }
    }

    /// The names in the directory `path`, sorted, without what is hidden.
    pub(crate) fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        let fd = self.open_directory(path)?;
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&fd)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." && self.entry(&path.join(name))?.is_some() {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The digest of a directory's entries, as [`Tree::walk`] gave them.
    pub(crate) fn digest(&self, start: &Path, entries: &[Entry]) -> Result<Content> {
        let content = |entry: &Entry| {
            let path = start.join(&entry.path);
            let digest = match &self.index {
                Some(index) => index.digest(self.root.as_fd(), &path, &entry.meta),
                None => self.read(path.clone(), &entry.meta),
            };
            digest.map_err(|error| match error.kind() {
                // Names the file itself.
                io::ErrorKind::InvalidData => error,
                kind => io::Error::new(kind, format!("{}: {error}", path.display())),
            })
        };
        let digest = lapstrake_cache::tree_digest(entries, Owners::Count, &content);
        digest.with_context(|| format!("hash {}", shown(start)))
    }

    fn read(&self, path: PathBuf, meta: &Meta) -> io::Result<[u8; 32]> {
        let digest = lapstrake_cache::file_digest(self.root.as_fd(), &path, meta)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(path, beginning(&digest));
        Ok(digest)
    }

    /// The beginning of the digest of a file that was hashed before, as people see it.
    pub(crate) fn beginning(&self, path: &Path, meta: &Meta) -> Option<String> {
        if meta.kind != Kind::File {
            return None;
        }
        if let Some(content) = self.known(path, meta) {
            return Some(hex(beginning(&content.0)));
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(path).copied().map(hex)
    }

    /// The digest of a file of a local context, which is known since the copy's key was computed.
    pub(crate) fn known(&self, path: &Path, meta: &Meta) -> Option<Content> {
        let digest = self.index.as_ref()?.digest(self.root.as_fd(), path, meta);
        digest.ok().map(Content)
    }

    /// The digest of one entry, without its name.
    pub(crate) fn digest_one(&self, path: &Path, entry: &Entry) -> Result<Content> {
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        let name = Path::new(path.file_name().context("the root is not a file")?);
        let alone = Entry {
            path: PathBuf::from(name),
            ..entry.clone()
        };
        self.digest(parent, std::slice::from_ref(&alone))
    }

    /// Opens a directory for reading.
    pub(crate) fn open_directory(&self, path: &Path) -> Result<OwnedFd> {
        open_directory(self.root.as_fd(), path)
    }

    /// Opens the directory that holds `path`.
    pub(crate) fn open_parent(&self, path: &Path) -> Result<OwnedFd> {
        self.open_directory(path.parent().unwrap_or_else(|| Path::new("")))
    }

    /// Opens a regular file for reading.
    pub(crate) fn open_file(&self, path: &Path) -> Result<std::fs::File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(open_below(self.root.as_fd(), path, flags)?.into())
    }
}
