//! Walking a tree, and the digest of what was selected in it.
//!
//! The tree may be somebody's working folder, changing under the walk: every directory is opened by
//! name in its parent's descriptor and no link is ever followed below the start. What vanishes
//! between being listed and being looked at was not there.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use rustix::fs::{AtFlags, OFlags, readlinkat, statat};

use crate::facts::{self, Held};
use crate::meta::{Kind, Meta, Time};
use crate::place::open_in_root;
use crate::xattr::{Target, Xattrs};
use crate::{Content, dir};

/// So many entries are put into the digest together.
const BATCH: usize = 512;
/// So many directories are listed before others are asked to help: small trees are done before a thread wakes.
const ALONE: usize = 16;

/// What a walk does with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// It is an entry; if it is a directory, what is in it is visited.
    Take,
    /// Neither it nor anything in it is an entry.
    Skip,
    /// It is no entry, but what is in it is visited.
    SkipButDescend,
}

/// Something that a walk found.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The path below the start of the walk; empty for the start itself.
    pub path: PathBuf,
    /// What it is.
    pub meta: Meta,
    /// Where a symbolic link leads.
    pub link: Option<PathBuf>,
    /// The attributes of a directory, as far as layers keep them. (Those of a file are read with
    /// its content.)
    pub xattrs: Xattrs,
}

/// Decides what a walk does with a path below its start, which is a directory or not.
pub type Filter<'a> = dyn Fn(&Path, bool) -> Visit + Sync + 'a;

/// Walks what is at `start` below `root` and returns what `filter` takes: directories before what
/// is in them, names in the order of their bytes. Links on the way to `start` are followed as if
/// `root` were `/`. A start that is no directory is the only entry; the start itself is taken
/// without asking.
pub fn walk(root: BorrowedFd<'_>, start: &Path, filter: &Filter<'_>) -> io::Result<Vec<Entry>> {
    let place = open_in_root(root, start, OFlags::PATH)?;
    let meta = dir::stat(&place)?;
    let mut top = Entry {
        path: PathBuf::new(),
        meta,
        link: None,
        xattrs: Xattrs::new(),
    };
    if !meta.is_dir() {
        return Ok(vec![top]);
    }
    let fd = dir::open_child(&place, c".")?;
    top.xattrs = Target::Open(fd.as_fd()).kept()?;
    let walk = Walk {
        filter,
        dirs: Mutex::new(vec![Listed::default()]),
        failed: Mutex::new(None),
        later: Mutex::default(),
        alone: AtomicUsize::new(ALONE),
    };
    walk.list(None, fd, Path::new(""), 0);
    let later = std::mem::take(&mut *walk.later.lock().unwrap_or_else(PoisonError::into_inner));
    if !later.is_empty() {
        crate::threads::prepare_rayon()?;
        rayon::in_place_scope(|scope| {
            for found in later {
                walk.spawn(scope, found);
            }
        });
    }
    let failed = walk
        .failed
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    match failed {
        Some(error) => Err(error),
        None => {
            let dirs = walk
                .dirs
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            Ok(assemble(top, dirs))
        }
    }
}

/// A directory after it was listed.
#[derive(Default)]
struct Listed {
    xattrs: Xattrs,
    children: Vec<Child>,
}

struct Child {
    entry: Entry,
    taken: bool,
    /// Where the directory's own list is.
    list: Option<usize>,
}

struct Walk<'a> {
    filter: &'a Filter<'a>,
    dirs: Mutex<Vec<Listed>>,
    failed: Mutex<Option<io::Error>>,
    /// So many directories more are listed without help.
    alone: AtomicUsize,
    /// What is left when that is used up.
    later: Mutex<Vec<Found>>,
}

/// A directory that is to be listed.
struct Found {
    parent: Arc<OwnedFd>,
    path: PathBuf,
    /// Where its list goes.
    id: usize,
}

