//! Reading a tar that anybody may have written.
//!
//! The headers are parsed by `tar-core`; here is what it leaves to its caller: what follows a
//! header, bounds, and refusing what programs read in different ways (an archive that shows one
//! thing to us and another to a scanner is an attack).

use std::io;

use tar_core::parse::{Limits, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, Header as RawHeader, PaxExtensions, SparseEntry};

use crate::Time;
use crate::layer::source::Source;
use crate::meta::{Kind, Meta};
use crate::xattr::Xattrs;

/// As much as may stand before the content of an entry: PAX records and long names of 1 MiB
/// together, a sparse map.
const MAX_HEADERS: usize = 2 << 20;
const BLOCK: u64 = 512;
/// Where a header says how many bytes follow.
const SIZE_FIELD: usize = 124;
/// Holes cost nothing here, but whoever reads the file reads them all.
const MAX_HOLES: u64 = 64 << 30;

/// Why an archive cannot be read.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The bytes could not be read.
    Read(io::Error),
    /// They are not what they should be. With the name of the entry, if one was known.
    Refused(Vec<u8>, String),
}

impl Failure {
    fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(Vec::new(), reason.into())
    }
}

/// What an entry of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    File,
    Dir,
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Node,
}

/// One entry of an archive, without its content.
#[derive(Debug)]
pub(crate) struct Header {
    /// Cleaned: no `.`, no `..`, no slash at either end. Empty for the root.
    pub(crate) path: Vec<u8>,
    pub(crate) item: Item,
    pub(crate) meta: Meta,
    pub(crate) xattrs: Xattrs,
    /// The pieces (offset, length) of which the content consists; none for an ordinary file.
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
}

/// An archive, read entry by entry.
pub(crate) struct Archive<'a> {
    source: Source<'a>,
    parser: Parser,
    /// Content of the last entry that was not read yet, and what fills its last block.
    left: u64,
    padding: u64,
    holes: u64,
    /// How much of it was read, and the most that there may be.
    read: u64,
    most: u64,
}

impl<'a> Archive<'a> {
    /// An entry with which the archive would have more than `most` bytes is refused before it is read.
    pub(crate) fn new(source: Source<'a>, most: u64) -> Self {
        let mut parser = Parser::new(Limits::default());
        // Numbers are checked below, with their signs.
        parser.set_ignore_pax_errors(true);
        parser.set_allow_empty_path(true);
        Self {
            source,
            parser,
            left: 0,
            padding: 0,
            holes: 0,
            read: 0,
            most,
        }
    }

    /// The next entry; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Header>, Failure> {
        self.skip()?;
        let mut min = BLOCK as usize;
        loop {
            if min > MAX_HEADERS {
                return Err(Failure::refused(
                    "the headers of an entry are longer than 2 MiB",
                ));
            }
            let input = self.source.peek(min).map_err(Failure::Read)?;
            if input.is_empty() {
                return Ok(None);
            }
            if input.len() < min {
                return Err(Failure::refused("it ends in the middle of a header"));
            }
            let event = self
                .parser
                .parse(input)
                .map_err(|error| Failure::refused(error.to_string()))?;
            let (consumed, header) = match event {
                ParseEvent::NeedData { min_bytes } => {
                    // More than it has seen; what it asks for may be less.
                    min = min_bytes.max(input.len() + 1);
                    continue;
                }
                ParseEvent::End { .. } => return Ok(None),
                ParseEvent::GlobalExtensions { consumed, pax_data } => {
                    check_global(pax_data)?;
                    (consumed, None)
                }
                ParseEvent::Entry { consumed, entry } => {
                    check_raw(&input[..consumed], &entry)?;
                    (consumed, Some(convert(&entry, None)?))
                }
                ParseEvent::SparseEntry {
                    consumed,
                    entry,
                    sparse_map,
                    real_size,
                } => {
                    check_raw(&input[..consumed], &entry)?;
                    (
                        consumed,
                        Some(convert(&entry, Some((&sparse_map, real_size)))?),
                    )
                }
            };
            self.consume(consumed);
            min = BLOCK as usize;
            if let Some((header, stored)) = header {
                self.account(&header, stored)?;
                return Ok(Some(header));
            }
        }
    }

    /// Passes on the next `count` bytes of the entry's content.
    pub(crate) fn content<E: From<Failure>>(
        &mut self,
        mut count: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while count > 0 {
            let piece = self.source.peek(1).map_err(Failure::Read)?;
            let len = count.min(self.left).min(piece.len() as u64) as usize;
            if len == 0 {
                return Err(Failure::refused("it ends in the middle of a file").into());
            }
            each(&piece[..len])?;
            self.consume(len);
            self.left -= len as u64;
            count -= len as u64;
        }
        Ok(())
    }

    fn consume(&mut self, count: usize) {
        self.source.consume(count);
        self.read += count as u64;
    }

    fn account(&mut self, header: &Header, stored: u64) -> Result<(), Failure> {
        if self.read.saturating_add(stored) > self.most {
            let reason = format!(
                "with it the archive has more than {} bytes, which is out of all proportion to its packed size",
                self.most
            );
            return Err(Failure::Refused(header.path.clone(), reason));
        }
        self.left = stored;
        self.padding = (BLOCK - stored % BLOCK) % BLOCK;
        if header.sparse.is_some() {
            self.holes = self.holes.saturating_add(header.meta.size - stored);
            if self.holes > MAX_HOLES {
                let reason = "its sparse files have more than 64 GiB of holes".to_owned();
                return Err(Failure::Refused(header.path.clone(), reason));
            }
        }
        Ok(())
    }

    fn skip(&mut self) -> Result<(), Failure> {
        let left = self.left;
        self.content(left, |_| Ok::<_, Failure>(()))?;
        self.left = std::mem::take(&mut self.padding);
        let padding = self.left;
        self.content(padding, |_| Ok(()))
    }
}

