//! Mounts, made by descriptor: a file system is created detached, filled, and then attached to an open directory.
//!
//! No function here takes a path of an image as a host path. Targets are looked up below an open root
//! ([`Targets`](crate::target::Targets)), with symbolic links confined to it and magic links refused.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2, readlinkat};
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
    sys::mount_setattr(tree, attributes.bits().into())
}

/// Attaches a detached tree over the directory or file open as `target`.
pub(crate) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", target, "", flags)?)
}

/// Mounts a new instance of a file system, without options, over `target`.
pub(crate) fn fresh(
    kind: &str,
    target: BorrowedFd<'_>,
    attributes: MountAttrFlags,
) -> io::Result<()> {
    attach(create(kind, &[], attributes)?.as_fd(), target)
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
pub(crate) fn relative(path: &str) -> &str {
    match path.trim_start_matches('/') {
        "" => ".",
        rest => rest,
    }
}

/// The name by which this process reaches what it has open as `fd`.
pub(crate) fn fd_name(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Where the file open as `fd` lies below the directory open as `root`, symbolic links resolved.
pub(crate) fn path_below(root: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let name = |fd: BorrowedFd<'_>| -> io::Result<PathBuf> {
        let bytes = readlinkat(CWD, fd_name(fd), Vec::new())?.into_bytes();
        Ok(OsString::from_vec(bytes).into())
    };
    let (root, path) = (name(root)?, name(fd)?);
    path.strip_prefix(&root)
        .map(Path::to_path_buf)
        .map_err(|_| io::Error::other("it is outside of the root"))
}
