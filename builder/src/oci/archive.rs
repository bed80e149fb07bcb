//! The members of a tar file, for reading them in any order without unpacking anything.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tar_core::parse::{Limits, ParseEvent, ParsedEntry, Parser};

/// The most members that an image archive may have; an image has a few for each layer.
const MAX_MEMBERS: usize = 100_000;

/// Links are followed this often: archives of old Docker versions link equal layers to each other, once.
const MAX_LINKS: usize = 8;

/// The largest header with its extensions; more than one mebibyte of extensions is refused by the parser.
const MAX_HEADER: usize = 4 << 20;

#[derive(Debug, Clone)]
enum Member {
    File { offset: u64, size: u64 },
    Link { target: String },
}

/// A tar file with a table of its members.
pub(super) struct Archive {
    file: Arc<File>,
    members: BTreeMap<String, Member>,
}

impl Archive {
    /// Reads the headers of the whole archive.
    pub(super) fn open(file: File) -> Result<Self> {
        let length = file.metadata().context("stat image archive")?.len();
        refuse_compressed(&file)?;
        let members = table(&file, length).context("read image archive")?;
        Ok(Self {
            file: Arc::new(file),
            members,
        })
    }

    /// A member's content and size; `None` when there is no such file.
    pub(super) fn member(&self, name: &str) -> Option<(Section, u64)> {
        let mut name = normal(name.as_bytes())?;
        for _ in 0..MAX_LINKS {
            match self.members.get(&name)? {
                Member::File { offset, size } => {
                    let file = Arc::clone(&self.file);
                    return Some((
                        Section {
                            file,
                            offset: *offset,
                            left: *size,
                        },
                        *size,
                    ));
                }
                Member::Link { target } => name = target.clone(),
            }
        }
        None
    }
}

/// A stretch of the archive.
pub(super) struct Section {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..want], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

fn refuse_compressed(file: &File) -> Result<()> {
    let mut magic = [0; 4];
    let count = file.read_at(&mut magic, 0).context("read image archive")?;
    let name = match &magic[..count] {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "zstd",
        [b'B', b'Z', b'h', _] => "bzip2",
        [0xfd, b'7', b'z', b'X'] => "xz",
        _ => return Ok(()),
    };
    bail!("image archive is compressed ({name}): decompress it first")
}

fn table(file: &File, length: u64) -> Result<BTreeMap<String, Member>> {
    let mut parser = Parser::new(Limits::default());
    let mut members = BTreeMap::new();
    let mut buffer = vec![0; 16 << 10];
    let mut position = 0;
    loop {
        let filled = read_at(file, &mut buffer, position)?;
        match parser.parse(&buffer[..filled])? {
            ParseEvent::NeedData { .. } if filled == 0 => return Ok(members),
            ParseEvent::NeedData { .. } if filled < buffer.len() => bail!("archive is truncated"),
            ParseEvent::NeedData { min_bytes } => {
                ensure!(
                    min_bytes <= MAX_HEADER,
                    "archive has a header of {min_bytes} bytes"
                );
                buffer.resize(min_bytes.max(buffer.len() * 2), 0);
            }
            ParseEvent::GlobalExtensions { consumed, .. } => position += consumed as u64,
            ParseEvent::SparseEntry { .. } => bail!("archive has a sparse member"),
            ParseEvent::End { .. } => return Ok(members),
            ParseEvent::Entry { consumed, entry } => {
                position += consumed as u64;
                let end = position
                    .checked_add(entry.size)
                    .filter(|end| *end <= length);
                ensure!(
                    end.is_some(),
                    "archive is truncated in {:?}",
                    entry.path_lossy()
                );
                if let Some((name, member)) = member(&entry, position) {
                    members.insert(name, member);
                }
                ensure!(
                    members.len() <= MAX_MEMBERS,
                    "archive has more than {MAX_MEMBERS} members"
                );
                position += entry.padded_size();
            }
        }
    }
}

/// A file, or a link resolved to the name of a file; other members and odd names are of no use to an image.
fn member(entry: &ParsedEntry<'_>, offset: u64) -> Option<(String, Member)> {
    let name = normal(&entry.path)?;
    if entry.is_file() {
        return Some((
            name,
            Member::File {
                offset,
                size: entry.size,
            },
        ));
    }
    let target = entry.link_target.as_deref()?;
    let target = match entry.is_symlink() {
        true => normal(
            &[
                name.rsplit_once('/')
                    .map_or("", |(folder, _)| folder)
                    .as_bytes(),
                b"/",
                target,
            ]
            .concat(),
        )?,
        false => normal(target)?,
    };
    Some((name, Member::Link { target }))
}

/// A name without empty, `.` and `..` parts; `None` when it leaves the archive or is not text.
fn normal(name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    for part in std::str::from_utf8(name).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn read_at(file: &File, buffer: &mut [u8], position: u64) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], position + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
