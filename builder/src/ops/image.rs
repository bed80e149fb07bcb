//! Layers of a chain brought into the store: fetched, verified and extracted when a step must run on them, not before.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lapstrake_cache::Store;
use tokio::runtime::Handle;

use super::{Ops, key_of};
use crate::belief::Mistaken;
use crate::compress::{decompress, most};
use crate::engine::{Executor as _, Task};
use crate::events::Step;
use crate::fetch::fetch_blob;
use crate::fs::{Chain, ChainLayer, PulledLayer};
use crate::parallel;
use crate::registry::Client;
use crate::travel::Elsewhere;
use crate::trees::Trees;

/// Registries throttle clients that open more.
const DOWNLOADS: usize = 4;

impl Ops {
    /// The directories of all layers of `chain`, lowest first. Missing layers are fetched, once it is known that they are
    /// those of the images that names stand for.
    pub(super) fn materialise(&self, task: &Task, chain: &Chain) -> Result<Vec<PathBuf>> {
        ensure!(self.is_right(), Mistaken);
        materialise(
            &self.trees,
            &self.client,
            &self.tokio,
            &self.events.of(task),
            &self.elsewhere,
            chain,
        )
    }
}

/// The directories of all layers of `chain`, lowest first. Missing layers are fetched, several at once. On return every
/// layer that a cache elsewhere spoke of is what it said.
///
/// # Errors
/// With [`crate::travel::Lost`] when such a layer is not, or cannot be had.
pub(crate) fn materialise(
    trees: &Trees,
    client: &Client,
    tokio: &Handle,
    step: &Step,
    elsewhere: &Elsewhere,
    chain: &Chain,
) -> Result<Vec<PathBuf>> {
    let store = &trees.store;
    let mut missing = Vec::new();
    for layer in &chain.layers {
        let is_built = matches!(layer, ChainLayer::Built(_));
        if !is_built && store.layer(&layer.diff_id())?.is_none() {
            missing.push(layer);
        }
    }
    parallel::map(&missing, DOWNLOADS, |layer| match layer {
        ChainLayer::Built(_) => Ok(()),
        ChainLayer::Pulled(layer) => bring(store, client, tokio, step, layer),
        ChainLayer::Imported(layer) => {
            let brought = match &layer.blob {
                Some(blob) => bring(store, client, tokio, step, blob),
                None => Err(anyhow::anyhow!("the cache does not hold it")),
            };
            // All that are lost are found before the steps are worked again.
            if let Err(error) = brought {
                elsewhere.lose(layer, &error);
            }
            Ok(())
        }
    })?;
    elsewhere.verify(store, chain)?;
    trees.prepare()?;
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
        .extract_within(tar, diff_id, most(descriptor.size))
        .with_context(|| format!("extract layer {}", descriptor.digest))?;
    step.status(&item, descriptor.size, Some(descriptor.size), true);
    Ok(())
}
