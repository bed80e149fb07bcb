//! Hides what tells of the host, and makes read-only what acts on it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Dir, FileType, fstat, fstatfs, makedev};
use rustix::io::Errno;

use crate::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};

/// What `fstatfs` says of a procfs.
pub(crate) const PROC_SUPER_MAGIC: rustix::fs::FsWord = 0x9fa0;

/// Covers each of `masked` by the device `null` or by `empty`, and makes each of `readonly` so. What does not exist is
/// passed over; `*` in a path stands for every entry of that directory whose name starts with what precedes it.
pub(crate) fn protect(
    root: BorrowedFd<'_>,
    (empty, null): (BorrowedFd<'_>, BorrowedFd<'_>),
    masked: &[String],
    readonly: &[String],
) -> io::Result<()> {
    if fstat(null)?.st_rdev != makedev(1, 3) {
        return Err(io::Error::other("/dev/null is not the null device"));
    }
    for path in masked {
        for path in expand(root, path)? {
            mask(root, empty, null, &path)?;
        }
    }
    readonly
        .iter()
        .try_for_each(|path| make_readonly(root, path))
}

fn expand(root: BorrowedFd<'_>, pattern: &str) -> io::Result<Vec<String>> {
    let Some((before, after)) = pattern.split_once("*") else {
        return Ok(vec![pattern.to_owned()]);
    };
    let (directory, _) = before.rsplit_once('/').unwrap_or(("", before));
    let open = match mount::open_dir_below(root, directory) {
        Ok(open) => open,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut paths = Vec::new();
    for entry in Dir::read_from(&open)? {
        let path = format!("{directory}/{}", entry?.file_name().to_string_lossy());
        if path.starts_with(before) && !path.ends_with("/.") && !path.ends_with("/..") {
            paths.push(format!("{path}{after}"));
        }
    }
    Ok(paths)
}

fn open(root: BorrowedFd<'_>, path: &str) -> io::Result<Option<std::os::fd::OwnedFd>> {
    match mount::open_plain(root, path) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn mask(
    root: BorrowedFd<'_>,
    empty: BorrowedFd<'_>,
    null: BorrowedFd<'_>,
    path: &str,
) -> io::Result<()> {
    let Some(target) = open(root, path)? else {
        return Ok(());
    };
    if FileType::from_raw_mode(fstat(&target)?.st_mode) == FileType::Directory {
        return cover(target.as_fd(), empty);
    }
    mount::attach(mount::clone_fd(null)?.as_fd(), target.as_fd())
}

/// Covers the directory `target` by the directory `empty`.
pub(crate) fn cover(target: BorrowedFd<'_>, empty: BorrowedFd<'_>) -> io::Result<()> {
    let cover = mount::clone_fd(empty)?;
    mount::restrict(cover.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC)?;
    mount::attach(cover.as_fd(), target)
}

fn make_readonly(root: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let Some(target) = open(root, path)? else {
        return Ok(());
    };
    if path.starts_with("/proc") && fstatfs(&target)?.f_type != PROC_SUPER_MAGIC {
        return Err(io::Error::other(format!("{path} is not part of a procfs")));
    }
    let tree = mount::clone_fd(target.as_fd())?;
    mount::restrict(tree.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC)?;
    mount::attach(tree.as_fd(), target.as_fd())
}
