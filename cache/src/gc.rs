//! What the store holds, and getting rid of what nobody needs.
//!
//! Three steps. *List*: everything with its size and the time of its last use (see `usage`). *Choose*: a pure
//! function decides, by age and size, and never takes what an image name leads to. *Sweep*: in
//! batches, each under the store's lock, so small that builds wait for milliseconds only; what a
//! living process has leased stays, and a name that came meanwhile counts.
//!
//! A record may outlive the layer it names. Who reads a record asks for the layer, and takes its
//! absence for a miss.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::fs::{AtFlags, Mode, mkdirat, renameat, unlinkat};
use rustix::io::Errno;

use crate::error::At;
use crate::lease::Leased;
use crate::session::lock_named;
use crate::store::{KEYS, LAYERS, LOCKS, MOUNTS, STATS, exclusive};
use crate::usage::Usage;
use crate::{DiffId, Digest, Error, Key, Repair, Result, Store, Time, dir, mounts, remove};

/// So many things are moved away while builds wait, at first.
const BATCH: usize = 64;
/// Batches grow and shrink until one takes about so long, part of it under the lock.
const PAUSE: Duration = Duration::from_millis(20);
/// So many things are removed at once. Who removes a file waits for the disk, not for a processor: where the file system
/// tells the disk of each freed block (`discard`), one after the other takes 200 µs a file, eight at once 50 µs.
const WIDTH: usize = 8;

/// Something that the store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kept {
    /// The result of a step.
    Record(Key),
    /// The digests of a context's files.
    StatIndex([u8; 32]),
    /// A layer's folder.
    Layer(DiffId),
    /// A blob.
    Blob(Digest),
    /// A cache mount, by the digest of its id.
    CacheMount([u8; 32]),
}

/// Something that the store holds, with what a policy goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kept: Kept,
    /// How many bytes of the disk it takes, without those that it shares with what was used later.
    pub size: u64,
    /// When it was last used, to the hour.
    pub used: Time,
    /// Whether another layer has some of its files.
    pub shared: bool,
    /// The layer without which this one is none: see [`Store::amendable`].
    pub amends: Option<DiffId>,
    /// Whether a running process uses it.
    pub in_use: bool,
}

/// What a prune removes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Remove what was not used for so long.
    pub unused_for: Option<Duration>,
    /// Remove what was used least recently until no more than this is left.
    pub max_size: Option<u64>,
    /// Remove what was used least recently until so much was removed.
    pub to_free: Option<u64>,
    /// Remove everything that no image name leads to.
    pub all: bool,
    /// Remove cache mounts too. Without this they are left alone.
    pub cache_mounts: bool,
    /// Stop after so long, whatever is left to remove.
    pub max_time: Option<Duration>,
}

/// Chooses what to remove, least recently used first. `rooted` are the digests (of blobs and
/// layers) that must stay.
pub fn choose(usage: &Usage, rooted: &HashSet<Digest>, now: Time, policy: &Policy) -> Vec<Item> {
    let mut candidates: Vec<&Item> = usage
        .items
        .iter()
        .filter(|item| match item.kept {
            Kept::Layer(DiffId(digest)) | Kept::Blob(digest) => !rooted.contains(&digest),
            Kept::CacheMount(_) => policy.cache_mounts,
            Kept::Record(_) | Kept::StatIndex(_) => true,
        })
        .collect();
    candidates.sort_by_key(|item| (item.used, item.kept));
    let held = usage.total();
    let mut left = held;
    let oldest = policy.unused_for.map(|age| {
        let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        now.secs.saturating_sub(age)
    });
    let mut chosen = Vec::new();
    for item in candidates {
        let too_old = oldest.is_some_and(|oldest| item.used.secs <= oldest);
        let too_much = policy.max_size.is_some_and(|max| left > max);
        let too_full = policy.to_free.is_some_and(|wanted| held - left < wanted);
        if policy.all || too_old || too_much || too_full {
            left -= item.size;
            chosen.push(*item);
        }
    }
    chosen
}

/// Says which blobs and layers the manifest of this digest needs, itself included.
pub type Reach<'a> = dyn FnMut(&Store, &Digest) -> Result<Vec<Digest>> + 'a;

/// Chooses what to remove of what the store holds; the digests must stay.
pub type Choice<'a> = dyn Fn(&Usage, &HashSet<Digest>) -> Vec<Item> + 'a;

