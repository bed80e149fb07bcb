//! Local build contexts: a directory behind its `.dockerignore`, read where it lies.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lapstrake_cache::{Encoder, Hasher, Scratch, StatIndex, Store};
use lapstrake_frontend::ignore::Ignore;
use rustix::fs::{self, Mode, OFlags};

use crate::cli::ContextModes;
use crate::epoch;
use crate::ops::Tree;

/// What is read of an ignore file at most.
const LIMIT: u64 = 16 << 20;

/// A local context.
pub(crate) struct LocalContext {
    root: OwnedFd,
    ignore: Arc<Ignore>,
    /// Names the directory among all contexts of this machine; zero for what was unpacked.
    id: [u8; 32],
    index: Option<Arc<StatIndex>>,
    modes: ContextModes,
    age: Age,
    /// Holds the files of a context that came as an archive.
    scratch: Option<Scratch>,
}

/// From when a context is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// It changes as the user works.
    Unknown,
    /// Whoever it came from said so, in seconds since 1970.
    At(i64),
    /// As its newest file is.
    NewestFile,
}

impl std::fmt::Debug for LocalContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalContext")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl LocalContext {
    /// The directory `path`; what `ignore` matches does not exist for the build.
    pub(crate) fn open(
        store: &Store,
        path: &Path,
        ignore: Ignore,
        modes: ContextModes,
    ) -> Result<Self> {
        let root = open_root(path)?;
        let real =
            std::fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?;
        let mut hasher = Hasher::new();
        hasher.field("context", real.as_os_str().as_encoded_bytes());
        let id = hasher.finish().0;
        let index = Some(Arc::new(StatIndex::load(store, &id)));
        Ok(Self {
            root,
            ignore: Arc::new(ignore),
            id,
            index,
            modes,
            age: Age::Unknown,
            scratch: None,
        })
    }

    /// A git tree that was checked out into `scratch`, of a commit of the time `committed`.
    pub(crate) fn checkout(scratch: Scratch, subdir: &Path, committed: i64) -> Result<Self> {
        Ok(Self {
            modes: ContextModes::Checkout,
            ..Self::unpacked(scratch, subdir, Age::At(committed))?
        })
    }

    /// Files that were unpacked into `scratch`, or nothing at all.
    pub(crate) fn unpacked(scratch: Scratch, subdir: &Path, age: Age) -> Result<Self> {
        let root = open_root(&scratch.path().join(subdir))?;
        Ok(Self {
            root,
            ignore: Arc::default(),
            id: [0; 32],
            index: None,
            modes: ContextModes::Exact,
            age,
            scratch: Some(scratch),
        })
    }

    /// From when it is, in seconds since 1970, as far as that is known.
    pub(crate) fn time(&self) -> Result<Option<i64>> {
        match (self.age, &self.scratch) {
            (Age::At(time), _) => Ok(Some(time)),
            (Age::NewestFile, Some(scratch)) => epoch::newest(scratch.path()),
            _ => Ok(None),
        }
    }

    /// Names the directory among all contexts of this machine.
    pub(crate) fn id(&self) -> [u8; 32] {
        self.id
    }

    /// What is left out.
    pub(crate) fn ignore(&self) -> &Ignore {
        &self.ignore
    }

    /// The tree that copies read from.
    pub(crate) fn tree(&self) -> Result<Tree> {
        let root = self
            .root
            .try_clone()
            .context("open the build context again")?;
        Ok(Tree::of_context(
            root,
            Arc::clone(&self.ignore),
            self.index.clone(),
            self.modes,
        ))
    }

    /// Keeps what was learnt of the files for the next build.
    pub(crate) fn save_index(&self, store: &Store) -> Result<()> {
        match &self.index {
            Some(index) => Ok(index.save(store)?),
            None => Ok(()),
        }
    }
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty())
        .with_context(|| format!("open the build context {}", path.display()))
}

/// Opens a file that the user names. Below the context, which may be somebody else's work, no link leads out of it;
/// elsewhere it is the user's own. A pipe is opened without waiting for who writes into it.
pub(crate) fn open_named(context: &Path, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Some(inside) = inside(context, path)? else {
        return Ok(fs::open(path, flags, Mode::empty())?.into());
    };
    let root = fs::open(context, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let opened = lapstrake_cache::open_in_root(root.as_fd(), &inside, flags);
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => Err(
            io::Error::other("it is a link to something that the build context does not have"),
        ),
        opened => Ok(opened?.into()),
    }
}

/// `path` as it is seen from the context, if that holds its folder.
fn inside(context: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    let Some(name) = path.file_name() else {
        return Ok(None);
    };
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let folder = std::fs::canonicalize(folder)?;
    let inside = folder.strip_prefix(std::fs::canonicalize(context)?).ok();
    Ok(inside.map(|folder| folder.join(name)))
}

/// Reads the ignore list for `dockerfile` in the context `root`: the Dockerfile's own wins wholly over the context's.
pub(crate) fn read_ignore(root: &Path, dockerfile: Option<&Path>) -> Result<Ignore> {
    let own = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in own.into_iter().chain([root.join(".dockerignore")]) {
        if let Some(text) = read_optional(root, &path)? {
            return Ignore::parse(&text)
                .map_err(|error| anyhow::anyhow!("read {}: {error}", path.display()));
        }
    }
    Ok(Ignore::default())
}

/// Reads a small text file that may be missing; pipes and devices are refused before anything waits on them.
fn read_optional(context: &Path, path: &Path) -> Result<Option<String>> {
    let shown = path.display();
    let file = match open_named(context, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| format!("read {shown}"))?,
    };
    ensure!(file.metadata()?.is_file(), "{shown} is not a regular file");
    let mut bytes = Vec::new();
    file.take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {shown}"))?;
    ensure!(
        bytes.len() as u64 <= LIMIT,
        "{shown} is larger than {LIMIT} bytes"
    );
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
