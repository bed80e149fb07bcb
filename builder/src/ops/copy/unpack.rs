//! ADD of a local archive: known by its content, not its name, and unpacked over the tree.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use lapstrake_cache::{Kind, Unpack};

use rustix::fs::{self, Mode, OFlags};

use super::canvas::Canvas;
use super::place::{Metadata, directory_target};
use super::select::Item;
use super::tree::Tree;
use crate::compress::{decompress, most};
use crate::paths::shown;

/// A tar header block; shorter streams are no archives.
const BLOCK: usize = 512;
/// What is kept of a stream that is no archive: more than any Dockerfile may have.
const TEXT_LIMIT: u64 = 32 << 20;

/// Unpacks `item` if it is an archive, and says whether it was.
pub(super) fn unpack(
    canvas: &mut Canvas,
    tree: &Tree,
    item: &Item,
    destination: &str,
    meta: &Metadata,
) -> Result<bool> {
    if item.entry.meta.kind != Kind::File || !is_archive(tree, item)? {
        return Ok(false);
    }
    let target = directory_target(canvas, destination, meta)?;
    canvas.through_overlay(&target, &mut |root| {
        let file = tree.open_file(&item.real)?;
        let options = Unpack {
            chown: meta.owner,
            most: Some(most(file.metadata()?.len())),
        };
        let tar = decompress(file)?;
        lapstrake_cache::unpack_archive(tar, root.as_fd(), &options)
            .with_context(|| format!("unpack {}", shown(&item.real)))?;
        Ok(())
    })?;
    Ok(true)
}

/// Unpacks a stream into the directory `root` if it is an archive; otherwise gives its bytes back.
pub(crate) fn unpack_if_archive(
    stream: &mut (dyn Read + Send),
    root: &Path,
) -> Result<Option<Vec<u8>>> {
    let mut stream = decompress(stream)?;
    let mut head = Vec::new();
    stream.by_ref().take(BLOCK as u64).read_to_end(&mut head)?;
    let is_archive = <&[u8; BLOCK]>::try_from(head.as_slice()).is_ok_and(is_header);
    let mut whole = std::io::Cursor::new(head).chain(stream);
    if is_archive {
        let root = fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        lapstrake_cache::unpack_archive(
            whole,
            root.as_fd(),
            &Unpack {
                chown: Some((0, 0)),
                most: None,
            },
        )?;
        return Ok(None);
    }
    let mut bytes = Vec::new();
    whole.by_ref().take(TEXT_LIMIT).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Whether the file is a tar with at least one entry, packed or not.
fn is_archive(tree: &Tree, item: &Item) -> Result<bool> {
    let Ok(mut stream) = decompress(tree.open_file(&item.real)?) else {
        return Ok(false);
    };
    let mut block = [0; BLOCK];
    Ok(stream.read_exact(&mut block).is_ok() && is_header(&block))
}

/// A header has the sum of its own bytes in it, its sum field taken as blanks (pax(1), "ustar Interchange Format").
fn is_header(block: &[u8; BLOCK]) -> bool {
    let field = &block[148..156];
    let digits: Vec<u8> = field.iter().copied().filter(u8::is_ascii_digit).collect();
    let Ok(text) = std::str::from_utf8(&digits) else {
        return false;
    };
    let Ok(stored) = u64::from_str_radix(text, 8) else {
        return false;
    };
    let outside = block[..148].iter().chain(&block[156..]);
    let sum: u64 = outside.map(|byte| u64::from(*byte)).sum::<u64>() + 8 * u64::from(b' ');
    sum == stored
}
