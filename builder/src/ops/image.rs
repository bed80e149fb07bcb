//! Layers of a chain brought into the store: fetched, verified and extracted when a step must run on them, not before.

use std::path::PathBuf;

use anyhow::{Context, Result};
use lapstrake_cache::Store;
use tokio::runtime::Handle;

use super::{Ops, key_of};
use crate::compress::decompress;
use crate::engine::Task;
use crate::events::Step;
use crate::fetch::fetch_blob;
use crate::fs::{Chain, ChainLayer, PulledLayer};
use crate::parallel;
use crate::registry::Client;

/// Registries throttle clients that open more.
const DOWNLOADS: usize = 4;

impl Ops {
    /// The directories of all layers of `chain`, lowest first. Missing layers are fetched.
    pub(super) fn materialise(&self, task: &Task, chain: &Chain) -> Result<Vec<PathBuf>> {
        materialise(
            &self.store,
            &self.client,
            &self.tokio,
            &self.events.of(task),
            chain,
        )
    }
}

/// The directories of all layers of `chain`, lowest first. Missing layers are fetched, several at once.
pub(crate) fn materialise(
    store: &Store,
    client: &Client,
    tokio: &Handle,
    step: &Step,
    chain: &Chain,
) -> Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    for layer in &chain.layers {
        if let ChainLayer::Pulled(layer) = layer
            && store.layer(&layer.diff_id)?.is_none()
        {
            missing.push(layer.as_ref());
        }
    }
    parallel::map(&missing, DOWNLOADS, |layer| {
        bring(store, client, tokio, step, layer)
    })?;
    let layers: Vec<_> = chain.distinct().collect();
    Ok(store.lowers(&layers)?)
}

/// Brings one layer into the store. Of several builds that want it one works, the others wait.
fn bring(
    store: &Store,
    client: &Client,
    tokio: &Handle,
    step: &Step,
    layer: &PulledLayer,
) -> Result<()> {
    let PulledLayer {
        diff_id,
        descriptor,
        origin,
    } = layer;
    let _lock = store.lock_key(&key_of("extraction", &[diff_id.0.as_bytes()]), &mut || ())?;
    if store.layer(diff_id)?.is_some() {
        return Ok(());
    }
    fetch_blob(store, client, tokio, step, descriptor, origin)?;
    let blob = store.open_blob(&descriptor.digest)?;
    let blob = blob.with_context(|| format!("find layer {} in the store", descriptor.digest))?;
    let item = format!("extracting {}", descriptor.digest);
    step.status(&item, 0, None, false);
    let tar = decompress(blob)?;
    store
        .extract(tar, diff_id)
        .with_context(|| format!("extract layer {}", descriptor.digest))?;
    step.status(&item, descriptor.size, Some(descriptor.size), true);
    Ok(())
}
