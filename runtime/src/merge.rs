//! Layers merged by copying, where nothing can be mounted.
//!
//! [`fill`] makes of an upper directory what an overlay would show; [`settle`] makes of it again what an overlay would have
//! left there: what is gone is marked as gone. What is still there and the same is left to who makes a layer of it.
//! Nothing here follows a symbolic link.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags, chmodat,
    chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, futimens, linkat, mkdirat, mknodat,
    openat, readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// What becomes of the layers' files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// Copies, that may be changed.
    Copy,
    /// Links where that is possible: nobody may write to them.
    Link,
}

/// Device nodes that could not be made.
pub(crate) type Omitted = HashSet<(u64, u64)>;

/// Puts into `upper` what the layers `lowers` (lowest first) show, and is not in it yet.
pub(crate) fn fill(lowers: &[PathBuf], upper: &Path, take: Take) -> io::Result<Omitted> {
    let mut filler = Filler {
        take,
        links: HashMap::new(),
        omitted: Omitted::new(),
    };
    let to = open(CWD, &c_path(upper)?)?;
    filler.directory(&layers(lowers)?, to.as_fd())?;
    Ok(filler.omitted)
}

/// Marks in `upper` what the layers `lowers` show and what is not there.
pub(crate) fn settle(lowers: &[PathBuf], upper: &Path, omitted: &Omitted) -> io::Result<()> {
    settle_directory(
        &layers(lowers)?,
        open(CWD, &c_path(upper)?)?.as_fd(),
        omitted,
    )
}

/// The layers' directories, uppermost first.
fn layers(lowers: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    let open = |path: &PathBuf| open(CWD, &c_path(path)?);
    lowers.iter().rev().map(open).collect()
}

fn c_path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn open(at: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|name| {
            let mut value = [0; 2];
            fgetxattr(directory, *name, &mut value) == Ok(1) && value[0] == b'y'
        })
}

fn look(at: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Stat>> {
    match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// One name of a merged directory.
struct Found {
    name: CString,
    stat: Stat,
    /// Which of the layers has it, the uppermost that does.
    layer: usize,
    /// The directories that it is merged from, if it is one.
    merged: Vec<OwnedFd>,
}

/// What the layers show in one directory, uppermost first.
fn merged(layers: &[OwnedFd]) -> io::Result<Vec<Found>> {
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    for (layer, directory) in layers.iter().enumerate() {
        for entry in Dir::read_from(directory)? {
            let name = entry?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") || !seen.insert(name.clone()) {
                continue;
            }
            let Some(stat) = look(directory.as_fd(), &name)? else {
                continue;
            };
            if !is_whiteout(&stat) {
                let merged = match kind(&stat) {
                    FileType::Directory => below(&layers[layer..], &name)?,
                    _ => Vec::new(),
                };
                found.push(Found {
                    name,
                    stat,
                    layer,
                    merged,
                });
            }
        }
        if is_opaque(directory.as_fd()) {
            break;
        }
    }
    Ok(found)
}

/// The directories `name` of the layers, down to what hides the rest.
fn below(layers: &[OwnedFd], name: &CStr) -> io::Result<Vec<OwnedFd>> {
    let mut merged = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        match look(layer.as_fd(), name)? {
            Some(stat) if kind(&stat) == FileType::Directory => {
                let directory = open(layer.as_fd(), name)?;
                let opaque = is_opaque(directory.as_fd());
                merged.push(directory);
                if opaque {
                    break;
                }
            }
            Some(_) => break,
            None => {}
        }
        if index + 1 < layers.len() && is_opaque(layer.as_fd()) {
            break;
        }
    }
    Ok(merged)
}

struct Filler {
    take: Take,
    /// Where the first of several names of a file went.
    links: HashMap<(u64, u64), (OwnedFd, CString)>,
    omitted: Omitted,
}

impl Filler {
    fn directory(&mut self, layers: &[OwnedFd], to: BorrowedFd<'_>) -> io::Result<()> {
        for found in merged(layers)? {
            let name = &*found.name;
            match (look(to, name)?, kind(&found.stat)) {
                (None, FileType::Directory) => {
                    mkdirat(to, name, Mode::RWXU)?;
                    self.inside(&found, to)?;
                }
                (None, _) => self.other(layers[found.layer].as_fd(), &found, to)?,
                (Some(there), FileType::Directory) if kind(&there) == FileType::Directory => {
                    let inner = open(to, name)?;
                    if !is_opaque(inner.as_fd()) {
                        self.directory(&found.merged, inner.as_fd())?;
                    }
                }
                (Some(_), _) => {}
            }
        }
        Ok(())
    }

    /// A directory that was made: first what is in it, then what it is.
    fn inside(&mut self, found: &Found, to: BorrowedFd<'_>) -> io::Result<()> {
        let inner = open(to, &found.name)?;
        self.directory(&found.merged, inner.as_fd())?;
        if let Some(from) = found.merged.first() {
            attributes(from.as_fd(), inner.as_fd(), &found.stat)?;
        }
        Ok(())
    }

