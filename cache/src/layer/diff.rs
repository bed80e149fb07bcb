//! What an upper folder changes in the layers below it.
//!
//! Overlayfs copies a file into the upper folder as soon as something *might* change it, and a
//! directory as soon as something below it does. So what is there need not differ. The walk
//! compares each name with what the lower layers show, passes on what differs, and removes the rest
//! from the upper folder, which is then exactly the layer.
//!
//! As in BuildKit: a directory whose only difference is its time is not a change, and a directory
//! is part of the layer if something below it is. Unlike BuildKit, an opaque directory stays opaque
//! (it does not become a list of deletions), and content is compared even where time and size
//! agree.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::vec::IntoIter;

use rustix::fs::{AtFlags, readlinkat, unlinkat};

use crate::error::{At, shown};
use crate::layer::folder::{Folder, Place, all_names};
use crate::layer::lower::{Found, Lowers, lookup_deep, open_deep};
use crate::layer::same::{same_file, same_owner, same_special};
use crate::layer::whiteout::{self, Mark, mark};
use crate::layer::{Body, Entry};
use crate::meta::{Kind, Meta};
use crate::xattr::{Target, Xattrs};
use crate::{Error, Marks, Result, dir};

/// So many directories are held open; one further up is opened again when the walk returns to it.
const OPEN_LEVELS: usize = 48;

/// What the walk compares with.
pub(crate) enum Against {
    /// The layers below, whose marks the folder has. What does not differ from them is removed from it.
    Lowers(Lowers, Marks),
    /// Nothing: the folder is a finished layer, and everything in it counts.
    Nothing,
    /// Nothing: the folder is no layer, and holds sockets rather than marks.
    Files,
}

/// Walks a folder in overlay form and yields the entries of the layer: directories before what is
/// in them, names in the order of their bytes.
pub(crate) struct Diff<'f> {
    folder: &'f Folder,
    against: Against,
    /// The path of the directory where the walk stands.
    here: Vec<u8>,
    levels: Vec<Level>,
    ready: VecDeque<Entry>,
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// A directory on the way from the root to where the walk stands.
struct Level {
    fd: Option<OwnedFd>,
    names: IntoIter<(CString, Place)>,
    /// Whether the amended layer has the directory too.
    is_amending: bool,
    /// How long the path of the parent is.
    parent_len: usize,
    name: CString,
    meta: Meta,
    lowers: Vec<usize>,
    /// The directory's own entry, as long as nothing says that it is part of the layer.
    pending: Option<Entry>,
    removed_some: bool,
}

impl<'f> Diff<'f> {
    pub(crate) fn new(folder: &'f Folder, against: Against) -> Result<Self> {
        let (path, root) = (folder.path(Place::Own), folder.root(Place::Own));
        let meta = dir::stat(root).at("stat", path)?;
        let lowers = match &against {
            Against::Lowers(lowers, _) => lowers.all(),
            Against::Nothing | Against::Files => Vec::new(),
        };
        // Through a descriptor of its own, which is read to its end.
        let listed = dir::open_child(root, c".").at("open", path)?;
        let amended = folder.amended_names(b"").at("list", path)?;
        let is_amending = amended.is_some();
        let names = all_names(listed.as_fd(), amended).at("list", path)?;
        let top = Level {
            fd: None,
            names,
            is_amending,
            parent_len: 0,
            name: CString::default(),
            meta,
            lowers,
            pending: None,
            removed_some: false,
        };
        Ok(Self {
            folder,
            against,
            here: Vec::new(),
            levels: vec![top],
            ready: VecDeque::new(),
            links: HashMap::new(),
        })
    }

