//! Placing what was selected: BuildKit's rules of where a source lands and which metadata it gets.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lapstrake_cache::{Attributes, Content, Entry, Kind, Meta, Time, Xattrs};
use lapstrake_frontend::chmod::Changes;
use rayon::prelude::*;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

use super::canvas::{Canvas, NewDir, is};
use super::earlier::Earlier;
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

/// The destination as a directory, made where it is missing: for what unpacks.
pub(super) fn directory_target(
    canvas: &mut Canvas,
    destination: &str,
    meta: &Metadata,
) -> Result<PathBuf> {
    let target = canvas.resolve(&clean(Path::new(destination)))?;
    canvas.directory(&target, meta.new_dir())?;
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
    let mut links: HashMap<(u64, u64), &Entry> = HashMap::new();
    let mut again = Vec::new();
    let mut files: Vec<&Entry> = Vec::new();
    for entry in item
        .below
        .iter()
        .filter(|entry| entry.meta.kind != Kind::Dir)
    {
        let path = target.join(&entry.path);
        if !fresh.contains_key(entry.path.parent().unwrap_or_else(|| Path::new(""))) {
            make_way(canvas, &path)?;
        }
        let group = (entry.meta.kind == Kind::File && entry.meta.nlink > 1)
            .then_some((entry.meta.dev, entry.meta.ino));
        match group {
            Some(group) if links.contains_key(&group) => again.push((links[&group], entry)),
            Some(group) => {
                links.insert(group, entry);
                files.push(entry);
            }
            None => files.push(entry),
        }
    }
    let root = canvas.directory(target, meta.new_dir())?;
    let copying = Copying {
        tree,
        item,
        target,
        root: root.as_fd(),
        meta,
        earlier: canvas.earlier(),
    };
    lapstrake_cache::prepare_rayon()?;
    batches(&files)
        .into_par_iter()
        .try_for_each(|batch| copying.batch(batch))?;
    let placed = copying.placed(&files);
    canvas.note_placed(placed);
    again
        .into_iter()
        .try_for_each(|(first, second)| hard_link(root.as_fd(), &first.path, &second.path))
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
fn batches<'a, 'b>(files: &'b [&'a Entry]) -> Vec<&'b [&'a Entry]> {
    files
        .chunk_by(|one, other| one.path.parent() == other.path.parent())
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
}

impl Copying<'_> {
    /// Copies files of the same directory.
    fn batch(&self, batch: &[&Entry]) -> Result<()> {
        let Some(first) = batch.first() else {
            return Ok(());
        };
        let parent = first.path.parent().unwrap_or_else(|| Path::new(""));
        let from = self.tree.open_directory(&self.item.real.join(parent))?;
        let to = super::canvas::open_directory(self.root, parent)?;
        let directory = self.target.join(parent);
        let earlier = self
            .earlier
            .and_then(|earlier| Some((earlier, earlier.directory(&directory)?)));
        for entry in batch {
            let name = file_name(&entry.path)?;
            if let Some((earlier, old)) = &earlier
                && self.link(earlier, old.as_fd(), to.as_fd(), entry)?
            {
                continue;
            }
            copy_entry(from.as_fd(), name, to.as_fd(), name, entry, self.meta)
                .with_context(|| format!("copy {}", shown(&self.item.real.join(&entry.path))))?;
        }
        Ok(())
    }

    /// Takes a file that is as it was from the earlier layer. Its digest covers what `attributes` lacks.
    fn link(
        &self,
        earlier: &Earlier,
        old: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        entry: &Entry,
    ) -> Result<bool> {
        let Some(content) = self.content(entry) else {
            return Ok(false);
        };
        let name = CString::new(file_name(&entry.path)?.as_bytes())?;
        let attributes = self.meta.attributes(entry, &entry.xattrs);
        Ok(earlier.link(
            &self.target.join(&entry.path),
            &content,
            old,
            to,
            &name,
            &attributes,
        ))
    }

    /// The digest of a file that can be linked: one with a single name, so that no two names share it by mistake.
    fn content(&self, entry: &Entry) -> Option<Content> {
        let linkable = entry.meta.kind == Kind::File && entry.meta.nlink == 1;
        linkable
            .then(|| {
                self.tree
                    .known(&self.item.real.join(&entry.path), &entry.meta)
            })
            .flatten()
    }

    /// What a later copy may link to.
    fn placed(&self, files: &[&Entry]) -> Vec<(PathBuf, Content)> {
        let known = files
            .iter()
            .filter_map(|entry| Some((self.target.join(&entry.path), self.content(entry)?)));
        known.collect()
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
