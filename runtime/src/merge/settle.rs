//! Marking in a directory that was filled what is gone from it.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Stat, XattrFlags, fsetxattr, fstat, mknodat, unlinkat,
};

use super::file::{copy, open_file};
use super::shown::{Found, Marks, c_path, kind, layers, look, merged, open};
use super::{Filled, Id, birth, id};
use crate::times;

/// Marks in `upper` what the layers `lowers` show and what is not there.
pub(crate) fn settle(
    lowers: &[PathBuf],
    upper: &Path,
    filled: &Filled,
    marks: Marks,
) -> io::Result<()> {
    let mut settler = Settler {
        filled,
        marks,
        met: HashSet::new(),
    };
    settler.directory(&layers(lowers)?, open(CWD, &c_path(upper)?)?.as_fd())
}

struct Settler<'a> {
    filled: &'a Filled,
    marks: Marks,
    /// The files that had several names in the layers, and their numbers now.
    met: HashSet<(Id, u64)>,
}

impl Settler<'_> {
    fn directory(&mut self, layers: &[OwnedFd], upper: BorrowedFd<'_>) -> io::Result<()> {
        let before = fstat(upper)?;
        let mut changed = false;
        for found in merged(layers)? {
            changed |= self.one(layers, &found, upper)?;
        }
        if changed {
            times::set(upper, &before)?;
        }
        Ok(())
    }

    /// Whether it changed the directory `upper`.
    fn one(
        &mut self,
        layers: &[OwnedFd],
        found: &Found,
        upper: BorrowedFd<'_>,
    ) -> io::Result<bool> {
        let name = &*found.name;
        let Some(there) = look(upper, name)? else {
            if self.filled.omitted.contains(&id(&found.stat)) {
                return Ok(false);
            }
            mknodat(upper, name, self.marks.whiteout(), Mode::empty(), 0)?;
            return Ok(true);
        };
        match kind(&there) {
            FileType::Directory if found.is_directory() => {
                let inner = open(upper, name)?;
                let made = self.filled.directories.get(&id(&found.stat));
                if made == Some(&birth(inner.as_fd())?) {
                    self.directory(&found.merged(layers)?, inner.as_fd())?;
                } else {
                    fsetxattr(inner, self.marks.opaque(), b"y", XattrFlags::empty())?;
                }
                Ok(false)
            }
            // It is in no layer, and must not be taken for a mark.
            FileType::Socket => {
                unlinkat(upper, name, AtFlags::empty())?;
                Ok(true)
            }
            FileType::RegularFile if there.st_nlink > 1 && found.stat.st_nlink > 1 => {
                self.part(found, upper, &there)
            }
            _ => Ok(false),
        }
    }

    /// An overlay parts the names of a file that is changed by each of them, as by `chown -R`.
    fn part(&mut self, found: &Found, upper: BorrowedFd<'_>, there: &Stat) -> io::Result<bool> {
        if self.met.insert((id(&found.stat), there.st_ino)) {
            return Ok(false);
        }
        let name = &*found.name;
        let file = open_file(upper, name)?;
        unlinkat(upper, name, AtFlags::empty())?;
        copy(file, upper, name, there)?;
        Ok(true)
    }
}
