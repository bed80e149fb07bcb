//! Cache mounts that travel: what they hold, as a layer, under a key of the mount's id, mode and owner.
//!
//! Mounts that a step fills from a stage (`from=`) stay at home: they are made again where they are empty.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use lapstrake_cache::{CacheMount, Encoder, Hasher, HashingReader, Key, Unpack, unpack_archive};
use lapstrake_frontend::plan::{Mount as PlanMount, Op};
use rustix::fs::{Mode, OFlags};

use super::Place;
use super::index::MountEntry;
use crate::compress::{compress, decompress};
use crate::events::Step;
use crate::fetch::fetch_blob;
use crate::fs::PulledLayer;
use crate::oci::Descriptor;
use crate::ops::{Ops, identity};
use crate::pack::{Blob, BlobContent, Packing, kind, layer_type};
use crate::progress::text;
use crate::sink::Outlet;

/// Which cache mounts travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mounts {
    All,
    /// Those with these ids, as they are in the plan: with the namespace in front (`NS/ID`) where there is one.
    Ids(Vec<String>),
}

impl Mounts {
    pub(super) fn contain(&self, mount: &Mount) -> bool {
        match self {
            Self::All => true,
            Self::Ids(ids) => ids.iter().any(|id| id == shown(&mount.id)),
        }
    }
}

/// A cache mount of some step.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mount {
    id: String,
    /// What the store calls it.
    identity: String,
}

/// A mount's id as its user writes it: without a namespace there is only a slash in front.
fn shown(id: &str) -> &str {
    id.strip_prefix('/').unwrap_or(id)
}

/// The cache mounts of steps, each once.
pub(crate) fn mounts<'a>(ops: impl Iterator<Item = &'a Op>) -> Vec<Mount> {
    let of_op = |op: &'a Op| match op {
        Op::Run(run) => run.mounts.as_slice(),
        _ => &[],
    };
    let mount = |mount: &PlanMount| match mount {
        PlanMount::Cache { id, from: None, .. } => Some(Mount {
            id: id.clone(),
            identity: identity(mount, None),
        }),
        _ => None,
    };
    let found: BTreeSet<Mount> = ops.flat_map(of_op).filter_map(mount).collect();
    found.into_iter().collect()
}

fn key(identity: &str) -> Key {
    let mut hasher = Hasher::new();
    hasher.text("kind", "cache mount");
    hasher.text("identity", identity);
    hasher.finish()
}

impl Mount {
    /// Brings what the mount holds to `place`; where it holds nothing, what it was to be filled with. A mount that changes
    /// while it is read stays at home.
    pub(super) fn export(
        &self,
        outlet: &Outlet,
        step: &Step,
        place: &Place,
        packing: &Packing,
    ) -> Result<Option<MountEntry>> {
        let key = key(&self.identity);
        let leave = |error: anyhow::Error| {
            let why = text::causes(&error);
            outlet.events.message(format!(
                "cache mount {:?} is not exported: {why}",
                shown(&self.id)
            ));
            Ok(None)
        };
        let found = outlet.store.find_cache_mount(&self.identity)?;
        let (diff_id, blob) = match found {
            Some(mount) if !mount.is_empty()? => match pack(outlet, &mount, packing) {
                Ok(packed) => packed,
                Err(error) => return leave(error),
            },
            _ => match outlet.elsewhere.mount(&key) {
                None => return Ok(None),
                Some(layer) => match again(outlet, step, layer) {
                    Ok(blob) => (layer.diff_id, blob),
                    Err(error) => return leave(error),
                },
            },
        };
        place.put(outlet, step, &blob)?;
        let blob = blob.descriptor;
        Ok(Some(MountEntry { key, diff_id, blob }))
    }
}

/// The mount as a blob of the store.
fn pack(
    outlet: &Outlet,
    mount: &CacheMount,
    packing: &Packing,
) -> Result<(lapstrake_cache::DiffId, Blob)> {
    let mut blob = outlet.store.ingest()?;
    let mut diff_id = None;
    compress(packing.compression, &mut blob, |out| {
        diff_id = Some(mount.write_tar(out)?);
        Ok(())
    })?;
    let (digest, size) = blob.commit()?;
    let media_type = layer_type(kind(packing.compression), packing.flavour);
    let blob = Blob {
        descriptor: Descriptor::new(media_type, digest, size),
        content: BlobContent::Stored,
    };
    Ok((diff_id.context("the mount was not read")?, blob))
}

/// A mount of another cache, to travel on.
fn again(outlet: &Outlet, step: &Step, layer: &PulledLayer) -> Result<Blob> {
    let Outlet {
        store,
        client,
        tokio,
        ..
    } = outlet;
    fetch_blob(store, client, tokio, step, &layer.descriptor, &layer.origin)?;
    Ok(Blob {
        descriptor: layer.descriptor.clone(),
        content: BlobContent::Stored,
    })
}

/// Fills an empty cache mount with what a cache elsewhere has for it. When that cannot be had the mount stays empty.
pub(crate) fn fill(ops: &Ops, step: &Step, identity: &str, mount: &CacheMount) -> Result<()> {
    let Some(layer) = ops.elsewhere.mount(&key(identity)) else {
        return Ok(());
    };
    if let Err(error) = unpack(ops, step, layer, mount) {
        let id = shown(identity.split('\0').next().unwrap_or_default());
        ops.events.message(format!(
            "cache mount {id:?} starts empty: {}",
            text::causes(&error)
        ));
        mount.clear()?;
    }
    Ok(())
}

fn unpack(ops: &Ops, step: &Step, layer: &PulledLayer, mount: &CacheMount) -> Result<()> {
    let PulledLayer {
        diff_id,
        descriptor,
        origin,
    } = layer;
    fetch_blob(
        &ops.store,
        &ops.client,
        &ops.tokio,
        step,
        descriptor,
        origin,
    )?;
    let blob = ops.store.open_blob(&descriptor.digest)?;
    let mut tar = HashingReader::new(decompress(blob.context("find it in the store")?)?);
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(mount.path(), flags, Mode::empty())?;
    unpack_archive(&mut tar, folder.as_fd(), &Unpack::default())?;
    // What follows the archive's end counts too.
    std::io::copy(&mut tar, &mut std::io::sink())?;
    let found = tar.digest();
    ensure!(
        found == diff_id.0,
        "it holds {found}, not {diff_id} as the cache says"
    );
    Ok(())
}
