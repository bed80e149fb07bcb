//! What the store holds, and what it takes on the disk.
//!
//! Sizes are those of `du`: blocks that the file system has given to files and folders, each file once however many
//! names it has. Layers may share files (a copy that is made again links what did not change): such a file counts for
//! the layer that was used last, so that removing the least recently used things frees what their sizes say. What
//! belongs to nothing in the list (folders, locks, names of images, the work of running processes) is counted as
//! `other`. On a store where nothing happens, the total is what `du -s` says, to the byte.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Stat, statat};
use rustix::io::Errno;

use crate::digest::from_hex;
use crate::error::At;
use crate::gc::{Item, Kept};
use crate::lease::Leased;
use crate::store::{BLOBS, KEYS, LAYERS, MOUNTS, STATS, c_string, exclusive};
use crate::{DiffId, Digest, Key, Meta, Result, Store, Time, dir, mounts};

/// `stat` counts blocks of this size, whatever those of the file system are.
const BLOCK: u64 = 512;

/// What the store takes on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Everything that can be removed, or would be if no image needed it.
    pub items: Vec<Item>,
    /// What the rest takes.
    pub other: u64,
}

impl Usage {
    /// Of what was chosen for removal, what may go: not a layer that one amends which stays.
    pub fn removable(&self, mut chosen: Vec<Item>) -> Vec<Item> {
        let going: HashSet<Kept> = chosen.iter().map(|item| item.kept).collect();
        let staying = self.items.iter().filter(|item| !going.contains(&item.kept));
        let needed: HashSet<DiffId> = staying.filter_map(|item| item.amends).collect();
        chosen.retain(|item| !matches!(item.kept, Kept::Layer(layer) if needed.contains(&layer)));
        chosen
    }

    /// What the store takes, all in all.
    pub fn total(&self) -> u64 {
        self.other + self.items.iter().map(|item| item.size).sum::<u64>()
    }
}

/// What a tree takes.
#[derive(Default)]
struct Measured {
    own: u64,
    /// Files with several names, with their blocks.
    links: Vec<(u64, u64)>,
}

impl Measured {
    fn add(&mut self, stat: &Stat) {
        let bytes = blocks(stat);
        if stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            self.links.push((stat.st_ino, bytes));
        } else {
            self.own += bytes;
        }
    }
}

/// A layer of the store.
struct Found {
    diff_id: DiffId,
    measured: Measured,
    used: Time,
    amends: Option<DiffId>,
}

fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK
}

impl Store {
    /// Lists everything that the store holds.
    pub fn usage(&self) -> Result<Usage> {
        self.usage_until(None)
    }

    /// As [`Store::usage`]; layers that were not looked at before the deadline count with the size of their tars.
    pub(crate) fn usage_until(&self, deadline: Option<Instant>) -> Result<Usage> {
        let mut usage = Usage::default();
        let leased = {
            let _lock = exclusive(self.root(), self.dir())?;
            self.leased()?
        };
        let mut survey = Survey {
            store: self,
            usage: &mut usage,
        };
        survey.files(Path::new(KEYS), &|name| {
            Some(Kept::Record(Key(from_hex(name)?)))
        })?;
        survey.files(Path::new(STATS), &|name| {
            Some(Kept::StatIndex(from_hex(name)?))
        })?;
        for shard in 0..=u8::MAX {
            survey.files(&Path::new(BLOBS).join(format!("{shard:02x}")), &|name| {
                Some(Kept::Blob(Digest::from_bytes(from_hex(name)?)))
            })?;
        }
        survey.layers(deadline)?;
        survey.mounts()?;
        survey.rest()?;
        for item in &mut usage.items {
            item.in_use = match item.kept {
                Kept::Layer(DiffId(digest)) => leased.contains(&Leased::Layer(digest)),
                Kept::Blob(digest) => leased.contains(&Leased::Blob(digest)),
                Kept::Record(key) => leased.contains(&Leased::Record(key)),
                Kept::StatIndex(_) | Kept::CacheMount(_) => false,
            };
        }
        Ok(usage)
    }
}

struct Survey<'a> {
    store: &'a Store,
    usage: &'a mut Usage,
}

