//! `--cache-from` and `--cache-to` as they were asked for, turned into places and exports.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use lapstrake_frontend::image::ImageRef;

use crate::build::Travel;
use crate::cli::{BuildOptions, CacheSpec, boolean};
use crate::compress::Compression;
use crate::pack::{Flavour, Packing};
use crate::travel::{Export, Mode, Mounts, Place};

/// All caches of a build.
pub(super) fn travel(options: &BuildOptions) -> Result<Travel> {
    let mut travel = Travel::default();
    for spec in &options.cache_from {
        let mut attributes = Attributes::new("--cache-from", spec);
        let place = source(&mut attributes)?;
        attributes.finish()?;
        travel.from.push(place);
    }
    for spec in &options.cache_to {
        let mut attributes = Attributes::new("--cache-to", spec);
        if spec.kind == "inline" {
            travel.inline = true;
        } else {
            travel.to.push(export(&mut attributes)?);
        }
        attributes.finish()?;
    }
    Ok(travel)
}

/// Registries of caches that are trusted without TLS.
pub(super) fn insecure(options: &BuildOptions) -> Vec<String> {
    let is_insecure = |spec: &&CacheSpec| {
        let insecure = spec.options.get("registry.insecure");
        insecure.is_some_and(|text| boolean(text) == Ok(true))
    };
    let registry = |spec: &CacheSpec| {
        let name: ImageRef = spec.options.get("ref")?.parse().ok()?;
        Some(name.registry)
    };
    let specs = options.cache_from.iter().chain(&options.cache_to);
    specs.filter(is_insecure).filter_map(registry).collect()
}

fn source(attributes: &mut Attributes) -> Result<Place> {
    Ok(match attributes.kind.as_str() {
        "registry" => registry(attributes)?,
        "local" => Place::Layout {
            path: PathBuf::from(attributes.needed("src")?),
            name: attributes.take("digest").or(attributes.take("tag")),
        },
        "inline" => {
            bail!("--cache-from: name the image that holds its cache with type=registry,ref=NAME")
        }
        other => bail!("--cache-from: {other:?} is no type of cache: use registry or local"),
    })
}

fn export(attributes: &mut Attributes) -> Result<Export> {
    let place = match attributes.kind.as_str() {
        "registry" => registry(attributes)?,
        "local" => Place::Layout {
            path: PathBuf::from(attributes.needed("dest")?),
            name: attributes.take("tag"),
        },
        other => bail!("--cache-to: {other:?} is no type of cache: use registry, local or inline"),
    };
    let mode = match attributes.take("mode").as_deref() {
        None | Some("min") => Mode::Min,
        Some("max") => Mode::Max,
        Some(other) => bail!("--cache-to: mode is min or max, not {other:?}"),
    };
    ensure!(
        attributes.flag("image-manifest")? != Some(false),
        "--cache-to: a cache is always an image manifest: leave image-manifest=false out"
    );
    Ok(Export {
        place,
        mode,
        packing: packing(attributes)?,
        ignore_error: attributes.flag("ignore-error")? == Some(true),
        mounts: match attributes.take("mounts").as_deref() {
            None => Mounts::Ids(Vec::new()),
            Some("all") => Mounts::All,
            Some(ids) => Mounts::Ids(ids.split(',').map(str::to_owned).collect()),
        },
    })
}

fn registry(attributes: &mut Attributes) -> Result<Place> {
    attributes.flag("registry.insecure")?;
    let name = attributes.needed("ref")?;
    let name: ImageRef = name
        .parse()
        .with_context(|| format!("{}: ref={name:?} is no name of an image", attributes.flag))?;
    Ok(Place::Registry(name))
}

fn packing(attributes: &mut Attributes) -> Result<Packing> {
    let level = attributes.take("compression-level");
    let level = level
        .map(|text| {
            text.parse()
                .context("--cache-to: compression-level is a number")
        })
        .transpose()?;
    let compression = match attributes.take("compression").as_deref() {
        None | Some("gzip") => Compression::gzip(level),
        Some("zstd") => Compression::zstd(level),
        Some("uncompressed") => Compression::None,
        Some(other) => {
            bail!("--cache-to: compression is gzip, zstd or uncompressed, not {other:?}")
        }
    };
    let flavour = match attributes.flag("oci-mediatypes")? {
        Some(false) => Flavour::Docker,
        _ => Flavour::Oci,
    };
    Ok(Packing {
        compression,
        force: attributes.flag("force-compression")? == Some(true),
        flavour,
        annotations: BTreeMap::new(),
    })
}

/// The options of a cache; each is taken once, and what is left nobody knows.
struct Attributes {
    flag: &'static str,
    kind: String,
    options: BTreeMap<String, String>,
}

impl Attributes {
    fn new(flag: &'static str, spec: &CacheSpec) -> Self {
        Self {
            flag,
            kind: spec.kind.clone(),
            options: spec.options.clone(),
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.options.remove(name).filter(|value| !value.is_empty())
    }

    fn needed(&mut self, name: &str) -> Result<String> {
        let Self { flag, kind, .. } = self;
        let missing = format!("{flag}: type={kind} needs {name}=…");
        self.take(name).context(missing)
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        let value = self.take(name).map(|text| boolean(&text)).transpose();
        value.map_err(|error| anyhow::anyhow!("{}: {name}: {error}", self.flag))
    }

    fn finish(self) -> Result<()> {
        match self.options.keys().next() {
            Some(name) => bail!("{}: type={} has no option {name:?}", self.flag, self.kind),
            None => Ok(()),
        }
    }
}
