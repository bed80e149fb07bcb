//! Finding and placing files below a root that nothing may leave.
//!
//! Paths come from images, archives and Dockerfiles. They are resolved as if the root were `/`:
//! absolute links and `..` stay inside. The kernel does it (`openat2`); where it cannot (before
//! Linux 5.6, or under a sandbox that refuses the call) the same is done step by step.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

use crate::{Kind, dir};

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;
/// A path deeper than this is not resolved step by step: each step holds a descriptor.
const MAX_DEPTH: usize = 512;
/// How often a lookup that raced with a rename is tried.
const ATTEMPTS: usize = 32;

static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Opens `path` below `root`, following links as if `root` were `/`. With `NOFOLLOW` in `flags` a
/// link in the last place is not followed. Never creates anything.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = nonempty(path);
    match try_openat2(root, path, flags, ResolveFlags::IN_ROOT) {
        Some(result) => result,
        None => Steps::new(root).open(path, flags),
    }
}

/// Opens `path` below `root` where no component may be a symbolic link.
pub fn open_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = nonempty(path);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match try_openat2(root, path, flags, resolve) {
        Some(result) => result,
        None => {
            let mut steps = Steps::new(root);
            steps.links_left = 0;
            steps.open(path, flags | OFlags::NOFOLLOW)
        }
    }
}

/// Told of every directory that is made.
pub type Created<'a> = dyn FnMut(&Path, BorrowedFd<'_>) -> io::Result<()> + 'a;

/// Opens the directory at `path` below `root`, making what is missing with mode 0755. `created` is
/// called with the path below the root and the descriptor of every directory that was made, parents
/// first.
pub fn make_dirs_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    created: &mut Created<'_>,
) -> io::Result<OwnedFd> {
    match open_in_root(root, path, OFlags::DIRECTORY | OFlags::RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut steps = Steps::new(root);
            steps.created = Some(created);
            steps.directory(path)
        }
        opened => opened,
    }
}

fn nonempty(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

/// None if the kernel (or a sandbox) does not offer the call.
fn try_openat2(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Option<io::Result<OwnedFd>> {
    if NO_OPENAT2.load(Ordering::Relaxed) {
        return None;
    }
    let flags = flags | OFlags::CLOEXEC;
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..ATTEMPTS {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS) => {
                NO_OPENAT2.store(true, Ordering::Relaxed);
                return None;
            }
            Err(Errno::PERM) => return None,
            result => return Some(result.map_err(io::Error::from)),
        }
    }
    Some(Err(Errno::AGAIN.into()))
}

/// A resolution in user space. The directories from the root down to where it stands are held
/// open, so that `..` is a step back on this list and cannot leave the root.
struct Steps<'a> {
    root: BorrowedFd<'a>,
    stack: Vec<(CString, OwnedFd)>,
    links_left: usize,
    created: Option<&'a mut Created<'a>>,
}

/// What the next component turned out to be.
enum Step {
    Entered,
    Link(Vec<u8>),
    Other(CString),
}

impl<'a> Steps<'a> {
    fn new(root: BorrowedFd<'a>) -> Self {
        Self {
            root,
            stack: Vec::new(),
            links_left: MAX_LINKS,
            created: None,
        }
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.stack.last().map_or(self.root, |(_, fd)| fd.as_fd())
    }

