//! Digests of files that need not be read again, by what `stat` says of them.
//!
//! One file for each context: a table of fixed-size records sorted by path, then the paths, then a
//! blake3 digest of it all. It is used as it is read, without being taken apart.
//!
//! A record counts if inode, size, and both times are the same to the nanosecond. `ctime` cannot be
//! set by programs, so content that was changed and disguised is still seen. Clocks of file systems
//! tick slowly, though: a file that was changed shortly before it was read may change again within
//! the same tick. Such a file is not recorded (the rule that git calls racy-clean).

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::digest::to_hex;
use crate::store::STATS;
use crate::tree::{file_digest, stat_beneath};
use crate::{Meta, Result, Store, Time};

const MAGIC: &[u8; 8] = b"lapstat1";
const HEAD: usize = 16;
const RECORD: usize = 80;
const DIGEST: usize = 32;
/// Some file systems keep times to two seconds only.
const TICK: i64 = 2;
/// A file that keeps changing while it is read is given up after so many attempts.
const ATTEMPTS: usize = 3;
/// Records that were not used are kept as long as they are not this many times more than the
/// others.
const STALE_SHARE: usize = 4;
const STALE_FLOOR: usize = 4096;

thread_local! {
    /// After the record that this thread found last.
    static NEXT: Cell<usize> = const { Cell::new(0) };
}

/// The digests of a context's files, as far as they are known.
pub struct StatIndex {
    name: PathBuf,
    table: Table,
    used: Vec<AtomicBool>,
    fresh: Mutex<HashMap<Vec<u8>, Record>>,
    /// Only files that did not change since (and a tick before) are recorded.
    started: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Record {
    ino: u64,
    size: u64,
    mtime: Time,
    ctime: Time,
    digest: [u8; 32],
}

impl Record {
    fn new(meta: &Meta, digest: [u8; 32]) -> Self {
        let Meta {
            ino,
            size,
            mtime,
            ctime,
            ..
        } = *meta;
        Self {
            ino,
            size,
            mtime,
            ctime,
            digest,
        }
    }

    fn is_of(&self, meta: &Meta) -> bool {
        *self == Self::new(meta, self.digest)
    }

    fn write(&self, out: &mut Vec<u8>, path_at: u32, path_len: u32) {
        out.extend_from_slice(&path_at.to_le_bytes());
        out.extend_from_slice(&path_len.to_le_bytes());
        out.extend_from_slice(&self.ino.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        for time in [self.mtime, self.ctime] {
            out.extend_from_slice(&time.secs.to_le_bytes());
            out.extend_from_slice(&time.nanos.to_le_bytes());
        }
        out.extend_from_slice(&self.digest);
    }

    fn read(bytes: &[u8; RECORD]) -> Self {
        let time = |at| Time {
            secs: u64_at(bytes, at).cast_signed(),
            nanos: u32_at(bytes, at + 8),
        };
        let mut digest = [0; 32];
        digest.copy_from_slice(&bytes[48..]);
        let (ino, size) = (u64_at(bytes, 8), u64_at(bytes, 16));
        Self {
            ino,
            size,
            mtime: time(24),
            ctime: time(36),
            digest,
        }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// The file, as it is read.
#[derive(Default)]
struct Table(Vec<u8>);

impl Table {
    /// A file that is not whole is an empty one.
    fn new(bytes: Vec<u8>) -> Self {
        let table = Self(bytes);
        if table.is_whole() {
            table
        } else {
            Self::default()
        }
    }

    fn is_whole(&self) -> bool {
        let Some(body) = self.0.len().checked_sub(DIGEST) else {
            return false;
        };
        let (body, digest) = self.0.split_at(body);
        body.starts_with(MAGIC)
            && body.len().saturating_sub(HEAD) / RECORD >= self.len()
            && blake3::hash(body).as_bytes() == digest
    }

    fn len(&self) -> usize {
        usize::try_from(u64_at(&self.0, MAGIC.len())).unwrap_or(0)
    }

    fn record(&self, index: usize) -> Option<(&[u8], &[u8; RECORD])> {
        let record: &[u8; RECORD] = self.0.get(HEAD + index * RECORD..)?.first_chunk()?;
        let at = usize::try_from(u32_at(record, 0)).ok()?;
        let len = usize::try_from(u32_at(record, 4)).ok()?;
        Some((self.0.get(at..at.checked_add(len)?)?, record))
    }

    /// Files are mostly asked for in the order in which they are here.
    fn find(&self, path: &[u8]) -> Option<(usize, Record)> {
        let next = NEXT.get();
        let found = match self.record(next) {
            Some((there, record)) if next < self.len() && there == path => {
                Some((next, Record::read(record)))
            }
            _ => self.search(path),
        };
        if let Some((index, _)) = found {
            NEXT.set(index + 1);
        }
        found
    }

    fn search(&self, path: &[u8]) -> Option<(usize, Record)> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            let (there, record) = self.record(middle)?;
            match there.cmp(path) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some((middle, Record::read(record))),
            }
        }
        None
    }

