//! Places in the new root: found or created without leaving it, and taken away again afterwards.
//!
//! A *stub* is a directory or empty file that exists only so that something can be mounted on it. It is no result of
//! the command and must not reach its layer, and neither must the time at which its parent changed because of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, chownat, fstat, mkdirat,
    mknodat, openat, openat2, readlinkat, statat, statx, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::mount::{open_below, open_dir_below, open_plain, path_below};
use crate::times;

/// Links that are followed in turn when they lead to something that does not exist.
const MAX_LINKS: usize = 40;

/// Something that was created to be mounted upon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stub {
    /// Below the root, without symbolic links.
    path: PathBuf,
    directory: bool,
}

/// What a target must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Directory,
    File,
}

impl Shape {
    /// That of an existing file.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Shape> {
        let directory = FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory;
        Ok(if directory {
            Shape::Directory
        } else {
            Shape::File
        })
    }
}

/// A root in which targets are made.
pub(crate) struct Targets<'a> {
    root: BorrowedFd<'a>,
    made: Made<'a>,
}

/// What becomes of what is created.
enum Made<'a> {
    /// Noted, to be removed afterwards.
    Stubs(&'a mut Vec<Stub>),
    /// Given to a user, to stay.
    Owned(u32, u32),
}

impl<'a> Targets<'a> {
    /// Targets below `root`; what is created is added to `stubs`.
    pub(crate) fn new(root: BorrowedFd<'a>, stubs: &'a mut Vec<Stub>) -> Targets<'a> {
        Targets {
            root,
            made: Made::Stubs(stubs),
        }
    }

    /// Opens the target at `path`, creating it and missing parents.
    pub(crate) fn open(&mut self, path: &str, shape: Shape) -> io::Result<OwnedFd> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            match open_below(self.root, &path) {
                Err(Errno::NOENT) => {}
                found => return Ok(found?),
            }
            let (parent, name) = split(&path);
            let directory = self.parent(parent)?;
            match readlinkat(&directory, name, Vec::new()) {
                // A dangling link: what it points to is created.
                Ok(link) => path = join(parent, &link.to_string_lossy()),
                Err(_) => self.create(directory.as_fd(), name, shape)?,
            }
        }
        Err(Errno::LOOP.into())
    }

    fn parent(&mut self, path: &str) -> io::Result<OwnedFd> {
        drop(match open_below(self.root, path) {
            Err(Errno::NOENT) => self.open(path, Shape::Directory)?,
            found => found?,
        });
        Ok(open_dir_below(self.root, path)?)
    }

    fn create(&mut self, parent: BorrowedFd<'_>, name: &str, shape: Shape) -> io::Result<()> {
        let before = fstat(parent)?;
        match shape {
            Shape::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755))?,
            Shape::File => mknodat(
                parent,
                name,
                FileType::RegularFile,
                Mode::from_raw_mode(0o644),
                0,
            )?,
        }
        match &mut self.made {
            Made::Owned(uid, gid) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                chownat(
                    parent,
                    name,
                    Some(Uid::from_raw(*uid)),
                    Some(Gid::from_raw(*gid)),
                    flags,
                )?;
            }
            // In a mount of the caller, such as a cache, it is not ours to take away.
            Made::Stubs(stubs) if mount_id(parent)? == mount_id(self.root)? => {
                times::set(parent, &before)?;
                let path = path_below(self.root, parent)?.join(name);
                stubs.push(Stub {
                    path,
                    directory: shape == Shape::Directory,
                });
            }
            Made::Stubs(_) => {}
        }
        Ok(())
    }
}

fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Parent and name of a path; the parent of a single name is `/`.
pub(crate) fn split(path: &str) -> (&str, &str) {
    let path = path.trim_end_matches('/');
    path.rsplit_once('/').unwrap_or(("", path))
}

/// What a link in `directory` points to; `..` is left to the kernel.
fn join(directory: &str, link: &str) -> String {
    if link.starts_with('/') {
        link.to_owned()
    } else {
        format!("{directory}/{link}")
    }
}

/// Opens the working directory `path` below `root`; what is missing is created and given to the user.
pub(crate) fn working_directory(
    root: BorrowedFd<'_>,
    path: &str,
    uid: u32,
    gid: u32,
) -> io::Result<OwnedFd> {
    Targets {
        root,
        made: Made::Owned(uid, gid),
    }
    .open(path, Shape::Directory)
}

/// Opens the directory `name` of the root, creating it if there is none; it stays. A link in its place is refused.
pub(crate) fn lasting_directory(root: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(root, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(open_plain(root, name)?),
        Err(error) => Err(error.into()),
    }
}

/// Removes from `upper` the stubs that are still there and empty; parents keep the times that they have.
///
/// The command may have put anything in the place of a stub or its parents, so links are never followed.
pub(crate) fn remove_stubs(upper: &Path, stubs: &[Stub]) -> io::Result<()> {
    if stubs.is_empty() {
        return Ok(());
    }
    let upper = openat(
        CWD,
        upper,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for stub in stubs.iter().rev() {
        match remove_stub(upper.as_fd(), stub) {
            Ok(())
            | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn remove_stub(upper: BorrowedFd<'_>, stub: &Stub) -> rustix::io::Result<()> {
    let (Some(parent), Some(name)) = (stub.path.parent(), stub.path.file_name()) else {
        return Ok(());
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let parent = openat2(upper, parent, flags, Mode::empty(), resolve)?;
    let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let before = fstat(&parent)?;
    match (FileType::from_raw_mode(stat.st_mode), stub.directory) {
        (FileType::Directory, true) => unlinkat(&parent, name, AtFlags::REMOVEDIR)?,
        (FileType::RegularFile, false) if stat.st_size == 0 => {
            unlinkat(&parent, name, AtFlags::empty())?;
        }
        _ => return Ok(()),
    }
    times::set(parent.as_fd(), &before)
}
