//! The two ways to say that something is gone: names in a tar, marks in an overlay folder.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, makedev, mknodat, unlinkat};
use rustix::io::Errno;

use crate::Marks;
use crate::xattr::Target;

const PREFIX: &[u8] = b".wh.";
/// Names with this prefix are notes of a file system that came before overlayfs.
const META_PREFIX: &[u8] = b".wh..wh.";
/// In a directory: nothing of the layers below shows in it.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the last component of a name in a tar says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mark<'a> {
    /// An ordinary name.
    None,
    /// This name is deleted.
    Deleted(&'a [u8]),
    /// The directory is opaque.
    Opaque,
    /// Of no meaning here.
    Ignored,
    /// Of no meaning anywhere, such as the deletion of `..`.
    Invalid,
}

/// Reads the last component of a name in a tar.
pub(crate) fn mark(name: &[u8]) -> Mark<'_> {
    if name == OPAQUE {
        return Mark::Opaque;
    }
    if name.starts_with(META_PREFIX) {
        return Mark::Ignored;
    }
    match name.strip_prefix(PREFIX) {
        None => Mark::None,
        Some(b"" | b"." | b"..") => Mark::Invalid,
        Some(deleted) => Mark::Deleted(deleted),
    }
}

/// The name in a tar that deletes `path`.
pub(crate) fn deletion(path: &[u8]) -> Vec<u8> {
    let at = path
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1);
    [&path[..at], PREFIX, &path[at..]].concat()
}

/// The name in a tar that makes the directory `path` opaque.
pub(crate) fn opaque(path: &[u8]) -> Vec<u8> {
    [path, b"/", OPAQUE].concat()
}

/// Whether an open directory of an overlay folder is opaque, by any kind of mark.
pub(crate) fn is_opaque(dir: impl AsFd) -> io::Result<Option<Marks>> {
    for marks in Marks::ALL {
        let value = Target::Open(dir.as_fd()).get(marks.opaque())?;
        if value.as_deref() == Some(b"y") {
            return Ok(Some(marks));
        }
    }
    Ok(None)
}

/// Makes an open directory of an overlay folder opaque.
pub(crate) fn set_opaque(dir: impl AsFd, marks: Marks) -> io::Result<()> {
    Target::Open(dir.as_fd()).set(marks.opaque().to_bytes(), b"y")
}

/// Marks a name as deleted.
pub(crate) fn delete(dir: impl AsFd, name: &CStr, marks: Marks) -> rustix::io::Result<()> {
    let kind = match marks {
        Marks::Trusted | Marks::User => FileType::CharacterDevice,
        Marks::Own => FileType::Socket,
    };
    mknodat(dir, name, kind, Mode::empty(), makedev(0, 0))
}

/// Whether marks can be made in a folder that nobody else uses. What a killed process left of this is not in the way.
pub(crate) fn can_mark(dir: BorrowedFd<'_>, marks: Marks) -> io::Result<()> {
    match delete(dir, c"probe", marks) {
        Ok(()) => unlinkat(dir, c"probe", AtFlags::empty())?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    set_opaque(dir, marks)?;
    Ok(rustix::fs::fremovexattr(dir, marks.opaque())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks() {
        let cases: [(&[u8], Mark<'_>); 9] = [
            (b"name", Mark::None),
            (b".whoops", Mark::None),
            (b".wh.name", Mark::Deleted(b"name")),
            (b".wh..hidden", Mark::Deleted(b".hidden")),
            (b".wh..wh..opq", Mark::Opaque),
            (b".wh..wh.plnk", Mark::Ignored),
            (b".wh.", Mark::Invalid),
            (b".wh..", Mark::Invalid),
            (b".wh...", Mark::Invalid),
        ];
        for (name, expected) in cases {
            assert_eq!(mark(name), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn names() {
        assert_eq!(deletion(b"a/b"), b"a/.wh.b");
        assert_eq!(deletion(b"b"), b".wh.b");
        assert_eq!(opaque(b"a/b"), b"a/b/.wh..wh..opq");
    }
}
