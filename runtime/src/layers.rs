//! How layers become one tree: as an overlay, or, where none can be mounted, as a copy.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::enter::entered;
use crate::merge::{self, Filled, Marks, Take};
use crate::spec::Root;
use crate::{Error, mount, overlay};

/// How.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// By mounting them.
    Overlays {
        /// Whether their marks are in attributes `user.*` rather than `trusted.*`.
        user_xattrs: bool,
    },
    /// By copying them, which takes time and room.
    Copies {
        /// Where views are kept: a directory on the file system of the layers, which the caller removes when no view is
        /// used any more.
        views: PathBuf,
        /// What is put into a layer where something of those below is gone.
        marks: Marks,
    },
}

static LAYERS: OnceLock<Layers> = OnceLock::new();
/// The views that were copied.
static MERGED: Mutex<Option<HashMap<Vec<PathBuf>, PathBuf>>> = Mutex::new(None);
/// What is known of the upper directories that [`writable_view`] filled.
static FILLED: Mutex<Option<HashMap<PathBuf, Filled>>> = Mutex::new(None);

fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says how layers are shown from now on; only the first call counts. Without one, and not after [`crate::enter_bare`],
/// they are mounted, with attributes `user.*` in a user namespace.
pub fn show_layers(layers: Layers) {
    let _ = LAYERS.set(layers);
}

/// How layers are shown.
pub(crate) fn shown() -> Result<Layers, Error> {
    let user_xattrs = entered()?.host.user_namespace;
    let default = || Layers::Overlays { user_xattrs };
    Ok(LAYERS.get().cloned().unwrap_or_else(default))
}

/// Whether changes of layers can be mounted whose upper directory is on the file system of `directory`, which is empty
/// and removed by the caller. The error says what is in the way.
pub fn can_overlay(directory: &Path, user_xattrs: bool) -> io::Result<()> {
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| directory.join(name));
    for path in [&lower, &upper, &work] {
        std::fs::create_dir(path)?;
    }
    match overlay::writable_view(&[lower], &upper, &work, user_xattrs) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Err(io::Error::other(
            "the kernel has no overlayfs: load its module, modprobe overlay",
        )),
        other => other.map(drop),
    }
}

/// A read-only view of layers merged, lowest first, as a directory that is not to be written to; it lives as long as the
/// descriptor.
///
/// No layers give an empty directory.
pub fn view(lowers: &[PathBuf]) -> io::Result<OwnedFd> {
    match shown().map_err(io::Error::other)? {
        Layers::Overlays { user_xattrs } => overlay::view(lowers, user_xattrs),
        Layers::Copies { views, .. } => copied_view(lowers, &views),
    }
}

fn copied_view(lowers: &[PathBuf], views: &Path) -> io::Result<OwnedFd> {
    let mut merged = lock(&MERGED);
    let merged = merged.get_or_insert_default();
    if !merged.contains_key(lowers) {
        let path = views.join(merged.len().to_string());
        std::fs::create_dir(&path)?;
        merge::fill(lowers, &path, Take::Link)?;
        merged.insert(lowers.to_vec(), path);
    }
    open(merged.get(lowers).ok_or(io::ErrorKind::NotFound)?)
}

/// Layers merged as [`view`] shows them, but writable: changes go to `upper`.
///
/// `work` is an empty directory beside it. [`finish_view`] must follow.
pub fn writable_view(lowers: &[PathBuf], upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    match shown().map_err(io::Error::other)? {
        Layers::Overlays { user_xattrs } => {
            overlay::writable_view(lowers, upper, work, user_xattrs)
        }
        Layers::Copies { .. } => {
            let filled = merge::fill(lowers, upper, Take::Copy)?;
            lock(&FILLED)
                .get_or_insert_default()
                .insert(upper.to_owned(), filled);
            open(upper)
        }
    }
}

/// To be called when a [`writable_view`] was written to: `upper` holds what changed then.
pub fn finish_view(lowers: &[PathBuf], upper: &Path) -> io::Result<()> {
    let filled = lock(&FILLED).get_or_insert_default().remove(upper);
    match (filled, shown().map_err(io::Error::other)?) {
        (Some(filled), Layers::Copies { marks, .. }) => {
            merge::settle(lowers, upper, &filled, marks)
        }
        _ => Ok(()),
    }
}

/// The path `source` of a copy of layers that is made in `scratch`, an empty directory.
pub(crate) fn copied_part(
    lowers: &[PathBuf],
    source: &str,
    scratch: &Path,
    take: Take,
) -> io::Result<Part> {
    let path = scratch.join("merged");
    std::fs::create_dir(&path)?;
    merge::fill(lowers, &path, take)?;
    let whole = open(&path)?;
    let part = mount::open_below(whole.as_fd(), source)?;
    let below = mount::path_below(whole.as_fd(), part.as_fd())?;
    Ok(Part {
        path: path.join(below),
        part,
    })
}

/// A part of a copy of layers.
pub(crate) struct Part {
    /// Where it is, links resolved.
    pub(crate) path: PathBuf,
    /// The same, open.
    pub(crate) part: OwnedFd,
}

/// The root of a step that is a copy of its layers.
pub(crate) struct Copied<'a> {
    root: &'a Root,
    filled: Filled,
    marks: Marks,
}

impl<'a> Copied<'a> {
    /// Copies the layers into the upper directory, if that is how layers are shown.
    pub(crate) fn make(root: &'a Root) -> Result<Option<Self>, Error> {
        let Layers::Copies { marks, .. } = shown()? else {
            return Ok(None);
        };
        let filled = merge::fill(&root.lowers, &root.upper, Take::Copy)
            .map_err(|error| Error::Setup(format!("copy the layers: {error}")))?;
        Ok(Some(Self {
            root,
            filled,
            marks,
        }))
    }

    /// Makes of what the step left what an overlay would have left in the upper directory.
    pub(crate) fn settle(self) -> Result<(), Error> {
        let Root { lowers, upper, .. } = self.root;
        merge::settle(lowers, upper, &self.filled, self.marks)
            .map_err(|error| Error::Setup(format!("find what is gone: {error}")))
    }
}

pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}
