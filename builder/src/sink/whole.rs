//! Files outside of the store that are written whole or not at all.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};

/// Writes to `path` so that nothing half-written is ever seen under the name, nor left beside it, whenever the program ends.
pub(crate) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let shown = path.display();
    // A pipe or a device is written in place: it cannot be replaced.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .with_context(|| format!("open {shown}"))?;
        return write(&mut out).with_context(|| format!("write {shown}"));
    }
    let (file, temporary) = create(path).with_context(|| format!("create {shown}"))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    write(&mut out)
        .and_then(|()| Ok(out.flush()?))
        .with_context(|| format!("write {shown}"))?;
    if !temporary.named {
        link(out.get_ref(), &temporary.path).with_context(|| format!("name {shown}"))?;
    }
    std::fs::rename(&temporary.path, path).with_context(|| format!("rename to {shown}"))
}

/// A file for the content of `path`, without a name where the file system can do that.
fn create(path: &Path) -> Result<(File, Temporary)> {
    let Some(name) = path.file_name() else {
        bail!("it names no file")
    };
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let temporary = |named| Temporary {
        path: folder.join(&hidden),
        named,
    };
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    match openat(CWD, folder, flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => Ok((file.into(), temporary(false))),
        Err(_) => {
            let temporary = temporary(true);
            Ok((File::create_new(&temporary.path)?, temporary))
        }
    }
}

/// Gives a file without a name one, as open(2) shows for O_TMPFILE.
fn link(file: &File, path: &Path) -> Result<()> {
    // Left by a process of the same number.
    let _ = std::fs::remove_file(path);
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, open, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// A name that is removed unless it was renamed.
struct Temporary {
    path: PathBuf,
    /// Whether the file has it from the beginning.
    named: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_fails_leaves_the_old_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_whole(&path, |out| Ok(out.write_all(b"old")?)).unwrap();
        write_whole(&path, |out| {
            out.write_all(b"new")?;
            bail!("no")
        })
        .unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
