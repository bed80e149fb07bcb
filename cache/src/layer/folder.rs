//! The folder of a layer, and, where the layer amends an earlier one, that one's folder below it.
//!
//! A large copy that is made again after a few files changed makes nearly the layer that it made before. Such a layer is
//! kept as an amendment: its folder holds all directories and the files that differ; the other files lie in the earlier
//! layer's folder and show through, for the reader here as for a mount of both. An amendment removes nothing, and what it
//! amends is no amendment itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::At;
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

    pub(crate) fn amends(&self) -> bool {
        self.amended.is_some()
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
