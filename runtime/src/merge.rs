//! Layers merged by copying, where nothing can be mounted.
//!
//! [`fill`] makes of an upper directory what an overlay would show; [`settle`] makes of it again what an overlay would have
//! left there: what is gone is marked as gone. What is still there and the same is left to who makes a layer of it, which
//! is then the same layer, with one exception: a file of several names that was written to by one of them is changed
//! under all of them, where an overlay parts them.
//! Nothing here follows a symbolic link.

mod file;

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatxFlags, XattrFlags, chmodat, fgetxattr,
    fsetxattr, fstat, linkat, mkdirat, mknodat, openat, readlinkat, statat, statx, symlinkat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use file::{attributes, copy, open_file, owner_and_time};

use crate::times;

/// What becomes of the layers' files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// Copies, that may be changed.
    Copy,
    /// Links where that is possible: nobody may write to them.
    Link,
}

/// How a layer says that something of the layers below it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// As overlays do, with an attribute `trusted.*`.
    Trusted,
    /// As overlays do, with an attribute `user.*`.
    User,
    /// By sockets, of which layers hold none, and an attribute that no overlay knows.
    Own,
}

impl Marks {
    const ALL: [Marks; 3] = [Marks::Trusted, Marks::User, Marks::Own];

    /// The attribute of a directory that hides what is below.
    fn opaque(self) -> &'static CStr {
        match self {
            Marks::Trusted => c"trusted.overlay.opaque",
            Marks::User => c"user.overlay.opaque",
            Marks::Own => c"user.lapstrake.opaque",
        }
    }

    /// What is in the place of something that is gone.
    fn whiteout(self) -> FileType {
        match self {
            Marks::Trusted | Marks::User => FileType::CharacterDevice,
            Marks::Own => FileType::Socket,
        }
    }
}

/// Of a file of the layers: its device and number.
type Id = (u64, u64);

/// What is known of a directory that was filled.
#[derive(Default)]
pub(crate) struct Filled {
    /// Device nodes that could not be made.
    omitted: HashSet<Id>,
    /// What the directories of the layers became.
    directories: HashMap<Id, Birth>,
}

/// By which a directory is told from one that came into its place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Birth {
    number: u64,
    time: Option<Moment>,
}

/// Seconds and nanoseconds.
type Moment = (i64, u64);

/// Puts into `upper` what the layers `lowers` (lowest first) show, and is not in it yet.
pub(crate) fn fill(lowers: &[PathBuf], upper: &Path, take: Take) -> io::Result<Filled> {
    let to = open(CWD, &c_path(upper)?)?;
    let mut filler = Filler {
        take,
        root: to.as_fd(),
        place: PathBuf::new(),
        links: HashMap::new(),
        filled: Filled::default(),
    };
    filler.directory(&layers(lowers)?, to.as_fd())?;
    if take == Take::Copy {
        let births = filler.filled.directories.values();
        if let Some(last) = births.filter_map(|birth| birth.time).max() {
            wait_until_after(last);
        }
    }
    Ok(filler.filled)
}

