//! Looking up names in the layers below, as overlayfs would merge them.

use std::cell::OnceCell;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, openat};

use crate::meta::Meta;
use crate::{dir, layer::whiteout};

/// The kernel takes no longer path in one call.
const LONGEST_PATH: usize = 4000;

/// A folder of which paths of any length are looked up. Paths consist of names that were seen as
/// directories, in a folder that nobody changes: no link is on the way.
pub(crate) struct Root {
    path: PathBuf,
    fd: OnceCell<OwnedFd>,
}

impl Root {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            fd: OnceCell::new(),
        }
    }

    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        if self.fd.get().is_none() {
            let opened = dir::open(&self.path)?;
            return Ok(self.fd.get_or_init(|| opened).as_fd());
        }
        self.fd
            .get()
            .map(AsFd::as_fd)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn lookup(&self, path: &[u8]) -> io::Result<Option<Meta>> {
        lookup_deep(self.fd()?, path)
    }

    pub(crate) fn open(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        open_deep(self.fd()?, path, flags)
    }
}

/// What is at a path of any length.
pub(crate) fn lookup_deep(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Option<Meta>> {
    match shorten(root, path) {
        Err(error) if dir::is_absent(&error) => Ok(None),
        Err(error) => Err(error),
        Ok((deep, tail)) => dir::lookup(deep.as_ref().map_or(root, AsFd::as_fd), tail),
    }
}

/// Opens a path of any length; the last component may not be a link.
pub(crate) fn open_deep(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (deep, tail) = shorten(root, path)?;
    let from = deep.as_ref().map_or(root, AsFd::as_fd);
    let tail = if tail.is_empty() { b"." } else { tail };
    Ok(openat(from, CString::new(tail)?, flags, Mode::empty())?)
}

/// Goes down a path until what is left is short enough for one call.
fn shorten<'p>(root: BorrowedFd<'_>, path: &'p [u8]) -> io::Result<(Option<OwnedFd>, &'p [u8])> {
    let mut deep: Option<OwnedFd> = None;
    let mut rest = path;
    while rest.len() > LONGEST_PATH {
        let Some(slash) = rest[..LONGEST_PATH].iter().rposition(|byte| *byte == b'/') else {
            return Err(rustix::io::Errno::NAMETOOLONG.into());
        };
        let from = deep.as_ref().map_or(root, AsFd::as_fd);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        deep = Some(openat(
            from,
            CString::new(&rest[..slash])?,
            flags,
            Mode::empty(),
        )?);
        rest = &rest[slash + 1..];
    }
    Ok((deep, rest))
}

/// The layers below, uppermost first.
pub(crate) struct Lowers {
    roots: Vec<Root>,
}

/// What the layers below have under a name.
pub(crate) enum Found {
    Nothing,
    /// Something that is no directory, and in which layer.
    Other(usize, Meta),
    /// A directory, merged from these layers; its own facts are those of the first.
    Dir(Vec<usize>, Meta),
}

impl Lowers {
    /// `paths` are in the order of a stack: lowest first.
    pub(crate) fn new(paths: &[PathBuf]) -> Self {
        Self {
            roots: paths.iter().rev().cloned().map(Root::new).collect(),
        }
    }

    /// All layers: those that have the root directory.
    pub(crate) fn all(&self) -> Vec<usize> {
        (0..self.roots.len()).collect()
    }

    pub(crate) fn root(&self, index: usize) -> &Root {
        &self.roots[index]
    }

    /// Looks up `path` in the layers that merge to its parent directory.
    pub(crate) fn find(&self, parents: &[usize], path: &[u8]) -> io::Result<Found> {
        let mut dirs = Vec::new();
        let mut first = None;
        for &index in parents {
            let root = &self.roots[index];
            match root.lookup(path)? {
                None => {}
                Some(meta) if meta.is_dir() => {
                    dirs.push(index);
                    first.get_or_insert(meta);
                    let opened = root.open(path, dir::DIRECTORY)?;
                    if whiteout::is_opaque(opened)?.is_some() {
                        break;
                    }
                }
                Some(meta) if meta.is_whiteout() || first.is_some() => break,
                Some(meta) => return Ok(Found::Other(index, meta)),
            }
        }
        Ok(first.map_or(Found::Nothing, |meta| Found::Dir(dirs, meta)))
    }
}
