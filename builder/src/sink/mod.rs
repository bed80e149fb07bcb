//! Where images go. Every sink has the same verb: it takes finished images and gives back what it made of them.

mod archive;
mod files;
pub(crate) mod registry;
mod store;
mod tarball;
mod times;
mod whole;

use std::path::PathBuf;

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use lapstrake_cache::{Digest, Store};
use lapstrake_frontend::image::{ImageRef, Platform};

pub(crate) use archive::write_blob;
pub(crate) use files::FilesTarget;
pub(crate) use times::Times;
pub(crate) use whole::write_whole;

use crate::annotations::Annotations;
use crate::assemble::Image;
use crate::events::{Events, Step};
use crate::fetch::fetch_blob;
use crate::fs::{ChainLayer, Imported, Origin};
use crate::oci::Descriptor;
use crate::pack::{Blob, BlobContent, Flavour, Packed, Packing, index, must_change, pack};
use crate::registry::Client;
use crate::travel::{Elsewhere, Lost};
use crate::trees::Trees;

/// What sinks work with.
#[derive(Clone)]
pub(crate) struct Outlet {
    pub(crate) store: Store,
    pub(crate) trees: Arc<Trees>,
    pub(crate) client: Client,
    pub(crate) events: Events,
    pub(crate) tokio: tokio::runtime::Handle,
    pub(crate) elsewhere: Arc<Elsewhere>,
}

/// One place where the images go.
#[derive(Debug, Clone)]
pub(crate) enum Sink {
    /// The local store, under the tags.
    Store {
        names: Vec<ImageRef>,
        annotations: Annotations,
    },
    /// An archive file, directory or stream with an OCI layout, and for `docker load` a Docker manifest beside it.
    Archive {
        format: Format,
        target: Target,
        names: Vec<ImageRef>,
        packing: Packing,
    },
    /// Registries, under the tags.
    Registry {
        names: Vec<ImageRef>,
        packing: Packing,
        by_digest: bool,
    },
    /// The files of the root file system.
    Files {
        target: FilesTarget,
        split: Option<bool>,
    },
    /// Nowhere: the build is for its cache.
    Nothing,
}

/// The archives that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Oci,
    Docker,
}

/// Where an archive is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    File(PathBuf),
    Directory(PathBuf),
    Stdout,
    /// `--load`: into the docker of this machine, through its command.
    Docker,
}

/// What a sink made.
#[derive(Debug, Clone)]
pub(crate) struct Emitted {
    /// The manifest, or the index where there are several images; files have none.
    pub(crate) descriptor: Option<Descriptor>,
    /// Docker's id of the first image.
    pub(crate) id: Option<Digest>,
}

/// A sink, and the times that what goes there has.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) sink: Sink,
    pub(crate) times: Times,
}

impl Output {
    /// The packing that layers can be prepared for while the build still runs, where SOURCE_DATE_EPOCH is `epoch`.
    pub(crate) fn packing(&self, epoch: Option<i64>) -> Option<&Packing> {
        match &self.sink {
            _ if self.times.rewrites(epoch) => None,
            Sink::Archive { packing, .. } | Sink::Registry { packing, .. } => Some(packing),
            Sink::Store { .. } | Sink::Files { .. } | Sink::Nothing => None,
        }
    }

    /// Emits `images`, one for each platform.
    pub(crate) fn emit(
        &self,
        outlet: &Outlet,
        images: &[Image],
        epoch: Option<i64>,
    ) -> Result<Emitted> {
        let step = outlet.events.begin(self.sink.title());
        let emitted = self.emit_as(outlet, &step, images, epoch);
        step.end(emitted)
    }

    fn emit_as(
        &self,
        outlet: &Outlet,
        step: &Step,
        images: &[Image],
        epoch: Option<i64>,
    ) -> Result<Emitted> {
        let images = self.times.apply(outlet, step, images, epoch)?;
        let descriptor = self.sink.emit(outlet, step, &images)?;
        let id = images.first().map(|image| image.id);
        Ok(Emitted { descriptor, id })
    }
}

impl Sink {
    /// The descriptor of what was emitted; files have none.
    fn emit(&self, outlet: &Outlet, step: &Step, images: &[Image]) -> Result<Option<Descriptor>> {
        match self {
            Self::Store { names, annotations } => {
                store::emit(outlet, step, images, names, annotations).map(Some)
            }
            Self::Archive {
                format,
                target,
                names,
                packing,
            } => archive::emit(outlet, step, images, *format, target, names, packing).map(Some),
            Self::Registry {
                names,
                packing,
                by_digest,
            } => registry::emit(outlet, step, images, names, packing, *by_digest).map(Some),
            Self::Files { target, split } => {
                files::emit(outlet, step, images, target, *split).map(|()| None)
            }
            Self::Nothing => Ok(None),
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::Store { .. } => "exporting to image",
            Self::Archive {
                format: Format::Oci,
                ..
            } => "exporting to oci image format",
            Self::Archive {
                format: Format::Docker,
                ..
            } => "exporting to docker image format",
            Self::Registry { .. } => "pushing to registry",
            Self::Files { .. } => "exporting to client directory",
            Self::Nothing => "exporting nothing",
        }
    }
}

