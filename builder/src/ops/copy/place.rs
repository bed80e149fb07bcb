//! Placing what was selected: BuildKit's rules of where a source lands and which metadata it gets.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lapstrake_cache::{Attributes, Entry, Kind, Meta, Time, Xattrs};
use lapstrake_frontend::chmod::Changes;
use rayon::prelude::*;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

use super::canvas::{Canvas, NewDir, is};
use super::earlier::{Earlier, Spot, stamp};
use super::select::Item;
use super::tree::Tree;
use crate::paths::{clean, names_directory, shown};

/// Files of one directory that one thread copies at a time.
const BATCH: usize = 64;

/// `--chmod`, read.
#[derive(Debug, Clone)]
pub(crate) enum ModeChange {
    Octal(u32),
    Symbolic(Changes),
}

impl ModeChange {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(changes) => changes.apply(mode, is_dir),
        }
    }
}

/// What the flags of the instruction say of owners and modes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metadata {
    /// `--chown`, resolved.
    pub(crate) owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub(crate) mode: Option<ModeChange>,
    /// The time of everything, in place of its own.
    pub(crate) time: Option<Time>,
}

impl Metadata {
    /// For directories that are made on the way: an octal mode counts but for its special bits, a symbolic one does not.
    fn new_dir(&self) -> NewDir {
        let mode = match self.mode {
            Some(ModeChange::Octal(mode)) => Some(mode & 0o777),
            _ => None,
        };
        NewDir {
            mode,
            owner: self.owner,
        }
    }

    /// What the copy of `entry` gets.
    fn attributes<'x>(&self, entry: &Entry, xattrs: &'x Xattrs) -> Attributes<'x> {
        let Meta { mode, uid, gid, .. } = entry.meta;
        let mode = self
            .mode
            .as_ref()
            .map_or(mode, |change| change.apply(mode, entry.meta.is_dir()))
            & 0o7777;
        let (uid, gid) = self.owner.unwrap_or((uid, gid));
        Attributes {
            mode,
            uid,
            gid,
            mtime: Some(self.time(entry)),
            xattrs,
        }
    }

    fn time(&self, entry: &Entry) -> Time {
        self.time.unwrap_or(entry.meta.mtime)
    }
}

/// Places every item at `destination` as the text of the instruction gives it.
pub(crate) fn place(
    canvas: &mut Canvas,
    tree: &Tree,
    items: &[Item],
    destination: &str,
    meta: &Metadata,
) -> Result<()> {
    for item in items {
        let target = prepare(canvas, item, destination, meta)?;
        if item.is_dir() {
            place_contents(canvas, tree, item, &target, meta)?;
        } else {
            place_one(canvas, tree, item, &target, meta)?;
        }
    }
    Ok(())
}

/// Writes a heredoc.
pub(crate) fn place_text(
    canvas: &mut Canvas,
    name: &str,
    text: &str,
    destination: &str,
    meta: &Metadata,
    time: Time,
) -> Result<()> {
    let target = landing(canvas, OsStr::new(name), destination, meta)?;
    let parent = open_parent(canvas, &target, meta)?;
    make_way(canvas, &target)?;
    let name = CString::new(file_name(&target)?.as_bytes())?;
    let mut file = std::fs::File::from(create(parent.as_fd(), &name)?);
    file.write_all(text.as_bytes())?;
    let mode = meta
        .mode
        .as_ref()
        .map_or(0o644, |change| change.apply(0o644, false));
    let (uid, gid) = meta.owner.unwrap_or_default();
    let attributes = Attributes {
        mode,
        uid,
        gid,
        mtime: Some(time),
        xattrs: &Xattrs::new(),
    };
    Ok(lapstrake_cache::set_attributes(file.as_fd(), &attributes)?)
}

