//! Copying into a directory what layers show.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, chmodat, linkat, mkdirat, mknodat, readlinkat, symlinkat,
};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::file::{attributes, copy, open_file, owner_and_time};
use super::shown::{Found, c_path, is_opaque, kind, layers, look, merged, open};
use super::{Filled, Id, Moment, Take, birth, id};

/// Puts into `upper` what the layers `lowers` (lowest first) show, and is not in it yet.
pub(crate) fn fill(lowers: &[PathBuf], upper: &Path, take: Take) -> io::Result<Filled> {
    let to = open(CWD, &c_path(upper)?)?;
    let mut filler = Filler {
        take,
        root: to.as_fd(),
        place: PathBuf::new(),
        links: HashMap::new(),
        filled: Filled::default(),
    };
    filler.directory(&layers(lowers)?, to.as_fd())?;
    if take == Take::Copy {
        let births = filler.filled.directories.values();
        if let Some(last) = births.filter_map(|birth| birth.time).max() {
            wait_until_after(last);
        }
    }
    Ok(filler.filled)
}

/// File systems take the time from a clock that is some milliseconds coarse. What is made from now on, with the number of
/// something that was removed, is told by its time.
fn wait_until_after(moment: Moment) {
    // The clock may have been set back meanwhile.
    for _ in 0..100 {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        if (now.tv_sec, now.tv_nsec as u64) > moment {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Filler<'a> {
    take: Take,
    root: BorrowedFd<'a>,
    /// The directory that is being filled, below the root.
    place: PathBuf,
    /// The directory and the first of several names of a file. A path, as there may be more than can be open at once.
    links: HashMap<Id, (PathBuf, CString)>,
    filled: Filled,
}

impl Filler<'_> {
    fn directory(&mut self, layers: &[OwnedFd], to: BorrowedFd<'_>) -> io::Result<()> {
        for found in merged(layers)? {
            let name = &*found.name;
            match (look(to, name)?, kind(&found.stat)) {
                (None, FileType::Directory) => {
                    mkdirat(to, name, Mode::RWXU)?;
                    self.inside(layers, &found, to)?;
                }
                (None, _) => self.other(layers[found.layer].as_fd(), &found, to)?,
                (Some(there), FileType::Directory) if kind(&there) == FileType::Directory => {
                    let inner = open(to, name)?;
                    if !is_opaque(inner.as_fd()) {
                        self.note(&found, inner.as_fd())?;
                        self.below(&found.merged(layers)?, name, inner.as_fd())?;
                    }
                }
                (Some(_), _) => {}
            }
        }
        Ok(())
    }

    fn below(&mut self, layers: &[OwnedFd], name: &CStr, to: BorrowedFd<'_>) -> io::Result<()> {
        self.place.push(OsStr::from_bytes(name.to_bytes()));
        let filled = self.directory(layers, to);
        self.place.pop();
        filled
    }

    /// A directory that was made: first what is in it, then what it is.
    fn inside(&mut self, layers: &[OwnedFd], found: &Found, to: BorrowedFd<'_>) -> io::Result<()> {
        let inner = open(to, &found.name)?;
        self.note(found, inner.as_fd())?;
        let merged = found.merged(layers)?;
        self.below(&merged, &found.name, inner.as_fd())?;
        if let Some(from) = merged.first() {
            attributes(from.as_fd(), inner.as_fd(), &found.stat)?;
        }
        Ok(())
    }

    fn note(&mut self, found: &Found, made: BorrowedFd<'_>) -> io::Result<()> {
        let births = &mut self.filled.directories;
        births.insert(id(&found.stat), birth(made)?);
        Ok(())
    }

    fn other(&mut self, from: BorrowedFd<'_>, found: &Found, to: BorrowedFd<'_>) -> io::Result<()> {
        let (name, stat) = (&*found.name, &found.stat);
        let id = id(stat);
        if stat.st_nlink > 1
            && let Some((place, first)) = self.links.get(&id)
        {
            let directory = place.iter().try_fold(None, |at: Option<OwnedFd>, part| {
                let at = at.as_ref().map_or(self.root, AsFd::as_fd);
                open(at, &c_path(Path::new(part))?).map(Some)
            })?;
            let directory = directory.as_ref().map_or(self.root, AsFd::as_fd);
            return Ok(linkat(directory, first, to, name, AtFlags::empty())?);
        }
        match kind(stat) {
            FileType::RegularFile => {
                let linked = self.take == Take::Link
                    && linkat(from, name, to, name, AtFlags::empty()).is_ok();
                if !linked {
                    copy(open_file(from, name)?, to, name, stat)?;
                }
            }
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
                owner_and_time(to, name, stat)?;
            }
            kind => match mknodat(
                to,
                name,
                kind,
                Mode::from_raw_mode(stat.st_mode & 0o7777),
                stat.st_rdev,
            ) {
                Ok(()) => {
                    owner_and_time(to, name, stat)?;
                    chmodat(
                        to,
                        name,
                        Mode::from_raw_mode(stat.st_mode & 0o7777),
                        AtFlags::empty(),
                    )?;
                }
                Err(Errno::PERM) => {
                    self.filled.omitted.insert(id);
                }
                Err(error) => return Err(error.into()),
            },
        }
        if stat.st_nlink > 1 && !self.filled.omitted.contains(&id) {
            self.links.insert(id, (self.place.clone(), name.to_owned()));
        }
        Ok(())
    }
}