impl Walk<'_> {
    /// Lists a directory; those in it are listed by whoever is free.
    fn list<'s>(&'s self, scope: Option<&rayon::Scope<'s>>, fd: OwnedFd, path: &Path, id: usize) {
        let fd = Arc::new(fd);
        let listed = self.read(&fd, path).and_then(|children| {
            Ok(Listed {
                xattrs: Target::Open(fd.as_fd()).kept()?,
                children,
            })
        });
        let mut listed = match listed {
            Ok(listed) => listed,
            Err(error) => return self.fail(path, &error),
        };
        let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inner = Vec::new();
        for child in &mut listed.children {
            if child.entry.meta.is_dir() {
                child.list = Some(dirs.len());
                inner.push((dirs.len(), child.entry.path.clone()));
                dirs.push(Listed::default());
            }
        }
        dirs[id] = listed;
        drop(dirs);
        for (id, path) in inner {
            let parent = Arc::clone(&fd);
            let found = Found { parent, path, id };
            match scope {
                Some(scope) => self.spawn(scope, found),
                None if self.goes_on_alone() => self.descend(None, &found),
                None => self
                    .later
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(found),
            }
        }
    }

    fn goes_on_alone(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.alone
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }

    fn spawn<'s>(&'s self, scope: &rayon::Scope<'s>, found: Found) {
        scope.spawn(move |scope| self.descend(Some(scope), &found));
    }

    fn descend<'s>(&'s self, scope: Option<&rayon::Scope<'s>>, found: &Found) {
        let Found { parent, path, id } = found;
        if self.failed.lock().is_ok_and(|failed| failed.is_some()) {
            return;
        }
        let name = path.file_name().unwrap_or_default().as_bytes();
        let opened = CString::new(name)
            .map_err(io::Error::from)
            .and_then(|name| dir::open_child(parent, &name));
        match opened {
            Ok(fd) => self.list(scope, fd, path, *id),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.fail(path, &error),
        }
    }

    fn read(&self, fd: &OwnedFd, path: &Path) -> io::Result<Vec<Child>> {
        let mut children = Vec::new();
        let names = match dir::sorted_names(fd.as_fd()) {
            // It was removed after it was opened: then it holds nothing (getdents(2)).
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        for name in names {
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            let Some(meta) = dir::lookup(fd, &name)? else {
                continue;
            };
            let visit = (self.filter)(&path, meta.is_dir());
            if visit == Visit::Skip || (visit == Visit::SkipButDescend && !meta.is_dir()) {
                continue;
            }
            let link = match meta.kind {
                Kind::Symlink => Some(read_link(fd, &name)?),
                _ => None,
            };
            let entry = Entry {
                path,
                meta,
                link,
                xattrs: Xattrs::new(),
            };
            children.push(Child {
                entry,
                taken: visit == Visit::Take,
                list: None,
            });
        }
        Ok(children)
    }

    fn fail(&self, path: &Path, error: &io::Error) {
        let named = io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert(named);
    }
}

fn read_link(fd: &OwnedFd, name: &CStr) -> io::Result<PathBuf> {
    let target = readlinkat(fd, name, Vec::new())?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(
        target.into_bytes(),
    )))
}

/// Puts the lists of all directories into one, in order.
fn assemble(mut top: Entry, mut dirs: Vec<Listed>) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(dirs.iter().map(|listed| listed.children.len()).sum());
    let first = std::mem::take(&mut dirs[0]);
    top.xattrs = first.xattrs;
    entries.push(top);
    let mut open = vec![first.children.into_iter()];
    while let Some(children) = open.last_mut() {
        let Some(mut child) = children.next() else {
            open.pop();
            continue;
        };
        let list = child.list.map(|id| std::mem::take(&mut dirs[id]));
        if let Some(list) = list {
            child.entry.xattrs = list.xattrs;
            open.push(list.children.into_iter());
        }
        if child.taken {
            entries.push(child.entry);
        }
    }
    entries
}

/// Whether the owner of a file counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// Two files that belong to different users are different.
    Count,
    /// Whoever built the context does not matter.
    Ignored,
}