    fn advance(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(Some(entry));
            }
            let Some(level) = self.levels.last_mut() else {
                return Ok(None);
            };
            match level.names.next() {
                Some((name, place)) => {
                    let path = self.child_path(&name);
                    let visited = match place {
                        Place::Own => self.visit(&name, &path),
                        Place::Amended => self.visit_amended(&path),
                    };
                    visited.map_err(|error| self.named(error, place, &path))?;
                }
                None => self
                    .leave()
                    .map_err(|error| self.named(error, Place::Own, &self.here))?,
            }
        }
    }

    fn child_path(&self, name: &CStr) -> Vec<u8> {
        let mut path = self.here.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        path
    }

    fn named(&self, failure: Failure, place: Place, path: &[u8]) -> Error {
        match failure {
            Failure::Io(error) => {
                let path = self.folder.path(place).join(OsStr::from_bytes(path));
                Error::io("commit", &path, error)
            }
            Failure::Refused(reason) => Error::Archive {
                entry: shown(path),
                reason: reason.to_owned(),
            },
            Failure::Unamendable => Error::Unamendable(shown(path)),
        }
    }

    /// The directory where the walk stands.
    fn dir(&mut self) -> io::Result<BorrowedFd<'_>> {
        let root = self.folder.root(Place::Own);
        let Some(level) = self.levels.last_mut() else {
            return Ok(root);
        };
        if level.fd.is_none() {
            level.fd = Some(open_deep(root, &self.here, dir::DIRECTORY)?);
        }
        Ok(level.fd.as_ref().map_or(root, AsFd::as_fd))
    }

    /// A file of the amended layer: part of this one as it was of that.
    fn visit_amended(&mut self, path: &[u8]) -> Result<(), Failure> {
        match lookup_deep(self.folder.root(Place::Amended), path)? {
            Some(meta) if meta.kind == Kind::File => {
                self.emit(path, meta, Body::File(Place::Amended), None);
                Ok(())
            }
            // Of an amended layer only files show through.
            _ => Err(Failure::Unamendable),
        }
    }

    fn visit(&mut self, name: &CStr, path: &[u8]) -> Result<(), Failure> {
        let Some(meta) = dir::lookup(self.dir()?, name)? else {
            return Err(Failure::Refused("it vanished while the layer was read"));
        };
        match mark(name.to_bytes()) {
            Mark::None => {}
            Mark::Ignored => return self.discard(name, &meta),
            _ => {
                return Err(Failure::Refused(
                    "a name in a layer may not begin with .wh.",
                ));
            }
        }
        match meta.kind {
            Kind::Socket if !self.has_sockets_as_marks() => self.discard(name, &meta),
            Kind::Dir => self.visit_dir(name, path, meta),
            _ if meta.is_whiteout() => self.visit_whiteout(name, path, meta),
            _ => self.visit_other(name, path, meta),
        }
    }

    fn below(&self, path: &[u8]) -> io::Result<Found> {
        match (&self.against, self.levels.last()) {
            (Against::Lowers(lowers, _), Some(level)) => lowers.find(&level.lowers, path),
            _ => Ok(Found::Nothing),
        }
    }

    fn is_final(&self) -> bool {
        matches!(self.against, Against::Nothing | Against::Files)
    }

    fn has_sockets_as_marks(&self) -> bool {
        match self.against {
            Against::Lowers(_, marks) => marks == Marks::Own,
            Against::Nothing => true,
            Against::Files => false,
        }
    }

    fn visit_whiteout(&mut self, name: &CStr, path: &[u8], meta: Meta) -> Result<(), Failure> {
        if !self.is_final() && matches!(self.below(path)?, Found::Nothing) {
            return self.discard(name, &meta);
        }
        self.emit(path, meta, Body::Whiteout, Some(Xattrs::new()));
        Ok(())
    }

    fn visit_other(&mut self, name: &CStr, path: &[u8], meta: Meta) -> Result<(), Failure> {
        if let Found::Other(layer, lower) = self.below(path)?
            && self.is_same(name, path, &meta, layer, &lower)?
        {
            return self.discard(name, &meta);
        }
        let body = match meta.kind {
            Kind::File => match self.first_name(path, &meta) {
                Some(first) => Body::HardLink(first),
                None => Body::File(Place::Own),
            },
            Kind::Symlink => {
                let target = readlinkat(self.dir()?, name, Vec::new()).map_err(io::Error::from)?;
                Body::Symlink(target.into_bytes())
            }
            _ => Body::Node,
        };
        let xattrs = match body {
            // Read with the content, from the file's descriptor.
            Body::File(_) => None,
            Body::HardLink(_) => Some(Xattrs::new()),
            _ => Some(Target::Named(self.dir()?, name).kept()?),
        };
        self.emit(path, meta, body, xattrs);
        Ok(())
    }

    /// The path under which this file is in the layer already, if it is.
    fn first_name(&mut self, path: &[u8], meta: &Meta) -> Option<Vec<u8>> {
        if meta.nlink < 2 {
            return None;
        }
        let id = (meta.dev, meta.ino);
        if let Some(first) = self.links.get(&id) {
            return Some(first.clone());
        }
        self.links.insert(id, path.to_vec());
        None
    }

    fn visit_dir(&mut self, name: &CStr, path: &[u8], meta: Meta) -> Result<(), Failure> {
        let fd = dir::open_child(self.dir()?, name)?;
        let target = Target::Open(fd.as_fd());
        for redirect in [c"trusted.overlay.redirect", c"user.overlay.redirect"] {
            if target.get(redirect)?.is_some() {
                return Err(Failure::Refused("it was made on a mount with redirect_dir"));
            }
        }
        let marked = whiteout::is_opaque(&fd)?;
        let xattrs = target.kept()?;
        let (lowers, lower) = match self.below(path)? {
            Found::Dir(lowers, lower) => (lowers, Some(lower)),
            _ => (Vec::new(), None),
        };
        let mut opaque = marked.is_some();
        if let (Some(kind), None, false) = (marked, &lower, self.is_final()) {
            rustix::fs::fremovexattr(&fd, kind.opaque()).map_err(io::Error::from)?;
            opaque = false;
        }
        let changed = match &lower {
            Some(lower) if !opaque => {
                !same_owner(&meta, lower) || self.lower_xattrs(lowers[0], path)? != xattrs
            }
            _ => true,
        };
        let entry = Entry {
            path: path.to_vec(),
            meta,
            body: Body::Dir { opaque },
            xattrs: Some(xattrs),
        };
        let pending = if changed {
            self.emit_entry(entry);
            None
        } else {
            Some(entry)
        };
        let lowers = if opaque { Vec::new() } else { lowers };
        let is_seen = !opaque && self.levels.last().is_some_and(|level| level.is_amending);
        let amended = if is_seen {
            self.amended_names(path)?
        } else {
            None
        };
        let parent_len = std::mem::replace(&mut self.here, path.to_vec()).len();
        self.enter(Level {
            is_amending: amended.is_some(),
            names: all_names(fd.as_fd(), amended)?,
            fd: Some(fd),
            parent_len,
            name: name.to_owned(),
            meta,
            lowers,
            pending,
            removed_some: false,
        });
        Ok(())
    }

    /// The names that show in a directory. The amended layer may not have a file in its place: overlayfs would not merge the
    /// directory with those of the layers below the file.
    fn amended_names(&self, path: &[u8]) -> Result<Option<Vec<CString>>, Failure> {
        match self.folder.amended_names(path) {
            Err(error) if dir::is_absent(&error) => Err(Failure::Unamendable),
            names => Ok(names?),
        }
    }

    fn lower_xattrs(&self, layer: usize, path: &[u8]) -> io::Result<Xattrs> {
        let Against::Lowers(lowers, _) = &self.against else {
            return Ok(Xattrs::new());
        };
        let lower = lowers.root(layer).open(path, dir::DIRECTORY)?;
        Target::Open(lower.as_fd()).kept()
    }

    fn enter(&mut self, level: Level) {
        self.levels.push(level);
        if let Some(far) = self.levels.len().checked_sub(OPEN_LEVELS) {
            self.levels[far].fd = None;
        }
    }

    fn leave(&mut self) -> Result<(), Failure> {
        let removed_some = self.levels.last().is_some_and(|level| level.removed_some);
        if removed_some {
            let times = self
                .levels
                .last()
                .map(|level| level.meta.mtime.as_timestamps());
            if let Some(times) = times {
                rustix::fs::futimens(self.dir()?, &times).map_err(io::Error::from)?;
            }
        }
        let Some(level) = self.levels.pop() else {
            return Ok(());
        };
        self.here.truncate(level.parent_len);
        if level.pending.is_some() {
            self.discard(&level.name, &level.meta)?;
        }
        Ok(())
    }

    /// Removes what is not part of the layer. What an amended layer has of that name would show instead.
    fn discard(&mut self, name: &CStr, meta: &Meta) -> Result<(), Failure> {
        if self.is_final() {
            return Ok(());
        }
        let is_seen = self.levels.last().is_some_and(|level| level.is_amending);
        let amended = self.folder.root(Place::Amended);
        if is_seen && lookup_deep(amended, &self.child_path(name))?.is_some() {
            return Err(Failure::Unamendable);
        }
        let flags = if meta.is_dir() {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        unlinkat(self.dir()?, name, flags).map_err(io::Error::from)?;
        if let Some(level) = self.levels.last_mut() {
            level.removed_some = true;
        }
        Ok(())
    }

    fn emit(&mut self, path: &[u8], meta: Meta, body: Body, xattrs: Option<Xattrs>) {
        self.emit_entry(Entry {
            path: path.to_vec(),
            meta,
            body,
            xattrs,
        });
    }

    /// The directories above a change are part of the layer.
    fn emit_entry(&mut self, entry: Entry) {
        for level in &mut self.levels {
            self.ready.extend(level.pending.take());
        }
        self.ready.push_back(entry);
    }

    fn is_same(
        &mut self,
        name: &CStr,
        path: &[u8],
        upper: &Meta,
        layer: usize,
        lower: &Meta,
    ) -> io::Result<bool> {
        let facts = |meta: &Meta| (meta.kind, meta.size, meta.mtime, meta.rdev);
        if !same_owner(upper, lower) || facts(upper) != facts(lower) {
            return Ok(false);
        }
        let dir = open_deep(self.dir()?, b"", dir::DIRECTORY)?;
        let Against::Lowers(lowers, _) = &self.against else {
            return Ok(false);
        };
        let lower = lowers.root(layer);
        match upper.kind {
            Kind::File => same_file(&dir, name, path, lower),
            _ => same_special(&dir, name, path, lower, upper.kind),
        }
    }
}

impl Iterator for Diff<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        self.advance().transpose()
    }
}

/// Why a name cannot be visited.
enum Failure {
    Io(io::Error),
    Refused(&'static str),
    /// The amended layer and this one are not seen together as this one should be.
    Unamendable,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
