//! What an entry adds to a content digest: everything that a program in the image could see, but
//! times.
//!
//! Layers and selections of files use the same form, so that equal files are equal wherever they
//! were found. Each text is preceded by its length. A change here changes every content digest:
//! raise `keys-v1`.

use crate::meta::{Kind, Meta};
use crate::xattr::Xattrs;

/// What an entry is, and what it holds.
pub(crate) enum Held<'a> {
    /// A file with this many bytes of this blake3 digest.
    File(u64, &'a [u8; 32]),
    /// Another name of the file with this path.
    HardLink(&'a [u8]),
    Symlink(&'a [u8]),
    Dir,
    /// A device or a named pipe.
    Node,
    Whiteout,
    /// The directory of the same path hides what is below.
    Opaque,
}

/// Appends the facts of one entry.
pub(crate) fn write(out: &mut Vec<u8>, path: &[u8], meta: &Meta, xattrs: &Xattrs, held: &Held<'_>) {
    out.push(letter(meta.kind, held));
    text(out, path);
    if matches!(held, Held::Whiteout | Held::Opaque) {
        return;
    }
    if let Held::HardLink(target) = held {
        return text(out, target);
    }
    for number in [meta.mode, meta.uid, meta.gid] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&(xattrs.len() as u64).to_le_bytes());
    for (name, value) in xattrs {
        text(out, name);
        text(out, value);
    }
    match held {
        Held::File(size, digest) => {
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(*digest);
        }
        Held::Symlink(target) => text(out, target),
        Held::Node => {
            out.extend_from_slice(&meta.rdev.0.to_le_bytes());
            out.extend_from_slice(&meta.rdev.1.to_le_bytes());
        }
        Held::Dir | Held::HardLink(_) | Held::Whiteout | Held::Opaque => {}
    }
}

fn letter(kind: Kind, held: &Held<'_>) -> u8 {
    match held {
        Held::File(..) => b'f',
        Held::HardLink(_) => b'h',
        Held::Symlink(_) => b'l',
        Held::Dir => b'd',
        Held::Whiteout => b'w',
        Held::Opaque => b'o',
        Held::Node => match kind {
            Kind::Char => b'c',
            Kind::Block => b'b',
            Kind::Fifo => b'p',
            _ => b's',
        },
    }
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}