/// File systems take the time from a clock that is some milliseconds coarse. What is made from now on, with the number of
/// something that was removed, is told by its time.
fn wait_until_after(moment: Moment) {
    // The clock may have been set back meanwhile.
    for _ in 0..100 {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        if (now.tv_sec, now.tv_nsec as u64) > moment {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Marks in `upper` what the layers `lowers` show and what is not there.
pub(crate) fn settle(
    lowers: &[PathBuf],
    upper: &Path,
    filled: &Filled,
    marks: Marks,
) -> io::Result<()> {
    let mut settler = Settler {
        filled,
        marks,
        met: HashSet::new(),
    };
    settler.directory(&layers(lowers)?, open(CWD, &c_path(upper)?)?.as_fd())
}

/// The layers' directories, uppermost first.
fn layers(lowers: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    let open = |path: &PathBuf| open(CWD, &c_path(path)?);
    lowers.iter().rev().map(open).collect()
}

fn c_path(path: &Path) -> io::Result<CString> {
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
    match kind(stat) {
        FileType::CharacterDevice => stat.st_rdev == 0,
        kind => kind == FileType::Socket,
    }
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    Marks::ALL.iter().any(|marks| {
        let mut value = [0; 2];
        fgetxattr(directory, marks.opaque(), &mut value) == Ok(1) && value[0] == b'y'
    })
}

fn id(stat: &Stat) -> Id {
    (stat.st_dev, stat.st_ino)
}

fn birth(directory: BorrowedFd<'_>) -> io::Result<Birth> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let stat = statx(directory, c"", AtFlags::EMPTY_PATH, wanted)?;
    let time = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec.into());
    let has_time = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    Ok(Birth {
        number: stat.stx_ino,
        time: has_time.then_some(time),
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
}

impl Found {
    fn is_directory(&self) -> bool {
        kind(&self.stat) == FileType::Directory
    }

    /// The directories that it is merged from. Open only while they are looked into: a directory may have more of them
    /// than a process may open.
    fn merged(&self, layers: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
        below(&layers[self.layer..], &self.name)
    }
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
                found.push(Found { name, stat, layer });
            }
        }
        if is_opaque(directory.as_fd()) {
            break;
        }
    }
    // Of several names the first is always the same one.
    found.sort_unstable_by(|a: &Found, b| a.name.cmp(&b.name));
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

struct Filler<'a> {
    take: Take,
    root: BorrowedFd<'a>,
    /// The directory that is being filled, below the root.
    place: PathBuf,
    /// The directory and the first of several names of a file. A path, as there may be more than can be open at once.
    links: HashMap<Id, (PathBuf, CString)>,
    filled: Filled,
}

impl Filler<'_> {
    fn directory(&mut self, layers: &[OwnedFd], to: BorrowedFd<'_>) -> io::Result<()> {
        for found in merged(layers)? {
            let name = &*found.name;
            match (look(to, name)?, kind(&found.stat)) {
                (None, FileType::Directory) => {
                    mkdirat(to, name, Mode::RWXU)?;
                    self.inside(layers, &found, to)?;
                }
                (None, _) => self.other(layers[found.layer].as_fd(), &found, to)?,
                (Some(there), FileType::Directory) if kind(&there) == FileType::Directory => {
                    let inner = open(to, name)?;
                    if !is_opaque(inner.as_fd()) {
                        self.note(&found, inner.as_fd())?;
                        self.below(&found.merged(layers)?, name, inner.as_fd())?;
                    }
                }
                (Some(_), _) => {}
            }
        }
        Ok(())
    }

    fn below(&mut self, layers: &[OwnedFd], name: &CStr, to: BorrowedFd<'_>) -> io::Result<()> {
        self.place.push(OsStr::from_bytes(name.to_bytes()));
        let filled = self.directory(layers, to);
        self.place.pop();
        filled
    }

    /// A directory that was made: first what is in it, then what it is.
    fn inside(&mut self, layers: &[OwnedFd], found: &Found, to: BorrowedFd<'_>) -> io::Result<()> {
        let inner = open(to, &found.name)?;
        self.note(found, inner.as_fd())?;
        let merged = found.merged(layers)?;
        self.below(&merged, &found.name, inner.as_fd())?;
        if let Some(from) = merged.first() {
            attributes(from.as_fd(), inner.as_fd(), &found.stat)?;
        }
        Ok(())
    }

    fn note(&mut self, found: &Found, made: BorrowedFd<'_>) -> io::Result<()> {
        let births = &mut self.filled.directories;
        births.insert(id(&found.stat), birth(made)?);
        Ok(())
    }

    fn other(&mut self, from: BorrowedFd<'_>, found: &Found, to: BorrowedFd<'_>) -> io::Result<()> {
        let (name, stat) = (&*found.name, &found.stat);
        let id = id(stat);
        if stat.st_nlink > 1
            && let Some((place, first)) = self.links.get(&id)
        {
            let directory = place.iter().try_fold(None, |at: Option<OwnedFd>, part| {
                let at = at.as_ref().map_or(self.root, AsFd::as_fd);
                open(at, &c_path(Path::new(part))?).map(Some)
            })?;
            let directory = directory.as_ref().map_or(self.root, AsFd::as_fd);
            return Ok(linkat(directory, first, to, name, AtFlags::empty())?);
        }
        match kind(stat) {
            FileType::RegularFile => {
                let linked = self.take == Take::Link
                    && linkat(from, name, to, name, AtFlags::empty()).is_ok();
                if !linked {
                    copy(open_file(from, name)?, to, name, stat)?;
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
                    self.filled.omitted.insert(id);
                }
                Err(error) => return Err(error.into()),
            },
        }
        if stat.st_nlink > 1 && !self.filled.omitted.contains(&id) {
            self.links.insert(id, (self.place.clone(), name.to_owned()));
        }
        Ok(())
    }
}

struct Settler<'a> {
    filled: &'a Filled,
    marks: Marks,
    /// The files that had several names in the layers, and their numbers now.
    met: HashSet<(Id, u64)>,
}

