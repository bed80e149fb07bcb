//! Making what an archive lists, inside one directory and nowhere else.
//!
//! Every step is done on a directory descriptor and a single name. The descriptor comes from
//! resolving the entry's parent as if the root were `/`, so links lead inside; the name itself is
//! never followed: what is there already is removed first, new files are created exclusively, and
//! metadata is set through the new file's descriptor.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fchown, ftruncate, futimens, linkat, makedev, mkdirat,
    mknodat, openat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::facts::{self, Held};
use crate::layer::archive::{Archive, Header, Item, clean};
use crate::layer::metadata::{Failure, Metadata, Step, refused};
use crate::layer::whiteout::{self, Mark, mark};
use crate::meta::{Kind, Meta};
use crate::place::{make_dirs_in_root, open_in_root};
use crate::snapshot::{Omitted, group, user};
use crate::store::create_file;
use crate::xattr::{Xattrs, is_kept};
use crate::{Marks, Time, dir, remove};

/// So many directories are held open for the entries that follow.
const OPEN_PARENTS: usize = 16;

/// What the names and owners in an archive mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It is a layer: `.wh.` names become marks.
    Layer(Marks),
    /// It is an archive of files, all of which belong to one owner if one is given.
    Files(Option<(u32, u32)>),
}

/// Fills a directory from an archive.
pub(crate) struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    meaning: Meaning,
    parents: Vec<(Vec<u8>, Arc<OwnedFd>)>,
    /// Directories get their times last: making what is in them changes them.
    dir_times: Vec<(Vec<u8>, Time)>,
    /// Directories that entries needed but the archive does not list.
    implicit: BTreeSet<Vec<u8>>,
    facts: blake3::Hasher,
    metadata: Metadata,
}

/// What became of an archive.
pub(crate) struct Unpacked {
    pub(crate) content: [u8; 32],
    pub(crate) omitted: Omitted,
    pub(crate) implicit: BTreeSet<Vec<u8>>,
}

