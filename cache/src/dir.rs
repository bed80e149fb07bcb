//! Small steps on directories, all by file descriptor.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, openat, statat};
use rustix::io::Errno;

use crate::Meta;

/// A directory is read through a buffer of this size: one call lists some 800 names.
const BUFFER: usize = 32 << 10;

/// How a directory is opened for reading: never through a symbolic link.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens the directory at `path`, the last component of which may not be a symbolic link.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, DIRECTORY, Mode::empty())?)
}

/// Opens the directory `name` of the directory `parent`.
pub(crate) fn open_child(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    Ok(openat(parent, name, DIRECTORY, Mode::empty())?)
}

/// The names in a directory, in the order of their bytes. The descriptor must be fresh: it is read
/// to its end, and cannot be read again.
pub(crate) fn sorted_names(fresh: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = read_names(fresh)?;
    names.sort_unstable();
    Ok(names)
}

/// The names in a directory, in no particular order.
pub(crate) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    // The position is part of the descriptor, which others may be reading too.
    read_names(open_child(dir, c".")?.as_fd())
}

fn read_names(fresh: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut reader = RawDir::new(fresh, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// What `name` in `dir` is, without following it; none if there is no such name.
pub(crate) fn lookup(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<Option<Meta>> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Meta::from(&stat))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether an error says that there is no such thing, or no directory where one should be.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    let is_link = error.raw_os_error() == Some(Errno::LOOP.raw_os_error());
    is_link || matches!(error.kind(), NotFound | NotADirectory)
}

/// What an open file is.
pub(crate) fn stat(fd: impl AsFd) -> io::Result<Meta> {
    Ok(Meta::from(&rustix::fs::fstat(fd)?))
}

/// The path that leads to a name in an open directory, for the few calls that know no
/// directory descriptors.
pub(crate) fn proc_path(dir: BorrowedFd<'_>, name: &CStr) -> CString {
    use std::os::fd::AsRawFd;
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).unwrap_or_default()
}

/// The path that leads to an open file, also one that was opened only as a place.
pub(crate) fn proc_self(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
