//! One file of a layer, copied with all that a layer tells of it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Mode, OFlags, Stat, XattrFlags, chownat, fchmod, fchown, fgetxattr, flistxattr,
    fsetxattr, openat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::times;

pub(super) fn open_file(at: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?.into())
}

pub(super) fn copy(
    mut source: File,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut target = File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
    io::copy(&mut source, &mut target)?;
    attributes(source.as_fd(), target.as_fd(), stat)
}

/// Owner before mode, as chown(2) clears set-user-ID bits and capabilities; times last.
pub(super) fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut names = vec![0; 64 << 10];
    let length = match flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        // Marks of overlays, and what the system itself labels files with.
        let own = [
            &b"trusted.overlay."[..],
            b"user.overlay.",
            b"user.lapstrake.",
            b"security.selinux",
        ];
        if own.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let name = CString::new(name)?;
        let mut value = vec![0; 64 << 10];
        let length = fgetxattr(from, &name, &mut value)?;
        fsetxattr(to, &name, &value[..length], XattrFlags::empty())?;
    }
    Ok(times::set(to, stat)?)
}

pub(super) fn owner_and_time(at: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    chownat(
        at,
        name,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
        flags,
    )?;
    Ok(utimensat(at, name, &times::of(stat), flags)?)
}