impl Survey<'_> {
    fn open(&self, folder: &Path) -> Result<Option<OwnedFd>> {
        let path = self.store.root().join(folder);
        match dir::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => Ok(Some(opened.at("open", &path)?)),
        }
    }

    /// A folder of files, each of which is an item.
    fn files(&mut self, folder: &Path, kept: &dyn Fn(&str) -> Option<Kept>) -> Result<()> {
        let path = self.store.root().join(folder);
        let Some(fd) = self.open(folder)? else {
            return Ok(());
        };
        self.usage.other += itself(fd.as_fd()).at("look at", &path)?;
        for name in dir::names(fd.as_fd()).at("list", &path)? {
            let Some(stat) = look(fd.as_fd(), &name).at("look at", &path)? else {
                continue;
            };
            match name.to_str().ok().and_then(kept) {
                Some(kept) => {
                    let entry = item(kept, blocks(&stat), used(&Meta::from(&stat)));
                    self.usage.items.push(entry);
                }
                None => self.usage.other += blocks(&stat),
            }
        }
        Ok(())
    }

    fn layers(&mut self, deadline: Option<Instant>) -> Result<()> {
        let path = self.store.root().join(LAYERS);
        let Some(fd) = self.open(Path::new(LAYERS))? else {
            return Ok(());
        };
        self.usage.other += itself(fd.as_fd()).at("look at", &path)?;
        let names = dir::names(fd.as_fd()).at("list", &path)?;
        crate::threads::prepare_rayon().at("look at", &path)?;
        let found: io::Result<Vec<_>> = names
            .par_iter()
            .map(|name| {
                let text = name.to_string_lossy();
                let late = deadline.is_some_and(|deadline| Instant::now() > deadline);
                let measured = if late {
                    None
                } else {
                    Some(measure(fd.as_fd(), name)?)
                };
                let facts = dir::lookup(&fd, format!("{text}/facts").as_str())?;
                let diff_id = from_hex(&text).map(|name| DiffId(Digest::from_bytes(name)));
                let amends = diff_id.and_then(|diff_id| self.store.amended(&diff_id));
                Ok((diff_id, measured, facts, amends))
            })
            .collect();
        let mut layers = Vec::new();
        for (diff_id, measured, facts, amends) in found.at("look at", &path)? {
            match (diff_id, facts) {
                (Some(diff_id), Some(facts)) => {
                    let measured = measured.unwrap_or_else(|| self.estimate(&diff_id));
                    let used = used(&facts);
                    layers.push(Found {
                        diff_id,
                        measured,
                        used,
                        amends,
                    });
                }
                // Not a layer; the next one of that name replaces it.
                _ => self.usage.other += measured.map_or(0, |measured| whole(&measured)),
            }
        }
        follow(&mut layers);
        self.share(layers);
        Ok(())
    }

    fn estimate(&self, diff_id: &DiffId) -> Measured {
        let size = self
            .store
            .facts_unleased(diff_id)
            .map_or(0, |facts| facts.size);
        Measured {
            own: size,
            links: Vec::new(),
        }
    }

    /// Gives each file with several names to the layer that was used last.
    fn share(&mut self, mut layers: Vec<Found>) {
        layers.sort_by_key(|layer| std::cmp::Reverse((layer.used, layer.diff_id)));
        let mut owners: HashMap<u64, (usize, bool)> = HashMap::new();
        for (at, layer) in layers.iter().enumerate() {
            for (ino, _) in &layer.measured.links {
                let owner = owners.entry(*ino).or_insert((at, false));
                owner.1 |= owner.0 != at;
            }
        }
        let amended: HashSet<DiffId> = layers.iter().filter_map(|layer| layer.amends).collect();
        for (at, layer) in layers.iter().enumerate() {
            let Found {
                diff_id, measured, ..
            } = layer;
            let mut entry = item(Kept::Layer(*diff_id), measured.own, layer.used);
            entry.amends = layer.amends;
            entry.shared = layer.amends.is_some() || amended.contains(diff_id);
            let mut seen = HashMap::new();
            for (ino, bytes) in &measured.links {
                let (owner, shared) = owners[ino];
                entry.shared |= shared;
                if owner == at && seen.insert(*ino, ()).is_none() {
                    entry.size += bytes;
                }
            }
            self.usage.items.push(entry);
        }
    }

    fn mounts(&mut self) -> Result<()> {
        let path = self.store.root().join(MOUNTS);
        let Some(fd) = self.open(Path::new(MOUNTS))? else {
            return Ok(());
        };
        self.usage.other += itself(fd.as_fd()).at("look at", &path)?;
        for name in dir::names(fd.as_fd()).at("list", &path)? {
            let Some(stat) = look(fd.as_fd(), &name).at("look at", &path)? else {
                continue;
            };
            let size = whole(&measure(fd.as_fd(), &name).at("look at", &path)?);
            let id = name.to_str().ok().and_then(from_hex);
            let folder = dir::open_child(&fd, &name);
            let is_empty = folder
                .and_then(|folder| mounts::instances(folder.as_fd()))
                .map_or(true, |instances| instances.is_empty());
            match id.filter(|_| !is_empty) {
                Some(id) => {
                    let used = used(&Meta::from(&stat));
                    self.usage
                        .items
                        .push(item(Kept::CacheMount(id), size, used));
                }
                None => self.usage.other += size,
            }
        }
        Ok(())
    }

    /// Everything that was not looked at yet. The folder of this process goes with it.
    fn rest(&mut self) -> Result<()> {
        let root = self.store.root();
        let known = [KEYS, STATS, LAYERS, MOUNTS, "blobs", crate::session::TMP];
        self.usage.other += itself(self.store.dir()).at("look at", root)?;
        for name in dir::names(self.store.dir()).at("list", root)? {
            if !known
                .iter()
                .any(|known| known.as_bytes() == name.to_bytes())
            {
                self.usage.other += whole(&measure(self.store.dir(), &name).at("look at", root)?);
            }
        }
        for folder in ["blobs", BLOBS] {
            let fd = dir::open_child(self.store.dir(), &c_string(folder)).at("open", root)?;
            self.usage.other += itself(fd.as_fd()).at("look at", root)?;
        }
        let sessions = self.store.session().all();
        self.usage.other += itself(sessions).at("look at", root)?;
        for name in dir::names(sessions).at("list", root)? {
            self.usage.other += whole(&measure(sessions, &name).at("look at", root)?);
        }
        Ok(())
    }
}

