//! Extended attributes: which of them a layer keeps, and reading and writing them.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr, lgetxattr, llistxattr, lsetxattr};
use rustix::io::Errno;

use crate::dir::proc_path;

/// Attributes by name, sorted, values as they are.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The kernel allows no longer list or value.
const LONGEST: usize = 64 << 10;
/// Nearly every list and value is shorter.
const USUAL: usize = 512;

/// Whether an attribute is part of a layer: file capabilities and the user's own. Attributes that
/// mark deletions must never come from, or go into, an archive.
pub fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.")
            && !name.starts_with(b"user.overlay.")
            && !name.starts_with(b"user.lapstrake."))
}

/// A file, as far as its attributes can be reached.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// A name in a directory: for what cannot be opened, such as a symbolic link.
    Named(BorrowedFd<'a>, &'a CStr),
}

impl Target<'_> {
    /// The attributes that a layer keeps.
    pub(crate) fn kept(self) -> io::Result<Xattrs> {
        let mut found = Vec::new();
        for name in self.list()?.split(|byte| *byte == 0) {
            if !is_kept(name) {
                continue;
            }
            if let Some(value) = self.get(&CString::new(name)?)? {
                found.push((name.to_vec(), value));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The value of one attribute; none if the file has none of that name.
    pub(crate) fn get(self, name: &CStr) -> io::Result<Option<Vec<u8>>> {
        let read = |buffer: &mut [u8]| match self {
            Self::Open(fd) => fgetxattr(fd, name, buffer),
            Self::Named(dir, file) => lgetxattr(proc_path(dir, file).as_c_str(), name, buffer),
        };
        match growing(read) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets one attribute.
    pub(crate) fn set(self, name: &[u8], value: &[u8]) -> io::Result<()> {
        let name = CString::new(name)?;
        match self {
            Self::Open(fd) => fsetxattr(fd, &name, value, XattrFlags::empty())?,
            Self::Named(dir, file) => {
                lsetxattr(proc_path(dir, file), &name, value, XattrFlags::empty())?;
            }
        }
        Ok(())
    }

    fn list(self) -> io::Result<Vec<u8>> {
        let read = |buffer: &mut [u8]| match self {
            Self::Open(fd) => flistxattr(fd, buffer),
            Self::Named(dir, file) => llistxattr(proc_path(dir, file).as_c_str(), buffer),
        };
        match growing(read) {
            Ok(list) => Ok(list),
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

fn growing(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut usual = [0; USUAL];
    match read(&mut usual) {
        Ok(len) => Ok(usual[..len].to_vec()),
        Err(Errno::RANGE) => {
            let mut buffer = vec![0; LONGEST];
            let len = read(&mut buffer)?;
            buffer.truncate(len);
            Ok(buffer)
        }
        Err(error) => Err(error),
    }
}
