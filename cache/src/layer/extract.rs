//! An archive into a layer, or into a directory.
//!
//! The bytes are read by the caller's thread (which may decompress them on the way), hashed by a
//! second and unpacked by a third. A small archive is done by the caller's thread alone.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use sha2::{Digest as _, Sha256};

use crate::error::{At, shown};
use crate::escape::escape;
use crate::layer::archive::{self, Archive};
use crate::layer::metadata::Failure;
use crate::layer::source::{BLOCK, Block, Source, read_block};
use crate::layer::unpack::{Meaning, Unpacked, Unpacker};
use crate::snapshot::{Active, Facts, Layer, Omitted};
use crate::{Content, DiffId, Digest, Error, Result, Store, dir, threads};

/// So many blocks may wait for each thread.
const QUEUE: usize = 8;

/// How an archive is unpacked over a directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unpack {
    /// The owner of everything; by default, what the archive says.
    pub chown: Option<(u32, u32)>,
    /// The most bytes that the archive may have; one that says that it has more is refused before they are read.
    pub most: Option<u64>,
}

/// Unpacks an archive of files (not a layer: names that begin with `.wh.` are names) over what is
/// in `dest`, and nothing outside of it. Attributes that cannot be set are left out. Returns what
/// else could not be made.
pub fn unpack_archive(tar: impl Read, dest: BorrowedFd<'_>, options: &Unpack) -> Result<Omitted> {
    let mut tar = tar;
    let mut broken = None;
    let blocks = std::iter::from_fn(|| match read_block(&mut tar) {
        Ok(block) if block.is_empty() => None,
        Ok(block) => Some(Arc::new(block)),
        Err(error) => {
            broken = Some(error);
            None
        }
    });
    let most = options.most.unwrap_or(u64::MAX);
    let unpacked = unpack(blocks, dest, Meaning::Files(options.chown), most);
    match broken {
        Some(error) => Err(read_error(error)),
        None => Ok(unpacked?.omitted),
    }
}

impl Store {
    /// Makes a layer of the uncompressed tar of an image's layer, which may be hostile. On return
    /// the layer is in the store and its digest is `expected`; on failure, nothing of it is.
    pub fn extract(&self, tar: impl Read, expected: &DiffId) -> Result<Layer> {
        self.extract_within(tar, expected, u64::MAX)
    }

    /// The same, of a tar that may have no more than `most` bytes: one that says that it has more is refused before they
    /// are read.
    pub fn extract_within(&self, tar: impl Read, expected: &DiffId, most: u64) -> Result<Layer> {
        let active = self.snapshot(&[])?;
        let facts = self.extract_into(&active, tar, expected, most)?;
        self.publish(active.scratch(), expected, &facts)
    }

    /// Unpacks the tar of a layer into an empty snapshot.
    pub(crate) fn extract_into(
        &self,
        active: &Active,
        tar: impl Read,
        expected: &DiffId,
        most: u64,
    ) -> Result<Facts> {
        let root = dir::open(active.upper()).at("open", active.upper())?;
        let meaning = Meaning::Layer(self.marks());
        let (digest, size, unpacked) = hash_and_unpack(tar, root.as_fd(), meaning, most)?;
        if digest != expected.0 {
            return Err(Error::Corrupt {
                what: "layer".to_owned(),
                expected: expected.to_string(),
                found: digest.to_string(),
            });
        }
        Ok(Facts {
            content: Content(unpacked.content),
            size,
            foreign: true,
            omitted: unpacked.omitted,
            implicit: unpacked.implicit.iter().map(|path| escape(path)).collect(),
            amends: None,
        })
    }
}

fn read_error(error: io::Error) -> Error {
    Error::io("read", Path::new("the archive"), error)
}

/// The digest and size of all bytes, also of those after the archive's end; and what became of the
/// archive.
fn hash_and_unpack(
    mut tar: impl Read,
    root: BorrowedFd<'_>,
    meaning: Meaning,
    most: u64,
) -> Result<(Digest, u64, Unpacked)> {
    let first = read_block(&mut tar).map_err(read_error)?;
    if first.len() < BLOCK {
        let digest = Digest::of(&first);
        let size = first.len() as u64;
        let unpacked = unpack(std::iter::once(Arc::new(first)), root, meaning, most)?;
        return Ok((digest, size, unpacked));
    }
    std::thread::scope(|scope| {
        let (to_hash, hash_queue) = sync_channel(QUEUE);
        let (to_unpack, unpack_queue) = sync_channel(QUEUE);
        let hashing = threads::spawn(scope, move || hash(&hash_queue)).map_err(read_error)?;
        let unpack = move || unpack(unpack_queue.into_iter(), root, meaning, most);
        let unpacking = threads::spawn(scope, unpack).map_err(read_error)?;
        let first = Arc::new(first);
        let rest = pump(first, &mut tar, |block| {
            // Hashing ends only when it is told to; unpacking at the archive's end, or where it
            // fails.
            let hashed = to_hash.send(Arc::clone(&block)).is_ok();
            hashed && to_unpack.send(block).is_ok()
        })?;
        drop(to_unpack);
        let unpacked = unpacking.join().map_err(|_| died())??;
        if rest {
            let next = Arc::new(read_block(&mut tar).map_err(read_error)?);
            pump(next, &mut tar, |block| to_hash.send(block).is_ok())?;
        }
        drop(to_hash);
        let (digest, size) = hashing.join().map_err(|_| died())?;
        Ok((digest, size, unpacked))
    })
}

/// A thread that panicked did so in a dependency; nothing is published then.
fn died() -> Error {
    Error::io("unpack", Path::new("the archive"), io::ErrorKind::Other)
}

fn hash(blocks: &Receiver<Block>) -> (Digest, u64) {
    let mut hasher = Sha256::new();
    let mut size = 0;
    for block in blocks {
        hasher.update(&*block);
        size += block.len() as u64;
    }
    (Digest::from_bytes(hasher.finalize().into()), size)
}

/// Hands on a block and all that follow; whether the receiver stopped before the end.
fn pump(
    mut block: Block,
    tar: &mut impl Read,
    mut send: impl FnMut(Block) -> bool,
) -> Result<bool> {
    while !block.is_empty() {
        if !send(block) {
            return Ok(true);
        }
        block = Arc::new(read_block(tar).map_err(read_error)?);
    }
    Ok(false)
}

fn unpack(
    mut blocks: impl Iterator<Item = Block>,
    root: BorrowedFd<'_>,
    meaning: Meaning,
    most: u64,
) -> Result<Unpacked> {
    let source = Source::new(Box::new(move || Ok(blocks.next())));
    let unpacker = Unpacker::new(root, meaning);
    unpacker
        .run(&mut Archive::new(source, most))
        .map_err(|(entry, failure)| explain(&entry, failure))
}

fn explain(entry: &[u8], failure: Failure) -> Error {
    let entry = shown(entry);
    match failure {
        Failure::Archive(archive::Failure::Read(error)) => read_error(error),
        Failure::Archive(archive::Failure::Refused(name, reason)) => {
            let entry = if name.is_empty() { entry } else { shown(&name) };
            Error::Archive { entry, reason }
        }
        Failure::Refused(reason) => Error::Archive { entry, reason },
        Failure::System(action, error) => Error::io(action, Path::new(&entry), error),
    }
}