/// Records for the whole archive: those that would rename or resize entries are applied by some
/// programs and ignored by others.
fn check_global(pax: &[u8]) -> Result<(), Failure> {
    for record in PaxExtensions::new(pax) {
        let record = record.map_err(|error| Failure::refused(error.to_string()))?;
        let key = record.key_bytes();
        if matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse") {
            return Err(Failure::refused(
                "a global header sets the name or size of entries",
            ));
        }
    }
    Ok(())
}

/// Looks at the raw headers of an entry. Of a name in a PAX record and one in a GNU header some
/// programs take the first and some the second; a number that overflows is read differently too.
fn check_raw(headers: &[u8], entry: &ParsedEntry<'_>) -> Result<(), Failure> {
    let pax_names = entry.pax.is_some_and(|pax| {
        let mut records = PaxExtensions::new(pax).flatten();
        records.any(|record| matches!(record.key_bytes(), b"path" | b"linkpath"))
    });
    let mut at = 0;
    while let Some(block) = headers.get(at..at + BLOCK as usize) {
        let Ok(block) = block.try_into() else { break };
        let raw = RawHeader::from_bytes(block);
        if block[SIZE_FIELD] & 0x80 != 0 && block[SIZE_FIELD..SIZE_FIELD + 4] != [0x80, 0, 0, 0] {
            return Err(Failure::refused("a size is negative or out of range"));
        }
        match raw.entry_type() {
            EntryType::GnuLongName | EntryType::GnuLongLink if pax_names => {
                return Err(Failure::refused(
                    "an entry is named by a PAX record and by a GNU header",
                ));
            }
            EntryType::GnuLongName | EntryType::GnuLongLink | EntryType::XHeader => {}
            _ if block.iter().all(|byte| *byte == 0) => {}
            _ => break,
        }
        let size = raw.entry_size().unwrap_or(0);
        at += (BLOCK + size.next_multiple_of(BLOCK)) as usize;
    }
    Ok(())
}

/// The time in the header itself; GNU tar writes one before 1970 as a negative binary number.
fn header_time(entry: &ParsedEntry<'_>) -> Time {
    let field = &entry.header.as_bytes()[136..148];
    let secs = match field.last_chunk::<8>() {
        Some(number) if field[0] == 0xff => i64::from_be_bytes(*number),
        _ => i64::try_from(entry.mtime).unwrap_or(i64::MAX),
    };
    Time::from_secs(secs)
}

/// The header, and the number of bytes that follow it.
fn convert(
    entry: &ParsedEntry<'_>,
    sparse: Option<(&[SparseEntry], u64)>,
) -> Result<(Header, u64), Failure> {
    let name: &[u8] = &entry.path;
    let refuse = |reason: &str| Failure::Refused(name.to_vec(), reason.to_owned());
    let path = clean(name).ok_or_else(|| refuse("its name leads out of the archive"))?;
    let link = entry.link_target.as_deref().unwrap_or_default();
    if name.contains(&0) || link.contains(&0) {
        return Err(refuse("its name holds a NUL"));
    }
    let numbers = Numbers::of(entry).map_err(&refuse)?;
    let (item, kind) = item_of(entry, link).map_err(&refuse)?;
    let stored = match item {
        Item::File => entry.size,
        // By convention no content follows a hard link, whatever its size says.
        Item::HardLink(_) => 0,
        _ if entry.size == 0 => 0,
        _ => return Err(refuse("it has content, but is not a file")),
    };
    let sparse = match sparse {
        None => None,
        Some(_) if item != Item::File => return Err(refuse("it is sparse, but is not a file")),
        Some((map, real)) => Some((check_map(map, real, stored).map_err(&refuse)?, real)),
    };
    let size = sparse.as_ref().map_or(stored, |(_, real)| *real);
    let rdev = (entry.dev_major.unwrap_or(0), entry.dev_minor.unwrap_or(0));
    if item == Item::Node && (rdev.0 > 0xfff || rdev.1 > 0xf_ffff) {
        return Err(refuse("its device number is out of range"));
    }
    let meta = Meta {
        kind,
        mode: entry.mode & 0o7777,
        uid: numbers.uid,
        gid: numbers.gid,
        size,
        dev: 0,
        ino: 0,
        nlink: 1,
        rdev,
        atime: numbers.mtime,
        mtime: numbers.mtime,
        ctime: numbers.mtime,
    };
    let mut xattrs: Xattrs = entry
        .xattrs
        .iter()
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect();
    xattrs.sort();
    Ok((
        Header {
            path,
            item,
            meta,
            xattrs,
            sparse: sparse.map(|(map, _)| map),
        },
        stored,
    ))
}

