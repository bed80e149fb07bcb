//! `--cache-from` and `--cache-to` as they were asked for, turned into places and exports.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use lapstrake_frontend::image::ImageRef;
use rusty_s3::Credentials;

use crate::annotations::Annotations;
use crate::build::Travel;
use crate::cli::{BuildOptions, CacheSpec, Environment, boolean};
use crate::compress::Compression;
use crate::pack::{Flavour, Packing};
use crate::travel::{Export, Gha, Images, Mode, Mounts, Objects, Place, Protocol, S3};

/// All caches of a build.
pub(super) fn travel(options: &BuildOptions, env: &Environment) -> Result<Travel> {
    let mut travel = Travel {
        inline: options.is_on("BUILDKIT_INLINE_CACHE"),
        ..Travel::default()
    };
    for spec in &options.cache_from {
        let mut attributes = Attributes::new("--cache-from", spec, env);
        let source = source(&mut attributes)?;
        attributes.finish()?;
        match source {
            Some(place) => travel.from.push(place),
            None => travel.notes.push(INACTIVE.to_owned()),
        }
    }
    let namespace = options.build_args.get("BUILDKIT_CACHE_MOUNT_NS");
    let namespace = namespace.map(String::as_str);
    for spec in &options.cache_to {
        let mut attributes = Attributes::new("--cache-to", spec, env);
        if spec.kind == "inline" {
            travel.inline = true;
        } else {
            match export(&mut attributes, namespace)? {
                Some(export) => travel.to.push(export),
                None => travel.notes.push(INACTIVE.to_owned()),
            }
        }
        attributes.finish()?;
    }
    Ok(travel)
}

/// Pipelines name this cache wherever they run, as buildx lets them.
const INACTIVE: &str = "caches of type=gha are left out: this is no job of GitHub Actions that shows its cache to programs \
    (ACTIONS_RUNTIME_TOKEN and ACTIONS_RESULTS_URL or ACTIONS_CACHE_URL are not set)";

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

/// `None` for a cache that is not there outside of GitHub Actions.
fn source(attributes: &mut Attributes) -> Result<Option<Place>> {
    Ok(Some(match attributes.kind.as_str() {
        "registry" => registry(attributes)?,
        "local" => Place::Images(Images::Layout {
            path: PathBuf::from(attributes.needed("src")?),
            name: attributes.take("digest").or(attributes.take("tag")),
        }),
        "s3" => s3(attributes)?,
        "gha" => return gha(attributes),
        "inline" => {
            bail!("--cache-from: name the image that holds its cache with type=registry,ref=NAME")
        }
        other => {
            bail!("--cache-from: {other:?} is no type of cache: use registry, local, s3 or gha")
        }
    }))
}