impl Store {
    /// Removes what `policy` says, and returns what was removed. Safe while builds run: what they
    /// use stays. `reach` follows an image name's digest to what the image needs; a name whose
    /// manifest cannot be read keeps only itself.
    pub fn collect(&self, policy: &Policy, now: Time, reach: &mut Reach<'_>) -> Result<Vec<Item>> {
        let choose = |usage: &Usage, rooted: &HashSet<Digest>| choose(usage, rooted, now, policy);
        self.collect_chosen(&choose, policy.max_time, reach)
    }

    /// As [`Store::collect`], but `choose` says what to remove.
    pub fn collect_chosen(
        &self,
        choose: &Choice<'_>,
        max_time: Option<Duration>,
        reach: &mut Reach<'_>,
    ) -> Result<Vec<Item>> {
        let deadline = max_time.map(|time| Instant::now() + time);
        self.sweep()?;
        self.abandoned_locks(Repair::Yes)?;
        let mut roots = Roots::default();
        roots.update(self, reach)?;
        let usage = self.usage_until(deadline)?;
        let chosen = usage.removable(choose(&usage, &roots.reached));
        if chosen.is_empty() {
            return Ok(chosen);
        }
        let bin = Bin::new(self)?;
        let mut removed = Vec::new();
        let (mut left, mut size) = (&chosen[..], BATCH);
        while !left.is_empty() && deadline.is_none_or(|deadline| Instant::now() <= deadline) {
            let (batch, rest) = left.split_at(size.min(left.len()));
            let lock = self.lock_with_roots(&mut roots, reach)?;
            let begun = Instant::now();
            removed.extend(self.discard_all(batch, &roots, &bin)?);
            drop(lock);
            bin.empty()?;
            (left, size) = (rest, next_size(size, begun.elapsed()));
        }
        Ok(removed)
    }

    /// Moves away what of a batch nobody needs after all; what that is. The caller holds the store's lock.
    fn discard_all(&self, batch: &[Item], roots: &Roots, bin: &Bin) -> Result<Vec<Item>> {
        let leased = self.leased()?;
        bin.wide(|| {
            let gone = batch.par_iter().map(|item| {
                let is_gone = self.discard(item, roots, &leased, bin)?;
                Ok(is_gone.then_some(*item))
            });
            gone.filter_map(Result::transpose).collect()
        })
    }

    /// Takes the store's lock at a moment when all names are known. (Following a name takes leases,
    /// and so cannot be done under the lock.)
    fn lock_with_roots(&self, roots: &mut Roots, reach: &mut Reach<'_>) -> Result<OwnedFd> {
        loop {
            roots.update(self, reach)?;
            let lock = exclusive(self.root(), self.dir())?;
            if self
                .refs()?
                .iter()
                .all(|(_, digest)| roots.seen.contains(digest))
            {
                return Ok(lock);
            }
        }
    }

    /// How many lock files of keys there are that nobody works on: processes that were killed leave them. They may be
    /// removed.
    pub fn abandoned_locks(&self, repair: Repair) -> Result<usize> {
        let path = self.root().join(LOCKS);
        let dir = dir::open(&path).at("open", &path)?;
        let mut count = 0;
        for name in dir::names(dir.as_fd()).at("list", &path)? {
            if let Some(_lock) = lock_named(dir.as_fd(), &name) {
                count += 1;
                if repair == Repair::Yes {
                    // Held while it is removed, as its last owner would have done.
                    let _ = unlinkat(&dir, &name, AtFlags::empty());
                }
            }
        }
        Ok(count)
    }

    /// Moves one thing away, unless somebody needs it after all.
    fn discard(
        &self,
        item: &Item,
        roots: &Roots,
        leased: &HashSet<Leased>,
        bin: &Bin,
    ) -> Result<bool> {
        let name = match item.kept {
            Kept::Layer(DiffId(digest)) => {
                if leased.contains(&Leased::Layer(digest)) || roots.reached.contains(&digest) {
                    return Ok(false);
                }
                Path::new(LAYERS).join(digest.hex())
            }
            Kept::Blob(digest) => {
                if leased.contains(&Leased::Blob(digest)) || roots.reached.contains(&digest) {
                    return Ok(false);
                }
                crate::blob::blob_name(&digest)
            }
            Kept::Record(key) => {
                if leased.contains(&Leased::Record(key)) {
                    return Ok(false);
                }
                return self.discard_small(&Path::new(KEYS).join(key.to_string()));
            }
            Kept::StatIndex(id) => {
                return self.discard_small(&Path::new(STATS).join(crate::digest::to_hex(&id)));
            }
            Kept::CacheMount(id) => return self.discard_mount(&id, bin),
        };
        // An uncompressed layer has the digest of its blob: the folder is part of the name.
        let target = name.to_string_lossy().replace('/', "-");
        match renameat(self.dir(), &name, &bin.dir, target) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(Error::io("remove", &self.root().join(name), error)),
        }
    }

    /// Small files are removed while builds wait: moving them away first costs as much again.
    fn discard_small(&self, name: &Path) -> Result<bool> {
        match unlinkat(self.dir(), name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(Error::io("remove", &self.root().join(name), error)),
        }
    }

    fn discard_mount(&self, id: &[u8; 32], bin: &Bin) -> Result<bool> {
        let id = crate::digest::to_hex(id);
        let path = self.root().join(MOUNTS).join(&id);
        let folder = match dir::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.at("open", &path)?,
        };
        mounts::reset(&folder, &path, &|name| {
            let target = format!("{id}-{}", name.to_string_lossy());
            Ok(renameat(&folder, name, &bin.dir, target)?)
        })
    }
}

