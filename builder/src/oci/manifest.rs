//! Manifests and indexes: own types, so that what we write is ordered and what we read keeps its unknown fields.
//!
//! [`parse`] is the only way from bytes to a document. It refuses what lets one digest mean two things: a
//! document with the fields of both kinds, or whose declared type is not the one it was served as.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use lapstrake_cache::{DiffId, Digest};
use lapstrake_frontend::image::ImageConfig;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::media;
use super::platform::PlatformSpec;

/// The largest manifest, index or config that is read: the limit that registries and BuildKit share.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// The most layers an image may have: what the kernel can stack in one overlay mount.
pub const MAX_LAYERS: usize = 500;

/// Unknown members of a JSON object, kept as they came.
pub type Other = BTreeMap<String, Value>;

/// A reference to a blob: its type, its digest and its exact size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the blob.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the blob's bytes.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Places to get the blob from. Never followed: they may point anywhere.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "nullable"
    )]
    pub annotations: BTreeMap<String, String>,
    /// The platform of the manifest, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformSpec>,
    /// Unknown members.
    #[serde(flatten)]
    pub other: Other,
}

impl Descriptor {
    /// A descriptor without annotations or platform.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            other: Other::new(),
        }
    }

    /// The descriptor of these bytes.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }
}

/// A manifest: the config and the layers of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u64,
    /// Media type of this document; optional in OCI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What this is, when it is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "nullable"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Unknown members.
    #[serde(flatten)]
    pub other: Other,
}

impl Manifest {
    /// An image manifest of the given media type.
    #[must_use]
    pub fn new(media_type: &str, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type.into()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            other: Other::new(),
        }
    }

    /// The bytes to store and to hash. Call it once and carry the bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        json(self)
    }
}

/// An index: the manifests of one image for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u64,
    /// Media type of this document; optional in OCI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    #[serde(default, deserialize_with = "nullable")]
    pub manifests: Vec<Descriptor>,
    /// Annotations.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "nullable"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Unknown members.
    #[serde(flatten)]
    pub other: Other,
}

impl Index {
    /// An index of the given media type.
    #[must_use]
    pub fn new(media_type: &str, manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type.into()),
            manifests,
            annotations: BTreeMap::new(),
            other: Other::new(),
        }
    }

    /// The bytes to store and to hash. Call it once and carry the bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        json(self)
    }
}

/// What a digest or a tag of a repository can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several images.
    Index(Index),
}

impl Document {
    /// The media type: the one that it was served as if that is of its kind, or its own, or the OCI one.
    #[must_use]
    pub fn media_type(&self, served_as: Option<&str>) -> String {
        let (own, default) = match self {
            Self::Manifest(manifest) => (&manifest.media_type, media::OCI_MANIFEST),
            Self::Index(index) => (&index.media_type, media::OCI_INDEX),
        };
        let served = served_as
            .map(essence)
            .filter(|kind| media::is_manifest(kind) || media::is_index(kind));
        served
            .or_else(|| own.clone())
            .unwrap_or_else(|| default.to_owned())
    }
}

/// The fields that decide what kind of document this is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

/// Reads a manifest or an index; `served_as` is the media type that it came with (`Content-Type`, or the
/// descriptor's), if any.
///
/// # Errors
/// When the bytes are too many, are not such a document, or could be read as either kind (CVE-2021-41190).
pub fn parse(bytes: &[u8], served_as: Option<&str>) -> Result<Document> {
    ensure!(
        bytes.len() as u64 <= MAX_DOCUMENT,
        "manifest is larger than {MAX_DOCUMENT} bytes"
    );
    let shape: Shape = serde_json::from_slice(bytes).context("parse manifest")?;
    let served_as = served_as.map(essence);
    refuse_schema1(&shape, served_as.as_deref())?;
    ensure!(
        shape.schema_version == Some(2),
        "manifest has no schemaVersion 2"
    );
    let kind = kind(&shape, served_as.as_deref())?;
    if media::is_index(&kind) {
        let index: Index = serde_json::from_slice(bytes).context("parse image index")?;
        return Ok(Document::Index(index));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).context("parse image manifest")?;
    let layers = manifest.layers.len();
    // The layers of a cache are not those of one image.
    ensure!(
        layers <= MAX_LAYERS || manifest.config.media_type == media::CACHE,
        "image has {layers} layers, more than {MAX_LAYERS}"
    );
    Ok(Document::Manifest(Box::new(manifest)))
}

