//! What the store holds, and getting rid of what nobody needs.
//!
//! Three steps. *List*: everything with its size and the time of its last use (see `usage`). *Choose*: a pure
//! function decides, by age and size, and never takes what an image name leads to. *Sweep*: in
//! small batches, each under the store's lock, so that builds wait for microseconds only; what a
//! living process has leased stays, and a name that came meanwhile counts.
//!
//! A record may outlive the layer it names. Who reads a record asks for the layer, and takes its
//! absence for a miss.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, renameat, unlinkat};
use rustix::io::Errno;

use crate::error::At;
use crate::lease::Leased;
use crate::session::lock_named;
use crate::store::{KEYS, LAYERS, LOCKS, MOUNTS, STATS, exclusive};
use crate::usage::Usage;
use crate::{DiffId, Digest, Error, Key, Result, Store, Time, dir, mounts, remove};

/// So many things are moved away while builds wait.
const BATCH: usize = 64;

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
        self.clear_locks()?;
        let mut roots = Roots::default();
        roots.update(self, reach)?;
        let chosen = choose(&self.usage_until(deadline)?, &roots.reached);
        let (trash, trash_path) = self.temp_name();
        rustix::fs::mkdirat(self.temp_dir(), &trash, rustix::fs::Mode::RWXU)
            .at("create", &trash_path)?;
        let mut removed = Vec::new();
        for batch in chosen.chunks(BATCH) {
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                break;
            }
            let bin = dir::open_child(self.temp_dir(), &trash).at("open", &trash_path)?;
            let before = removed.len();
            let lock = self.lock_with_roots(&mut roots, reach)?;
            let leased = self.leased()?;
            for item in batch {
                if self.discard(item, &roots, &leased, &bin)? {
                    removed.push(*item);
                }
            }
            drop(lock);
            if removed.len() > before {
                remove::empty(bin.as_fd()).at("empty", &trash_path)?;
            }
        }
        Ok(removed)
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

    /// Removes the lock files of keys that nobody works on.
    fn clear_locks(&self) -> Result<()> {
        let path = self.root().join(LOCKS);
        let dir = dir::open(&path).at("open", &path)?;
        for name in dir::names(dir.as_fd()).at("list", &path)? {
            if let Some(_lock) = lock_named(dir.as_fd(), &name) {
                // Held while it is removed, as its last owner would have done.
                let _ = unlinkat(&dir, &name, AtFlags::empty());
            }
        }
        Ok(())
    }

    /// Moves one thing away, unless somebody needs it after all.
    fn discard(
        &self,
        item: &Item,
        roots: &Roots,
        leased: &HashSet<Leased>,
        bin: &OwnedFd,
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
            Kept::CacheMount(id) => return self.discard_mount(&id),
        };
        // An uncompressed layer has the digest of its blob: the folder is part of the name.
        let target = name.to_string_lossy().replace('/', "-");
        match renameat(self.dir(), &name, bin, target) {
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

    fn discard_mount(&self, id: &[u8; 32]) -> Result<bool> {
        let path = self.root().join(MOUNTS).join(crate::digest::to_hex(id));
        match dir::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            opened => mounts::reset(&opened.at("open", &path)?, &path),
        }
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
