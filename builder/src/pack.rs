//! An image as blobs: its layers compressed, its manifest made. What was compressed once is kept in the store.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use lapstrake_cache::{DiffId, Digest, Encoder, Hasher, HashingReader, Key, Layer, Store};
use serde::{Deserialize, Serialize};

use crate::annotations::Annotations;
use crate::assemble::Image;
use crate::compress::{Compression, compress};
use crate::fs::{ChainLayer, Imported, Origin, PulledLayer};
use crate::oci::platform::PlatformSpec;
use crate::oci::{Descriptor, Index, Manifest, media};
use crate::parallel;

/// Each layer is compressed by all cores; a few at once keep them busy where layers are small.
const LAYERS_AT_ONCE: usize = 4;

/// BuildKit's annotation of a layer whose files have no time after SOURCE_DATE_EPOCH, which it tells.
const REWRITTEN: &str = "buildkit/rewritten-timestamp";

/// Which media types documents carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    Oci,
    Docker,
}

/// How an output wants its layers and documents.
#[derive(Debug, Clone)]
pub(crate) struct Packing {
    pub(crate) compression: Compression,
    /// Compress layers of base images again that came with another compression.
    pub(crate) force: bool,
    pub(crate) flavour: Flavour,
    pub(crate) annotations: Annotations,
}

/// A blob and where its bytes can be had.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) descriptor: Descriptor,
    pub(crate) content: BlobContent,
}

/// Where the bytes of a blob are.
#[derive(Debug, Clone)]
pub(crate) enum BlobContent {
    /// Here.
    Bytes(Vec<u8>),
    /// In the store's blobs.
    Stored,
    /// The tar of a layer of the store: made when it is read.
    Layer(DiffId),
    /// Perhaps not in the store yet.
    Remote {
        origin: Origin,
        /// The layer, where it is a cache that speaks of it.
        imported: Option<Arc<Imported>>,
    },
}

/// An image ready to be emitted.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    /// The manifest, with the platform filled in for an index.
    pub(crate) manifest: Blob,
    pub(crate) config: Blob,
    /// Lowest first.
    pub(crate) layers: Vec<Blob>,
}

impl Packed {
    /// Layers, config and manifest, in the order in which a registry wants them.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config, &self.manifest])
    }
}

/// Packs `image`; layers that are not compressed yet are, by all cores.
pub(crate) fn pack(store: &Store, image: &Image, packing: &Packing) -> Result<Packed> {
    let layers = &image.layers.layers;
    // Where nothing is left to compress, threads would take longer to start than the work does.
    let is_packed = |layer: &ChainLayer| {
        !packing.force && is_compressed(store, layer.diff_id(), packing.compression)
    };
    let threads = if layers.iter().all(is_packed) {
        1
    } else {
        LAYERS_AT_ONCE
    };
    let blob = |layer: &ChainLayer| {
        let mut blob = layer_blob(store, layer, packing)?;
        let epoch = image.epoch.filter(|_| image.rewritten);
        if let (Some(epoch), ChainLayer::Built(_), Flavour::Oci) = (epoch, layer, packing.flavour) {
            let annotations = &mut blob.descriptor.annotations;
            annotations.insert(REWRITTEN.to_owned(), epoch.to_string());
        }
        Ok(blob)
    };
    let layers = parallel::map(layers, threads, blob).context("compress layers")?;
    let (config_type, manifest_type) = match packing.flavour {
        Flavour::Oci => (media::OCI_CONFIG, media::OCI_MANIFEST),
        Flavour::Docker => (media::DOCKER_CONFIG, media::DOCKER_MANIFEST),
    };
    let config = document(config_type, image.config.clone());
    let descriptors = layers
        .iter()
        .map(|layer| layer.descriptor.clone())
        .collect();
    let mut manifest = Manifest::new(manifest_type, config.descriptor.clone(), descriptors);
    let Annotations {
        manifest: of_manifest,
        manifest_descriptor,
        index: _,
        index_descriptor: _,
    } = &packing.annotations;
    manifest.annotations = of_manifest.of(&image.platform);
    let mut manifest = document(manifest_type, manifest.to_bytes());
    manifest.descriptor.annotations = manifest_descriptor.of(&image.platform);
    manifest.descriptor.platform = Some(PlatformSpec::from(&image.platform));
    Ok(Packed {
        manifest,
        config,
        layers,
    })
}

/// The index of several images, as one document.
pub(crate) fn index(images: &[Packed], packing: &Packing) -> Blob {
    let kind = match packing.flavour {
        Flavour::Oci => media::OCI_INDEX,
        Flavour::Docker => media::DOCKER_INDEX,
    };
    let manifests = images
        .iter()
        .map(|image| image.manifest.descriptor.clone())
        .collect();
    let mut index = Index::new(kind, manifests);
    index.annotations.clone_from(&packing.annotations.index);
    let mut index = document(kind, index.to_bytes());
    index
        .descriptor
        .annotations
        .clone_from(&packing.annotations.index_descriptor);
    index
}

