//! A large copy that is made again after a few files changed: files that are as they were are taken from the layer that the
//! same copy made last time. Mostly that layer is amended, so that they show through and nothing is done for them at all;
//! where it cannot be, they are linked. Making a file costs several times as much as linking one.
//!
//! Only the same path in a layer of the same copy is taken, so that of two layers with the same file never more than one
//! shows: no container sees the link. A committed layer is never written, so the file cannot change under either.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use lapstrake_cache::{Attributes, ChainId, Content, DiffId, Encoder, Key, Time};
use lapstrake_frontend::plan::{Copy, CopySource};
use rustix::fs::{self, AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::canvas::open_directory;
use crate::fs::Chain;
use crate::ops::{Ops, hasher, key};

/// Smaller copies are made faster than this pays.
const WORTHWHILE: usize = 512;
/// A layer is amended as long as it has this many times the files that are not taken from it. What has changed since is
/// placed again each time.
const AMENDABLE: usize = 4;

/// A digest of all that makes a file what it is: its content, its attributes and its time.
pub(super) type Stamp = [u8; 32];

/// Of files that are placed anew each time, and of all that is no file.
const NO_STAMP: Stamp = [0; 32];

/// The stamp of a file with this content that is placed with these attributes.
pub(super) fn stamp(content: &Content, attributes: &Attributes<'_>) -> Stamp {
    let Attributes {
        mode,
        uid,
        gid,
        mtime,
        // Those of a file are part of its content.
        xattrs: _,
    } = *attributes;
    let Time { secs, nanos } = mtime.unwrap_or(Time::ANY);
    let mut bytes = [0; 24];
    for (at, number) in [mode, uid, gid, nanos].iter().enumerate() {
        bytes[4 * at..][..4].copy_from_slice(&number.to_le_bytes());
    }
    bytes[16..].copy_from_slice(&secs.to_le_bytes());
    let mut hasher = hasher("file");
    hasher.field("content", &content.0);
    hasher.field("attributes", &bytes);
    hasher.finish().0
}

/// Something that a copy places: where, and its stamp if it is a file that can be taken again.
pub(super) struct Spot {
    pub(super) path: PathBuf,
    pub(super) stamp: Option<Stamp>,
}

/// What a copy is placed on, and whether all that it places comes to be known as [`Spot`]s.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ground {
    base: Option<ChainId>,
    is_all_known: bool,
}

impl Ground {
    /// The ground of a copy onto `base`, if it sees it; `is_alone` says that it places one directory and nothing else.
    pub(super) fn new(base: Option<&Chain>, is_alone: bool) -> Self {
        let layers: Vec<DiffId> = base.into_iter().flat_map(Chain::distinct).collect();
        Self {
            base: ChainId::of(&layers),
            is_all_known: is_alone,
        }
    }
}

/// What a copy made last time.
pub(crate) struct Earlier {
    /// The layer that can be amended, and its folder.
    layer: DiffId,
    below: OwnedFd,
    /// If the copy amended that layer last time: what differed from it.
    above: Option<OwnedFd>,
    /// Whether that was on the same ground, so that the layer may be amended.
    is_comparable: bool,
    files: HashMap<PathBuf, Stamp>,
}

/// The same in the store.
#[derive(Serialize, Deserialize)]
struct Record {
    diff_id: DiffId,
    ground: Ground,
    /// In base64, of each thing its path, a NUL, and its stamp: there may be very many.
    files: String,
}

fn pack(spots: &[Spot]) -> String {
    let mut bytes = Vec::with_capacity(spots.len() * 64);
    for Spot { path, stamp } in spots {
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&stamp.unwrap_or(NO_STAMP));
    }
    STANDARD_NO_PAD.encode(bytes)
}

/// None if that is not what [`pack`] writes.
fn unpack(packed: &str) -> Option<HashMap<PathBuf, Stamp>> {
    let bytes = STANDARD_NO_PAD.decode(packed).ok()?;
    let mut rest = bytes.as_slice();
    let mut files = HashMap::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0)?;
        let (stamp, next) = rest.get(end + 1..)?.split_first_chunk()?;
        files.insert(PathBuf::from(OsStr::from_bytes(&rest[..end])), *stamp);
        rest = next;
    }
    Some(files)
}

/// Names a copy by all but what it finds in the context.
pub(super) fn lineage(op: &Copy, context: &[u8; 32]) -> Key {
    let mut hasher = hasher("copy lineage");
    hasher.field("context", context);
    key::copy(&mut hasher, op, None, Content([0; 32]));
    for source in &op.sources {
        if let CopySource::Path { pattern, .. } = source {
            hasher.text("pattern", pattern);
        }
    }
    hasher.finish()
}

