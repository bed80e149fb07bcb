//! A large copy that is made again after a few files changed: files that are as they were are linked to the layer that the
//! same copy made last time, instead of being written again. Making a file costs several times as much as linking one.
//!
//! Only the same path in a layer of the same copy is linked, so that of two layers with the same file never more than one
//! shows: no container sees the link. A committed layer is never written, so the file cannot change under either.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use lapstrake_cache::{Attributes, Content, DiffId, Encoder, Key, Meta};
use lapstrake_frontend::plan::{Copy, CopySource};
use rustix::fs::{self, AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::canvas::open_directory;
use crate::ops::{Ops, hasher, key};

/// Smaller copies are made faster than this pays.
const WORTHWHILE: usize = 512;

/// What a copy made last time.
pub(crate) struct Earlier {
    layer: OwnedFd,
    files: HashMap<PathBuf, Content>,
}

/// The same in the store.
#[derive(Serialize, Deserialize)]
struct Record {
    diff_id: DiffId,
    /// In base64, of each file its path, a NUL, and its digest: there may be very many.
    files: String,
}

fn pack(files: &[(PathBuf, Content)]) -> String {
    let mut bytes = Vec::with_capacity(files.len() * 64);
    for (path, content) in files {
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&content.0);
    }
    STANDARD_NO_PAD.encode(bytes)
}

/// None if that is not what [`pack`] writes.
fn unpack(packed: &str) -> Option<HashMap<PathBuf, Content>> {
    let bytes = STANDARD_NO_PAD.decode(packed).ok()?;
    let mut rest = bytes.as_slice();
    let mut files = HashMap::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0)?;
        let (digest, next) = rest.get(end + 1..)?.split_first_chunk()?;
        files.insert(
            PathBuf::from(OsStr::from_bytes(&rest[..end])),
            Content(*digest),
        );
        rest = next;
    }
    Some(files)
}

/// The files that a copy placed, with their digests.
#[derive(Default)]
pub(crate) struct Placed(pub(super) Vec<(PathBuf, Content)>);

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
    pub(super) fn find(ops: &Ops, lineage: &Key) -> Result<Option<Self>> {
        let Some(record) = ops.store.record::<Record>(lineage)? else {
            return Ok(None);
        };
        if ops.store.layer(&record.diff_id)?.is_none() {
            return Ok(None);
        }
        let path = ops.store.layer_dir(&record.diff_id);
        let layer = fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let files = unpack(&record.files).unwrap_or_default();
        Ok(Some(Self { layer, files }))
    }

    /// The directory of the earlier layer at `path`, if it has one.
    pub(super) fn directory(&self, path: &Path) -> Option<OwnedFd> {
        open_directory(self.layer.as_fd(), path).ok()
    }

    /// Links the file `name` of `from`, which is `path` in the earlier layer, to `to`, if it is the file that would be
    /// written. False when it is not, or cannot be linked.
    pub(super) fn link(
        &self,
        path: &Path,
        content: &Content,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        wanted: &Attributes<'_>,
    ) -> bool {
        if self.files.get(path) != Some(content) {
            return false;
        }
        let is_same = |stat: &fs::Stat| {
            let Meta {
                mode,
                uid,
                gid,
                mtime,
                ..
            } = Meta::from(stat);
            (mode, uid, gid, Some(mtime)) == (wanted.mode, wanted.uid, wanted.gid, wanted.mtime)
        };
        fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| is_same(&stat))
            && fs::linkat(from, name, to, name, AtFlags::empty()).is_ok()
    }
}

impl Placed {
    /// Keeps what was placed for the next time.
    pub(super) fn remember(self, ops: &Ops, lineage: &Key, diff_id: DiffId) -> Result<()> {
        if self.0.len() < WORTHWHILE {
            return Ok(());
        }
        let files = pack(&self.0);
        Ok(ops.store.put_record(lineage, &Record { diff_id, files })?)
    }
}
