//! The check that an image layout or archive holds together, down to the last layer's diff id.
//!
//! It finds out what a consumer of the image would: it re-reads every blob, so it is as slow as the image is large.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read};

use anyhow::{Context, Result, ensure};
use lapstrake_cache::{DiffId, Digest, HashingReader};
use lapstrake_frontend::image::ImageConfig;

use super::layout::{DockerImage, Layout};
use super::manifest::{self, Descriptor, Document, Manifest};
use super::media::{self, Compression};

/// Indexes may hold indexes, but not without end.
const MAX_DEPTH: usize = 3;

/// What was verified.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Digests of the manifests of images, in the order of the index.
    pub manifests: Vec<Digest>,
    /// Images of a Docker archive's `manifest.json`.
    pub docker_images: usize,
    /// Distinct layers of those manifests.
    pub layers: usize,
}

/// Verifies everything that the layout or archive refers to.
///
/// # Errors
/// With the first thing that does not fit, and where it is.
pub fn verify(layout: &Layout) -> Result<Report> {
    let mut check = Check {
        layout,
        report: Report::default(),
        seen: BTreeSet::new(),
    };
    let is_oci = layout.is_oci()?;
    let docker = layout.docker_images()?;
    ensure!(
        is_oci || docker.is_some(),
        "neither an OCI layout nor a Docker archive"
    );
    if is_oci {
        for descriptor in &layout.index()?.manifests {
            check
                .document(descriptor, 0)
                .with_context(|| format!("manifest {}", descriptor.digest))?;
        }
    }
    for image in docker.iter().flatten() {
        check
            .docker(image)
            .with_context(|| format!("image {:?}", image.repo_tags))?;
        check.report.docker_images += 1;
    }
    check.report.layers = check.seen.len();
    Ok(check.report)
}

struct Check<'a> {
    layout: &'a Layout,
    report: Report,
    seen: BTreeSet<(Digest, DiffId)>,
}

impl Check<'_> {
    fn document(&mut self, descriptor: &Descriptor, depth: usize) -> Result<()> {
        let bytes = self.layout.document(descriptor)?;
        match manifest::parse(&bytes, Some(&descriptor.media_type))? {
            Document::Manifest(manifest) => self.image(&manifest, descriptor)?,
            Document::Index(index) => {
                ensure!(
                    depth < MAX_DEPTH,
                    "indexes are nested more than {MAX_DEPTH} deep"
                );
                for inner in &index.manifests {
                    self.document(inner, depth + 1)
                        .with_context(|| format!("manifest {}", inner.digest))?;
                }
            }
        }
        Ok(())
    }

    fn image(&mut self, manifest: &Manifest, descriptor: &Descriptor) -> Result<()> {
        let bytes = self.layout.document(&manifest.config)?;
        if is_attestation(descriptor) {
            for layer in &manifest.layers {
                io::copy(&mut self.layout.blob(layer)?, &mut io::sink())?;
            }
            return Ok(());
        }
        let (config, diff_ids) = manifest::parse_config(&bytes, manifest)?;
        check_history(&config, diff_ids.len())?;
        check_platform(&config, descriptor)?;
        for (layer, expected) in manifest.layers.iter().zip(diff_ids) {
            self.layer(layer, expected)
                .with_context(|| format!("layer {}", layer.digest))?;
        }
        self.report.manifests.push(descriptor.digest);
        Ok(())
    }

    fn layer(&mut self, layer: &Descriptor, expected: DiffId) -> Result<()> {
        if !self.seen.insert((layer.digest, expected)) {
            return Ok(());
        }
        let compression = media::compression(&layer.media_type).context("not a layer")?;
        let mut blob = self.layout.blob(layer)?;
        let found = diff_id(&mut blob, compression)?;
        io::copy(&mut blob, &mut io::sink())?;
        ensure!(
            found == expected,
            "its diff id is {found}, the config says {expected}"
        );
        Ok(())
    }

    fn docker(&mut self, image: &DockerImage) -> Result<()> {
        let (config, size) = self.layout.docker_member(&image.config)?;
        ensure!(size <= manifest::MAX_DOCUMENT, "config has {size} bytes");
        let mut bytes = Vec::new();
        config
            .take(size)
            .read_to_end(&mut bytes)
            .context("read config")?;
        let config: ImageConfig = serde_json::from_slice(&bytes).context("parse config")?;
        let (layers, ids) = (image.layers.len(), config.rootfs.diff_ids.len());
        ensure!(
            layers == ids,
            "config has {ids} diff ids for {layers} layers"
        );
        check_history(&config, ids)?;
        for (name, expected) in image.layers.iter().zip(&config.rootfs.diff_ids) {
            let (raw, _) = self.layout.docker_member(name)?;
            let found = docker_diff_id(raw).with_context(|| format!("layer {name:?}"))?;
            ensure!(
                found.to_string() == *expected,
                "layer {name:?} has the diff id {found}, not {expected}"
            );
        }
        Ok(())
    }
}

fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor
        .annotations
        .contains_key("vnd.docker.reference.type")
}

/// An image without history is fine; with one it has an entry for every layer.
fn check_history(config: &ImageConfig, layers: usize) -> Result<()> {
    let entries = config
        .history
        .iter()
        .filter(|entry| !entry.empty_layer)
        .count();
    ensure!(
        config.history.is_empty() || entries == layers,
        "history has {entries} entries for {layers} layers"
    );
    Ok(())
}

fn check_platform(config: &ImageConfig, descriptor: &Descriptor) -> Result<()> {
    let Some(platform) = &descriptor.platform else {
        return Ok(());
    };
    let same = platform.os == config.os && platform.architecture == config.architecture;
    let (os, architecture) = (&config.os, &config.architecture);
    ensure!(
        same,
        "config is for {os}/{architecture}, the index says {}/{}",
        platform.os,
        platform.architecture
    );
    Ok(())
}

fn diff_id(blob: &mut (impl Read + Send), compression: Compression) -> Result<DiffId> {
    let tar: Box<dyn Read + '_> = match compression {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(
            BufReader::with_capacity(64 << 10, blob),
        )),
        Compression::Zstd => Box::new(zstd::Decoder::new(blob).context("start zstd")?),
    };
    let mut tar = HashingReader::new(tar);
    io::copy(&mut tar, &mut io::sink()).context("decompress")?;
    let (_, digest, _) = tar.finish();
    Ok(DiffId(digest))
}

/// Docker archives do not say how their layers are compressed.
fn docker_diff_id(mut raw: Box<dyn Read + Send>) -> Result<DiffId> {
    let mut magic = Vec::new();
    (&mut raw).take(4).read_to_end(&mut magic)?;
    let compression = match magic.as_slice() {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
        _ => Compression::None,
    };
    diff_id(&mut io::Cursor::new(magic).chain(raw), compression)
}
