//! The file system that an op yields, as data: nothing is mounted and nothing needs to be downloaded to speak of one.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use lapstrake_cache::{Content, DiffId, Encoder, Hasher, Key, Layer};
use lapstrake_frontend::image::ImageRef;

use crate::context::LocalContext;
use crate::oci::Descriptor;
use crate::travel::Objects;

/// The result of an op.
#[derive(Debug, Clone)]
pub(crate) enum Fs {
    /// A stack of layers.
    Layers(Chain),
    /// A local directory that is read where it lies.
    Local(Arc<LocalContext>),
}

/// Layers, lowest first, and the identity of what they make together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chain {
    /// Lowest first.
    pub(crate) layers: Vec<ChainLayer>,
}

/// One layer of a chain.
#[derive(Debug, Clone)]
pub(crate) enum ChainLayer {
    /// Made here: always in the store.
    Built(Built),
    /// Of an image: perhaps not in the store yet.
    Pulled(Arc<PulledLayer>),
    /// Made elsewhere, as a cache says: perhaps not in the store yet.
    Imported(Arc<Imported>),
}

/// A layer that a step made.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    pub(crate) layer: Layer,
    /// When it was made, as RFC 3339 says; kept when the step is cached.
    pub(crate) created: String,
    /// The keys that lead to it; a context that is used as a base has none.
    pub(crate) keys: Option<Keys>,
}

/// The keys of a step's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keys {
    /// Of the step and all that it reads.
    pub(crate) step: Key,
    /// Of the step, its base and what it made of that: for early cutoff.
    pub(crate) result: Key,
}

/// A layer that a cache outside the store speaks of. What it says of the layer is believed in this build only, and checked
/// as soon as the layer is read: see [`crate::travel`].
#[derive(Debug, Clone)]
pub(crate) struct Imported {
    pub(crate) diff_id: DiffId,
    pub(crate) content: Content,
    pub(crate) created: String,
    pub(crate) keys: Keys,
    /// Where its blob can be had; none where the cache knows of the layer and does not hold it.
    pub(crate) blob: Option<Arc<PulledLayer>>,
    /// Which of the build's caches speaks of it.
    pub(crate) cache: usize,
}

/// A layer of a base image.
#[derive(Debug, Clone)]
pub(crate) struct PulledLayer {
    /// From the image's config; verified when the layer is extracted.
    pub(crate) diff_id: DiffId,
    /// The blob, from the image's manifest.
    pub(crate) descriptor: Descriptor,
    /// Where the blob can be had.
    pub(crate) origin: Origin,
}

impl PulledLayer {
    /// `diff_id` is text of the image's config.
    pub(crate) fn new(diff_id: &str, descriptor: &Descriptor, origin: &Origin) -> Result<Self> {
        let diff_id = diff_id.parse();
        Ok(Self {
            diff_id: DiffId(diff_id.context("read a diff id of the image's config")?),
            descriptor: descriptor.clone(),
            origin: origin.clone(),
        })
    }
}

/// Where the blobs of an image are.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// In the store.
    Store,
    /// In a registry.
    Registry(ImageRef),
    /// In an OCI layout directory.
    Layout(PathBuf),
    /// In a cache that keeps objects.
    Objects(Arc<Objects>),
}

impl ChainLayer {
    pub(crate) fn diff_id(&self) -> DiffId {
        match self {
            Self::Built(built) => built.layer.diff_id,
            Self::Pulled(layer) => layer.diff_id,
            Self::Imported(layer) => layer.diff_id,
        }
    }

    /// When a step made it; of layers of base images that is not known.
    pub(crate) fn created(&self) -> Option<&str> {
        match self {
            Self::Built(built) => Some(&built.created),
            Self::Imported(layer) => Some(&layer.created),
            Self::Pulled(_) => None,
        }
    }
}

impl Chain {
    /// The diff ids of all layers, as an image's config lists them.
    pub(crate) fn diff_ids(&self) -> Vec<String> {
        let ids = self.layers.iter().map(ChainLayer::diff_id);
        ids.map(|id| id.0.to_string()).collect()
    }

    /// This chain with one more layer on top.
    pub(crate) fn with(&self, layer: ChainLayer) -> Self {
        let mut layers = self.layers.clone();
        layers.push(layer);
        Self { layers }
    }

    /// The layers to mount, lowest first: of equal ones only the uppermost, which covers the others whole. overlayfs
    /// refuses the same directory twice.
    pub(crate) fn distinct(&self) -> impl Iterator<Item = DiffId> {
        let ids: Vec<DiffId> = self.layers.iter().map(ChainLayer::diff_id).collect();
        let covered: Vec<bool> = (0..ids.len())
            .map(|at| ids[at + 1..].contains(&ids[at]))
            .collect();
        ids.into_iter()
            .zip(covered)
            .filter(|(_, covered)| !covered)
            .map(|(id, _)| id)
    }

    /// What the file system contains, times aside: the identity that keys are made of. A step's layer counts by its
    /// content, one of an image by its diff id, because that is known without downloading it.
    pub(crate) fn content(&self) -> Content {
        let mut hasher = Hasher::new();
        hasher.text("kind", "chain");
        for layer in &self.layers {
            match layer {
                ChainLayer::Built(built) => hasher.field("content", &built.layer.content.0),
                ChainLayer::Imported(layer) => hasher.field("content", &layer.content.0),
                ChainLayer::Pulled(layer) => hasher.field("diff id", layer.diff_id.0.as_bytes()),
            }
        }
        Content(hasher.finish().0)
    }
}