/// A media type without its parameters, in lower case.
pub(crate) fn essence(media_type: &str) -> String {
    let end = media_type.find(';').unwrap_or(media_type.len());
    media_type[..end].trim().to_ascii_lowercase()
}

fn refuse_schema1(shape: &Shape, served_as: Option<&str>) -> Result<()> {
    let declared = [served_as, shape.media_type.as_deref()];
    let typed = declared
        .iter()
        .flatten()
        .any(|t| t.starts_with("application/vnd.docker.distribution.manifest.v1"));
    if typed || shape.schema_version == Some(1) || shape.fs_layers.is_some() {
        bail!(
            "image has a schema 1 manifest, which is no longer supported: push it again with a current tool"
        );
    }
    Ok(())
}

/// The one media type that the declared types and the fields agree on.
fn kind(shape: &Shape, served_as: Option<&str>) -> Result<String> {
    let is_known = |t: &&str| media::is_manifest(t) || media::is_index(t);
    let served = served_as.filter(is_known);
    let own = shape.media_type.as_deref();
    if let (Some(served), Some(own)) = (served, own) {
        ensure!(
            served == own,
            "manifest calls itself {own:?} but is served as {served:?}"
        );
    }
    let is_index = shape.manifests.is_some();
    let is_manifest = shape.config.is_some() || shape.layers.is_some();
    ensure!(
        !(is_index && is_manifest),
        "manifest has the fields of both an image and an index"
    );
    let kind = match served.or(own) {
        Some(kind) => kind,
        None if is_index => media::OCI_INDEX,
        None if is_manifest => media::OCI_MANIFEST,
        None => bail!("document is neither an image manifest nor an image index"),
    };
    ensure!(
        is_known(&kind),
        "manifest has the unknown media type {kind:?}"
    );
    ensure!(
        media::is_index(kind) == is_index && (is_index || shape.config.is_some()),
        "manifest of type {kind:?} does not have the fields of that type"
    );
    Ok(kind.to_owned())
}

/// Reads an image config and its diff ids, and checks that they fit the manifest's layers.
///
/// # Errors
/// When it is not an image config, a diff id is malformed, or there are more or fewer of them than layers.
pub fn parse_config(bytes: &[u8], manifest: &Manifest) -> Result<(ImageConfig, Vec<DiffId>)> {
    let kind = &manifest.config.media_type;
    let known = [
        media::OCI_CONFIG,
        media::DOCKER_CONFIG,
        "application/json",
        "application/octet-stream",
        "",
    ];
    ensure!(
        known.contains(&kind.as_str()),
        "not a container image: its config is of type {kind:?}"
    );
    if let Some(layer) = manifest
        .layers
        .iter()
        .find(|layer| media::compression(&layer.media_type).is_none())
    {
        bail!(
            "layer {} is of the unsupported type {:?}",
            layer.digest,
            layer.media_type
        );
    }
    ensure!(
        bytes.len() as u64 <= MAX_DOCUMENT,
        "image config is larger than {MAX_DOCUMENT} bytes"
    );
    let config: ImageConfig = serde_json::from_slice(bytes).context("parse image config")?;
    let rootfs = &config.rootfs;
    ensure!(
        rootfs.kind == "layers",
        "image config has a rootfs of type {:?}, not \"layers\"",
        rootfs.kind
    );
    let parsed: Result<Vec<DiffId>, _> = rootfs
        .diff_ids
        .iter()
        .map(|id| id.parse().map(DiffId))
        .collect();
    let diff_ids = parsed.map_err(|_| anyhow::anyhow!("image config has a malformed diff id"))?;
    let (ids, layers) = (diff_ids.len(), manifest.layers.len());
    ensure!(
        ids == layers,
        "image config has {ids} diff ids for {layers} layers"
    );
    Ok((config, diff_ids))
}

/// The distinct blobs that an image consists of: its config, then its layers in order.
#[must_use]
pub fn blobs(manifest: &Manifest) -> Vec<&Descriptor> {
    let mut seen = BTreeSet::new();
    let all = std::iter::once(&manifest.config).chain(&manifest.layers);
    all.filter(|descriptor| seen.insert(descriptor.digest))
        .collect()
}

/// Compact JSON in the order of the fields.
pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("maps with string keys always serialise")
}

/// Go writes empty maps and slices as `null`.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests;
