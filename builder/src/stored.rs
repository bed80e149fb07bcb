//! Images of the local store, read back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lapstrake_cache::{DiffId, Digest, Store};
use lapstrake_frontend::image::{ImageConfig, ImageRef, Platform};

use crate::annotations::Annotations;
use crate::assemble::Image;
use crate::fs::{Chain, ChainLayer, Origin, PulledLayer};
use crate::oci::manifest::{self, Document, MAX_DOCUMENT};
use crate::oci::{Descriptor, Manifest, media};

/// A name of the store with all that it stands for.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) name: ImageRef,
    /// Of the manifest, or of the index where there are several images.
    pub(crate) digest: Digest,
    /// One for each platform.
    pub(crate) images: Vec<StoredImage>,
    pub(crate) annotations: Annotations,
}

/// One image of the store.
#[derive(Debug)]
pub(crate) struct StoredImage {
    pub(crate) manifest: Manifest,
    pub(crate) config: ImageConfig,
    pub(crate) config_bytes: Vec<u8>,
}

impl StoredImage {
    /// Docker's image id.
    pub(crate) fn id(&self) -> Digest {
        self.manifest.config.digest
    }

    /// Bytes of all layers, as they are kept.
    pub(crate) fn size(&self) -> u64 {
        self.manifest.layers.iter().map(|layer| layer.size).sum()
    }

    /// The platform that the config names.
    pub(crate) fn platform(&self) -> Platform {
        self.config.platform()
    }

    /// The image as the sinks take it.
    pub(crate) fn to_image(&self) -> Result<Image> {
        let mut layers = Chain::default();
        for (diff_id, descriptor) in self
            .config
            .rootfs
            .diff_ids
            .iter()
            .zip(&self.manifest.layers)
        {
            let pulled = PulledLayer::new(diff_id, descriptor, &Origin::Store)?;
            layers.layers.push(ChainLayer::Pulled(Arc::new(pulled)));
        }
        Ok(Image {
            platform: self.platform(),
            config: self.config_bytes.clone(),
            id: self.id(),
            layers,
            base_history: 0,
            epoch: None,
            rewritten: false,
        })
    }
}

/// All names of the store, sorted. Names whose documents are gone are left out.
pub(crate) fn all(store: &Store) -> Result<Vec<Stored>> {
    let mut found = Vec::new();
    for (name, digest) in store.refs()? {
        let Ok(name) = name.parse() else { continue };
        if let Ok(stored) = load(store, name, digest) {
            found.push(stored);
        }
    }
    Ok(found)
}

/// Finds an image by its name, by its digest, or by the beginning of its id.
pub(crate) fn find(store: &Store, text: &str) -> Result<Stored> {
    if let Ok(name) = text.parse::<ImageRef>()
        && let Some(digest) = store.ref_(&name.canonical())?
    {
        return load(store, name, digest);
    }
    let wanted = text.strip_prefix("sha256:").unwrap_or(text);
    if wanted.len() >= 4 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let fits = |stored: &Stored| {
            stored.digest.hex().starts_with(wanted)
                || stored
                    .images
                    .iter()
                    .any(|image| image.id().hex().starts_with(wanted))
        };
        if let Some(stored) = all(store)?.into_iter().find(fits) {
            return Ok(stored);
        }
    }
    bail!("no image {text:?} in the store: see lapstrake images")
}

/// What an image of the store needs besides its manifest or index.
#[derive(Default)]
pub(crate) struct Needs {
    /// Manifests, configs and layers as blobs.
    pub(crate) blobs: Vec<Digest>,
    /// Layers by their diff ids, unpacked only when a step needs them.
    layers: Vec<Digest>,
}

/// What an image needs, by the digest of its manifest or index. What cannot be read leads nowhere.
pub(crate) fn needs(store: &Store, digest: &Digest) -> Needs {
    let mut needs = Needs::default();
    add_needs(store, digest, &mut needs);
    needs
}