impl<'a> Unpacker<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>, meaning: Meaning) -> Self {
        Self {
            root,
            meaning,
            parents: Vec::new(),
            dir_times: Vec::new(),
            implicit: BTreeSet::new(),
            facts: blake3::Hasher::new(),
            metadata: Metadata {
                lenient: matches!(meaning, Meaning::Files(_)),
                ..Metadata::default()
            },
        }
    }

    /// Makes everything that the archive lists. On failure, the entry that caused it is named.
    pub(crate) fn run(mut self, archive: &mut Archive<'_>) -> Result<Unpacked, (Vec<u8>, Failure)> {
        loop {
            let next = archive
                .next()
                .map_err(|failure| (Vec::new(), failure.into()))?;
            let Some(mut header) = next else { break };
            if let Meaning::Files(Some((uid, gid))) = self.meaning {
                (header.meta.uid, header.meta.gid) = (uid, gid);
            }
            if let Err(failure) = self.entry(&header, archive) {
                return Err((header.path, failure));
            }
        }
        self.set_dir_times();
        let content = *self.facts.finalize().as_bytes();
        Ok(Unpacked {
            content,
            omitted: self.metadata.omitted,
            implicit: self.implicit,
        })
    }

    fn entry(&mut self, header: &Header, archive: &mut Archive<'_>) -> Result<(), Failure> {
        let Some((parent_path, name)) = split(&header.path) else {
            return self.root_entry(header);
        };
        if self.is_layer() {
            let parts = parent_path.split(|byte| *byte == b'/');
            match parts.map(mark).find(|mark| *mark != Mark::None) {
                None => {}
                Some(Mark::Ignored) => return Ok(()),
                Some(_) => return refused("it is inside of something deleted"),
            }
            match mark(name) {
                Mark::None => {}
                Mark::Ignored => return Ok(()),
                Mark::Invalid => {
                    return refused("it deletes the directory that it is in, or nothing");
                }
                Mark::Opaque => return self.opaque(parent_path, header),
                Mark::Deleted(name) => return self.deletion(parent_path, name, header),
            }
        }
        let parent = self.parent(parent_path, header.meta.mtime)?;
        let name = CString::new(name).step("read the name of")?;
        let there = dir::lookup(&parent, &name).step("look up")?;
        self.implicit.remove(&header.path);
        match &header.item {
            Item::Dir => self.directory(&parent, &name, there, header),
            Item::File => self.file(&parent, &name, there, header, archive),
            Item::HardLink(target) => self.hard_link(&parent, &name, there, header, target),
            Item::Symlink(target) => self.symlink(&parent, &name, there, header, target),
            Item::Node => self.node(&parent, &name, there, header),
        }
    }

    fn is_layer(&self) -> bool {
        matches!(self.meaning, Meaning::Layer(_))
    }

    /// The archive's entry for the directory that all others are in.
    fn root_entry(&mut self, header: &Header) -> Result<(), Failure> {
        if header.item != Item::Dir {
            return refused("it would replace the root");
        }
        if self.is_layer() {
            let root = dir::open_child(self.root, c".").step("open")?;
            self.metadata.set(root.as_fd(), header)?;
            self.dir_times.push((Vec::new(), header.meta.mtime));
            self.add_facts(header, &Held::Dir);
        }
        Ok(())
    }

    /// The directory that an entry is in, made if the archive did not list it.
    fn parent(&mut self, path: &[u8], mtime: Time) -> Result<Arc<OwnedFd>, Failure> {
        if let Some(at) = self.parents.iter().position(|(open, _)| open == path) {
            self.parents[..=at].rotate_right(1);
            return Ok(Arc::clone(&self.parents[0].1));
        }
        let mut made = Vec::new();
        let owner = match self.meaning {
            Meaning::Files(owner) => owner,
            Meaning::Layer(_) => None,
        };
        let opened = make_dirs_in_root(self.root, as_path(path), &mut |path, fd| {
            made.push(path.as_os_str().as_bytes().to_vec());
            match owner {
                Some((uid, gid)) => Ok(fchown(fd, Some(user(uid)), Some(group(gid)))?),
                None => Ok(()),
            }
        });
        let opened = Arc::new(opened.step("open the directory of")?);
        for path in made {
            self.dir_times.push((path.clone(), mtime));
            self.implicit.insert(path);
        }
        self.parents.truncate(OPEN_PARENTS - 1);
        self.parents.insert(0, (path.to_vec(), Arc::clone(&opened)));
        Ok(opened)
    }

    fn opaque(&mut self, path: &[u8], header: &Header) -> Result<(), Failure> {
        let dir = self.parent(path, header.meta.mtime)?;
        self.mark_opaque(&dir)?;
        let marked = Header {
            path: path.to_vec(),
            ..plain(header)
        };
        self.add_facts(&marked, &Held::Opaque);
        Ok(())
    }

    fn mark_opaque(&self, dir: impl AsFd) -> Result<(), Failure> {
        match self.meaning {
            Meaning::Layer(marks) => whiteout::set_opaque(dir, marks).step("make opaque"),
            Meaning::Files(_) => Ok(()),
        }
    }

    fn deletion(&mut self, parent: &[u8], name: &[u8], header: &Header) -> Result<(), Failure> {
        let dir = self.parent(parent, header.meta.mtime)?;
        let path = [parent, b"/", name].concat();
        let deleted = Header {
            path: clean(&path).unwrap_or_default(),
            ..plain(header)
        };
        self.add_facts(&deleted, &Held::Whiteout);
        let name = CString::new(name).step("read the name of")?;
        match dir::lookup(&dir, &name).step("look up")? {
            // The deletion is about the layers below. What this layer put there stays.
            Some(there) if there.is_dir() => {
                let fd = dir::open_child(&dir, &name).step("open")?;
                self.mark_opaque(&fd)
            }
            Some(_) => Ok(()),
            None => match self.meaning {
                Meaning::Layer(marks) => whiteout::delete(&dir, &name, marks).step("delete"),
                Meaning::Files(_) => Ok(()),
            },
        }
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &CStr,
        there: Option<Meta>,
        header: &Header,
    ) -> Result<(), Failure> {
        if !there.is_some_and(|there| there.is_dir()) {
            if let Some(there) = &there {
                self.clear(parent, name, there)?;
            }
            mkdirat(parent, name, Mode::RWXU).step("create")?;
        }
        let fd = dir::open_child(parent, name).step("open")?;
        if there.is_some_and(|there| !there.is_dir()) {
            // It comes instead of something that hid what is below, and must hide it too.
            self.mark_opaque(&fd)?;
        }
        self.metadata.set(fd.as_fd(), header)?;
        self.dir_times
            .push((header.path.clone(), header.meta.mtime));
        self.add_facts(header, &Held::Dir);
        Ok(())
    }

    fn file(
        &mut self,
        parent: &OwnedFd,
        name: &CStr,
        there: Option<Meta>,
        header: &Header,
        archive: &mut Archive<'_>,
    ) -> Result<(), Failure> {
        self.make_room(parent, name, there)?;
        let file = create_file(parent, name).step("create")?;
        let mut hasher = blake3::Hasher::new();
        match &header.sparse {
            None => archive.content(header.meta.size, |piece| {
                hasher.update(piece);
                write_all(&file, piece)
            })?,
            Some(pieces) => {
                for &(offset, len) in pieces {
                    hasher.update(&offset.to_le_bytes());
                    hasher.update(&len.to_le_bytes());
                    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(offset)).step("write")?;
                    archive.content(len, |piece| {
                        hasher.update(piece);
                        write_all(&file, piece)
                    })?;
                }
                ftruncate(&file, header.meta.size).step("write")?;
            }
        }
        self.metadata.set(file.as_fd(), header)?;
        futimens(&file, &header.meta.mtime.as_timestamps()).step("set the time of")?;
        let digest = *hasher.finalize().as_bytes();
        self.add_facts(header, &Held::File(header.meta.size, &digest));
        Ok(())
    }

    /// The link gets no metadata of its own: it has that of the file, and following it to set some
    /// is an old way out of the root.
    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &CStr,
        there: Option<Meta>,
        header: &Header,
        target: &[u8],
    ) -> Result<(), Failure> {
        let Some(target) = clean(target) else {
            return refused("its target leads out of the archive");
        };
        let Some((target_parent, target_name)) = split(&target) else {
            return refused("its target is the root");
        };
        if target == header.path {
            return refused("it is a link to itself");
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let from = open_in_root(self.root, as_path(target_parent), flags);
        let from = from.step("find the target of")?;
        let target_name = CString::new(target_name).step("find the target of")?;
        match dir::lookup(&from, &target_name).step("find the target of")? {
            Some(found) if found.is_dir() => return refused("its target is a directory"),
            Some(found) if !found.is_whiteout() => {}
            _ => return refused("its target is not in the archive"),
        }
        self.make_room(parent, name, there)?;
        linkat(&from, &target_name, parent, name, AtFlags::empty()).step("link")?;
        self.add_facts(header, &Held::HardLink(&target));
        Ok(())
    }

    fn symlink(
        &mut self,
        parent: &OwnedFd,
        name: &CStr,
        there: Option<Meta>,
        header: &Header,
        target: &[u8],
    ) -> Result<(), Failure> {
        self.make_room(parent, name, there)?;
        symlinkat(target, parent, name).step("create")?;
        self.metadata.set_named(parent, name, header)?;
        self.add_facts(header, &Held::Symlink(target));
        Ok(())
    }

    fn node(
        &mut self,
        parent: &OwnedFd,
        name: &CStr,
        there: Option<Meta>,
        header: &Header,
    ) -> Result<(), Failure> {
        let meta = &header.meta;
        if meta.is_whiteout() {
            return refused("a character device 0:0 would hide a file of the layers below");
        }
        self.make_room(parent, name, there)?;
        let kind = match meta.kind {
            Kind::Char => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        self.add_facts(header, &Held::Node);
        let mode = Mode::from_raw_mode(meta.mode);
        match mknodat(parent, name, kind, mode, makedev(meta.rdev.0, meta.rdev.1)) {
            Err(Errno::PERM) if meta.kind != Kind::Fifo => {
                self.metadata.omitted.devices += 1;
                return Ok(());
            }
            made => made.step("create")?,
        }
        self.metadata.set_named(parent, name, header)?;
        // There is no call that sets the mode of a name and does not follow it.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = openat(parent, name, flags, Mode::empty()).step("open")?;
        rustix::fs::chmod(dir::proc_self(node.as_fd()), mode).step("set the mode of")?;
        let times = meta.mtime.as_timestamps();
        utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).step("set the time of")
    }

    fn make_room(
        &mut self,
        parent: &OwnedFd,
        name: &CStr,
        there: Option<Meta>,
    ) -> Result<(), Failure> {
        there.map_or(Ok(()), |there| self.clear(parent, name, &there))
    }

    fn clear(&mut self, parent: &OwnedFd, name: &CStr, there: &Meta) -> Result<(), Failure> {
        if !there.is_dir() && there.kind != Kind::Symlink {
            return unlinkat(parent, name, AtFlags::empty()).step("replace");
        }
        // Paths that led through it lead elsewhere from now on.
        self.parents.clear();
        remove::remove_all(parent.as_fd(), name).step("replace")
    }

    fn add_facts(&mut self, header: &Header, held: &Held<'_>) {
        let xattrs: Xattrs = header
            .xattrs
            .iter()
            .filter(|(name, _)| is_kept(name))
            .cloned()
            .collect();
        let mut bytes = Vec::with_capacity(128);
        facts::write(&mut bytes, &header.path, &header.meta, &xattrs, held);
        self.facts.update(&bytes);
    }

    fn set_dir_times(&self) {
        for (path, time) in self.dir_times.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            // A later entry may have put something else there, which has its own time.
            if let Ok(fd) = open_in_root(self.root, as_path(path), flags) {
                let _ = futimens(fd, &time.as_timestamps());
            }
        }
    }
}

/// The header of a marker, whose own attributes mean nothing.
fn plain(header: &Header) -> Header {
    Header {
        path: Vec::new(),
        item: Item::File,
        meta: header.meta,
        xattrs: Xattrs::new(),
        sparse: None,
    }
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// The parent and the last component; none for the root.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    })
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Failure> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Failure::System("write", io::ErrorKind::WriteZero.into())),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::System("write", error.into())),
        }
    }
    Ok(())
}