/// Packs all images; with several, or when asked, an index comes with them.
fn pack_all(
    outlet: &Outlet,
    step: &Step,
    images: &[Image],
    packing: &Packing,
) -> Result<(Vec<Packed>, Option<Blob>)> {
    let platforms: Vec<&Platform> = images.iter().map(|image| &image.platform).collect();
    packing.annotations.check(&platforms)?;
    bring_what_changes(outlet, step, images, packing)?;
    step.status("exporting layers", 0, None, false);
    let packed: Vec<Packed> = images
        .iter()
        .map(|image| pack(&outlet.store, image, packing))
        .collect::<Result<_>>()?;
    step.status("exporting layers", 0, None, true);
    let index = (packed.len() > 1).then(|| index(&packed, packing));
    Ok((packed, index))
}

/// Fetches the layers that must be compressed in another way than they came in.
fn bring_what_changes(
    outlet: &Outlet,
    step: &Step,
    images: &[Image],
    packing: &Packing,
) -> Result<()> {
    images
        .iter()
        .flat_map(|image| &image.layers.layers)
        .try_for_each(|layer| bring_if_changed(outlet, step, layer, packing))
}

/// Fetches a layer if it must be compressed in another way than it came in, or if there is no other way to have it.
pub(crate) fn bring_if_changed(
    outlet: &Outlet,
    step: &Step,
    layer: &ChainLayer,
    packing: &Packing,
) -> Result<()> {
    let (pulled, imported) = match layer {
        ChainLayer::Built(_) => return Ok(()),
        ChainLayer::Pulled(pulled) => (pulled, None),
        ChainLayer::Imported(layer) => match &layer.blob {
            Some(pulled) => (pulled, Some(layer)),
            None if outlet.store.layer(&layer.diff_id)?.is_some() => return Ok(()),
            None => {
                outlet
                    .elsewhere
                    .lose(layer, &anyhow!("the cache does not hold it"));
                return Err(Lost.into());
            }
        },
    };
    if must_change(&outlet.store, pulled, packing)? {
        fetch(outlet, step, &pulled.descriptor, &pulled.origin, imported)?;
    }
    Ok(())
}

/// Fetches a blob. `imported` is the layer, where it is a cache that speaks of it: then it may be lost.
fn fetch(
    outlet: &Outlet,
    step: &Step,
    blob: &Descriptor,
    origin: &Origin,
    imported: Option<&Arc<Imported>>,
) -> Result<()> {
    let Outlet {
        store,
        trees: _,
        client,
        tokio,
        events: _,
        elsewhere,
    } = outlet;
    let fetched = fetch_blob(store, client, tokio, step, blob, origin);
    match (fetched, imported) {
        (Err(error), Some(layer)) => {
            elsewhere.lose(layer, &error);
            Err(Lost.into())
        }
        (fetched, _) => fetched,
    }
}

/// Makes sure that the bytes of `blob` can be read here.
pub(crate) fn bring(outlet: &Outlet, step: &Step, blob: &Blob) -> Result<()> {
    match &blob.content {
        BlobContent::Remote { origin, imported } => {
            fetch(outlet, step, &blob.descriptor, origin, imported.as_ref())
        }
        BlobContent::Bytes(_) | BlobContent::Stored | BlobContent::Layer(_) => Ok(()),
    }
}

/// The digest that names all that was emitted.
fn top(packed: &[Packed], index: Option<&Blob>) -> Result<Descriptor> {
    let single = || {
        packed
            .first()
            .map(|image| image.manifest.descriptor.clone())
    };
    index
        .map(|index| index.descriptor.clone())
        .or_else(single)
        .context("there is no image to export")
}

/// The packing of images in the local store: layers stay as they are, nothing is compressed.
pub(crate) fn store_packing(annotations: &Annotations) -> Packing {
    Packing {
        compression: crate::compress::Compression::None,
        force: false,
        flavour: Flavour::Oci,
        annotations: annotations.clone(),
    }
}

/// Keeps the image's documents in the store and gives them a name, without a build: for `pull` and `tag`.
pub(crate) fn name_in_store(store: &Store, name: &ImageRef, digest: &Digest) -> Result<()> {
    Ok(store.set_ref(&name.canonical(), digest)?)
}
