//! What a cache says: a document of keys.
//!
//! ```text
//! version     of this form; another one is not read
//! layers      diff id and content of each layer, and the descriptor of its blob where the cache holds it
//! steps       the key of a step, the key of its result, the layer, and when it was made
//! mounts      the diff id and the blob of what a cache mount held
//! selections  what a COPY from another stage selects, so that its key can be had without the files
//! ```
//!
//! In a registry or a layout it is the config of a manifest whose layers are the blobs. In an image it is a member of the
//! image's config ([`INLINE`]), without descriptors: the blobs are the image's layers.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lapstrake_cache::{Content, DiffId, Key};
use serde::{Deserialize, Serialize};

use super::Cache;
use crate::fs::{Imported, Keys, Origin, PulledLayer};
use crate::oci::manifest::MAX_DOCUMENT;
use crate::oci::{Descriptor, media};

/// The member of an image's config that holds the index.
pub(crate) const INLINE: &str = "lapstrake.cache.v1";

const VERSION: u32 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    version: u32,
    pub(super) layers: Vec<LayerEntry>,
    pub(super) steps: Vec<StepEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) selections: Vec<(Key, Content)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) mounts: Vec<MountEntry>,
}

/// What a cache mount held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MountEntry {
    /// Of the mount's id, mode and owner.
    pub(super) key: Key,
    pub(super) diff_id: DiffId,
    pub(super) blob: Descriptor,
}

/// A layer that steps came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerEntry {
    pub(super) diff_id: DiffId,
    pub(super) content: Content,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) blob: Option<Descriptor>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StepEntry {
    pub(super) key: Key,
    pub(super) result: Key,
    /// Its place in `layers`.
    pub(super) layer: usize,
    pub(super) created: String,
}

impl Index {
    pub(super) fn new(
        layers: Vec<LayerEntry>,
        steps: Vec<StepEntry>,
        selections: Vec<(Key, Content)>,
        mounts: Vec<MountEntry>,
    ) -> Self {
        Self {
            version: VERSION,
            layers,
            steps,
            selections,
            mounts,
        }
    }

    /// Reads an index, which anybody may have written.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(
            bytes.len() as u64 <= MAX_DOCUMENT,
            "its index is larger than {MAX_DOCUMENT} bytes"
        );
        let index: Self = serde_json::from_slice(bytes).context("read its index")?;
        ensure!(
            index.version == VERSION,
            "its index has version {}, not {VERSION}",
            index.version
        );
        let layers = index.layers.iter().filter_map(|layer| layer.blob.as_ref());
        for blob in layers.chain(index.mounts.iter().map(|mount| &mount.blob)) {
            ensure!(
                media::compression(&blob.media_type).is_some(),
                "it has a layer of type {:?}",
                blob.media_type
            );
        }
        for step in &index.steps {
            ensure!(
                step.layer < index.layers.len() && is_time(&step.created),
                "its index does not hold together"
            );
        }
        Ok(index)
    }

    /// The bytes to store.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self)?;
        ensure!(
            bytes.len() as u64 <= MAX_DOCUMENT,
            "the cache has too many keys: its index would be larger than {MAX_DOCUMENT} bytes"
        );
        Ok(bytes)
    }

    /// Gives each layer that is one of an image the blob that the image has for it.
    pub(super) fn fill(&mut self, blobs: &HashMap<DiffId, Descriptor>) {
        for layer in &mut self.layers {
            layer.blob = blobs.get(&layer.diff_id).cloned();
        }
    }

    /// Gives layers that were made again in another form, with the same content, the names that they have now, and steps
    /// the time that `created` makes of theirs.
    pub(super) fn rename(
        &mut self,
        names: &HashMap<DiffId, DiffId>,
        created: impl Fn(&str) -> String,
    ) {
        for layer in &mut self.layers {
            layer.diff_id = names.get(&layer.diff_id).copied().unwrap_or(layer.diff_id);
        }
        for step in &mut self.steps {
            step.created = created(&step.created);
        }
    }

    /// Adds what the index says to `cache`, the build's `number`th; the blobs are at `origin`.
    pub(super) fn add_to(self, cache: &mut Cache, number: usize, origin: &Origin) {
        let pulled = |diff_id: DiffId, blob: &Descriptor| {
            Arc::new(PulledLayer {
                diff_id,
                // Nothing else of the descriptor is for us: URLs least of all.
                descriptor: Descriptor::new(&blob.media_type, blob.digest, blob.size),
                origin: origin.clone(),
            })
        };
        let blob = |layer: &LayerEntry| Some(pulled(layer.diff_id, layer.blob.as_ref()?));
        let blobs: Vec<_> = self.layers.iter().map(blob).collect();
        let mounts = self.mounts.iter();
        cache
            .mounts
            .extend(mounts.map(|mount| (mount.key, pulled(mount.diff_id, &mount.blob))));
        for step in self.steps {
            let LayerEntry {
                diff_id, content, ..
            } = self.layers[step.layer];
            let keys = Keys {
                step: step.key,
                result: step.result,
            };
            let layer = Arc::new(Imported {
                diff_id,
                content,
                created: step.created,
                keys,
                blob: blobs[step.layer].clone(),
                cache: number,
            });
            cache
                .results
                .entry(keys.result)
                .or_insert_with(|| Arc::clone(&layer));
            cache.steps.entry(keys.step).or_insert(layer);
        }
        cache.selections.extend(self.selections);
    }
}

/// It becomes a part of image configs.
fn is_time(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_digit() || b"-T:.Z+".contains(&byte);
    (20..=35).contains(&text.len()) && text.bytes().all(is_part)
}
