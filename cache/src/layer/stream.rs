//! Entries into tar bytes, and both digests of them, with every file read once.
//!
//! ```text
//! walk -> jobs (some files, or one large) -> workers: read, blake3, tar bytes -> in order: sha256, output
//! ```
//!
//! The walk, the workers and the hashing run at the same time and the queues between them are
//! short, so that memory stays flat however large the layer is. A small layer is done by the
//! calling thread alone.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::error::shown;
use crate::facts::{self, Held};
use crate::layer::folder::{Folder, Place};
use crate::layer::lower::open_deep;
use crate::layer::{Body, Entry, header};
use crate::xattr::{Target, Xattrs};
use crate::{Content, DiffId, Digest, Error, Result, threads};

/// A job is full with so many entries, or so many bytes of content.
const JOB_ENTRIES: usize = 256;
const JOB_BYTES: u64 = 512 << 10;
/// A larger file is a job of its own, read in pieces of this size.
const PIECE: usize = 512 << 10;
/// So many jobs may wait, and so many pieces of each.
const QUEUE: usize = 4;
const MAX_WORKERS: usize = 6;

/// What a stream of entries came to.
pub(crate) struct Summary {
    pub(crate) diff_id: DiffId,
    /// Of no meaning where only the tar was wanted.
    pub(crate) content: Content,
    pub(crate) size: u64,
}

/// What is wanted of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Both digests.
    Digests,
    /// The tar, whose content digest is known.
    Tar,
}

/// Some tar bytes, and what they add to the content digest.
#[derive(Default)]
struct Chunk {
    tar: Vec<u8>,
    facts: Vec<u8>,
}

/// Chunks that were used and can be used again: new memory costs more than filling it.
#[derive(Default)]
struct Pool(Mutex<Vec<Chunk>>);

impl Pool {
    fn take(&self) -> Chunk {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        used.unwrap_or_default()
    }

    fn give(&self, mut chunk: Chunk) {
        chunk.tar.clear();
        chunk.facts.clear();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(chunk);
    }
}

/// Entries that are read together.
#[derive(Default)]
struct Job {
    entries: Vec<Entry>,
    bytes: u64,
}

impl Job {
    fn is_full(&self) -> bool {
        self.entries.len() >= JOB_ENTRIES || self.bytes >= JOB_BYTES
    }
}

/// Writes the tar of `entries`, whose files are in `folder`, and hashes it.
pub(crate) fn run(
    mut entries: impl Iterator<Item = Result<Entry>> + Send,
    folder: &Folder,
    want: Want,
    out: &mut dyn Write,
) -> Result<Summary> {
    let pool = Pool::default();
    let mut sums = Sums {
        tar: Sha256::new(),
        content: blake3::Hasher::new(),
        size: 0,
        out,
        pool: &pool,
    };
    let encoder = Encoder {
        folder,
        want,
        pool: &pool,
    };
    let (first, more) = next_job(&mut entries)?;
    if more {
        parallel(first, entries, encoder, &mut sums)?;
    } else {
        encoder.encode(&first, &mut |chunk| sums.add(chunk).map(Some))?;
    }
    sums.add(Chunk {
        tar: header::END.to_vec(),
        facts: Vec::new(),
    })?;
    Ok(Summary {
        diff_id: DiffId(Digest::from_bytes(sums.tar.finalize().into())),
        content: Content(*sums.content.finalize().as_bytes()),
        size: sums.size,
    })
}

/// The next entries, and whether there may be more.
fn next_job(entries: &mut impl Iterator<Item = Result<Entry>>) -> Result<(Job, bool)> {
    let mut job = Job::default();
    while !job.is_full() {
        let Some(entry) = entries.next().transpose()? else {
            return Ok((job, false));
        };
        if matches!(entry.body, Body::File(_)) {
            job.bytes += entry.meta.size;
        }
        job.entries.push(entry);
    }
    Ok((job, true))
}

type Chunks = Receiver<Result<Chunk>>;
/// A job, and where its chunks go.
type Ticket = (Job, SyncSender<Result<Chunk>>);

fn parallel(
    first: Job,
    mut entries: impl Iterator<Item = Result<Entry>> + Send,
    encoder: Encoder<'_>,
    sums: &mut Sums<'_>,
) -> Result<()> {
    let (job_sender, job_receiver) = sync_channel(QUEUE);
    let (order_sender, order) = sync_channel::<Chunks>(QUEUE);
    let job_receiver = Arc::new(Mutex::new(job_receiver));
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_WORKERS);
    std::thread::scope(|scope| {
        let reading = threads::spawn(scope, move || {
            let mut next = Ok((first, true));
            loop {
                let (sender, chunks) = sync_channel(QUEUE);
                if order_sender.send(chunks).is_err() {
                    return;
                }
                let more = match next {
                    Err(error) => return drop(sender.send(Err(error))),
                    Ok((job, more)) => job_sender.send((job, sender)).is_ok() && more,
                };
                if !more {
                    return;
                }
                next = next_job(&mut entries);
            }
        });
        let mut working = reading.and_then(|_| {
            let jobs = Arc::clone(&job_receiver);
            threads::spawn(scope, move || work(&jobs, encoder))
        });
        for _ in 1..workers {
            let jobs = Arc::clone(&job_receiver);
            // One is enough.
            let more = threads::spawn(scope, move || work(&jobs, encoder));
            working = working.or(more);
        }
        // Held by workers alone: where there is none, nobody waits for one.
        drop(job_receiver);
        working.map_err(|error| Error::io("read", Path::new("the layer"), error))?;
        // Moved in here: if it fails, nobody may go on waiting to be listened to, or the threads do not end.
        order
            .into_iter()
            .flatten()
            .try_for_each(|chunk| sums.add(chunk?))
    })
}

