//! A build's keys and layers, brought to where other machines find them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use lapstrake_cache::{DiffId, Key};

use super::Elsewhere;
use super::Place;
use super::index::{Index, LayerEntry, MountEntry, StepEntry};
use super::mounts::{Mount, Mounts};
use crate::fs::{Chain, ChainLayer, Fs, Keys};
use crate::oci::{Descriptor, media};
use crate::pack::{Flavour, Packing, layer_blob};
use crate::parallel;
use crate::progress::text;
use crate::sink::Outlet;

/// Layers that are looked for or sent at once.
const UPLOADS: usize = 8;

/// Whose layers a cache holds. The keys of all steps are in it either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Those of the result.
    Min,
    /// Those of every step.
    Max,
}

/// One `--cache-to`.
#[derive(Debug, Clone)]
pub(crate) struct Export {
    pub(crate) place: Place,
    pub(crate) mode: Mode,
    pub(crate) packing: Packing,
    pub(crate) ignore_error: bool,
    /// The cache mounts whose contents travel.
    pub(crate) mounts: Mounts,
    /// Layers that this build has brought there.
    pub(crate) sent: Arc<Mutex<HashMap<DiffId, Descriptor>>>,
}

impl Export {
    /// Brings a layer there before the build has ended. Whether that went well is seen when the cache is exported.
    pub(crate) fn ahead(&self, outlet: &Outlet, layer: &ChainLayer) {
        let _ = self.put(outlet, &outlet.events.unseen(), layer);
    }

    /// Exports. `results` are what all ops of the build yielded, in their order; `images` are those that it was for;
    /// `mounts` the cache mounts of all steps.
    pub(crate) fn emit(
        &self,
        outlet: &Outlet,
        results: &[&Fs],
        images: &[&Chain],
        mounts: &[Mount],
    ) -> Result<()> {
        let title = format!("exporting cache to {}", self.place.kind());
        let step = outlet.events.begin(&title);
        let exported = self
            .write(outlet, &step, results, images, mounts)
            .with_context(|| format!("export the cache to {}", self.place.name()));
        if let (Err(error), true) = (&exported, self.ignore_error) {
            outlet
                .events
                .message(format!("{}, which is ignored", text::causes(error)));
            return step.end(Ok(()));
        }
        step.end(exported)
    }

    fn write(
        &self,
        outlet: &Outlet,
        step: &crate::events::Step,
        results: &[&Fs],
        images: &[&Chain],
        mounts: &[Mount],
    ) -> Result<()> {
        let mut found = Found::new(results);
        let held: BTreeSet<DiffId> = match self.mode {
            Mode::Max => found
                .layers
                .iter()
                .map(|(layer, _)| layer.diff_id())
                .collect(),
            Mode::Min => images
                .iter()
                .flat_map(|chain| chain.layers.iter().map(ChainLayer::diff_id))
                .collect(),
        };
        let mut wanted: Vec<&mut (&ChainLayer, Option<Descriptor>)> = found
            .layers
            .iter_mut()
            .filter(|(layer, _)| held.contains(&layer.diff_id()))
            .collect();
        let put = parallel::map(&wanted, UPLOADS, |(layer, _)| self.put(outlet, step, layer))?;
        for (layer, blob) in wanted.iter_mut().zip(put) {
            layer.1 = blob;
        }
        let chosen = mounts.iter().filter(|mount| self.mounts.contain(mount));
        let mut mounts = Vec::new();
        for mount in chosen {
            mounts.extend(mount.export(outlet, step, &self.place, &self.packing)?);
        }
        let of_mounts = mounts.iter().map(|mount| mount.blob.clone());
        let layers = found.layers.iter().filter_map(|(_, blob)| blob.clone());
        let layers = layers.chain(of_mounts).collect();
        let index = found.index(&outlet.elsewhere, mounts).to_bytes()?;
        let manifest_type = match self.packing.flavour {
            Flavour::Oci => media::OCI_MANIFEST,
            Flavour::Docker => media::DOCKER_MANIFEST,
        };
        self.place
            .finish(outlet, step, index, layers, manifest_type)
    }

