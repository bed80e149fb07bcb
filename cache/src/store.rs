//! Opening a store, and the folder in it that belongs to one process.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, flock, mkdirat, openat, unlinkat,
};
use rustix::io::Errno;

use crate::error::At;
use crate::index::touch;
use crate::layer::whiteout;
use crate::lease::{self, Leased, Leases};
use crate::session::{Session, TMP};
use crate::{ChainId, Error, Result, boot, dir};

/// Raised when the folders or files below change their meaning; a program refuses a store with a
/// version it does not know, and ignores folders (`layers-v2`) it does not know.
const VERSION: &str = "lapstrake store 1";
/// Opening a store removes what killed builds left, but not for longer than this.
const SWEEP_TIME: Duration = Duration::from_millis(100);

/// Some room that is given up when there is none left.
const RESERVE: &CStr = c"reserve";
const RESERVE_SIZE: u64 = 256 << 10;

pub(crate) const BLOBS: &str = "blobs/sha256";
pub(crate) const LAYERS: &str = "layers-v1";
pub(crate) const KEYS: &str = "keys-v1";
pub(crate) const STATS: &str = "stat-v1";
pub(crate) const MOUNTS: &str = "mounts-v1";
pub(crate) const REFS: &str = "refs-v1";
pub(crate) const LOCKS: &str = "locks";
const FOLDERS: [&str; 9] = [
    "blobs", BLOBS, LAYERS, KEYS, STATS, MOUNTS, REFS, LOCKS, TMP,
];

/// How the layers of a store say that something of the layers below them is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// As overlayfs does: devices 0:0, and `trusted.overlay.*`, which only root of the machine may set.
    Trusted,
    /// The same with `user.overlay.*`: the mount needs the option `userxattr`.
    User,
    /// By sockets, of which layers hold none, and an attribute of our own: for file systems on which
    /// overlayfs's marks cannot be made, such as overlayfs itself. Nothing can be mounted of such
    /// layers.
    Own,
}

impl Marks {
    pub(crate) const ALL: [Self; 3] = [Self::Trusted, Self::User, Self::Own];

    /// The attribute that says that nothing below a directory shows through.
    pub fn opaque(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.opaque",
            Self::User => c"user.overlay.opaque",
            Self::Own => c"user.lapstrake.opaque",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::User => "user",
            Self::Own => "own",
        }
    }
}

/// How a store is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The id of the machine's current boot; by default the kernel is asked.
    pub boot_id: Option<String>,
}

/// A store: see the crate's page. Cheap to clone; may be used by several threads, and the same
/// folder by several processes, at once.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    dir: OwnedFd,
    marks: Marks,
    session: Session,
    leases: Leases,
    patches: Mutex<HashMap<ChainId, Option<PathBuf>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.leases.is_worth_keeping() {
            self.session.leave(self.dir.as_fd());
        }
    }
}

impl Store {
    /// Opens the store in the folder `root`, making it if there is none. When this returns, what
    /// builds that were killed left behind has been removed (or will be by later opens, if it is
    /// much).
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_with(root, &Options::default())
    }

    /// As [`Store::open`], with options.
    pub fn open_with(root: &Path, options: &Options) -> Result<Self> {
        let dir = open_root(root)?;
        let marks = match read_version(root, &dir)? {
            Some(marks) => marks,
            None => create(root, &dir)?,
        };
        let boot_id = match &options.boot_id {
            Some(id) => id.clone(),
            None => boot::current_id()?,
        };
        boot::mark(root, &dir, &boot_id)?;
        let (session, leases) = start(root, &dir)?;
        let inner = Inner {
            root: root.to_owned(),
            dir,
            marks,
            session,
            leases,
            patches: Mutex::default(),
        };
        let store = Self {
            inner: Arc::new(inner),
        };
        store
            .inner
            .session
            .sweep(Some(Instant::now() + SWEEP_TIME))?;
        store.keep_reserve();
        Ok(store)
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Which marks the layers of this store carry; mounts of them must agree.
    pub fn marks(&self) -> Marks {
        self.inner.marks
    }

    /// Whether this process can set, and so see, the marks of this store's layers.
    pub fn sees_marks(&self) -> Result<bool> {
        let scratch = self.scratch()?;
        Ok(whiteout::can_mark(scratch.open()?.as_fd(), self.marks()).is_ok())
    }

    /// How many bytes the store's file system has left for this user.
    pub fn free_space(&self) -> Result<u64> {
        let found =
            rustix::fs::fstatvfs(self.dir()).at("ask for the free space of", self.root())?;
        Ok(found.f_bavail * found.f_frsize)
    }

    /// Removes everything that killed builds left behind, however long that takes.
    pub fn sweep(&self) -> Result<()> {
        self.inner.session.sweep(None)
    }

    /// Makes durable what was written so far: it then also survives a power cut.
    pub fn sync(&self) -> Result<()> {
        boot::sync(&self.inner.root, &self.inner.dir)
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.inner.dir.as_fd()
    }

    pub(crate) fn leases(&self) -> &Leases {
        &self.inner.leases
    }

    /// What [`Store::lowers`] made, by stack.
    pub(crate) fn patches(&self) -> MutexGuard<'_, HashMap<ChainId, Option<PathBuf>>> {
        self.inner
            .patches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder for files on their way to their name, all on the store's file system.
    pub(crate) fn temp_dir(&self) -> BorrowedFd<'_> {
        self.inner.session.dir()
    }

    pub(crate) fn temp_name(&self) -> (CString, PathBuf) {
        self.inner.session.fresh_name()
    }

    /// Whether nobody else in this process has this store.
    pub(crate) fn is_last(&self) -> bool {
        Arc::strong_count(&self.inner) == 1
    }

    pub(crate) fn session(&self) -> &Session {
        &self.inner.session
    }

    /// What living processes use.
    pub(crate) fn leased(&self) -> Result<HashSet<Leased>> {
        lease::leased(self.inner.session.all()).at("read the leases below", self.root())
    }

    /// Best effort: without the reserve, a store on a full device can be opened as root only.
    fn keep_reserve(&self) {
        if let Ok(file) = create_file(self.dir(), RESERVE) {
            let _ = rustix::fs::fallocate(file, FallocateFlags::empty(), 0, RESERVE_SIZE);
        }
    }

    /// Writes a file so that whoever reads it sees all of the old or all of the new content. One that holds just this is
    /// left as it is: reading a small file costs a tenth of making one.
    pub(crate) fn replace_file(&self, name: &Path, content: &[u8]) -> Result<()> {
        if self.holds(name, content) {
            return Ok(());
        }
        let (temp, temp_path) = self.temp_name();
        let file = create_file(self.temp_dir(), &temp).at("create", &temp_path)?;
        let mut written = std::fs::File::from(file);
        io::Write::write_all(&mut written, content).at("write", &temp_path)?;
        let _publishing = self.session().publishing()?;
        rustix::fs::renameat(self.temp_dir(), &temp, self.dir(), name)
            .at("rename to", &self.root().join(name))
    }

    /// Whether a file holds just `content`; it counts as used then.
    fn holds(&self, name: &Path, content: &[u8]) -> bool {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = openat(self.dir(), name, flags, Mode::empty()) else {
            return false;
        };
        if dir::stat(&file).map_or(true, |meta| meta.size != content.len() as u64) {
            return false;
        }
        touch(&file);
        let mut found = Vec::with_capacity(content.len());
        let read = io::Read::read_to_end(&mut std::fs::File::from(file), &mut found);
        read.is_ok() && found == content
    }
}

pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Creates a new file, for this user only.
pub(crate) fn create_file(dir: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
}

/// On a full device even the folder of a process needs room. The reserve gives way to it, so that a
/// prune can start.
fn start(root: &Path, dir: &OwnedFd) -> Result<(Session, Leases)> {
    let begin = || -> Result<_> {
        let session = Session::start(root, dir)?;
        let leases = Leases::start(root, dir.as_fd(), session.dir())?;
        Ok((session, leases))
    };
    match begin() {
        Err(error) if error.is_full() => {
            unlinkat(dir, RESERVE, AtFlags::empty()).at("remove the reserve of", root)?;
            begin()
        }
        started => started,
    }
}

fn open_root(root: &Path) -> Result<OwnedFd> {
    match dir::open(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            use std::os::unix::fs::DirBuilderExt;
            let mut builder = std::fs::DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o700)
                .create(root)
                .at("create", root)?;
            dir::open(root).at("open", root)
        }
        opened => opened.at("open", root),
    }
}

/// None if the folder is no store yet.
fn read_version(root: &Path, dir: &OwnedFd) -> Result<Option<Marks>> {
    let path = root.join("version");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(dir, c"version", flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.at("open", &path)?,
    };
    let mut text = [0; 64];
    let len = rustix::io::read(&file, &mut text).at("read", &path)?;
    let text = &text[..len];
    for marks in Marks::ALL {
        if text == version_line(marks).as_bytes() {
            return Ok(Some(marks));
        }
    }
    Err(Error::Version {
        path: root.to_owned(),
        found: crate::error::shown(text.trim_ascii()),
        expected: VERSION.to_owned(),
    })
}

fn version_line(marks: Marks) -> String {
    format!("{VERSION} {}\n", marks.word())
}

fn create(root: &Path, dir: &OwnedFd) -> Result<Marks> {
    let _lock = exclusive(root, dir.as_fd())?;
    if let Some(marks) = read_version(root, dir)? {
        return Ok(marks);
    }
    for folder in FOLDERS {
        match mkdirat(dir, folder, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::io("create", &root.join(folder), error)),
        }
    }
    let path = root.join("version");
    let marks = probe(dir).at(
        "find out about extended attributes, which the store's file system must have, in",
        root,
    )?;
    let _ = unlinkat(dir, c"version.new", AtFlags::empty());
    let file = create_file(dir, c"version.new").at("create", &path)?;
    rustix::io::write(&file, version_line(marks).as_bytes()).at("write", &path)?;
    rustix::fs::fsync(&file).at("sync", &path)?;
    rustix::fs::renameat(dir, c"version.new", dir, c"version").at("create", &path)?;
    Ok(marks)
}

/// The first kind of marks that can be made in the store's folder.
fn probe(dir: &OwnedFd) -> io::Result<Marks> {
    let tmp = dir::open_child(dir, c"tmp")?;
    let fits = |marks: &Marks| whiteout::can_mark(tmp.as_fd(), *marks);
    if let Some(marks) = [Marks::Trusted, Marks::User]
        .into_iter()
        .find(|marks| fits(marks).is_ok())
    {
        return Ok(marks);
    }
    fits(&Marks::Own).map(|()| Marks::Own)
}

/// The store-wide lock, held exclusively until the result is dropped.
pub(crate) fn exclusive(root: &Path, dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    let lock = open_lock(root, dir)?;
    flock(&lock, FlockOperation::LockExclusive).at("lock", root)?;
    Ok(lock)
}

pub(crate) fn open_lock(root: &Path, dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, c"lock", flags, Mode::RUSR | Mode::WUSR).at("open", &root.join("lock"))
}
