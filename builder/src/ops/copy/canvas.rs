//! Where a copy is placed: the base as it looks, and the empty upper directory that takes what is new.
//!
//! Files are written straight into the upper directory, not through an overlay mount: it is faster, needs no mount, and the
//! commit that follows reads the same directory. Every path here is relative to the root and free of links (see
//! [`crate::paths::resolve`]); the kernel checks that again (`RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, openat2(2)).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lapstrake_cache::{Active, Attributes, DiffId, Meta, Time, Xattrs};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::earlier::{Earlier, Placed, Spot};
use crate::paths::{Found, resolve, shown};

/// Mode and owner for what a copy makes; `None` leaves it to the default and to a parent with the setgid bit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NewDir {
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<(u32, u32)>,
}

struct Overlay {
    lowers: Vec<PathBuf>,
    upper: PathBuf,
    work: PathBuf,
}

/// The tree that a copy works on.
pub(crate) struct Canvas {
    base: Option<OwnedFd>,
    upper: OwnedFd,
    /// What an overlay mount of both would be made of.
    overlay: Option<Overlay>,
    /// Directories of the upper whose times must be set when all is placed.
    times: BTreeMap<PathBuf, Time>,
    /// What the same copy made last time.
    earlier: Option<Earlier>,
    /// What this one placed.
    placed: Placed,
}

impl Canvas {
    /// A canvas that shows the layers `lowers`, lowest first, and writes into `active`.
    pub(crate) fn over(lowers: &[PathBuf], active: &Active) -> Result<Self> {
        let base = lapstrake_runtime::view(lowers).context("show the base as one tree")?;
        let (upper, work) = (active.upper().to_path_buf(), active.work().to_path_buf());
        // Without a base there is nothing to merge with.
        let overlay = (!lowers.is_empty()).then(|| Overlay {
            lowers: lowers.to_vec(),
            upper,
            work,
        });
        Ok(Self {
            base: Some(base),
            overlay,
            ..Self::alone(active.upper())?
        })
    }

    /// A canvas that shows nothing but what is in the directory `upper`, and writes there.
    pub(crate) fn alone(upper: &Path) -> Result<Self> {
        let upper = fs::open(upper, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self {
            base: None,
            upper,
            overlay: None,
            times: BTreeMap::new(),
            earlier: None,
            placed: Placed::default(),
        })
    }

    /// What lies at `path`, the upper's before the base's.
    pub(crate) fn stat(&self, path: &Path) -> Result<Option<Stat>> {
        if let Some(stat) = stat_below(self.upper.as_fd(), path)? {
            return Ok(Some(stat));
        }
        match &self.base {
            Some(base) => stat_below(base.as_fd(), path),
            None => Ok(None),
        }
    }

    /// Follows links of `path` inside the root, the last component's too.
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf> {
        resolve(path, |path| self.look(path))
    }

    fn look(&self, path: &Path) -> Result<Found> {
        Ok(match self.stat(path)? {
            None => Found::Missing,
            Some(stat) if is(&stat, FileType::Symlink) => Found::Link(self.read_link(path)?),
            Some(_) => Found::Entry,
        })
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf> {
        let upper = stat_below(self.upper.as_fd(), path)?.is_some();
        let root = if upper {
            Some(&self.upper)
        } else {
            self.base.as_ref()
        };
        let root = root.context("read a link of an empty tree")?;
        read_link_below(root.as_fd(), path)
    }

    /// Takes files that are as they were from `earlier`.
    pub(crate) fn use_earlier(&mut self, earlier: Option<Earlier>) {
        self.earlier = earlier;
    }

    /// What the same copy made last time.
    pub(crate) fn earlier(&self) -> Option<&Earlier> {
        self.earlier.as_ref()
    }

    /// Notes what was placed, and the layer that holds what need not be.
    pub(super) fn note_placed(&mut self, spots: Vec<Spot>, amends: Option<DiffId>) {
        self.placed.spots.extend(spots);
        self.placed.amends = amends;
    }

    /// The base, for looking up users; `None` where there is none.
    pub(crate) fn base(&self) -> Option<&OwnedFd> {
        self.base.as_ref()
    }

    /// Makes sure that `path` is a directory in the upper and opens it. Directories of the base come with their metadata,
    /// missing ones are made as `new` says. A file or a link in the way is an error.
    pub(crate) fn directory(&mut self, path: &Path, new: NewDir) -> Result<OwnedFd> {
        let mut real = PathBuf::new();
        for part in path.iter() {
            real.push(part);
            self.one_directory(&real, new)?;
        }
        open_directory(self.upper.as_fd(), path)
    }

    fn one_directory(&mut self, path: &Path, new: NewDir) -> Result<()> {
        match stat_below(self.upper.as_fd(), path)? {
            Some(stat) if is(&stat, FileType::Directory) => return Ok(()),
            Some(_) => bail!("cannot copy to non-directory: {}", shown(path)),
            None => {}
        }
        let below = match &self.base {
            Some(base) => stat_below(base.as_fd(), path)?,
            None => None,
        };
        match below {
            Some(stat) if is(&stat, FileType::Directory) => self.copy_up(path, &stat),
            Some(_) => bail!("cannot copy to non-directory: {}", shown(path)),
            None => self.make_directory(path, new),
        }
    }

    fn make_directory(&self, path: &Path, new: NewDir) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        let fd = open_child(parent.as_fd(), name)?;
        let above = fs::fstat(&parent)?;
        let inherited = above.st_mode & Mode::SGID.as_raw_mode();
        let group = if inherited == 0 { 0 } else { above.st_gid };
        let (uid, gid) = new.owner.unwrap_or((0, group));
        let mode = new.mode.unwrap_or(0o755) | inherited;
        let attributes = Attributes {
            mode,
            uid,
            gid,
            mtime: None,
            xattrs: &Xattrs::new(),
        };
        Ok(lapstrake_cache::set_attributes(fd.as_fd(), &attributes)?)
    }