    /// Brings a layer there. A layer that another cache spoke of and does not have any more is no failure.
    fn put(
        &self,
        outlet: &Outlet,
        step: &crate::events::Step,
        layer: &ChainLayer,
    ) -> Result<Option<Descriptor>> {
        let sent = || self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(descriptor) = sent().get(&layer.diff_id()) {
            return Ok(Some(descriptor.clone()));
        }
        let put = || {
            crate::sink::bring_if_changed(outlet, step, layer, &self.packing)?;
            let blob = layer_blob(&outlet.store, layer, &self.packing)?;
            self.place.put(outlet, step, &blob)?;
            Ok(blob.descriptor)
        };
        match (put(), layer) {
            (Ok(descriptor), _) => {
                sent().insert(layer.diff_id(), descriptor.clone());
                Ok(Some(descriptor))
            }
            (Err(error), ChainLayer::Imported(layer)) if super::Lost::is(&error) => {
                outlet.elsewhere.lose(layer, &error);
                Ok(None)
            }
            (Err(error), _) => Err(error),
        }
    }
}

/// The index for the config of the image: the keys of all steps, whose layers are the image's or nowhere.
pub(crate) fn inline(elsewhere: &Elsewhere, results: &[&Fs]) -> Result<serde_json::Value> {
    let index = Found::new(results).index(elsewhere, Vec::new());
    serde_json::to_value(&index).context("write the cache of the image")
}

/// The index of an image's config again, for an image whose layers have new names and whose times `created` changes.
pub(crate) fn rename_inline(
    index: serde_json::Value,
    names: &HashMap<DiffId, DiffId>,
    created: impl Fn(&str) -> String,
) -> Result<serde_json::Value> {
    let mut index: Index = serde_json::from_value(index).context("read the cache of the image")?;
    index.rename(names, created);
    serde_json::to_value(&index).context("write the cache of the image")
}

/// What a build came to: steps by their keys, and the layers, each once.
struct Found<'a> {
    layers: Vec<(&'a ChainLayer, Option<Descriptor>)>,
    steps: Vec<(Keys, usize)>,
}

impl<'a> Found<'a> {
    fn new(results: &[&'a Fs]) -> Self {
        let mut places: HashMap<DiffId, usize> = HashMap::new();
        let mut known: BTreeSet<Key> = BTreeSet::new();
        let mut found = Self {
            layers: Vec::new(),
            steps: Vec::new(),
        };
        for result in results {
            let Fs::Layers(chain) = result else { continue };
            let Some(layer) = chain.layers.last() else {
                continue;
            };
            let Some(keys) = keys(layer).filter(|keys| known.insert(keys.step)) else {
                continue;
            };
            let place = *places.entry(layer.diff_id()).or_insert_with(|| {
                found.layers.push((layer, None));
                found.layers.len() - 1
            });
            found.steps.push((keys, place));
        }
        found
    }

    fn index(&self, elsewhere: &Elsewhere, mounts: Vec<MountEntry>) -> Index {
        let layer = |(layer, blob): &(&ChainLayer, Option<Descriptor>)| {
            Some(LayerEntry {
                diff_id: layer.diff_id(),
                content: content(layer)?,
                blob: blob.clone(),
            })
        };
        let step = |(keys, place): &(Keys, usize)| {
            let (layer, _) = self.layers[*place];
            Some(StepEntry {
                key: keys.step,
                result: keys.result,
                layer: *place,
                created: layer.created()?.to_owned(),
            })
        };
        Index::new(
            self.layers.iter().filter_map(layer).collect(),
            self.steps.iter().filter_map(step).collect(),
            elsewhere.selections().into_iter().collect(),
            mounts,
        )
    }
}

fn keys(layer: &ChainLayer) -> Option<Keys> {
    match layer {
        ChainLayer::Built(built) => built.keys,
        ChainLayer::Imported(layer) => Some(layer.keys),
        ChainLayer::Pulled(_) => None,
    }
}

fn content(layer: &ChainLayer) -> Option<lapstrake_cache::Content> {
    match layer {
        ChainLayer::Built(built) => Some(built.layer.content),
        ChainLayer::Imported(layer) => Some(layer.content),
        ChainLayer::Pulled(_) => None,
    }
}