    fn open(mut self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let last = self.walk(path, flags.contains(OFlags::NOFOLLOW))?;
        let name = last.as_deref().unwrap_or(c".");
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(self.here(), name, flags, Mode::empty())?)
    }

    fn directory(mut self, path: &Path) -> io::Result<OwnedFd> {
        match self.walk(path, false)? {
            Some(_) => Err(Errno::NOTDIR.into()),
            None => dir::open_child(self.here(), c"."),
        }
    }

    /// Goes as far as directories lead. What is left is the name of something that is no directory.
    fn walk(&mut self, path: &Path, keep_last_link: bool) -> io::Result<Option<CString>> {
        let mut left = components(path.as_os_str().as_bytes());
        while let Some(name) = left.pop_front() {
            match self.step(&name)? {
                Step::Entered => {}
                Step::Link(_) if keep_last_link && left.is_empty() => return named(name).map(Some),
                Step::Link(target) => self.follow(&target, &mut left)?,
                Step::Other(name) if left.is_empty() => return Ok(Some(name)),
                Step::Other(_) => return Err(Errno::NOTDIR.into()),
            }
        }
        Ok(None)
    }

    fn follow(&mut self, target: &[u8], left: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
        self.links_left = self.links_left.checked_sub(1).ok_or(Errno::LOOP)?;
        if target.starts_with(b"/") {
            self.stack.clear();
        }
        for name in components(target).into_iter().rev() {
            left.push_front(name);
        }
        Ok(())
    }

    fn step(&mut self, name: &[u8]) -> io::Result<Step> {
        match name {
            b"." => return Ok(Step::Entered),
            b".." => {
                self.stack.pop();
                return Ok(Step::Entered);
            }
            _ => {}
        }
        let name = named(name.to_vec())?;
        let found = match dir::lookup(self.here(), name.as_c_str())? {
            Some(found) => found,
            None if self.created.is_some() => return self.create(name),
            None => return Err(Errno::NOENT.into()),
        };
        match found.kind {
            Kind::Dir => {
                let fd = dir::open_child(self.here(), &name)?;
                self.enter(name, fd)
            }
            Kind::Symlink => {
                let target = readlinkat(self.here(), &name, Vec::new())?;
                Ok(Step::Link(target.into_bytes()))
            }
            _ => Ok(Step::Other(name)),
        }
    }

    fn enter(&mut self, name: CString, fd: OwnedFd) -> io::Result<Step> {
        if self.stack.len() == MAX_DEPTH {
            return Err(Errno::NAMETOOLONG.into());
        }
        self.stack.push((name, fd));
        Ok(Step::Entered)
    }

    fn create(&mut self, name: CString) -> io::Result<Step> {
        let mode = Mode::from_raw_mode(0o755);
        mkdirat(self.here(), &name, mode)?;
        let fd = dir::open_child(self.here(), &name)?;
        rustix::fs::fchmod(&fd, mode)?;
        let mut path: PathBuf = self.stack.iter().map(|(name, _)| as_os(name)).collect();
        path.push(as_os(&name));
        if let Some(created) = &mut self.created {
            created(&path, fd.as_fd())?;
        }
        self.enter(name, fd)
    }
}

fn as_os(name: &CString) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

fn named(name: Vec<u8>) -> io::Result<CString> {
    CString::new(name).map_err(|_| Errno::INVAL.into())
}

/// The names in a path; a slash at the end counts as a `.` after it.
fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    let parts = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty());
    let end = path.ends_with(b"/").then_some(&b"."[..]);
    parts.chain(end).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Some directories and files, and links between them that may lead anywhere.
    fn make(root: &Path, links: &[(String, String)]) {
        for path in ["a/b/c", "d/e", "f"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["a/file", "d/e/file", "file"] {
            fs::write(root.join(path), path).unwrap();
        }
        for (at, target) in links {
            // One that cannot be made is no loss.
            let _ = symlink(target, root.join(at));
        }
    }

    fn path() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            4 => "[a-f]".prop_map(String::from),
            2 => Just("..".to_owned()),
            1 => Just(".".to_owned()),
            2 => Just("file".to_owned()),
            4 => "l[0-5]".prop_map(String::from),
        ];
        let parts = prop::collection::vec(part, 1..5);
        ("/?", parts, "/?")
            .prop_map(|(start, parts, end)| format!("{start}{}{end}", parts.join("/")))
    }

    fn link() -> impl Strategy<Value = (String, String)> {
        let at = ("(a/|a/b/|d/)?", 0..6u8).prop_map(|(dir, number)| format!("{dir}l{number}"));
        (at, path())
    }

    fn inode(opened: io::Result<OwnedFd>) -> Result<u64, i32> {
        match opened {
            Ok(fd) => Ok(dir::stat(fd).unwrap().ino),
            Err(error) => Err(error.raw_os_error().unwrap_or(0)),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn both_ways_lead_to_the_same_place(
            links in prop::collection::vec(link(), 0..8),
            paths in prop::collection::vec(path(), 1..20),
        ) {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path(), &links);
            let root = dir::open(dir.path()).unwrap();
            for path in &paths {
                let path = Path::new(path);
                for flags in [OFlags::PATH, OFlags::PATH | OFlags::NOFOLLOW] {
                    let kernel = try_openat2(root.as_fd(), path, flags, ResolveFlags::IN_ROOT).unwrap();
                    let steps = Steps::new(root.as_fd()).open(path, flags);
                    prop_assert_eq!(inode(kernel), inode(steps), "{} {:?}", path.display(), flags);
                }
            }
        }
    }
}