fn add_needs(store: &Store, digest: &Digest, needs: &mut Needs) {
    let document = read(store, digest).and_then(|bytes| manifest::parse(&bytes, None));
    match document {
        Err(_) => {}
        Ok(Document::Index(index)) => {
            // Of an image that was pulled only one platform may be here.
            let here = |child: &&Descriptor| store.has_blob(&child.digest).is_some();
            for child in index.manifests.iter().filter(here) {
                needs.blobs.push(child.digest);
                add_needs(store, &child.digest, needs);
            }
        }
        Ok(Document::Manifest(found)) => {
            needs.blobs.push(found.config.digest);
            needs
                .blobs
                .extend(found.layers.iter().map(|layer| layer.digest));
            let config = read(store, &found.config.digest)
                .and_then(|bytes| Ok(ImageConfig::from_json(&bytes)?));
            let diff_ids = config
                .map(|config| config.rootfs.diff_ids)
                .unwrap_or_default();
            let diff_ids = diff_ids
                .iter()
                .filter_map(|diff_id| diff_id.parse::<Digest>().ok());
            needs.layers.extend(diff_ids);
        }
    }
}

/// All that an image of the store needs, by the digest of its manifest or index: for garbage collection.
pub(crate) fn reach(store: &Store, digest: &Digest) -> Vec<Digest> {
    let Needs { mut blobs, layers } = needs(store, digest);
    let amended = layers
        .iter()
        .filter_map(|layer| store.amended(&DiffId(*layer)));
    blobs.extend(amended.map(|layer| layer.0));
    blobs.extend(layers);
    blobs
}

/// For every digest that some name of the store needs, the names.
pub(crate) fn rooted_by(store: &Store) -> Result<HashMap<Digest, Vec<String>>> {
    let mut names: HashMap<Digest, Vec<String>> = HashMap::new();
    for (name, digest) in store.refs()? {
        let shown = name
            .parse::<ImageRef>()
            .map_or_else(|_| name.clone(), |image| image.to_string());
        let needed: HashSet<Digest> = std::iter::once(digest)
            .chain(reach(store, &digest))
            .collect();
        for digest in needed {
            names.entry(digest).or_default().push(shown.clone());
        }
    }
    Ok(names)
}

/// Every digest that some name of the store needs.
pub(crate) fn rooted(store: &Store) -> Result<HashSet<Digest>> {
    let names = store.refs()?;
    Ok(names
        .iter()
        .flat_map(|(_, digest)| std::iter::once(*digest).chain(reach(store, digest)))
        .collect())
}

fn load(store: &Store, name: ImageRef, digest: Digest) -> Result<Stored> {
    let mut annotations = Annotations::default();
    let mut images = Vec::new();
    match manifest::parse(&read(store, &digest)?, None)? {
        Document::Manifest(manifest) => images.push(image(store, *manifest)?),
        Document::Index(index) => {
            let manifests = index
                .manifests
                .into_iter()
                .filter(|descriptor| media::is_manifest(&descriptor.media_type))
                .filter(|descriptor| store.has_blob(&descriptor.digest).is_some());
            for descriptor in manifests {
                let image = image(store, manifest_of(store, &descriptor)?)?;
                let of_descriptor = &mut annotations.manifest_descriptor;
                of_descriptor.extend(Some(image.platform()), descriptor.annotations);
                images.push(image);
            }
            // One alone has no index.
            if images.len() > 1 {
                annotations.index = index.annotations;
            }
        }
    }
    for image in &images {
        let of_manifest = image.manifest.annotations.clone();
        annotations
            .manifest
            .extend(Some(image.platform()), of_manifest);
    }
    Ok(Stored {
        name,
        digest,
        images,
        annotations,
    })
}

fn manifest_of(store: &Store, descriptor: &Descriptor) -> Result<Manifest> {
    match manifest::parse(
        &read(store, &descriptor.digest)?,
        Some(&descriptor.media_type),
    )? {
        Document::Manifest(manifest) => Ok(*manifest),
        Document::Index(_) => bail!("an index in an index"),
    }
}

fn image(store: &Store, manifest: Manifest) -> Result<StoredImage> {
    let config_bytes = read(store, &manifest.config.digest)?;
    let config = ImageConfig::from_json(&config_bytes).context("read the image's config")?;
    Ok(StoredImage {
        manifest,
        config,
        config_bytes,
    })
}

fn read(store: &Store, digest: &Digest) -> Result<Vec<u8>> {
    let bytes = store.read_blob(digest, MAX_DOCUMENT)?;
    bytes.with_context(|| format!("the store lost {digest}: build or pull the image again"))
}