    /// Makes the upper's copy of a base directory, as overlayfs does before it writes into one.
    fn copy_up(&mut self, path: &Path, stat: &Stat) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        let fd = open_child(parent.as_fd(), name)?;
        let xattrs = match &self.base {
            Some(base) => {
                lapstrake_cache::kept_xattrs(open_directory(base.as_fd(), path)?.as_fd())?
            }
            None => Xattrs::new(),
        };
        let Meta {
            mode,
            uid,
            gid,
            mtime,
            ..
        } = Meta::from(stat);
        lapstrake_cache::set_attributes(
            fd.as_fd(),
            &Attributes {
                mode,
                uid,
                gid,
                mtime: None,
                xattrs: &xattrs,
            },
        )?;
        self.times.insert(path.to_path_buf(), mtime);
        Ok(())
    }

    /// Says which time the directory `path` gets in the end.
    pub(crate) fn set_time(&mut self, path: &Path, time: Time) {
        self.times.insert(path.to_path_buf(), time);
    }

    /// The directory of the upper that holds `path`, and its name there.
    pub(crate) fn parent<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr)> {
        let name = path
            .file_name()
            .with_context(|| format!("{} names no file", shown(path)))?;
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        Ok((open_directory(self.upper.as_fd(), parent)?, name))
    }

    /// Whether something of the base lies at `path`.
    pub(crate) fn in_base(&self, path: &Path) -> Result<bool> {
        match &self.base {
            Some(base) => Ok(stat_below(base.as_fd(), path)?.is_some()),
            None => Ok(false),
        }
    }

    /// Whether the directory `path` of the upper hides nothing of the base, and no earlier source placed anything there.
    pub(crate) fn is_new(&self, path: &Path) -> Result<bool> {
        if self.in_base(path)? {
            return Ok(false);
        }
        let upper = open_directory(self.upper.as_fd(), path)?;
        for entry in fs::Dir::read_from(&upper)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets `work` change the directory `path` as if the base were writable: through an overlay mount of both.
    pub(crate) fn through_overlay(
        &self,
        path: &Path,
        work: &mut dyn FnMut(OwnedFd) -> Result<()>,
    ) -> Result<()> {
        match &self.overlay {
            None => work(open_directory(self.upper.as_fd(), path)?),
            Some(overlay) => {
                let merged = lapstrake_runtime::writable_view(
                    &overlay.lowers,
                    &overlay.upper,
                    &overlay.work,
                )?;
                let done = work(open_directory(merged.as_fd(), path)?);
                drop(merged);
                lapstrake_runtime::finish_view(&overlay.lowers, &overlay.upper)?;
                done
            }
        }
    }

    /// Removes what an earlier source placed at `path`, unless it is a directory.
    pub(crate) fn clear(&self, path: &Path) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        match fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("replace {}", shown(path))),
        }
    }

    /// Sets the times of directories, deepest first, now that nothing is placed in them any more.
    pub(crate) fn finish(self) -> Result<Placed> {
        for (path, time) in self.times.iter().rev() {
            let fd = open_directory(self.upper.as_fd(), path)?;
            fs::futimens(&fd, &time.as_timestamps())?;
        }
        Ok(self.placed)
    }
}

/// Whether `stat` is of that type.
pub(crate) fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Stats `path` below `root` without following any link; `None` when it, or a directory on the way, is not there. With
/// `O_PATH | O_NOFOLLOW` a link as the last component is opened itself, `RESOLVE_NO_SYMLINKS` or not (openat2(2)).
pub(crate) fn stat_below(root: BorrowedFd<'_>, path: &Path) -> Result<Option<Stat>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat2(root, dot(path), flags, Mode::empty(), BENEATH) {
        Ok(fd) => Ok(Some(fs::fstat(&fd)?)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("look up {}", shown(path))),
    }
}

/// Reads the link at `path` below `root`.
pub(crate) fn read_link_below(root: BorrowedFd<'_>, path: &Path) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let parent = open_directory(root, path.parent().unwrap_or_else(|| Path::new("")))?;
    let name = path.file_name().context("the root is not a link")?;
    let target = fs::readlinkat(&parent, name, Vec::new())
        .with_context(|| format!("read link {}", shown(path)))?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(
        target.into_bytes(),
    )))
}

/// Opens the directory `path` below `root` for reading its entries.
pub(crate) fn open_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    open_below(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
    )
}

/// Opens `path` below `root`; a link anywhere in it is an error.
pub(crate) fn open_below(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    fs::openat2(root, dot(path), flags, Mode::empty(), BENEATH)
        .with_context(|| format!("open {}", shown(path)))
}

fn open_child(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    open_directory(parent, Path::new(name))
}

/// openat2 takes no empty path.
fn dot(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}