    /// None if there is more than the format can hold.
    fn write(records: &[(&[u8], Record)]) -> Option<Vec<u8>> {
        let mut path_at = HEAD + records.len() * RECORD;
        let mut out = Vec::with_capacity(path_at + records.len() * 64);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(records.len() as u64).to_le_bytes());
        for (path, record) in records {
            record.write(
                &mut out,
                u32::try_from(path_at).ok()?,
                u32::try_from(path.len()).ok()?,
            );
            path_at += path.len();
        }
        for (path, _) in records {
            out.extend_from_slice(path);
        }
        let digest = *blake3::hash(&out).as_bytes();
        out.extend_from_slice(&digest);
        Some(out)
    }
}

fn present() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(0)
}

/// Whether a file is a whole index.
pub(crate) fn is_whole(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| Table(bytes).is_whole())
}

impl StatIndex {
    /// Reads the index of a context; one that is missing or broken is empty.
    pub fn load(store: &Store, id: &[u8; 32]) -> Self {
        let name = Path::new(STATS).join(to_hex(id));
        let table = Table::new(std::fs::read(store.root().join(&name)).unwrap_or_default());
        let used = (0..table.len()).map(|_| AtomicBool::new(false)).collect();
        let started = present();
        Self {
            name,
            table,
            used,
            fresh: Mutex::default(),
            started,
        }
    }

    /// The digest of the file at `path` below `root`, of which a walk said `meta`. It is read only
    /// if it is not known. May be called by several threads.
    pub fn digest(&self, root: BorrowedFd<'_>, path: &Path, meta: &Meta) -> io::Result<[u8; 32]> {
        let bytes = path.as_os_str().as_bytes();
        if let Some((index, record)) = self.table.find(bytes)
            && record.is_of(meta)
        {
            self.used[index].store(true, Ordering::Relaxed);
            return Ok(record.digest);
        }
        if let Some(digest) = self.seen(bytes, meta) {
            return Ok(digest);
        }
        let mut meta = *meta;
        for attempt in 1.. {
            match file_digest(root, path, &meta) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData && attempt < ATTEMPTS => {
                    meta = stat_beneath(root, path)?;
                }
                read => {
                    let record = Record::new(&meta, read?);
                    let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
                    fresh.insert(bytes.to_vec(), record);
                    return Ok(record.digest);
                }
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    /// The digest of a file that this process has read and that is still the same.
    fn seen(&self, path: &[u8], meta: &Meta) -> Option<[u8; 32]> {
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        let record = fresh.get(path)?;
        record.is_of(meta).then_some(record.digest)
    }

    /// Writes the index, if there is something new to remember.
    pub fn save(&self, store: &Store) -> Result<()> {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back would have files of this moment look old.
        let safe = self.started.min(present()) - TICK;
        fresh.retain(|_, record| record.mtime.secs < safe && record.ctime.secs < safe);
        if fresh.is_empty() {
            return Ok(());
        }
        let used = self
            .used
            .iter()
            .filter(|used| used.load(Ordering::Relaxed))
            .count();
        let wanted = used + fresh.len();
        let keep_stale = self.used.len() - used <= STALE_FLOOR.max(wanted * STALE_SHARE);
        let mut records = Vec::with_capacity(self.used.len() + fresh.len());
        for (index, used) in self.used.iter().enumerate() {
            if let Some((path, record)) = self.table.record(index)
                && (keep_stale || used.load(Ordering::Relaxed))
                && !fresh.contains_key(path)
            {
                records.push((path, Record::read(record)));
            }
        }
        records.extend(
            fresh
                .iter()
                .map(|(path, record)| (path.as_slice(), *record)),
        );
        records.sort_unstable_by_key(|(path, _)| *path);
        match Table::write(&records) {
            Some(bytes) => store.replace_file(&self.name, &bytes),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_of_this_moment_is_not_recorded_when_the_clock_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("a"), "a").unwrap();
        let context = std::fs::File::open(dir.path()).unwrap();
        let meta = stat_beneath(context.as_fd(), Path::new("a")).unwrap();
        let mut index = StatIndex::load(&store, &[0; 32]);
        index.started += 3600;
        index
            .digest(context.as_fd(), Path::new("a"), &meta)
            .unwrap();
        index.save(&store).unwrap();
        assert_eq!(StatIndex::load(&store, &[0; 32]).table.len(), 0);
    }
}