fn next_size(size: usize, took: Duration) -> usize {
    if took > PAUSE {
        (size / 2).max(1)
    } else if took < PAUSE / 2 {
        size * 2
    } else {
        size
    }
}

/// What is moved away, and the threads that remove it.
struct Bin {
    dir: OwnedFd,
    path: PathBuf,
    threads: ThreadPool,
}

impl Bin {
    fn new(store: &Store) -> Result<Self> {
        let (name, path) = store.temp_name();
        mkdirat(store.temp_dir(), &name, Mode::RWXU).at("create", &path)?;
        let dir = dir::open_child(store.temp_dir(), &name).at("open", &path)?;
        // Where no more threads can be had, this one is the pool.
        let alone = || ThreadPoolBuilder::new().num_threads(1).use_current_thread();
        let threads = ThreadPoolBuilder::new().num_threads(WIDTH).build();
        let threads = threads
            .or_else(|_| alone().build())
            .map_err(io::Error::other);
        let threads = threads.at("start the threads that empty", &path)?;
        Ok(Self { dir, path, threads })
    }

    /// Runs `work` so that what it does in parallel is done by all threads.
    fn wide<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads.install(work)
    }

    fn empty(&self) -> Result<()> {
        self.wide(|| remove::empty(self.dir.as_fd()))
            .at("empty", &self.path)
    }
}

impl Drop for Bin {
    fn drop(&mut self) {
        // One that is not empty goes with the folder of the process.
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// What image names lead to.
#[derive(Default)]
struct Roots {
    seen: HashSet<Digest>,
    reached: HashSet<Digest>,
}

impl Roots {
    /// Adds what names lead to that were not there before.
    fn update(&mut self, store: &Store, reach: &mut Reach<'_>) -> Result<()> {
        for (_, digest) in store.refs()? {
            if self.seen.insert(digest) {
                self.reached.insert(digest);
                self.reached
                    .extend(reach(store, &digest).unwrap_or_default());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::{BATCH, PAUSE, next_size};
    use crate::{Sharing, Store};

    /// The sizes of batches that follow each other, where one thing takes so long.
    fn sizes(each: Duration) -> Vec<usize> {
        let next = |size: &usize| Some(next_size(*size, each * u32::try_from(*size).unwrap()));
        std::iter::successors(Some(BATCH), next).take(12).collect()
    }

    #[test]
    fn batches_take_about_as_long_as_builds_may_wait() {
        for micros in [10, 100, 300, 5_000] {
            let each = Duration::from_micros(micros);
            let last = *sizes(each).last().unwrap();
            let took = each * u32::try_from(last).unwrap();
            assert!(took <= PAUSE, "{micros} us: {last}");
            assert!(took >= PAUSE / 4, "{micros} us: {last}");
        }
        assert_eq!(sizes(Duration::from_secs(1)).last(), Some(&1));
    }

    /// Its files are removed when builds no longer wait: under the lock it only loses its name.
    #[test]
    fn a_cache_mount_moves_to_the_bin() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mount = |id: &str| store.cache_mount(id, Sharing::Locked).unwrap();
        std::fs::write(mount("left").path().join("f"), "f").unwrap();
        let used = mount("used");
        let bin = super::Bin::new(&store).unwrap();
        let gone = |id: &str| store.discard_mount(blake3::hash(id.as_bytes()).as_bytes(), &bin);
        assert!(gone("left").unwrap());
        assert!(!gone("used").unwrap());
        assert!(used.path().is_dir());
        let moved: Vec<_> = std::fs::read_dir(&bin.path).unwrap().collect();
        assert_eq!(moved.len(), 1);
        assert!(moved[0].as_ref().unwrap().path().join("f").is_file());
        bin.empty().unwrap();
        assert_eq!(std::fs::read_dir(&bin.path).unwrap().count(), 0);
    }
}