/// Where a file named `name` lands: inside the destination if that is a directory, now or by its trailing slash.
pub(super) fn landing(
    canvas: &mut Canvas,
    name: &OsStr,
    destination: &str,
    meta: &Metadata,
) -> Result<PathBuf> {
    let mut target = canvas.resolve(&clean(Path::new(destination)))?;
    if names_directory(destination) {
        canvas.directory(&target, meta.new_dir())?;
    }
    if target.as_os_str().is_empty()
        || canvas
            .stat(&target)?
            .is_some_and(|stat| is(&stat, FileType::Directory))
    {
        target.push(name);
    }
    Ok(target)
}

/// The destination as a directory, made where it is missing: for what unpacks. As with BuildKit it takes no mode of the
/// instruction (solver/llbsolver/file/unpack.go).
pub(super) fn directory_target(
    canvas: &mut Canvas,
    destination: &str,
    meta: &Metadata,
) -> Result<PathBuf> {
    let target = canvas.resolve(&clean(Path::new(destination)))?;
    let new = NewDir {
        mode: None,
        owner: meta.owner,
    };
    canvas.directory(&target, new)?;
    Ok(target)
}

/// Makes the directories that `item` needs and says what its target is.
fn prepare(
    canvas: &mut Canvas,
    item: &Item,
    destination: &str,
    meta: &Metadata,
) -> Result<PathBuf> {
    if !item.is_dir() {
        return landing(canvas, &item.name, destination, meta);
    }
    let target = canvas.resolve(&clean(Path::new(destination)))?;
    if let Some(stat) = &canvas.stat(&target)? {
        ensure!(
            is(stat, FileType::Directory),
            "cannot copy to non-directory: {}",
            shown(&target)
        );
    }
    canvas.directory(&target, meta.new_dir())?;
    // Of several sources the last directory counts.
    if !target.as_os_str().is_empty() && !canvas.in_base(&target)? {
        canvas.set_time(&target, meta.time(&item.entry));
    }
    Ok(target)
}

fn open_parent(canvas: &mut Canvas, target: &Path, meta: &Metadata) -> Result<OwnedFd> {
    canvas.directory(
        target.parent().unwrap_or_else(|| Path::new("")),
        meta.new_dir(),
    )
}

/// A file never replaces a directory; anything else at `target` gives way.
fn make_way(canvas: &Canvas, target: &Path) -> Result<()> {
    match canvas.stat(target)? {
        Some(stat) if is(&stat, FileType::Directory) => {
            bail!("cannot replace to directory {} with file", shown(target))
        }
        Some(_) => canvas.clear(target),
        None => Ok(()),
    }
}

fn place_one(
    canvas: &mut Canvas,
    tree: &Tree,
    item: &Item,
    target: &Path,
    meta: &Metadata,
) -> Result<()> {
    let parent = open_parent(canvas, target, meta)?;
    make_way(canvas, target)?;
    let from = tree.open_parent(&item.real)?;
    let name = item.real.file_name().context("the source is the root")?;
    copy_entry(
        from.as_fd(),
        name,
        parent.as_fd(),
        file_name(target)?,
        &item.entry,
        meta,
    )
    .with_context(|| format!("copy {} to {}", shown(&item.real), shown(target)))
}

/// Places all that was taken of a directory: directories first, in order, then files, many at a time.
fn place_contents(
    canvas: &mut Canvas,
    tree: &Tree,
    item: &Item,
    target: &Path,
    meta: &Metadata,
) -> Result<()> {
    let fresh = place_directories(canvas, item, target, meta)?;
    lapstrake_cache::prepare_rayon()?;
    let spots: Vec<Spot> = item
        .below
        .par_iter()
        .map(|entry| spot(tree, item, target, meta, entry))
        .collect();
    let placing = item.below.iter().zip(&spots);
    let (files, again) = by_inode(placing.filter(|(entry, _)| entry.meta.kind != Kind::Dir));
    for (entry, spot) in files.iter().chain(again.iter().map(|(_, second)| second)) {
        if !fresh.contains_key(entry.path.parent().unwrap_or_else(|| Path::new(""))) {
            make_way(canvas, &spot.path)?;
        }
    }
    let root = canvas.directory(target, meta.new_dir())?;
    let earlier = canvas.earlier();
    let amends = earlier.and_then(|earlier| earlier.amendable(&spots));
    let copying = Copying {
        tree,
        item,
        target,
        root: root.as_fd(),
        meta,
        earlier,
        is_amending: amends.is_some(),
    };
    batches(&files)
        .into_par_iter()
        .try_for_each(|batch| copying.batch(batch))?;
    for (first, (second, _)) in again {
        hard_link(root.as_fd(), &first.path, &second.path)?;
    }
    canvas.note_placed(spots, amends);
    Ok(())
}