/// The digest of entries, which is independent of when and where they were found. `content` gives
/// the digest of a regular file by its entry; it is called from several threads.
pub fn tree_digest(
    entries: &[Entry],
    owners: Owners,
    content: &(dyn Fn(&Entry) -> io::Result<[u8; 32]> + Sync),
) -> io::Result<Content> {
    let mut hasher = blake3::Hasher::new();
    let encode = |entries: &[Entry]| {
        let mut out = Vec::with_capacity(entries.len() * 128);
        for entry in entries {
            encode(&mut out, entry, owners, content)?;
        }
        Ok(out)
    };
    let encoded: io::Result<Vec<Vec<u8>>> = if entries.len() <= BATCH {
        encode(entries).map(|part| vec![part])
    } else {
        crate::threads::prepare_rayon()?;
        entries.par_chunks(BATCH).map(encode).collect()
    };
    for part in encoded? {
        hasher.update(&part);
    }
    Ok(Content(*hasher.finalize().as_bytes()))
}

fn encode(
    out: &mut Vec<u8>,
    entry: &Entry,
    owners: Owners,
    content: &(dyn Fn(&Entry) -> io::Result<[u8; 32]> + Sync),
) -> io::Result<()> {
    let mut meta = entry.meta;
    if owners == Owners::Ignored {
        (meta.uid, meta.gid) = (0, 0);
    }
    let digest;
    let held = match (meta.kind, &entry.link) {
        (Kind::File, _) => {
            digest = content(entry)?;
            Held::File(meta.size, &digest)
        }
        (Kind::Dir, _) => Held::Dir,
        (Kind::Symlink, Some(link)) => Held::Symlink(link.as_os_str().as_bytes()),
        _ => Held::Node,
    };
    facts::write(
        out,
        entry.path.as_os_str().as_bytes(),
        &meta,
        &entry.xattrs,
        &held,
    );
    Ok(())
}

/// The digest of a regular file, read now: of its content, and of the attributes that a layer would
/// keep. Fails if the file is not (or while it is read ceases to be) the one that `meta` describes.
pub fn file_digest(root: BorrowedFd<'_>, path: &Path, meta: &Meta) -> io::Result<[u8; 32]> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = crate::place::open_beneath(root, path, flags)?;
    let digest = open_file_digest(file.as_fd())?;
    if is_same(&dir::stat(&file)?, meta) {
        return Ok(digest);
    }
    let text = format!("{} changed while it was read", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Whether a file was not touched since it was as `expected`.
pub(crate) fn is_same(now: &Meta, expected: &Meta) -> bool {
    let facts = |meta: &Meta| (meta.kind, meta.ino, meta.size, meta.mtime);
    let is_untouched = matches!(expected.ctime, Time::ANY) || now.ctime == expected.ctime;
    is_untouched && facts(now) == facts(expected)
}

fn open_file_digest(file: BorrowedFd<'_>) -> io::Result<[u8; 32]> {
    const PIECE: usize = 128 << 10;
    let mut hasher = blake3::Hasher::new();
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        piece.clear();
        if rustix::io::read(file, rustix::buffer::spare_capacity(&mut piece))? == 0 {
            break;
        }
        hasher.update(&piece);
    }
    let xattrs = Target::Open(file).kept()?;
    if xattrs.is_empty() {
        return Ok(*hasher.finalize().as_bytes());
    }
    let mut both = hasher.finalize().as_bytes().to_vec();
    for (name, value) in &xattrs {
        for part in [name, value] {
            both.extend_from_slice(&(part.len() as u64).to_le_bytes());
            both.extend_from_slice(part);
        }
    }
    Ok(*blake3::hash(&both).as_bytes())
}

/// What is at `path`, in which no component may be a link.
pub fn stat_beneath(root: BorrowedFd<'_>, path: &Path) -> io::Result<Meta> {
    let place = crate::place::open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = statat(&place, c"", AtFlags::EMPTY_PATH)?;
    Ok(Meta::from(&stat))
}
