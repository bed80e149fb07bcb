//! The bytes of a tar: ustar headers, and PAX records only where ustar cannot say it.
//!
//! The same entries always give the same bytes: no user names, no times but that of the last
//! change, in whole seconds, and PAX records sorted by name. Other programs' digests of the same
//! files may differ; ours are pinned by tests, since a change would make every cached layer a new
//! one.

use crate::meta::{Kind, Meta};

use crate::xattr::Xattrs;

use super::{Body, Entry, whiteout};

/// Tars are made of blocks of this size.
pub(crate) const BLOCK: usize = 512;
/// A tar ends with two blocks of zeros.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The highest number that fits a field of seven octal digits.
const MAX_7: u64 = 0o7_777_777;
/// The same for eleven.
const MAX_11: u64 = 0o77_777_777_777;
const NAME: usize = 100;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes the header of an entry, with all that must come before it. An opaque directory is
/// followed by its marker.
pub(crate) fn write(out: &mut Vec<u8>, entry: &Entry, xattrs: &Xattrs) {
    match &entry.body {
        Body::Whiteout => write_marker(out, &whiteout::deletion(&entry.path)),
        Body::Dir { opaque } => {
            write_one(out, entry, xattrs);
            if *opaque {
                write_marker(out, &whiteout::opaque(&entry.path));
            }
        }
        _ => write_one(out, entry, xattrs),
    }
}

/// Fills up to a whole block after `size` bytes of content.
pub(crate) fn pad(out: &mut Vec<u8>, size: u64) {
    let over = (size % BLOCK as u64) as usize;
    if over > 0 {
        out.extend_from_slice(&ZEROS[over..]);
    }
}

fn write_one(out: &mut Vec<u8>, entry: &Entry, xattrs: &Xattrs) {
    let Entry {
        path, meta, body, ..
    } = entry;
    let mut name = path.clone();
    if meta.is_dir() {
        name.push(b'/');
    }
    let link: &[u8] = match body {
        Body::HardLink(target) | Body::Symlink(target) => target,
        _ => b"",
    };
    let size = if matches!(body, Body::File(_)) {
        meta.size
    } else {
        0
    };
    let fields = Fields {
        name: &name,
        link,
        size,
        kind: type_flag(body, meta),
        meta,
    };
    let mut records = fields.records();
    // A link has the attributes of the file that it names.
    if !matches!(body, Body::HardLink(_)) {
        for (name, value) in xattrs {
            records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()));
        }
    }
    fields.write(out, records);
}

fn write_marker(out: &mut Vec<u8>, name: &[u8]) {
    let meta = empty_file();
    let fields = Fields {
        name,
        link: b"",
        size: 0,
        kind: b'0',
        meta: &meta,
    };
    fields.write(out, fields.records());
}

fn empty_file() -> Meta {
    Meta {
        kind: Kind::File,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        dev: 0,
        ino: 0,
        nlink: 1,
        rdev: (0, 0),
        atime: crate::Time::default(),
        mtime: crate::Time::default(),
        ctime: crate::Time::default(),
    }
}

fn type_flag(body: &Body, meta: &Meta) -> u8 {
    match (body, meta.kind) {
        (Body::HardLink(_), _) => b'1',
        (Body::Symlink(_), _) => b'2',
        (Body::Dir { .. }, _) => b'5',
        (_, Kind::Char) => b'3',
        (_, Kind::Block) => b'4',
        (_, Kind::Fifo) => b'6',
        _ => b'0',
    }
}

/// What a header says.
struct Fields<'a> {
    name: &'a [u8],
    link: &'a [u8],
    size: u64,
    kind: u8,
    meta: &'a Meta,
}

type Records = Vec<(Vec<u8>, Vec<u8>)>;