/// A thing on its way, and where to.
type Placing<'a> = (&'a Entry, &'a Spot);

/// Separates the first name of each file from further ones, which come with the first.
fn by_inode<'a>(
    all: impl Iterator<Item = Placing<'a>>,
) -> (Vec<Placing<'a>>, Vec<(&'a Entry, Placing<'a>)>) {
    let mut links: HashMap<(u64, u64), &Entry> = HashMap::new();
    let (mut files, mut again) = (Vec::new(), Vec::new());
    for (entry, spot) in all {
        let is_one_of_several = entry.meta.kind == Kind::File && entry.meta.nlink > 1;
        let inode = (entry.meta.dev, entry.meta.ino);
        match links.get(&inode).filter(|_| is_one_of_several) {
            Some(first) => again.push((*first, (entry, spot))),
            None => {
                if is_one_of_several {
                    links.insert(inode, entry);
                }
                files.push((entry, spot));
            }
        }
    }
    (files, again)
}

/// Where `entry` goes. A file with a single name has a stamp, so that no two names share it by mistake.
fn spot(tree: &Tree, item: &Item, target: &Path, meta: &Metadata, entry: &Entry) -> Spot {
    let can_be_taken = entry.meta.kind == Kind::File && entry.meta.nlink == 1;
    let content = can_be_taken
        .then(|| tree.known(&item.real.join(&entry.path), &entry.meta))
        .flatten();
    Spot {
        path: target.join(&entry.path),
        stamp: content.map(|content| stamp(&content, &meta.attributes(entry, &entry.xattrs))),
    }
}

/// Makes the directories of `item`; gives back those that nothing was in before, by their path in the item.
fn place_directories<'a>(
    canvas: &mut Canvas,
    item: &'a Item,
    target: &Path,
    meta: &Metadata,
) -> Result<HashMap<&'a Path, ()>> {
    let mut fresh: HashMap<&Path, ()> = HashMap::new();
    if canvas.is_new(target)? {
        fresh.insert(Path::new(""), ());
    }
    for entry in item
        .below
        .iter()
        .filter(|entry| entry.meta.kind == Kind::Dir)
    {
        let path = target.join(&entry.path);
        let parent_is_fresh =
            fresh.contains_key(entry.path.parent().unwrap_or_else(|| Path::new("")));
        let existed = !parent_is_fresh && canvas.stat(&path)?.is_some();
        let dir = canvas.directory(&path, NewDir::default())?;
        lapstrake_cache::set_attributes(dir.as_fd(), &meta.attributes(entry, &entry.xattrs))?;
        canvas.set_time(&path, meta.time(entry));
        if !existed {
            fresh.insert(&entry.path, ());
        }
    }
    Ok(fresh)
}

/// Runs of files in the same directory, short enough to share among threads.
fn batches<'a, 'b>(files: &'b [Placing<'a>]) -> Vec<&'b [Placing<'a>]> {
    files
        .chunk_by(|(one, _), (other, _)| one.path.parent() == other.path.parent())
        .flat_map(|run| run.chunks(BATCH))
        .collect()
}