impl Earlier {
    /// What the copy `lineage` made last time, if that is known and still there.
    pub(super) fn find(ops: &Ops, lineage: &Key, ground: Ground) -> Result<Option<Self>> {
        let Some(record) = ops.store.record::<Record>(lineage)? else {
            return Ok(None);
        };
        let Some(layer) = ops.store.amendable(&record.diff_id)? else {
            return Ok(None);
        };
        let Some(files) = unpack(&record.files) else {
            return Ok(None);
        };
        let open = |layer: &DiffId| {
            let path = ops.store.layer_dir(layer);
            fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        };
        let is_amendment = layer != record.diff_id;
        Ok(Some(Self {
            layer,
            below: open(&layer)?,
            above: is_amendment.then(|| open(&record.diff_id)).transpose()?,
            is_comparable: record.ground == ground && ground.is_all_known,
            files,
        }))
    }

    /// The same for a copy that cannot amend.
    pub(super) fn without_amending(self) -> Self {
        Self {
            is_comparable: false,
            ..self
        }
    }

    /// Whether the file is as it was.
    pub(super) fn has(&self, spot: &Spot) -> bool {
        spot.stamp.is_some() && self.files.get(&spot.path) == spot.stamp.as_ref()
    }

    /// The layer to amend when `spots` are placed, if that can be done. Nothing that was there may be gone: what would hide
    /// it in the amended layer would hide it in the base too.
    pub(super) fn amendable(&self, spots: &[Spot]) -> Option<DiffId> {
        let (mut known, mut files, mut same) = (0, 0, 0);
        for spot in spots {
            known += usize::from(self.files.contains_key(&spot.path));
            files += usize::from(spot.stamp.is_some());
            same += usize::from(self.has(spot));
        }
        let is_complete = known == self.files.len();
        let is_alike = (files - same) * AMENDABLE <= same;
        (self.is_comparable && is_complete && is_alike).then_some(self.layer)
    }

    /// What was made at the directory `path`; `is_amending` says that the layer is amended now.
    pub(super) fn directory(&self, path: &Path, is_amending: bool) -> Result<Directory<'_>> {
        let open = |root: &OwnedFd| open_directory(root.as_fd(), path).ok();
        let above = match self.above.as_ref().and_then(open) {
            Some(fd) => Some((names(&fd)?, fd)),
            None => None,
        };
        Ok(Directory {
            earlier: self,
            above,
            below: (!is_amending).then(|| open(&self.below)).flatten(),
            is_amending,
        })
    }
}

/// A directory of what was made last time.
pub(super) struct Directory<'a> {
    earlier: &'a Earlier,
    above: Option<(HashSet<OsString>, OwnedFd)>,
    /// Where files are linked from that would not show through.
    below: Option<OwnedFd>,
    is_amending: bool,
}

impl Directory<'_> {
    /// Whether the file is as it was and lies in the layer that is amended.
    pub(super) fn shows(&self, spot: &Spot) -> bool {
        self.is_amending && self.earlier.has(spot) && self.above(spot).is_none()
    }

    /// Links the file to `to` if it is as it was. False when it is not, or cannot be linked.
    pub(super) fn link(&self, spot: &Spot, to: BorrowedFd<'_>) -> bool {
        let Some(from) = self.above(spot).or(self.below.as_ref()) else {
            return false;
        };
        let name = spot.path.file_name().unwrap_or_default();
        self.earlier.has(spot) && fs::linkat(from, name, to, name, AtFlags::empty()).is_ok()
    }

    /// The directory that differs from the layer that can be amended, if the file is in it.
    fn above(&self, spot: &Spot) -> Option<&OwnedFd> {
        let (names, above) = self.above.as_ref()?;
        names.contains(spot.path.file_name()?).then_some(above)
    }
}

fn names(directory: &OwnedFd) -> Result<HashSet<OsString>> {
    let entries = fs::Dir::read_from(directory)?;
    entries
        .map(|entry| Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned()))
        .collect()
}

/// What a copy placed.
#[derive(Default)]
pub(crate) struct Placed {
    pub(super) spots: Vec<Spot>,
    /// The layer that holds what was not placed, because it holds it already.
    pub(super) amends: Option<DiffId>,
}

impl Placed {
    /// Keeps what was placed for the next time.
    pub(super) fn remember(
        self,
        ops: &Ops,
        lineage: &Key,
        ground: Ground,
        diff_id: DiffId,
    ) -> Result<()> {
        if self.spots.len() < WORTHWHILE {
            return Ok(());
        }
        let record = Record {
            diff_id,
            ground,
            files: pack(&self.spots),
        };
        Ok(ops.store.put_record(lineage, &record)?)
    }
}