/// A blob of these bytes.
pub(crate) fn document(media_type: &str, bytes: Vec<u8>) -> Blob {
    Blob {
        descriptor: Descriptor::of(media_type, &bytes),
        content: BlobContent::Bytes(bytes),
    }
}

/// The blob of a layer, compressed unless it came so.
pub(crate) fn layer_blob(store: &Store, layer: &ChainLayer, packing: &Packing) -> Result<Blob> {
    let (pulled, imported) = match layer {
        ChainLayer::Built(built) if packing.compression == Compression::None => {
            return Ok(uncompressed(&built.layer, packing));
        }
        ChainLayer::Built(built) => return compressed(store, built.layer.diff_id, packing),
        ChainLayer::Pulled(pulled) => (pulled, None),
        ChainLayer::Imported(layer) => match &layer.blob {
            Some(pulled) => (pulled, Some(layer)),
            None => return compressed(store, layer.diff_id, packing),
        },
    };
    if is_own(store, pulled)? {
        return compressed(store, pulled.diff_id, packing);
    }
    if must_change(store, pulled, packing)? {
        return recompressed(store, pulled, packing);
    }
    let media_type = retyped(&pulled.descriptor.media_type, packing.flavour);
    let descriptor = Descriptor::new(
        &media_type,
        pulled.descriptor.digest,
        pulled.descriptor.size,
    );
    Ok(Blob {
        descriptor,
        content: BlobContent::Remote {
            origin: pulled.origin.clone(),
            imported: imported.map(Arc::clone),
        },
    })
}

/// Whether the store holds the layer as files and names it by its tar: so it keeps what was built here.
fn is_own(store: &Store, pulled: &PulledLayer) -> Result<bool> {
    let is_tar =
        media::compression(&pulled.descriptor.media_type) == Some(media::Compression::None);
    let stored = matches!(pulled.origin, Origin::Store);
    Ok(is_tar && stored && store.layer(&pulled.diff_id)?.is_some())
}

/// Whether a layer that came compressed in one way must leave in another: its blob is needed for that.
pub(crate) fn must_change(store: &Store, pulled: &PulledLayer, packing: &Packing) -> Result<bool> {
    let has = media::compression(&pulled.descriptor.media_type);
    Ok(packing.force && has != Some(kind(packing.compression)) && !is_own(store, pulled)?)
}

/// The layer's blob, which the store has, in the compression of `packing`.
fn recompressed(store: &Store, pulled: &PulledLayer, packing: &Packing) -> Result<Blob> {
    let digest = &pulled.descriptor.digest;
    let record = compress_once(store, pulled.diff_id, packing.compression, |sink| {
        let blob = store.open_blob(digest)?;
        let blob = blob.with_context(|| format!("find blob {digest} in the store"))?;
        let mut tar = HashingReader::new(crate::compress::decompress(blob)?);
        io::copy(&mut tar, sink)?;
        // The result is kept under the diff id, for whoever has a layer of that name: so it must be that layer.
        let found = tar.digest();
        ensure!(
            found == pulled.diff_id.0,
            "blob {digest} holds the layer {found}, not {} as was said",
            pulled.diff_id
        );
        Ok(())
    })?;
    let media_type = layer_type(kind(packing.compression), packing.flavour);
    Ok(Blob {
        descriptor: Descriptor::new(media_type, record.digest, record.size),
        content: BlobContent::Stored,
    })
}

/// The compression without its level.
pub(crate) fn kind(compression: Compression) -> media::Compression {
    match compression {
        Compression::None => media::Compression::None,
        Compression::Gzip(_) => media::Compression::Gzip,
        Compression::Zstd(_) => media::Compression::Zstd,
    }
}

/// The same layer's type in the other family: registries refuse manifests that mix them.
fn retyped(media_type: &str, flavour: Flavour) -> String {
    match media::compression(media_type) {
        Some(compression) => layer_type(compression, flavour).to_owned(),
        None => media_type.to_owned(),
    }
}

/// The media type of a layer.
pub(crate) fn layer_type(compression: media::Compression, flavour: Flavour) -> &'static str {
    match (compression, flavour) {
        (media::Compression::None, Flavour::Oci) => media::OCI_LAYER,
        (media::Compression::Gzip, Flavour::Oci) => media::OCI_LAYER_GZIP,
        (media::Compression::Zstd, Flavour::Oci) => media::OCI_LAYER_ZSTD,
        (media::Compression::None, Flavour::Docker) => media::DOCKER_LAYER,
        (media::Compression::Gzip, Flavour::Docker) => media::DOCKER_LAYER_GZIP,
        (media::Compression::Zstd, Flavour::Docker) => media::DOCKER_LAYER_ZSTD,
    }
}

/// What the store keeps of a compressed layer.
#[derive(Serialize, Deserialize)]
struct CompressedRecord {
    digest: Digest,
    size: u64,
}

