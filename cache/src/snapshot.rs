//! Writable folders over layers, and how they become layers.
//!
//! A snapshot has an empty upper folder, a work folder for overlayfs, and the layers below it. Who
//! got one writes into the upper folder (through a mount, or directly in overlay form) and commits.
//! Committing consumes the snapshot: the upper folder itself, moved, is the new layer, and nobody
//! writes to it again.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RenameFlags, fchmod, fchown, mkdirat, openat, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::At;
use crate::layer::diff::{Against, Diff};
use crate::layer::folder::Folder;
use crate::layer::lower::Lowers;
use crate::layer::stream::{self, Want};
use crate::lease::Leased;
use crate::store::{LAYERS, c_string, create_file, exclusive};
use crate::{Content, DiffId, Error, Result, Scratch, Store, dir};

/// In a layer's folder: the overlay lower directory.
pub(crate) const TREE: &str = "fs";
/// In a layer's folder: what is known of it.
pub(crate) const FACTS: &CStr = c"facts";
/// In a scratch folder: what becomes the layer's folder.
const LAYER: &CStr = c"layer";

/// A layer in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its tar.
    pub diff_id: DiffId,
    /// The digest of what it holds, without times.
    pub content: Content,
    /// The size of its tar.
    pub size: u64,
    /// What its archive asked for and this machine or user could not do.
    pub omitted: Omitted,
}

/// How many entries of a layer could not be made as its archive says, for want of privilege. Only
/// layers of other programs have such; their archive is the blob that they came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omitted {
    /// Device nodes that are missing.
    pub devices: u32,
    /// Files that belong to another user than they should.
    pub owners: u32,
    /// Extended attributes that are missing.
    pub xattrs: u32,
}

/// The file `facts` of a layer.
#[derive(Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) content: Content,
    pub(crate) size: u64,
    /// Whether the folder came from an archive, which need not be of the form that is written here.
    pub(crate) foreign: bool,
    #[serde(default)]
    pub(crate) omitted: Omitted,
    /// The directories that its archive needs but does not list, escaped.
    #[serde(default)]
    pub(crate) implicit: Vec<String>,
    /// The layer whose files show through the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) amends: Option<DiffId>,
}

impl Facts {
    fn layer(&self, diff_id: DiffId) -> Layer {
        Layer {
            diff_id,
            content: self.content,
            size: self.size,
            omitted: self.omitted,
        }
    }

    /// Whether the folder holds just what the tar holds, so that parts of it can be parts of another layer.
    fn is_plain(&self) -> bool {
        !self.foreign && self.omitted == Omitted::default() && self.implicit.is_empty()
    }
}

/// A snapshot that is being written.
pub struct Active {
    /// The layers below, lowest first.
    pub lowers: Vec<PathBuf>,
    /// A layer ([`Store::amendable`]) whose files are part of what is committed, as far as the upper folder has nothing of
    /// their names. The upper folder must have all directories that the layer has.
    pub amends: Option<DiffId>,
    scratch: Scratch,
    upper: PathBuf,
    work: PathBuf,
}

impl Active {
    /// The folder that takes what is written.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// The folder that overlayfs needs beside it.
    pub fn work(&self) -> &Path {
        &self.work
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }
}

impl Store {
    /// What is known of a layer, if it is there. It will not be pruned while this process lives.
    pub fn layer(&self, diff_id: &DiffId) -> Result<Option<Layer>> {
        Ok(self.facts(diff_id)?.map(|facts| facts.layer(*diff_id)))
    }

    /// The layer to amend for one that is much like `diff_id`: itself, or the one that it amends. None if it is not there, or
    /// if its folder is not what is written here.
    pub fn amendable(&self, diff_id: &DiffId) -> Result<Option<DiffId>> {
        let facts = self.facts(diff_id)?.filter(Facts::is_plain);
        Ok(facts.map(|facts| facts.amends.unwrap_or(*diff_id)))
    }

    /// The layer that a layer amends, if any. This look does not count as use.
    pub fn amended(&self, diff_id: &DiffId) -> Option<DiffId> {
        self.facts_unleased(diff_id)?.amends
    }

    /// The folder of a layer. Where the layer amends another, it is the upper one of two: see [`Store::lowers`].
    pub fn layer_dir(&self, diff_id: &DiffId) -> PathBuf {
        self.layer_path(diff_id).join(TREE)
    }