fn work(jobs: &Mutex<Receiver<Ticket>>, encoder: Encoder<'_>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, sender)) = job else { return };
        let mut send = |chunk| Ok(sender.send(Ok(chunk)).ok());
        if let Err(error) = encoder.encode(&job, &mut send) {
            // Nobody listens any more if another part failed first.
            let _ = sender.send(Err(error));
        }
    }
}

/// Where all tar bytes pass, in order.
struct Sums<'a> {
    tar: Sha256,
    content: blake3::Hasher,
    size: u64,
    out: &'a mut dyn Write,
    pool: &'a Pool,
}

impl Sums<'_> {
    fn add(&mut self, chunk: Chunk) -> Result<()> {
        self.tar.update(&chunk.tar);
        self.content.update(&chunk.facts);
        self.size += chunk.tar.len() as u64;
        let written = self.out.write_all(&chunk.tar);
        self.pool.give(chunk);
        // Never `Error::Full`: where the archive goes, only its writer knows.
        written.map_err(|source| Error::Io {
            action: "write the archive of",
            path: "a layer".into(),
            source,
        })
    }
}

/// Takes a finished chunk; none if nobody wants more.
type Emit<'a> = dyn FnMut(Chunk) -> Result<Option<()>> + 'a;

#[derive(Clone, Copy)]
struct Encoder<'a> {
    folder: &'a Folder,
    want: Want,
    pool: &'a Pool,
}

impl Encoder<'_> {
    fn encode(self, job: &Job, emit: &mut Emit<'_>) -> Result<()> {
        let mut chunk = self.pool.take();
        for entry in &job.entries {
            if let Body::File(place) = entry.body {
                let read = self.file(entry, place, &mut chunk, emit);
                let done = read.map_err(|error| match error {
                    Failure::Io(error) => {
                        let path = self.folder.path(place).join(shown(&entry.path));
                        Error::io("read", &path, error)
                    }
                    Failure::Other(error) => error,
                })?;
                if done.is_none() {
                    return Ok(());
                }
            } else {
                let none = Xattrs::new();
                let xattrs = entry.xattrs.as_ref().unwrap_or(&none);
                header::write(&mut chunk.tar, entry, xattrs);
                if self.want == Want::Digests {
                    write_facts(&mut chunk.facts, entry, xattrs);
                }
            }
        }
        emit(chunk).map(|_| ())
    }

    fn file(
        self,
        entry: &Entry,
        place: Place,
        chunk: &mut Chunk,
        emit: &mut Emit<'_>,
    ) -> Result<Option<()>, Failure> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = File::from(open_deep(self.folder.root(place), &entry.path, flags)?);
        let xattrs = Target::Open(file.as_fd()).kept()?;
        header::write(&mut chunk.tar, entry, &xattrs);
        let size = entry.meta.size;
        let mut hasher = blake3::Hasher::new();
        let mut left = size;
        while left > 0 {
            if chunk.tar.len() >= PIECE {
                let full = std::mem::replace(chunk, self.pool.take());
                if emit(full)?.is_none() {
                    return Ok(None);
                }
            }
            let start = chunk.tar.len();
            let most = left.min(PIECE as u64) as usize;
            read_piece(&file, &mut chunk.tar, most)?;
            if self.want == Want::Digests {
                hasher.update(&chunk.tar[start..]);
            }
            left -= most as u64;
        }
        header::pad(&mut chunk.tar, size);
        if self.want == Want::Digests {
            let digest = *hasher.finalize().as_bytes();
            let held = Held::File(size, &digest);
            facts::write(&mut chunk.facts, &entry.path, &entry.meta, &xattrs, &held);
        }
        Ok(Some(()))
    }
}

enum Failure {
    Io(io::Error),
    Other(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Appends exactly `most` bytes.
fn read_piece(file: &File, out: &mut Vec<u8>, most: usize) -> io::Result<()> {
    out.reserve(most);
    if file.take(most as u64).read_to_end(out)? == most {
        return Ok(());
    }
    let text = "it became shorter while it was read";
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
}

fn write_facts(out: &mut Vec<u8>, entry: &Entry, xattrs: &Xattrs) {
    let mut add = |held: Held<'_>| facts::write(out, &entry.path, &entry.meta, xattrs, &held);
    match &entry.body {
        Body::HardLink(target) => add(Held::HardLink(target)),
        Body::Symlink(target) => add(Held::Symlink(target)),
        Body::Dir { opaque } => {
            add(Held::Dir);
            if *opaque {
                add(Held::Opaque);
            }
        }
        Body::Node => add(Held::Node),
        Body::Whiteout => add(Held::Whiteout),
        // A file's facts are written when it was read.
        Body::File(_) => {}
    }
}