impl Fields<'_> {
    /// The PAX records for what does not fit a ustar header.
    fn records(&self) -> Records {
        let mut records = Records::new();
        let mut add = |key: &[u8], value: &[u8]| records.push((key.to_vec(), value.to_vec()));
        let number = |value: u64| value.to_string().into_bytes();
        if !fits(self.name) {
            add(b"path", self.name);
        }
        if !fits(self.link) {
            add(b"linkpath", self.link);
        }
        if self.size > MAX_11 {
            add(b"size", &number(self.size));
        }
        if u64::from(self.meta.uid) > MAX_7 {
            add(b"uid", &number(self.meta.uid.into()));
        }
        if u64::from(self.meta.gid) > MAX_7 {
            add(b"gid", &number(self.meta.gid.into()));
        }
        let mtime = self.meta.mtime.secs;
        if !u64::try_from(mtime).is_ok_and(|secs| secs <= MAX_11) {
            add(b"mtime", mtime.to_string().as_bytes());
        }
        records
    }

    fn write(&self, out: &mut Vec<u8>, mut records: Records) {
        if !records.is_empty() {
            records.sort();
            write_pax(out, self.name, &records);
        }
        self.write_block(out);
    }

    fn write_block(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&ZEROS);
        let block = &mut out[start..];
        put_text(&mut block[0..100], self.name);
        put_octal(&mut block[100..108], self.meta.mode.into(), MAX_7);
        put_octal(&mut block[108..116], self.meta.uid.into(), MAX_7);
        put_octal(&mut block[116..124], self.meta.gid.into(), MAX_7);
        put_octal(&mut block[124..136], self.size, MAX_11);
        let mtime = u64::try_from(self.meta.mtime.secs).unwrap_or(0);
        put_octal(&mut block[136..148], mtime, MAX_11);
        block[156] = self.kind;
        put_text(&mut block[157..257], self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        let (major, minor) = match self.kind {
            b'3' | b'4' => self.meta.rdev,
            _ => (0, 0),
        };
        put_octal(&mut block[329..337], major.into(), MAX_7);
        put_octal(&mut block[337..345], minor.into(), MAX_7);
        put_checksum(block);
    }
}

/// Whether a name may stand in a ustar header: short, and plain ASCII or not text at all (a PAX
/// record must be UTF-8, a header need not).
fn fits(name: &[u8]) -> bool {
    name.len() <= NAME && (name.is_ascii() || std::str::from_utf8(name).is_err())
}

fn write_pax(out: &mut Vec<u8>, name: &[u8], records: &Records) {
    let mut body = Vec::new();
    for (key, value) in records {
        write_record(&mut body, key, value);
    }
    let meta = empty_file();
    let name = pax_name(name);
    let size = body.len() as u64;
    let fields = Fields {
        name: &name,
        link: b"",
        size,
        kind: b'x',
        meta: &meta,
    };
    fields.write_block(out);
    out.extend_from_slice(&body);
    pad(out, size);
}

/// A record is `<length of the record> <key>=<value>\n`.
fn write_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + digits(rest);
    if digits(len) > digits(rest) {
        len = rest + digits(len);
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// The name under which a program that knows no PAX would unpack the records.
fn pax_name(name: &[u8]) -> Vec<u8> {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let base = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
    let mut pax = b"PaxHeaders.0/".to_vec();
    pax.extend(base.iter().filter(|byte| byte.is_ascii_graphic()));
    pax.truncate(NAME);
    pax
}

fn put_text(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

/// Digits, then a NUL; zero where a PAX record holds the number.
fn put_octal(field: &mut [u8], number: u64, max: u64) {
    let mut rest = if number > max { 0 } else { number };
    let last = field.len() - 1;
    for digit in field[..last].iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
}

fn put_checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    put_octal(&mut block[148..155], sum, MAX_7);
    block[154] = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_counts_its_own_length() {
        for len in 0..1200 {
            let mut out = Vec::new();
            write_record(&mut out, b"key", &vec![b'v'; len]);
            let said = out.split(|b| *b == b' ').next().unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(said), out.len().to_string());
        }
    }

    #[test]
    fn padding() {
        for (size, expected) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)] {
            let mut out = Vec::new();
            pad(&mut out, size);
            assert_eq!(out.len(), expected);
        }
    }
}