fn item_of(entry: &ParsedEntry<'_>, link: &[u8]) -> Result<(Item, Kind), &'static str> {
    let target = || {
        if link.is_empty() {
            Err("it is a link without a target")
        } else {
            Ok(link.to_vec())
        }
    };
    Ok(match entry.entry_type {
        // Before there was a type for directories, a slash at the end said it.
        EntryType::Regular if entry.path.ends_with(b"/") => (Item::Dir, Kind::Dir),
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
            (Item::File, Kind::File)
        }
        EntryType::Directory => (Item::Dir, Kind::Dir),
        EntryType::Link => (Item::HardLink(target()?), Kind::File),
        EntryType::Symlink => (Item::Symlink(target()?), Kind::Symlink),
        EntryType::Char => (Item::Node, Kind::Char),
        EntryType::Block => (Item::Node, Kind::Block),
        EntryType::Fifo => (Item::Node, Kind::Fifo),
        _ => return Err("it is of an unknown type"),
    })
}

/// The numbers that a PAX record may override, and that must fit.
struct Numbers {
    uid: u32,
    gid: u32,
    mtime: Time,
}

impl Numbers {
    fn of(entry: &ParsedEntry<'_>) -> Result<Self, &'static str> {
        let mut mtime = header_time(entry);
        for record in entry.pax.into_iter().flat_map(PaxExtensions::new).flatten() {
            let value = record.value().ok();
            match record.key_bytes() {
                b"mtime" => {
                    mtime = value.and_then(time).ok_or("its time is not a number")?;
                }
                b"uid" | b"gid" | b"size" => {
                    let fits = value.is_some_and(|value| value.parse::<u64>().is_ok());
                    if !fits {
                        return Err("its owner or size is not a number");
                    }
                }
                _ => {}
            }
        }
        let id = |id: u64| match u32::try_from(id) {
            // The highest number means "leave as it is" to the kernel.
            Ok(id) if id != u32::MAX => Ok(id),
            _ => Err("its owner is out of range"),
        };
        Ok(Self {
            uid: id(entry.uid)?,
            gid: id(entry.gid)?,
            mtime,
        })
    }
}

/// Seconds, with or without a sign and a fraction.
fn time(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let secs: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanos: u32 = digits.parse().ok()?;
    if nanos > 0 && whole.starts_with('-') {
        return Some(Time {
            secs: secs.checked_sub(1)?,
            nanos: 1_000_000_000 - nanos,
        });
    }
    Some(Time { secs, nanos })
}

/// The pieces of a sparse file, if they are in order, inside the file, and as long as what is
/// stored.
fn check_map(map: &[SparseEntry], real: u64, stored: u64) -> Result<Vec<(u64, u64)>, &'static str> {
    let wrong = "its sparse map does not fit";
    let (mut end, mut sum) = (0u64, 0u64);
    let mut pieces = Vec::with_capacity(map.len());
    for piece in map {
        if piece.offset < end {
            return Err(wrong);
        }
        end = piece.offset.checked_add(piece.length).ok_or(wrong)?;
        sum = sum.checked_add(piece.length).ok_or(wrong)?;
        pieces.push((piece.offset, piece.length));
    }
    if end > real || sum != stored {
        return Err(wrong);
    }
    Ok(pieces)
}

/// A name without `.`, `..` and superfluous slashes; none if `..` leads out.
pub(crate) fn clean(name: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaned_names() {
        let cases: [(&[u8], Option<&[u8]>); 9] = [
            (b"a/b", Some(b"a/b")),
            (b"./a//b/", Some(b"a/b")),
            (b"/a", Some(b"a")),
            (b"a/../b", Some(b"b")),
            (b"a/./b", Some(b"a/b")),
            (b".", Some(b"")),
            (b"", Some(b"")),
            (b"..", None),
            (b"a/../../b", None),
        ];
        for (name, expected) in cases {
            assert_eq!(clean(name).as_deref(), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn times() {
        let at = |secs, nanos| Some(Time { secs, nanos });
        assert_eq!(time("12"), at(12, 0));
        assert_eq!(time("12.5"), at(12, 500_000_000));
        assert_eq!(time("12.0000000019"), at(12, 1));
        assert_eq!(time("-1"), at(-1, 0));
        assert_eq!(time("-1.25"), at(-2, 750_000_000));
        for wrong in ["", "x", "1.x", "1e3", "99999999999999999999"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}
