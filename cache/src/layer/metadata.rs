//! Owner, mode and attributes of what an archive lists, as far as they can be set.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, chownat, fchmod, fchown, utimensat};
use rustix::io::Errno;

use crate::layer::archive::{self, Header};
use crate::snapshot::{Omitted, group, user};
use crate::xattr::{Target, is_kept};

/// Why an entry could not be made.
#[derive(Debug)]
pub(crate) enum Failure {
    Archive(archive::Failure),
    Refused(String),
    System(&'static str, io::Error),
}

impl From<archive::Failure> for Failure {
    fn from(failure: archive::Failure) -> Self {
        Self::Archive(failure)
    }
}

/// Names the step that failed.
pub(crate) trait Step<T> {
    fn step(self, action: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, action: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::System(action, error.into()))
    }
}

pub(crate) fn refused<T>(reason: &str) -> Result<T, Failure> {
    Err(Failure::Refused(reason.to_owned()))
}

/// Sets metadata, and counts what could not be set for want of privilege.
#[derive(Default)]
pub(crate) struct Metadata {
    /// Attributes that are refused for any reason are left out.
    pub(crate) lenient: bool,
    pub(crate) omitted: Omitted,
}

impl Metadata {
    /// Gives an open file or directory its metadata. Owner before attributes and mode: a change of
    /// owner clears capabilities and set-id bits.
    pub(crate) fn set(&mut self, fd: BorrowedFd<'_>, header: &Header) -> Result<(), Failure> {
        let (uid, gid) = (user(header.meta.uid), group(header.meta.gid));
        let owned = fchown(fd, Some(uid), Some(gid));
        self.note_owner(owned)?;
        self.set_xattrs(Target::Open(fd), header)?;
        fchmod(fd, Mode::from_raw_mode(header.meta.mode)).step("set the mode of")
    }

    /// The same, and the time, for what cannot be opened. The mode stays as it was made with.
    pub(crate) fn set_named(
        &mut self,
        parent: &OwnedFd,
        name: &CStr,
        header: &Header,
    ) -> Result<(), Failure> {
        let (uid, gid) = (user(header.meta.uid), group(header.meta.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let owned = chownat(parent, name, Some(uid), Some(gid), flags);
        self.note_owner(owned)?;
        self.set_xattrs(Target::Named(parent.as_fd(), name), header)?;
        let times = header.meta.mtime.as_timestamps();
        utimensat(parent, name, &times, flags).step("set the time of")
    }

    /// In a user namespace there are owners that cannot be set.
    fn note_owner(&mut self, owned: rustix::io::Result<()>) -> Result<(), Failure> {
        match owned {
            Err(Errno::INVAL | Errno::PERM) => {
                self.omitted.owners += 1;
                Ok(())
            }
            owned => owned.step("set the owner of"),
        }
    }

    fn set_xattrs(&mut self, target: Target<'_>, header: &Header) -> Result<(), Failure> {
        for (name, value) in &header.xattrs {
            if !is_kept(name) && !name.starts_with(b"system.posix_acl_") {
                continue;
            }
            let Err(error) = target.set(name, value) else {
                continue;
            };
            let harmless = self.lenient
                || matches!(
                    error.kind(),
                    io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
                );
            if !harmless {
                return Err(Failure::System("set an extended attribute of", error));
            }
            self.omitted.xattrs += 1;
        }
        Ok(())
    }
}
