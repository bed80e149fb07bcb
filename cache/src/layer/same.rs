//! Whether something of an upper folder is what the layers below show.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, readlinkat};

use crate::dir;
use crate::layer::lower::{Root, open_deep};
use crate::meta::{Kind, Meta};
use crate::xattr::Target;

pub(crate) fn same_owner(upper: &Meta, lower: &Meta) -> bool {
    (upper.mode, upper.uid, upper.gid) == (lower.mode, lower.uid, lower.gid)
}

pub(crate) fn same_file(dir: &OwnedFd, name: &CStr, path: &[u8], lower: &Root) -> io::Result<bool> {
    let upper = open_deep(dir.as_fd(), name.to_bytes(), OFlags::RDONLY)?;
    let lower = lower.open(path, OFlags::RDONLY)?;
    if Target::Open(upper.as_fd()).kept()? != Target::Open(lower.as_fd()).kept()? {
        return Ok(false);
    }
    same_bytes(upper.into(), lower.into())
}

fn same_bytes(mut a: std::fs::File, mut b: std::fs::File) -> io::Result<bool> {
    use std::io::Read;
    const CHUNK: usize = 64 << 10;
    let mut left = vec![0; CHUNK];
    let mut right = vec![0; CHUNK];
    loop {
        let len = a.read(&mut left)?;
        if len == 0 {
            return Ok(b.read(&mut right)? == 0);
        }
        match b.read_exact(&mut right[..len]) {
            Ok(()) if left[..len] == right[..len] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn same_special(
    dir: &OwnedFd,
    name: &CStr,
    path: &[u8],
    lower: &Root,
    kind: Kind,
) -> io::Result<bool> {
    let (parent, base) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], path),
    };
    let lower = lower.open(parent, dir::DIRECTORY)?;
    let base = CString::new(base)?;
    if kind == Kind::Symlink
        && readlinkat(dir, name, Vec::new())? != readlinkat(&lower, &base, Vec::new())?
    {
        return Ok(false);
    }
    let upper = Target::Named(dir.as_fd(), name).kept()?;
    Ok(upper == Target::Named(lower.as_fd(), &base).kept()?)
}
