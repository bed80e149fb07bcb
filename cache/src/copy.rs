//! Copying a file to its place in a tree, with the metadata that it shall have there.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, chownat, copy_file_range, fchmod, fchown, ftruncate,
    futimens, ioctl_ficlone, makedev, mkdirat, mknodat, openat, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pread, pwrite};

use crate::meta::{Kind, Meta, Time};
use crate::snapshot::{group, user};
use crate::store::create_file;
use crate::tree::is_same;
use crate::xattr::{Target, Xattrs};
use crate::{dir, remove};

/// Up to this size, reading and writing is cheaper than asking the kernel to do both.
const SMALL: u64 = 64 << 10;

/// The metadata of a file that is placed.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Permissions, set-id bits and the sticky bit.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of the last change; none leaves it at now.
    pub mtime: Option<Time>,
    /// Extended attributes; those that the file system does not know are left out.
    pub xattrs: &'a Xattrs,
}

/// The attributes of an open file that a layer keeps, to be given to its copy.
pub fn kept_xattrs(file: BorrowedFd<'_>) -> io::Result<Xattrs> {
    Target::Open(file).kept()
}

/// Copies an open regular file to a new name, in place of what is there (unless that is a
/// directory), and returns its size. Fails if the file is not, or ceases to be, the one that
/// `expected` describes.
pub fn copy_file(
    source: BorrowedFd<'_>,
    expected: &Meta,
    dir: BorrowedFd<'_>,
    name: &CStr,
    attributes: &Attributes<'_>,
) -> io::Result<u64> {
    make_room(dir, name)?;
    let copy = create_file(dir, name)?;
    let size = copy_data(source, copy.as_fd(), expected.size)?;
    if !is_same(&dir::stat(source)?, expected) {
        let text = "it changed while it was copied";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    set_attributes(copy.as_fd(), attributes)?;
    Ok(size)
}

/// Makes a symbolic link, in place of what is there (unless that is a directory).
pub fn place_symlink(
    dir: BorrowedFd<'_>,
    name: &CStr,
    target: &[u8],
    attributes: &Attributes<'_>,
) -> io::Result<()> {
    make_room(dir, name)?;
    symlinkat(target, dir, name)?;
    set_named(dir, name, attributes)
}

/// Makes a device node or named pipe like the one that `meta` describes. A character device 0:0,
/// which overlayfs takes for a deletion, and sockets are refused.
pub fn place_node(
    dir: BorrowedFd<'_>,
    name: &CStr,
    meta: &Meta,
    attributes: &Attributes<'_>,
) -> io::Result<()> {
    let kind = match meta.kind {
        Kind::Char if !meta.is_whiteout() => FileType::CharacterDevice,
        Kind::Block => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
        _ => return Err(Errno::INVAL.into()),
    };
    make_room(dir, name)?;
    let mode = Mode::from_raw_mode(attributes.mode);
    mknodat(dir, name, kind, mode, makedev(meta.rdev.0, meta.rdev.1))?;
    set_named(dir, name, attributes)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = openat(dir, name, flags, Mode::empty())?;
    Ok(rustix::fs::chmod(dir::proc_self(node.as_fd()), mode)?)
}

/// Opens a directory, making it if there is none, in place of anything else that is there. Whether
/// it was made is returned too; an existing one keeps its metadata.
pub fn place_dir(
    dir: BorrowedFd<'_>,
    name: &CStr,
    attributes: &Attributes<'_>,
) -> io::Result<(OwnedFd, bool)> {
    match dir::lookup(dir, name)? {
        Some(meta) if meta.is_dir() => return Ok((dir::open_child(dir, name)?, false)),
        Some(_) => unlinkat(dir, name, AtFlags::empty())?,
        None => {}
    }
    mkdirat(dir, name, Mode::RWXU)?;
    let made = dir::open_child(dir, name)?;
    set_attributes(made.as_fd(), attributes)?;
    Ok((made, true))
}

/// Removes a name and all below it, if it is there.
pub fn remove_tree(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    remove::remove_all(dir, name)
}

/// Gives an open file or directory its metadata. Owner first: a change of owner clears capabilities
/// and set-id bits.
pub fn set_attributes(fd: BorrowedFd<'_>, attributes: &Attributes<'_>) -> io::Result<()> {
    fchown(fd, Some(user(attributes.uid)), Some(group(attributes.gid)))?;
    set_xattrs(Target::Open(fd), attributes)?;
    fchmod(fd, Mode::from_raw_mode(attributes.mode))?;
    if let Some(mtime) = attributes.mtime {
        futimens(fd, &mtime.as_timestamps())?;
    }
    Ok(())
}

fn set_named(dir: BorrowedFd<'_>, name: &CStr, attributes: &Attributes<'_>) -> io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    chownat(
        dir,
        name,
        Some(user(attributes.uid)),
        Some(group(attributes.gid)),
        flags,
    )?;
    set_xattrs(Target::Named(dir, name), attributes)?;
    if let Some(mtime) = attributes.mtime {
        utimensat(dir, name, &mtime.as_timestamps(), flags)?;
    }
    Ok(())
}

fn set_xattrs(target: Target<'_>, attributes: &Attributes<'_>) -> io::Result<()> {
    for (name, value) in attributes.xattrs {
        match target.set(name, value) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            set => set?,
        }
    }
    Ok(())
}

fn make_room(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Copies the content: by sharing blocks where the file system can, else inside the kernel, else by
/// hand. Holes stay holes.
fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> io::Result<u64> {
    if size <= SMALL {
        return copy_by_hand(from, to, 0);
    }
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(size);
    }
    let mut at = 0;
    while let Some((start, end)) = next_data(from, at)? {
        copy_range(from, to, start, end)?;
        at = end;
    }
    let size = dir::stat(from)?.size;
    ftruncate(to, size)?;
    Ok(size)
}

/// The next stretch at or after `at` that is no hole.
fn next_data(from: BorrowedFd<'_>, at: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return Ok(None),
        start => start?,
    };
    Ok(Some((
        start,
        rustix::fs::seek(from, SeekFrom::Hole(start))?,
    )))
}

fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let most = usize::try_from(end - read_at)
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), most) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                return copy_by_hand(from, to, read_at).map(|_| ());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Copies all that follows `at`.
fn copy_by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>, mut at: u64) -> io::Result<u64> {
    let mut buffer = Vec::with_capacity(SMALL as usize);
    let start = at;
    loop {
        buffer.clear();
        match pread(from, spare_capacity(&mut buffer), at) {
            Ok(0) => return Ok(at - start),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let written = match pwrite(to, rest, at) {
                Err(Errno::INTR) => 0,
                written => written?,
            };
            rest = &rest[written..];
            at += written as u64;
        }
    }
}