/// The files of one directory item on their way.
struct Copying<'a> {
    tree: &'a Tree,
    item: &'a Item,
    /// Where the item goes, and that directory.
    target: &'a Path,
    root: BorrowedFd<'a>,
    meta: &'a Metadata,
    /// What the same copy made last time.
    earlier: Option<&'a Earlier>,
    /// Whether files that lie in its layer are seen without being placed.
    is_amending: bool,
}

impl Copying<'_> {
    /// Places files of the same directory, as far as nothing shows them already.
    fn batch(&self, batch: &[Placing<'_>]) -> Result<()> {
        let Some((first, _)) = batch.first() else {
            return Ok(());
        };
        let parent = first.path.parent().unwrap_or_else(|| Path::new(""));
        let made = match self.earlier {
            Some(earlier) => Some(earlier.directory(&self.target.join(parent), self.is_amending)?),
            None => None,
        };
        let is_shown = |spot: &Spot| made.as_ref().is_some_and(|made| made.shows(spot));
        let mut left = batch.iter().filter(|(_, spot)| !is_shown(spot)).peekable();
        if left.peek().is_none() {
            return Ok(());
        }
        let from = self.tree.open_directory(&self.item.real.join(parent))?;
        let to = super::canvas::open_directory(self.root, parent)?;
        for (entry, spot) in left {
            if made
                .as_ref()
                .is_some_and(|made| made.link(spot, to.as_fd()))
            {
                continue;
            }
            let name = file_name(&entry.path)?;
            copy_entry(from.as_fd(), name, to.as_fd(), name, entry, self.meta)
                .with_context(|| format!("copy {}", shown(&self.item.real.join(&entry.path))))?;
        }
        Ok(())
    }
}

fn hard_link(root: BorrowedFd<'_>, first: &Path, second: &Path) -> Result<()> {
    let (from, to) = (parent_of(root, first)?, parent_of(root, second)?);
    fs::linkat(
        &from,
        file_name(first)?,
        &to,
        file_name(second)?,
        AtFlags::empty(),
    )
    .with_context(|| format!("link {} to {}", shown(second), shown(first)))
}

fn parent_of(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    super::canvas::open_directory(root, path.parent().unwrap_or_else(|| Path::new("")))
}

fn file_name(path: &Path) -> Result<&OsStr> {
    path.file_name()
        .with_context(|| format!("{} names no file", shown(path)))
}

/// Copies one thing that is not a directory.
fn copy_entry(
    from: BorrowedFd<'_>,
    name: &OsStr,
    to: BorrowedFd<'_>,
    to_name: &OsStr,
    entry: &Entry,
    meta: &Metadata,
) -> Result<()> {
    let to_name = CString::new(to_name.as_bytes())?;
    let attributes = meta.attributes(entry, &entry.xattrs);
    match (entry.meta.kind, &entry.link) {
        (Kind::File, _) => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let source = fs::openat(from, name, flags, Mode::empty())?;
            let xattrs = lapstrake_cache::kept_xattrs(source.as_fd())?;
            let attributes = meta.attributes(entry, &xattrs);
            lapstrake_cache::copy_file(source.as_fd(), &entry.meta, to, &to_name, &attributes)?;
        }
        (Kind::Symlink, Some(target)) => {
            lapstrake_cache::place_symlink(
                to,
                &to_name,
                target.as_os_str().as_bytes(),
                &attributes,
            )?;
        }
        // BuildKit turns a socket into an empty file.
        (Kind::Socket, _) => {
            lapstrake_cache::set_attributes(create(to, &to_name)?.as_fd(), &attributes)?;
        }
        (Kind::Fifo | Kind::Char | Kind::Block, _) => {
            lapstrake_cache::place_node(to, &to_name, &entry.meta, &attributes)?;
        }
        (Kind::Dir | Kind::Symlink, _) => {
            bail!("it changed while the build read it: run the build again")
        }
    }
    Ok(())
}

fn create(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?)
}