    fn other(&mut self, from: BorrowedFd<'_>, found: &Found, to: BorrowedFd<'_>) -> io::Result<()> {
        let (name, stat) = (&*found.name, &found.stat);
        let id = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some((directory, first)) = self.links.get(&id)
        {
            return Ok(linkat(directory, first, to, name, AtFlags::empty())?);
        }
        match kind(stat) {
            FileType::RegularFile => {
                let linked = self.take == Take::Link
                    && linkat(from, name, to, name, AtFlags::empty()).is_ok();
                if !linked {
                    copy(from, name, to, stat)?;
                }
            }
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
                owner_and_time(to, name, stat)?;
            }
            kind => match mknodat(
                to,
                name,
                kind,
                Mode::from_raw_mode(stat.st_mode & 0o7777),
                stat.st_rdev,
            ) {
                Ok(()) => {
                    owner_and_time(to, name, stat)?;
                    chmodat(
                        to,
                        name,
                        Mode::from_raw_mode(stat.st_mode & 0o7777),
                        AtFlags::empty(),
                    )?;
                }
                Err(Errno::PERM) => {
                    self.omitted.insert(id);
                }
                Err(error) => return Err(error.into()),
            },
        }
        if stat.st_nlink > 1 && !self.omitted.contains(&id) {
            self.links
                .insert(id, (to.try_clone_to_owned()?, name.to_owned()));
        }
        Ok(())
    }
}

fn copy(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut source = File::from(openat(from, name, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut target = File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
    io::copy(&mut source, &mut target)?;
    attributes(source.as_fd(), target.as_fd(), stat)
}

/// Owner before mode, as chown(2) clears set-user-ID bits and capabilities; times last.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
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
    Ok(futimens(to, &times(stat))?)
}

fn owner_and_time(at: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    chownat(
        at,
        name,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
        flags,
    )?;
    Ok(utimensat(at, name, &times(stat), flags)?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |sec: i64, nsec: u64| Timespec {
        tv_sec: sec,
        tv_nsec: nsec as _,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn settle_directory(
    layers: &[OwnedFd],
    upper: BorrowedFd<'_>,
    omitted: &Omitted,
) -> io::Result<()> {
    for found in merged(layers)? {
        let name = &*found.name;
        match look(upper, name)? {
            None if omitted.contains(&(found.stat.st_dev, found.stat.st_ino)) => {}
            None => mknodat(upper, name, FileType::CharacterDevice, Mode::empty(), 0)?,
            Some(there) if kind(&there) == FileType::Directory && !found.merged.is_empty() => {
                settle_directory(&found.merged, open(upper, name)?.as_fd(), omitted)?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn whiteout(path: &Path) {
        let mode = Mode::empty();
        mknodat(CWD, path, FileType::CharacterDevice, mode, 0).unwrap();
    }

    #[test]
    fn layers_are_merged_and_told_apart_again() {
        let dir = tempfile::tempdir().unwrap();
        let [low, high, upper] = ["low", "high", "upper"].map(|name| dir.path().join(name));
        for path in [
            "low/a/b",
            "low/gone",
            "low/turns",
            "high/a",
            "high/turned",
            "upper",
        ] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::write(low.join("a/b/file"), "low").unwrap();
        fs::write(low.join("a/same"), "same").unwrap();
        fs::hard_link(low.join("a/same"), low.join("a/link")).unwrap();
        fs::set_permissions(low.join("a/same"), PermissionsExt::from_mode(0o4750)).unwrap();
        symlink("/nowhere", low.join("a/symlink")).unwrap();
        fs::write(low.join("turned"), "a file").unwrap();
        fs::write(high.join("a/over"), "high").unwrap();
        whiteout(&high.join("gone"));
        whiteout(&high.join("a/b"));
        let lowers = [low.clone(), high.clone()];
        let omitted = fill(&lowers, &upper, Take::Copy).unwrap();
        let names = |path: &str| {
            let mut names: Vec<_> = fs::read_dir(upper.join(path))
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(
            (names(""), names("a")),
            ("a turned turns".into(), "link over same symlink".into())
        );
        let meta = |name: &str| fs::symlink_metadata(upper.join(name)).unwrap();
        assert_eq!(meta("a/same").ino(), meta("a/link").ino());
        assert_ne!(
            meta("a/same").ino(),
            fs::metadata(low.join("a/same")).unwrap().ino()
        );
        assert_eq!(meta("a/same").mode() & 0o7777, 0o4750);
        assert_eq!(
            meta("a/same").mtime_nsec(),
            fs::metadata(low.join("a/same")).unwrap().mtime_nsec()
        );
        assert_eq!(
            fs::read_link(upper.join("a/symlink")).unwrap(),
            Path::new("/nowhere")
        );
        assert!(meta("turned").is_dir());
        // What a step removes is marked; what it leaves or makes is not.
        fs::remove_file(upper.join("a/over")).unwrap();
        fs::remove_dir(upper.join("turns")).unwrap();
        fs::write(upper.join("turns"), "").unwrap();
        fs::write(upper.join("new"), "").unwrap();
        settle(&lowers, &upper, &omitted).unwrap();
        let gone = statat(CWD, upper.join("a/over"), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert!(is_whiteout(&gone));
        assert_eq!(
            (names(""), names("a")),
            ("a new turned turns".into(), "link over same symlink".into())
        );
        // Once more, for reading only: links to the layers' own files.
        let view = dir.path().join("view");
        fs::create_dir(&view).unwrap();
        fill(&lowers, &view, Take::Link).unwrap();
        assert_eq!(
            fs::metadata(view.join("a/over")).unwrap().ino(),
            fs::metadata(high.join("a/over")).unwrap().ino()
        );
    }
}