impl Settler<'_> {
    fn directory(&mut self, layers: &[OwnedFd], upper: BorrowedFd<'_>) -> io::Result<()> {
        let before = fstat(upper)?;
        let mut changed = false;
        for found in merged(layers)? {
            changed |= self.one(layers, &found, upper)?;
        }
        if changed {
            times::set(upper, &before)?;
        }
        Ok(())
    }

    /// Whether it changed the directory `upper`.
    fn one(
        &mut self,
        layers: &[OwnedFd],
        found: &Found,
        upper: BorrowedFd<'_>,
    ) -> io::Result<bool> {
        let name = &*found.name;
        let Some(there) = look(upper, name)? else {
            if self.filled.omitted.contains(&id(&found.stat)) {
                return Ok(false);
            }
            mknodat(upper, name, self.marks.whiteout(), Mode::empty(), 0)?;
            return Ok(true);
        };
        match kind(&there) {
            FileType::Directory if found.is_directory() => {
                let inner = open(upper, name)?;
                let made = self.filled.directories.get(&id(&found.stat));
                if made == Some(&birth(inner.as_fd())?) {
                    self.directory(&found.merged(layers)?, inner.as_fd())?;
                } else {
                    fsetxattr(inner, self.marks.opaque(), b"y", XattrFlags::empty())?;
                }
                Ok(false)
            }
            // It is in no layer, and must not be taken for a mark.
            FileType::Socket => {
                unlinkat(upper, name, AtFlags::empty())?;
                Ok(true)
            }
            FileType::RegularFile if there.st_nlink > 1 && found.stat.st_nlink > 1 => {
                self.part(found, upper, &there)
            }
            _ => Ok(false),
        }
    }

    /// An overlay parts the names of a file that is changed by each of them, as by `chown -R`.
    fn part(&mut self, found: &Found, upper: BorrowedFd<'_>, there: &Stat) -> io::Result<bool> {
        if self.met.insert((id(&found.stat), there.st_ino)) {
            return Ok(false);
        }
        let name = &*found.name;
        let file = open_file(upper, name)?;
        unlinkat(upper, name, AtFlags::empty())?;
        copy(file, upper, name, there)?;
        Ok(true)
    }
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
        let filled = fill(&lowers, &upper, Take::Copy).unwrap();
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
        settle(&lowers, &upper, &filled, Marks::Trusted).unwrap();
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

    fn two_layers(dir: &Path) -> [PathBuf; 2] {
        let [lower, upper] = ["lower", "upper"].map(|name| dir.join(name));
        for path in ["again/old", "swap", "swapped", "gone"] {
            fs::create_dir_all(lower.join(path)).unwrap();
        }
        fs::write(lower.join("a"), "").unwrap();
        fs::hard_link(lower.join("a"), lower.join("b")).unwrap();
        fs::create_dir(&upper).unwrap();
        [lower, upper]
    }

    #[test]
    fn what_came_into_the_place_of_something_hides_it() {
        for marks in [Marks::User, Marks::Own] {
            let dir = tempfile::tempdir().unwrap();
            let [lower, upper] = two_layers(dir.path());
            let lowers = [lower];
            let filled = fill(&lowers, &upper, Take::Copy).unwrap();
            fs::remove_dir_all(upper.join("again")).unwrap();
            fs::create_dir(upper.join("again")).unwrap();
            fs::remove_dir(upper.join("swapped")).unwrap();
            fs::rename(upper.join("swap"), upper.join("swapped")).unwrap();
            fs::remove_dir(upper.join("gone")).unwrap();
            let long_ago = std::time::SystemTime::UNIX_EPOCH;
            fs::File::open(&upper)
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
            settle(&lowers, &upper, &filled, marks).unwrap();
            let is_opaque = |name: &str| {
                is_opaque(
                    open(CWD, &c_path(&upper.join(name)).unwrap())
                        .unwrap()
                        .as_fd(),
                )
            };
            assert!(is_opaque("again") && is_opaque("swapped"));
            for name in ["gone", "swap"] {
                let gone = statat(CWD, upper.join(name), AtFlags::SYMLINK_NOFOLLOW).unwrap();
                assert_eq!((is_whiteout(&gone), kind(&gone)), (true, marks.whiteout()));
            }
            assert_eq!(fs::metadata(&upper).unwrap().modified().unwrap(), long_ago);
        }
    }

    #[test]
    fn names_of_a_changed_file_are_parted() {
        let dir = tempfile::tempdir().unwrap();
        let [lower, upper] = two_layers(dir.path());
        let lowers = [lower];
        let filled = fill(&lowers, &upper, Take::Copy).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(upper.join("gone/socket")).unwrap();
        fs::remove_dir(upper.join("swap")).unwrap();
        fs::rename(upper.join("gone/socket"), upper.join("swap")).unwrap();
        settle(&lowers, &upper, &filled, Marks::Own).unwrap();
        drop(socket);
        let number = |name: &str| fs::metadata(upper.join(name)).unwrap().ino();
        assert_ne!(number("a"), number("b"));
        // A socket of the step is no mark.
        assert!(!upper.join("swap").exists());
    }
}