/// What is amended counts as used just after all that amends it, so that it is removed later.
fn follow(layers: &mut [Found]) {
    let mut latest: HashMap<DiffId, Time> = HashMap::new();
    for layer in layers.iter() {
        if let Some(amended) = layer.amends {
            let Time { secs, nanos } = layer.used;
            let after = Time {
                secs,
                nanos: nanos + 1,
            };
            let known = latest.entry(amended).or_insert(after);
            *known = after.max(*known);
        }
    }
    for layer in layers {
        if let Some(after) = latest.get(&layer.diff_id) {
            layer.used = layer.used.max(*after);
        }
    }
}

fn item(kept: Kept, size: u64, used: Time) -> Item {
    Item {
        kept,
        size,
        used,
        shared: false,
        amends: None,
        in_use: false,
    }
}

fn used(meta: &Meta) -> Time {
    meta.atime.max(meta.mtime)
}

/// Of a tree that shares nothing with others.
fn whole(measured: &Measured) -> u64 {
    let links: HashMap<u64, u64> = measured.links.iter().copied().collect();
    measured.own + links.values().sum::<u64>()
}

fn itself(dir: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(blocks(&rustix::fs::fstat(dir)?))
}

fn look(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Stat>> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What `name` and all below it take. What vanishes meanwhile takes nothing, and so does what may not be read.
fn measure(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Measured> {
    let mut measured = Measured::default();
    let mut pending: Vec<(Arc<OwnedFd>, CString)> = Vec::new();
    let start = Arc::new(dir::open_child(parent, c".")?);
    pending.push((start, name.to_owned()));
    while let Some((parent, name)) = pending.pop() {
        let Some(stat) = look(parent.as_fd(), &name)? else {
            continue;
        };
        measured.add(&stat);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            continue;
        }
        let Ok(fd) = dir::open_child(&parent, &name) else {
            continue;
        };
        let fd = Arc::new(fd);
        for name in dir::names(fd.as_fd()).unwrap_or_default() {
            pending.push((Arc::clone(&fd), name));
        }
    }
    Ok(measured)
}
