//! Whether everything that has a name in the store is what its name says, and getting rid of what is not.
//!
//! Blobs are hashed. Layers that were made here are written as their tars and hashed; those of other programs are
//! compared with a fresh extraction of the blob that they came in, which only the caller can find and decompress
//! ([`Store::check_foreign`]). Records and names must be readable, stat indexes have a digest of their own. What is
//! removed is made or fetched again when a build needs it.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::digest::from_hex;
use crate::error::At;
use crate::layer::diff::{Against, Diff};
use crate::layer::folder::Folder;
use crate::layer::stream::{self, Want};
use crate::snapshot;
use crate::stat_index;
use crate::store::{BLOBS, KEYS, LAYERS, MOUNTS, REFS, STATS, c_string};
use crate::{Content, DiffId, Digest, Result, Store, blob, boot, dir, mounts, remove, threads};

/// Whether damage is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It is only reported.
    No,
    /// What is damaged is removed.
    Yes,
}

/// Something that is not what its name says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// Where, below the store's folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Store {
    /// Checks all but layers of other programs and what cache mounts hold. Safe while builds run, which fail at worst if
    /// what they use is damaged and removed.
    pub fn check(&self, repair: Repair) -> Result<Vec<Damage>> {
        let check = Check {
            store: self,
            repair,
            found: Mutex::default(),
        };
        check.folder(KEYS, "is not a record", &|name, path| {
            from_hex(name).is_some() && boot::is_json(path)
        })?;
        check.folder(REFS, "is not a name of an image", &|_, path| {
            boot::is_json(path)
        })?;
        check.folder(STATS, "is not a stat index", &|name, path| {
            from_hex(name).is_some() && stat_index::is_whole(path)
        })?;
        check.folder(LAYERS, "is not the layer of this digest", &|name, path| {
            from_hex(name).is_some() && (snapshot::is_foreign(path) || snapshot::is_whole(path))
        })?;
        for shard in 0..=u8::MAX {
            let folder = format!("{BLOBS}/{shard:02x}");
            check.folder(&folder, "is not the blob of this digest", &|_, path| {
                blob::is_whole(path)
            })?;
        }
        check.folder(MOUNTS, "is not a cache mount", &|name, path| {
            from_hex(name).is_some() && is_directory(path)
        })?;
        let mounts = self.root().join(MOUNTS);
        for mount in std::fs::read_dir(&mounts).at("list", &mounts)? {
            let mount = mount.at("list", &mounts)?.file_name();
            let folder = format!("{MOUNTS}/{}", mount.display());
            check.folder(&folder, "is not of a cache mount", &mounts::is_known)?;
        }
        let mut found = check
            .found
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        found.sort();
        Ok(found)
    }

    /// The layers that came from archives of other programs.
    pub fn foreign_layers(&self) -> Result<Vec<DiffId>> {
        let path = self.root().join(LAYERS);
        let folder = dir::open(&path).at("open", &path)?;
        let names = dir::names(folder.as_fd()).at("list", &path)?;
        let foreign = names.iter().filter_map(|name| {
            let name = name.to_str().ok()?;
            let digest = Digest::from_bytes(from_hex(name)?);
            snapshot::is_foreign(&path.join(name)).then_some(DiffId(digest))
        });
        Ok(foreign.collect())
    }

    /// Whether the folder of a layer holds what its archive says, times aside.
    pub fn check_foreign(&self, diff_id: &DiffId, tar: impl Read) -> Result<bool> {
        let active = self.snapshot(&[])?;
        self.extract_into(&active, tar, diff_id, u64::MAX)?;
        Ok(content_of(active.upper())? == content_of(&self.layer_dir(diff_id))?)
    }
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

fn content_of(tree: &Path) -> Result<Content> {
    let folder = Folder::open(tree)?;
    let diff = Diff::new(&folder, Against::Nothing)?;
    Ok(stream::run(diff, &folder, Want::Digests, &mut std::io::sink())?.content)
}

struct Check<'a> {
    store: &'a Store,
    repair: Repair,
    found: Mutex<Vec<Damage>>,
}

impl Check<'_> {
    /// Notes, and removes if it may, the entries of a folder that are not whole.
    fn folder(
        &self,
        folder: &str,
        what: &'static str,
        is_whole: &(dyn Fn(&str, &Path) -> bool + Sync),
    ) -> Result<()> {
        let path = self.store.root().join(folder);
        let fd = match dir::open_child(self.store.dir(), &c_string(folder)) {
            Err(error) if dir::is_absent(&error) => return Ok(()),
            opened => opened.at("open", &path)?,
        };
        let names = dir::names(fd.as_fd()).at("list", &path)?;
        threads::prepare_rayon().at("check", &path)?;
        names.par_iter().try_for_each(|name| {
            let text = name.to_string_lossy();
            if is_whole(&text, &path.join(text.as_ref())) {
                return Ok(());
            }
            // Perhaps it was replaced or pruned while it was read.
            if dir::lookup(&fd, name).at("look up", &path)?.is_none() {
                return Ok(());
            }
            let damage = Damage {
                path: Path::new(folder).join(text.as_ref()),
                what,
            };
            self.found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(damage);
            match self.repair {
                Repair::No => Ok(()),
                Repair::Yes => remove::remove_all(fd.as_fd(), name).at("remove", &path),
            }
        })
    }
}