fn uncompressed(layer: &Layer, packing: &Packing) -> Blob {
    let media_type = layer_type(media::Compression::None, packing.flavour);
    Blob {
        descriptor: Descriptor::new(media_type, layer.diff_id.0, layer.size),
        content: BlobContent::Layer(layer.diff_id),
    }
}

fn compressed(store: &Store, diff_id: DiffId, packing: &Packing) -> Result<Blob> {
    let media_type = layer_type(kind(packing.compression), packing.flavour);
    if packing.compression == Compression::None {
        let layer = store.layer(&diff_id)?;
        let layer = layer.with_context(|| format!("find layer {diff_id}"))?;
        return Ok(uncompressed(&layer, packing));
    }
    let tar = |sink: &mut dyn Write| layer_tar(store, &diff_id, sink);
    let record = compress_once(store, diff_id, packing.compression, tar)?;
    Ok(Blob {
        descriptor: Descriptor::new(media_type, record.digest, record.size),
        content: BlobContent::Stored,
    })
}

/// Compresses a layer unless the store has the result; safe to call from many threads and processes at once.
fn compress_once(
    store: &Store,
    diff_id: DiffId,
    how: Compression,
    tar: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<CompressedRecord> {
    let key = compressed_key(diff_id, how);
    if let Some(found) = find(store, &key)? {
        return Ok(found);
    }
    let _lock = store.lock_key(&key, &mut || ())?;
    if let Some(found) = find(store, &key)? {
        return Ok(found);
    }
    let mut blob = store.ingest()?;
    compress(how, &mut blob, tar)?;
    let (digest, size) = blob.commit()?;
    let record = CompressedRecord { digest, size };
    store.put_record(&key, &record)?;
    Ok(record)
}

/// Compresses a finished layer while later steps still run.
pub(crate) fn compress_ahead(store: &Store, diff_id: DiffId, how: Compression) -> Result<()> {
    compress_once(store, diff_id, how, |sink| layer_tar(store, &diff_id, sink))?;
    Ok(())
}

/// Whether nothing is left to do of a layer's compression.
pub(crate) fn is_compressed(store: &Store, diff_id: DiffId, how: Compression) -> bool {
    let found = || find(store, &compressed_key(diff_id, how));
    how == Compression::None || matches!(found(), Ok(Some(_)))
}

/// Writes the tar of a layer: the one it came in where the store has that, otherwise made again of its files.
fn layer_tar(store: &Store, diff_id: &DiffId, out: &mut dyn Write) -> Result<()> {
    match store.open_blob(&diff_id.0)? {
        Some(mut blob) => {
            io::copy(&mut blob, out)?;
        }
        None => {
            store.write_layer_tar(diff_id, out)?;
        }
    }
    Ok(())
}

fn find(store: &Store, key: &Key) -> Result<Option<CompressedRecord>> {
    let record: Option<CompressedRecord> = store.record(key)?;
    Ok(record.filter(|record| store.has_blob(&record.digest) == Some(record.size)))
}

fn compressed_key(diff_id: DiffId, how: Compression) -> Key {
    let mut hasher = Hasher::new();
    hasher.text("kind", "compressed layer");
    hasher.field("diff id", diff_id.0.as_bytes());
    hasher.text("how", &how.describe());
    hasher.finish()
}

/// Opens the bytes of a blob that the store has.
pub(crate) fn open(store: &Store, blob: &Blob) -> Result<Box<dyn Read + Send>> {
    let digest = &blob.descriptor.digest;
    Ok(match &blob.content {
        BlobContent::Bytes(bytes) => Box::new(io::Cursor::new(bytes.clone())),
        BlobContent::Layer(diff_id) => Box::new(layer_reader(store, *diff_id)?),
        BlobContent::Stored | BlobContent::Remote { .. } => {
            let reader = store.open_blob(digest)?;
            Box::new(reader.with_context(|| format!("find blob {digest} in the store"))?)
        }
    })
}

/// The tar of a layer as a stream: a thread writes it into a pipe.
struct LayerReader {
    pipe: io::PipeReader,
    writer: Option<JoinHandle<Result<()>>>,
}

fn layer_reader(store: &Store, diff_id: DiffId) -> Result<LayerReader> {
    let (pipe, mut out) = io::pipe()?;
    let store = store.clone();
    let write = move || layer_tar(&store, &diff_id, &mut out);
    let writer = std::thread::Builder::new().spawn(write);
    let writer = writer.map_err(|_| lapstrake_cache::no_threads())?;
    Ok(LayerReader {
        pipe,
        writer: Some(writer),
    })
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.pipe.read(buffer)?;
        if read == 0
            && !buffer.is_empty()
            && let Some(writer) = self.writer.take()
        {
            // Only now is it known that the bytes were the layer's.
            let written = writer
                .join()
                .map_err(|_| io::Error::other("the writer of a layer died"))?;
            written.map_err(io::Error::other)?;
        }
        Ok(read)
    }
}
