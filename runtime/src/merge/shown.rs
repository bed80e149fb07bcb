//! What layers show in a directory, and the marks by which they say that something is gone.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fgetxattr, openat, statat};
use rustix::io::Errno;

/// How a layer says that something of the layers below it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// As overlays do, with an attribute `trusted.*`.
    Trusted,
    /// As overlays do, with an attribute `user.*`.
    User,
    /// By sockets, of which layers hold none, and an attribute that no overlay knows.
    Own,
}

impl Marks {
    const ALL: [Marks; 3] = [Marks::Trusted, Marks::User, Marks::Own];

    /// The attribute of a directory that hides what is below.
    pub(super) fn opaque(self) -> &'static CStr {
        match self {
            Marks::Trusted => c"trusted.overlay.opaque",
            Marks::User => c"user.overlay.opaque",
            Marks::Own => c"user.lapstrake.opaque",
        }
    }

    /// What is in the place of something that is gone.
    pub(super) fn whiteout(self) -> FileType {
        match self {
            Marks::Trusted | Marks::User => FileType::CharacterDevice,
            Marks::Own => FileType::Socket,
        }
    }
}

/// The layers' directories, uppermost first.
pub(super) fn layers(lowers: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    let open = |path: &PathBuf| open(CWD, &c_path(path)?);
    lowers.iter().rev().map(open).collect()
}

pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

pub(super) fn open(at: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    match kind(stat) {
        FileType::CharacterDevice => stat.st_rdev == 0,
        kind => kind == FileType::Socket,
    }
}

pub(super) fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    Marks::ALL.iter().any(|marks| {
        let mut value = [0; 2];
        fgetxattr(directory, marks.opaque(), &mut value) == Ok(1) && value[0] == b'y'
    })
}

pub(super) fn look(at: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Stat>> {
    match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// One name of a merged directory.
pub(super) struct Found {
    pub(super) name: CString,
    pub(super) stat: Stat,
    /// Which of the layers has it, the uppermost that does.
    pub(super) layer: usize,
}

impl Found {
    pub(super) fn is_directory(&self) -> bool {
        kind(&self.stat) == FileType::Directory
    }

    /// The directories that it is merged from. Open only while they are looked into: a directory may have more of them
    /// than a process may open.
    pub(super) fn merged(&self, layers: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
        below(&layers[self.layer..], &self.name)
    }
}

/// What the layers show in one directory, uppermost first.
pub(super) fn merged(layers: &[OwnedFd]) -> io::Result<Vec<Found>> {
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    for (layer, directory) in layers.iter().enumerate() {
        for entry in Dir::read_from(directory)? {
            let name = entry?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") || !seen.insert(name.clone()) {
                continue;
            }
            let Some(stat) = look(directory.as_fd(), &name)? else {
                continue;
            };
            if !is_whiteout(&stat) {
                found.push(Found { name, stat, layer });
            }
        }
        if is_opaque(directory.as_fd()) {
            break;
        }
    }
    // Of several names the first is always the same one.
    found.sort_unstable_by(|a: &Found, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The directories `name` of the layers, down to what hides the rest.
fn below(layers: &[OwnedFd], name: &CStr) -> io::Result<Vec<OwnedFd>> {
    let mut merged = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        match look(layer.as_fd(), name)? {
            Some(stat) if kind(&stat) == FileType::Directory => {
                let directory = open(layer.as_fd(), name)?;
                let opaque = is_opaque(directory.as_fd());
                merged.push(directory);
                if opaque {
                    break;
                }
            }
            Some(_) => break,
            None => {}
        }
        if index + 1 < layers.len() && is_opaque(layer.as_fd()) {
            break;
        }
    }
    Ok(merged)
}