/// `namespace` is that of the build's cache mounts.
fn export(attributes: &mut Attributes, namespace: Option<&str>) -> Result<Option<Export>> {
    let place = match attributes.kind.as_str() {
        "registry" => Some(registry(attributes)?),
        "local" => Some(Place::Images(Images::Layout {
            path: PathBuf::from(attributes.needed("dest")?),
            name: attributes.take("tag"),
        })),
        "s3" => Some(s3(attributes)?),
        "gha" => gha(attributes)?,
        other => bail!(
            "--cache-to: {other:?} is no type of cache: use registry, local, inline, s3 or gha"
        ),
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
    let packing = packing(attributes)?;
    let ignore_error = attributes.flag("ignore-error")? == Some(true);
    let mounts = match attributes.take("mounts").as_deref() {
        None => Mounts::Ids(Vec::new()),
        Some("all") => Mounts::All,
        Some(ids) => Mounts::Ids(named(ids, namespace)),
    };
    Ok(place.map(|place| Export {
        place,
        mode,
        packing,
        ignore_error,
        mounts,
        sent: Arc::default(),
    }))
}

/// Ids of cache mounts as the plan has them: people may leave out the namespace, which is the same for all of a build.
fn named(ids: &str, namespace: Option<&str>) -> Vec<String> {
    let full = |id: &str| namespace.map(|namespace| format!("{namespace}/{id}"));
    let both = |id: &str| [Some(id.to_owned()), full(id)];
    ids.split(',').flat_map(both).flatten().collect()
}

fn registry(attributes: &mut Attributes) -> Result<Place> {
    attributes.flag("registry.insecure")?;
    let name = attributes.needed("ref")?;
    let name: ImageRef = name
        .parse()
        .with_context(|| format!("{}: ref={name:?} is no name of an image", attributes.flag))?;
    Ok(Place::Images(Images::Registry(name)))
}

fn s3(attributes: &mut Attributes) -> Result<Place> {
    let or_env = |attributes: &mut Attributes, name: &str, variables: &[&str]| {
        attributes
            .take(name)
            .or_else(|| attributes.variable(variables))
    };
    let bucket = or_env(attributes, "bucket", &["AWS_BUCKET"]);
    let bucket = bucket.with_context(|| attributes.lacks("bucket"))?;
    let region = or_env(attributes, "region", &["AWS_REGION", "AWS_DEFAULT_REGION"]);
    let region = region.with_context(|| attributes.lacks("region"))?;
    let endpoint = or_env(
        attributes,
        "endpoint_url",
        &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
    );
    let path_style = attributes.flag("use_path_style")?;
    let key = or_env(attributes, "access_key_id", &["AWS_ACCESS_KEY_ID"]);
    let secret = or_env(attributes, "secret_access_key", &["AWS_SECRET_ACCESS_KEY"]);
    let token = or_env(attributes, "session_token", &["AWS_SESSION_TOKEN"]);
    let credentials = match (key, secret, token) {
        (Some(key), Some(secret), Some(token)) => {
            Some(Credentials::new_with_token(key, secret, token))
        }
        (Some(key), Some(secret), None) => Some(Credentials::new(key, secret)),
        _ => None,
    };
    let prefix = attributes.take("prefix").unwrap_or_default();
    let mut below = |name: &str, default: &str| {
        let folder = attributes.take(name).unwrap_or_else(|| default.to_owned());
        format!("{prefix}{folder}")
    };
    let (blobs, indexes) = (
        below("blobs_prefix", "blobs/"),
        below("manifests_prefix", "manifests/"),
    );
    let names = attributes
        .take("name")
        .unwrap_or_else(|| CACHE_NAME.to_owned());
    let names = names.split(';').filter(|name| !name.is_empty());
    let indexes = names.map(|name| format!("{indexes}{name}")).collect();
    // What is not Amazon's most often knows no other style.
    let path_style = path_style.unwrap_or(endpoint.is_some());
    let s3 = S3::new(
        &bucket,
        &region,
        endpoint.as_deref(),
        path_style,
        credentials,
    )
    .and_then(|s3| s3.at(blobs, indexes));
    let s3 = s3.with_context(|| attributes.flag.to_owned())?;
    Ok(Place::Objects(Arc::new(Objects::S3(s3))))
}

/// The name of a cache where objects are, when it was not given one.
const CACHE_NAME: &str = "lapstrake";

/// `None` where there is no such cache.
fn gha(attributes: &mut Attributes) -> Result<Option<Place>> {
    // These say what buildx would do beside; here there is nothing to do.
    for name in ["ghtoken", "repository", "timeout"] {
        attributes.take(name);
    }
    let or_env = |attributes: &mut Attributes, name: &str, variable: &str| {
        attributes
            .take(name)
            .or_else(|| attributes.variable(&[variable]))
    };
    let token = or_env(attributes, "token", "ACTIONS_RUNTIME_TOKEN");
    let first = or_env(attributes, "url", "ACTIONS_CACHE_URL");
    let second = or_env(attributes, "url_v2", "ACTIONS_RESULTS_URL");
    let scope = attributes
        .take("scope")
        .unwrap_or_else(|| CACHE_NAME.to_owned());
    let second_is_on = attributes.variable(&["ACTIONS_CACHE_SERVICE_V2"]);
    let second_is_on = second_is_on.is_some_and(|text| boolean(&text.to_lowercase()) == Ok(true));
    let is_second = match attributes.take("version").as_deref() {
        Some("1") => false,
        Some("2") => true,
        Some(other) => bail!("{}: version is 1 or 2, not {other:?}", attributes.flag),
        None => second_is_on || first.is_none(),
    };
    let (protocol, url) = match is_second {
        true => (Protocol::Twirp, second),
        false => (Protocol::Rest, first),
    };
    let (Some(token), Some(url)) = (token, url) else {
        return Ok(None);
    };
    let url = url
        .parse()
        .with_context(|| format!("{}: read the url of the cache", attributes.flag))?;
    let gha = Gha {
        protocol,
        url,
        token,
        scope,
    };
    Ok(Some(Place::Objects(Arc::new(Objects::Gha(gha)))))
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
        annotations: Annotations::default(),
    })
}

/// The options of a cache; each is taken once, and what is left nobody knows.
struct Attributes<'a> {
    flag: &'static str,
    kind: String,
    options: BTreeMap<String, String>,
    env: &'a Environment,
}

impl<'a> Attributes<'a> {
    fn new(flag: &'static str, spec: &CacheSpec, env: &'a Environment) -> Self {
        Self {
            flag,
            kind: spec.kind.clone(),
            options: spec.options.clone(),
            env,
        }
    }

    /// The first of these variables that is set.
    fn variable(&self, names: &[&str]) -> Option<String> {
        let mut values = names.iter().filter_map(|name| self.env.nonempty(name));
        values.next().map(str::to_owned)
    }

    fn lacks(&self, name: &str) -> String {
        format!("{}: type={} needs {name}=…", self.flag, self.kind)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.options.remove(name).filter(|value| !value.is_empty())
    }

    fn needed(&mut self, name: &str) -> Result<String> {
        self.take(name).with_context(|| self.lacks(name))
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
