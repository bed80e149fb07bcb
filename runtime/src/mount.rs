//! Mounts, made by descriptor: a file system is created detached, filled, and then attached to an open directory.
//!
//! No function here takes a path of an image as a host path. Targets are looked up below an open root
//! ([`Target`]), with symbolic links confined to it and magic links refused.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::sys;

pub(crate) const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
pub(crate) const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
pub(crate) const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
pub(crate) const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
/// No attribute.
pub(crate) const PLAIN: MountAttrFlags = MountAttrFlags::empty();

/// Lookups below a root that an image controls.
const CONFINED: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// A new, detached instance of a file system.
pub(crate) fn create(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(&context, *key)?;
        } else {
            fsconfig_set_string(&context, *key, *value)?;
        }
    }
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Opens a directory of the host for use as a layer.
fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|error| {
        io::Error::new(
            io::Error::from(error).kind(),
            format!("open {}: {error}", path.display()),
        )
    })
}

/// The directories of an overlay, held open. The overlay is given `/proc/self/fd` names, so that no path of the host
/// shows in the mount table, and so that mounts that cover a directory meanwhile do not matter.
pub(crate) struct Overlay {
    lowers: Vec<OwnedFd>,
    writable: Option<(OwnedFd, OwnedFd)>,
    user_xattrs: bool,
}

impl Overlay {
    /// Opens `lowers` (lowest first) and, if given, upper and work directory.
    pub(crate) fn open(
        lowers: &[PathBuf],
        writable: Option<(&Path, &Path)>,
        user_xattrs: bool,
    ) -> io::Result<Overlay> {
        let lowers = lowers
            .iter()
            .map(|path| open_dir(path))
            .collect::<io::Result<_>>()?;
        let writable = match writable {
            Some((upper, work)) => Some((open_dir(upper)?, open_dir(work)?)),
            None => None,
        };
        Ok(Overlay {
            lowers,
            writable,
            user_xattrs,
        })
    }

    /// Whether there is no lower directory; one must be added then.
    pub(crate) fn is_empty(&self) -> bool {
        self.lowers.is_empty()
    }

    /// Adds a lower directory below all others.
    pub(crate) fn add_lowest(&mut self, directory: OwnedFd) {
        self.lowers.insert(0, directory);
    }

    /// Mounts it, detached.
    pub(crate) fn mount(&self, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let set = |key: &str, fd: &OwnedFd| fsconfig_set_string(&context, key, fd_path(fd));
        fsconfig_set_string(&context, "source", "overlay")?;
        self.set_lowers(context.as_fd())?;
        if let Some((upper, work)) = &self.writable {
            set("upperdir", upper)?;
            set("workdir", work)?;
            fsconfig_set_flag(&context, "volatile")?;
        }
        if self.user_xattrs {
            fsconfig_set_flag(&context, "userxattr")?;
        }
        fsconfig_create(&context)?;
        Ok(fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            attributes,
        )?)
    }

    /// One option a layer since Linux 6.7; before, one option for all, which is bounded by 256 bytes here.
    fn set_lowers(&self, context: BorrowedFd<'_>) -> io::Result<()> {
        let names: Vec<String> = self.lowers.iter().rev().map(fd_path).collect();
        for (index, name) in names.iter().enumerate() {
            match fsconfig_set_string(context, "lowerdir+", name.as_str()) {
                Ok(()) => {}
                Err(Errno::INVAL) if index == 0 => {
                    return Ok(fsconfig_set_string(context, "lowerdir", names.join(":"))?);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The name under which this process can reach what it has open as `fd`.
pub(crate) fn fd_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A detached clone of what is mounted at `path`, with everything below.
pub(crate) fn clone_tree(dir: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(dir, path, flags)?)
}

/// A detached clone of the directory or file open as `fd`, with everything below.
pub(crate) fn clone_fd(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(fd, "", flags)?)
}

/// Adds attributes to a tree of mounts.
pub(crate) fn restrict(tree: BorrowedFd<'_>, attributes: MountAttrFlags) -> io::Result<()> {
    sys::mount_setattr(tree, attributes.bits().into(), true)
}

/// Attaches a detached tree over the directory or file open as `target`.
pub(crate) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", target, "", flags)?)
}

/// Opens `path` below `root` without reading it; symbolic links stay inside.
pub(crate) fn open_below(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    openat2(
        root,
        relative(path),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        CONFINED,
    )
}

/// Opens `path` below `root`, refusing symbolic links altogether.
pub(crate) fn open_plain(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let resolve = CONFINED.union(ResolveFlags::NO_SYMLINKS);
    openat2(
        root,
        relative(path),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

/// Opens a directory below `root` for changing what is in it.
pub(crate) fn open_dir_below(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, relative(path), flags, Mode::empty(), CONFINED)
}

/// `path` without leading slashes; `.` for the root itself.
fn relative(path: &str) -> &str {
    match path.trim_start_matches('/') {
        "" => ".",
        rest => rest,
    }
}

/// Where the file open as `fd` lies below the directory open as `root`, symbolic links resolved.
pub(crate) fn path_below(root: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let name = |fd: BorrowedFd<'_>| -> io::Result<PathBuf> {
        let bytes =
            readlinkat(CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?.into_bytes();
        Ok(OsString::from_vec(bytes).into())
    };
    let (root, path) = (name(root)?, name(fd)?);
    path.strip_prefix(&root)
        .map(Path::to_path_buf)
        .map_err(|_| io::Error::other("it is outside of the root"))
}

/// A detached, read-only mount of layers merged.
pub(crate) fn view(lowers: &[PathBuf], user_xattrs: bool) -> io::Result<OwnedFd> {
    let attributes = RDONLY | NODEV | NOSUID;
    match lowers {
        [] => create("tmpfs", &[("mode", "0755")], attributes),
        // An overlay without an upper directory wants at least two.
        [only] => {
            let tree = clone_tree(CWD, only)?;
            restrict(tree.as_fd(), attributes)?;
            Ok(tree)
        }
        _ => Overlay::open(lowers, None, user_xattrs)?.mount(attributes),
    }
}
/// See [`crate::writable_view`].
pub(crate) fn writable_view(
    lowers: &[PathBuf],
    upper: &Path,
    work: &Path,
    user_xattrs: bool,
) -> io::Result<OwnedFd> {
    let mut overlay = Overlay::open(lowers, Some((upper, work)), user_xattrs)?;
    if overlay.is_empty() {
        overlay.add_lowest(create("tmpfs", &[("mode", "0755")], RDONLY)?);
    }
    overlay.mount(NODEV | NOSUID)
}