    /// Starts an empty snapshot over layers, lowest first. Its root has owner and mode of the
    /// uppermost one's.
    pub fn snapshot(&self, lowers: &[PathBuf]) -> Result<Active> {
        let scratch = self.scratch()?;
        let path = scratch.path();
        let (upper, work) = (path.join("layer").join(TREE), path.join("work"));
        let base = scratch.open()?;
        for name in ["layer", "layer/fs", "work"] {
            mkdirat(&base, name, Mode::RWXU).at("create", path)?;
        }
        let (mode, uid, gid) = match lowers.last() {
            Some(lower) => {
                let lower = dir::open(lower).and_then(dir::stat).at("open", lower)?;
                (lower.mode, lower.uid, lower.gid)
            }
            None => (0o755, 0, 0),
        };
        let root = dir::open(&upper).at("open", &upper)?;
        let owned = dir::stat(&root).at("stat", &upper)?;
        if (owned.uid, owned.gid) != (uid, gid) {
            fchown(&root, Some(user(uid)), Some(group(gid))).at("set the owner of", &upper)?;
        }
        fchmod(&root, Mode::from_raw_mode(mode)).at("set the mode of", &upper)?;
        let lowers = lowers.to_vec();
        Ok(Active {
            lowers,
            amends: None,
            scratch,
            upper,
            work,
        })
    }

    /// Makes a layer of what a snapshot changed. On return the layer is in the store; on failure,
    /// nothing of it. [`Error::Unamendable`]: it cannot be kept as an amendment, but whole.
    pub fn commit(&self, active: Active) -> Result<Layer> {
        let Active {
            lowers,
            amends,
            scratch,
            upper,
            ..
        } = active;
        let amended = amends.map(|diff_id| self.layer_dir(&diff_id));
        let folder = Folder::amending(&upper, amended.as_deref())?;
        let against = Against::Lowers(Lowers::new(&lowers), self.marks());
        let diff = Diff::new(&folder, against)?;
        let summary = stream::run(diff, &folder, Want::Digests, &mut std::io::sink())?;
        let facts = Facts {
            content: summary.content,
            size: summary.size,
            foreign: false,
            omitted: Omitted::default(),
            implicit: Vec::new(),
            amends,
        };
        let layer = self.publish(&scratch, &summary.diff_id, &facts)?;
        scratch.remove_later();
        Ok(layer)
    }

    /// Writes the tar of a layer that was made here, the same bytes as when it was committed, and
    /// returns how many. On failure, which may come after everything was written, the output is not
    /// the layer.
    pub fn write_layer_tar(&self, diff_id: &DiffId, out: &mut dyn Write) -> Result<u64> {
        let Some(facts) = self.facts(diff_id)? else {
            return Err(Error::Missing(format!("layer {diff_id}")));
        };
        let folder = self.layer_folder(diff_id, &facts)?;
        let diff = Diff::new(&folder, Against::Nothing)?;
        let summary = stream::run(diff, &folder, Want::Tar, out)?;
        if summary.diff_id == *diff_id {
            return Ok(summary.size);
        }
        if facts.foreign {
            return Err(Error::Foreign(*diff_id));
        }
        Err(Error::Corrupt {
            what: format!("the folder of layer {diff_id}"),
            expected: diff_id.to_string(),
            found: summary.diff_id.to_string(),
        })
    }

    /// Removes a layer, whoever uses it.
    pub fn remove_layer(&self, diff_id: &DiffId) -> Result<()> {
        self.remove_layer_with(diff_id, None)
    }

    /// Removes a layer unless a process that lives uses it; whether it did.
    pub fn remove_unused_layer(&self, diff_id: &DiffId) -> Result<bool> {
        let lock = exclusive(self.root(), self.dir())?;
        if self.leased()?.contains(&Leased::Layer(diff_id.0)) {
            return Ok(false);
        }
        self.remove_layer_with(diff_id, Some(lock))?;
        Ok(true)
    }

