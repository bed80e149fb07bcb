//! Where caches lie, and how they are read and written there.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use lapstrake_frontend::image::ImageRef;

use super::Objects;

use crate::events::Step;
use crate::fs::Origin;
use crate::oci::layout::{self, REF_NAME};
use crate::oci::manifest::{self, Document};
use crate::oci::{Descriptor, Layout, Manifest, media};
use crate::pack::{Blob, document, open};
use crate::registry::{fetch_config, fetch_manifest, fetch_manifest_by_digest};
use crate::sink::{Outlet, bring, registry, write_blob, write_whole};

/// The tag of a cache in a layout that was not given one.
const DEFAULT_TAG: &str = "latest";

/// Where a cache lies.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Where images lie, as a manifest.
    Images(Images),
    /// As objects by their names.
    Objects(Arc<Objects>),
}

/// A place of images.
#[derive(Debug, Clone)]
pub(crate) enum Images {
    /// Under a name in a registry; also an image that holds its own index.
    Registry(ImageRef),
    /// In an OCI layout directory.
    Layout {
        path: PathBuf,
        /// `digest=` or `tag=`.
        name: Option<String>,
    },
}

impl Images {
    /// The manifest or index that the cache is known by.
    pub(super) fn top(&self, outlet: &Outlet) -> Result<Document> {
        match self {
            Self::Registry(image) => {
                let fetched = fetch_manifest(&outlet.client, &outlet.store, image);
                let (descriptor, bytes) = outlet.tokio.block_on(fetched)?;
                manifest::parse(&bytes, Some(&descriptor.media_type))
            }
            Self::Layout { path, name } => {
                let layout = Layout::open(path)?;
                let index = layout.index()?;
                let found = match name {
                    Some(name) => layout::find(&index, Some(name)),
                    None => layout::find(&index, Some(DEFAULT_TAG))
                        .or_else(|_| layout::find(&index, None)),
                }?;
                let bytes = layout.document(found)?;
                manifest::parse(&bytes, Some(&found.media_type))
            }
        }
    }

    /// A manifest that an index names.
    pub(super) fn manifest(&self, outlet: &Outlet, descriptor: &Descriptor) -> Result<Document> {
        let bytes = match self {
            Self::Registry(image) => {
                let fetched = fetch_manifest_by_digest(
                    &outlet.client,
                    &outlet.store,
                    image,
                    &descriptor.digest,
                );
                outlet.tokio.block_on(fetched)?.1.to_vec()
            }
            Self::Layout { path, .. } => Layout::open(path)?.document(descriptor)?,
        };
        manifest::parse(&bytes, Some(&descriptor.media_type))
    }

    /// A config that a manifest names.
    pub(super) fn config(&self, outlet: &Outlet, descriptor: &Descriptor) -> Result<Vec<u8>> {
        match self {
            Self::Registry(image) => {
                let fetched = fetch_config(&outlet.client, &outlet.store, image, descriptor);
                Ok(outlet.tokio.block_on(fetched)?.to_vec())
            }
            Self::Layout { path, .. } => Layout::open(path)?.document(descriptor),
        }
    }

    fn put(&self, outlet: &Outlet, step: &Step, blob: &Blob) -> Result<()> {
        match self {
            Self::Registry(image) => registry::push_blob(outlet, step, image, blob),
            Self::Layout { path, .. } => write_blob(outlet, step, path, blob),
        }
    }

    /// Gives the manifest its name.
    fn name(&self, outlet: &Outlet, step: &Step, manifest: Blob) -> Result<()> {
        match self {
            Self::Registry(image) => {
                let now = outlet.tokio.block_on(outlet.client.head(image));
                let is_same = |found: &Descriptor| found.digest == manifest.descriptor.digest;
                // Whatever is wrong with what is there now, it is replaced.
                if now.ok().flatten().is_some_and(|found| is_same(&found)) {
                    return Ok(());
                }
                registry::push_document(outlet, image, &manifest, true)
            }
            Self::Layout { path, name } => {
                self.put(outlet, step, &manifest)?;
                let name = name.as_deref().unwrap_or(DEFAULT_TAG);
                name_in_layout(path, name, manifest.descriptor)
            }
        }
    }
}

impl Place {
    /// For messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Images(Images::Registry(image)) => image.to_string(),
            Self::Images(Images::Layout { path, .. }) => path.display().to_string(),
            Self::Objects(objects) => objects.name(),
        }
    }

    /// The kind, as `type=` says it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Images(Images::Registry(_)) => "registry",
            Self::Images(Images::Layout { .. }) => "local",
            Self::Objects(objects) => objects.kind(),
        }
    }

    /// Where its blobs are.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Images(Images::Registry(image)) => Origin::Registry(image.clone()),
            Self::Images(Images::Layout { path, .. }) => Origin::Layout(path.clone()),
            Self::Objects(objects) => Origin::Objects(Arc::clone(objects)),
        }
    }

    /// Puts a blob there, unless it is there already.
    pub(super) fn put(&self, outlet: &Outlet, step: &Step, blob: &Blob) -> Result<()> {
        match self {
            Self::Images(images) => images.put(outlet, step, blob),
            Self::Objects(objects) => {
                let digest = &blob.descriptor.digest;
                if objects.has(outlet, digest)? {
                    return Ok(());
                }
                bring(outlet, step, blob)?;
                let (store, owned) = (outlet.store.clone(), blob.clone());
                let open = move || open(&store, &owned).map_err(io::Error::other);
                objects.put(outlet, digest, &open, blob.descriptor.size)
            }
        }
    }

    /// Makes `index` the cache, all of whose `layers` were put.
    pub(super) fn finish(
        &self,
        outlet: &Outlet,
        step: &Step,
        index: Vec<u8>,
        layers: Vec<Descriptor>,
        manifest_type: &str,
    ) -> Result<()> {
        match self {
            Self::Images(images) => {
                let config = document(media::CACHE, index);
                images.put(outlet, step, &config)?;
                let manifest = Manifest::new(manifest_type, config.descriptor, layers);
                images.name(outlet, step, document(manifest_type, manifest.to_bytes()))
            }
            Self::Objects(objects) => objects.put_index(outlet, index),
        }
    }
}

/// Gives a manifest of a layout its name; what has other names stays.
fn name_in_layout(path: &std::path::Path, name: &str, mut manifest: Descriptor) -> Result<()> {
    let mut others = match Layout::open(path).and_then(|layout| layout.index()) {
        Ok(index) => index.manifests,
        Err(_) => Vec::new(),
    };
    others.retain(|other| other.annotations.get(REF_NAME).map(String::as_str) != Some(name));
    manifest.annotations.insert(REF_NAME.into(), name.into());
    others.push(manifest);
    let files = [
        ("oci-layout", layout::OCI_LAYOUT.to_vec()),
        ("index.json", layout::index_json(others)),
    ];
    for (name, bytes) in files {
        write_whole(&path.join(name), |out| Ok(out.write_all(&bytes)?))
            .context("name the cache")?;
    }
    Ok(())
}
