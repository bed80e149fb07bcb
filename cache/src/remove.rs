//! Removing trees: by directory descriptor, to any depth, also through modes that forbid it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rayon::prelude::*;
use rustix::fs::{AtFlags, Mode, chmodat, renameat, unlinkat};
use rustix::io::Errno;

use crate::dir;

/// A subtree deeper than this is moved up before it is removed, so that a deep tree takes
/// neither descriptors nor stack.
const DEPTH: usize = 40;

/// Removes `name` in `parent` and all below it; nothing to do if it is not there.
pub(crate) fn remove_all(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    remove_until(parent, name, None).map(|_| ())
}

/// As [`remove_all`], but gives up at a moment; says whether everything is gone.
pub(crate) fn remove_until(
    parent: BorrowedFd<'_>,
    name: &CStr,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    let mut removal = Removal {
        parent,
        deadline,
        moved: 0,
        base: name,
        pending: Vec::new(),
    };
    if !removal.entry(parent, name, 0)? {
        return Ok(false);
    }
    while let Some(deep) = removal.pending.pop() {
        if !removal.entry(parent, &deep, 0)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes everything in a directory, several names at once where rayon has several threads.
pub(crate) fn empty(dir: BorrowedFd<'_>) -> io::Result<()> {
    let names = dir::names(dir)?;
    names.par_iter().try_for_each(|name| remove_all(dir, name))
}

struct Removal<'a> {
    parent: BorrowedFd<'a>,
    deadline: Option<Instant>,
    base: &'a CStr,
    moved: usize,
    pending: Vec<CString>,
}

impl Removal<'_> {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<bool> {
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() > deadline)
        {
            return Ok(false);
        }
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            // POSIX says EPERM for a directory, Linux EISDIR.
            Err(Errno::ISDIR | Errno::PERM) => self.directory(dir, name, depth),
            Err(error) => Err(error.into()),
        }
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<bool> {
        if unlinkat(dir, name, AtFlags::REMOVEDIR).is_ok() {
            return Ok(true);
        }
        if depth == DEPTH {
            return self.move_up(dir, name);
        }
        let fd = match dir::open_child(dir, name) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
                dir::open_child(dir, name)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            opened => opened?,
        };
        if rustix::fs::fchmod(&fd, Mode::RWXU).is_err() {
            // Not ours; if its mode forbids the removal, that is the error that is reported.
        }
        for child in dir::names(fd.as_fd())? {
            if !self.entry(fd.as_fd(), &child, depth + 1)? {
                return Ok(false);
            }
        }
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
        self.moved += 1;
        let mut up = self.base.to_bytes().to_vec();
        up.truncate(200);
        up.extend_from_slice(format!(".{}", self.moved).as_bytes());
        let up = CString::new(up)?;
        renameat(dir, name, self.parent, &up)?;
        self.pending.push(up);
        Ok(true)
    }
}
