//! The folder of a layer, and, where the layer amends an earlier one, that one's folder below it.
//!
//! A large copy that is made again after a few files changed makes nearly the layer that it made before. Such a layer is
//! kept as an amendment: its folder holds all directories and the files that differ; the other files lie in the earlier
//! layer's folder and show through, for the reader here as for a mount of both. An amendment removes nothing, and what it
//! amends is no amendment itself.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use crate::error::At;
use crate::layer::lower::open_deep;
use crate::{Result, dir};

/// In which folder something of a layer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Own,
    Amended,
}

/// Where the parts of a layer lie, opened.
pub(crate) struct Folder {
    own: Part,
    amended: Option<Part>,
}

struct Part {
    path: PathBuf,
    root: OwnedFd,
}

impl Part {
    fn open(path: &Path) -> Result<Self> {
        let root = dir::open(path).at("open", path)?;
        let path = path.to_owned();
        Ok(Self { path, root })
    }
}

impl Folder {
    /// A folder that is all there is.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::amending(path, None)
    }

    /// A folder and the one that shows through it.
    pub(crate) fn amending(path: &Path, amended: Option<&Path>) -> Result<Self> {
        Ok(Self {
            own: Part::open(path)?,
            amended: amended.map(Part::open).transpose()?,
        })
    }

    /// The names in a directory of the amended layer, if it has anything there.
    pub(crate) fn amended_names(&self, path: &[u8]) -> io::Result<Option<Vec<CString>>> {
        let Some(amended) = &self.amended else {
            return Ok(None);
        };
        match open_deep(amended.root.as_fd(), path, dir::DIRECTORY) {
            Ok(fd) => dir::sorted_names(fd.as_fd()).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn path(&self, place: Place) -> &Path {
        &self.part(place).path
    }

    pub(crate) fn root(&self, place: Place) -> BorrowedFd<'_> {
        self.part(place).root.as_fd()
    }

    fn part(&self, place: Place) -> &Part {
        match (place, &self.amended) {
            (Place::Amended, Some(amended)) => amended,
            _ => &self.own,
        }
    }
}

/// The names in a directory and those that show through it, in order. The descriptor is read to its end.
pub(crate) fn all_names(
    fd: BorrowedFd<'_>,
    amended: Option<Vec<CString>>,
) -> io::Result<IntoIter<(CString, Place)>> {
    let own = dir::sorted_names(fd)?;
    let mut amended = amended.unwrap_or_default();
    amended.retain(|name| own.binary_search(name).is_err());
    let place = |place: Place| move |name: CString| (name, place);
    let mut names: Vec<_> = own.into_iter().map(place(Place::Own)).collect();
    names.extend(amended.into_iter().map(place(Place::Amended)));
    names.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(names.into_iter())
}