    /// Lets go of the lock when the layer has no name any more.
    fn remove_layer_with(&self, diff_id: &DiffId, lock: Option<OwnedFd>) -> Result<()> {
        let path = self.layer_path(diff_id);
        let layers = self.root().join(LAYERS);
        let layers = dir::open(&layers).at("open", &layers)?;
        let (trash, _) = self.temp_name();
        let name = c_string(&diff_id.0.hex());
        let renamed = rustix::fs::renameat(&layers, &name, self.temp_dir(), &trash);
        drop(lock);
        match renamed {
            Ok(()) => crate::remove::remove_all(self.temp_dir(), &trash).at("remove", &path),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io("remove", &path, error)),
        }
    }

    /// Makes `scratch/layer`, whose tree is complete, the layer of this name.
    pub(crate) fn publish(
        &self,
        scratch: &Scratch,
        diff_id: &DiffId,
        facts: &Facts,
    ) -> Result<Layer> {
        self.leases().take(Leased::Layer(diff_id.0))?;
        let path = self.layer_path(diff_id);
        let base = scratch.open()?;
        write_facts(&base, facts).at("describe", &path)?;
        let name = Path::new(LAYERS).join(diff_id.0.hex());
        let _publishing = self.session().publishing()?;
        for _ in 0..2 {
            match renameat_with(&base, LAYER, self.dir(), &name, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(facts.layer(*diff_id)),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(Error::io("create", &path, error)),
            }
            if let Some(there) = self.layer(diff_id)? {
                return Ok(there);
            }
            // Without its facts it is no layer.
            self.remove_layer(diff_id)?;
        }
        Err(Error::io("create", &path, Errno::EXIST))
    }

    /// What a layer consists of, opened.
    pub(crate) fn layer_folder(&self, diff_id: &DiffId, facts: &Facts) -> Result<Folder> {
        folder_of(&self.layer_path(diff_id), facts)
    }

    fn layer_path(&self, diff_id: &DiffId) -> PathBuf {
        self.root().join(LAYERS).join(diff_id.0.hex())
    }

    /// What is known of a layer, if it is there and whole; it is in use from now on, and with it what it amends.
    pub(crate) fn facts(&self, diff_id: &DiffId) -> Result<Option<Facts>> {
        let facts = self.read_facts(diff_id)?;
        let Some(amended) = facts.as_ref().and_then(|facts| facts.amends) else {
            return Ok(facts);
        };
        let amended = self.read_facts(&amended)?;
        // It may have gone, and have been made again in another way.
        let is_as_it_was = |amended: Facts| amended.is_plain() && amended.amends.is_none();
        Ok(facts.filter(|_| amended.is_some_and(is_as_it_was)))
    }

    fn read_facts(&self, diff_id: &DiffId) -> Result<Option<Facts>> {
        self.leases().take(Leased::Layer(diff_id.0))?;
        match self.open_facts(diff_id)? {
            Some((file, path)) => {
                crate::index::touch(&file);
                parse_facts(file).at("read", &path)
            }
            None => Ok(None),
        }
    }

    /// As [`Store::facts`], but a look that does not count as use, and at nothing else.
    pub(crate) fn facts_unleased(&self, diff_id: &DiffId) -> Option<Facts> {
        let (file, _) = self.open_facts(diff_id).ok()??;
        parse_facts(file).ok()?
    }

    fn open_facts(&self, diff_id: &DiffId) -> Result<Option<(OwnedFd, PathBuf)>> {
        let name = Path::new(LAYERS).join(diff_id.0.hex()).join("facts");
        let path = self.root().join(&name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(self.dir(), &name, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            opened => Ok(Some((opened.at("open", &path)?, path))),
        }
    }
}

/// What the layer at `path` consists of, opened. What it amends lies beside it.
fn folder_of(path: &Path, facts: &Facts) -> Result<Folder> {
    let amended = facts.amends.map(|diff_id| {
        let beside = path.with_file_name(diff_id.0.hex());
        beside.join(TREE)
    });
    Folder::amending(&path.join(TREE), amended.as_deref())
}

/// Whether a layer's folder holds what its name says. One of another program cannot be told.
pub(crate) fn is_whole(path: &Path) -> bool {
    let check = || -> Option<bool> {
        let facts = facts_at(path).filter(|facts| !facts.foreign)?;
        let folder = folder_of(path, &facts).ok()?;
        let diff = Diff::new(&folder, Against::Nothing).ok()?;
        let found = stream::run(diff, &folder, Want::Tar, &mut std::io::sink()).ok()?;
        let name = path.file_name().unwrap_or_default();
        Some(name == found.diff_id.0.hex().as_str())
    };
    check().unwrap_or(false)
}

/// Whether a layer came from an archive of another program.
pub(crate) fn is_foreign(path: &Path) -> bool {
    facts_at(path).is_some_and(|facts| facts.foreign)
}

fn facts_at(path: &Path) -> Option<Facts> {
    let facts = std::fs::read(path.join("facts")).ok()?;
    serde_json::from_slice(&facts).ok()
}

/// None if they cannot be understood: then the layer is as good as absent.
fn parse_facts(file: OwnedFd) -> std::io::Result<Option<Facts>> {
    crate::index::read_json(file, u64::MAX)
}

fn write_facts(base: impl AsFd, facts: &Facts) -> std::io::Result<()> {
    let layer = dir::open_child(base, LAYER)?;
    let file = create_file(&layer, FACTS)?;
    std::fs::File::from(file).write_all(&serde_json::to_vec(facts)?)
}

pub(crate) fn user(uid: u32) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw_unchecked(uid)
}

pub(crate) fn group(gid: u32) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw_unchecked(gid)
}
