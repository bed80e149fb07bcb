//! Image references: `[registry[:port]/]repository[:tag][@digest]`, with Docker's short forms.

use std::fmt;
use std::str::FromStr;

const DEFAULT_REGISTRY: &str = "docker.io";
/// The name under which Docker Hub was known before; still found in old files.
const LEGACY_REGISTRY: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// An image reference, normalised as Docker does: `alpine` is `docker.io/library/alpine:latest`.
///
/// [`FromStr`] reads any accepted form; [`Display`](fmt::Display) writes the short one (`alpine:latest`),
/// [`ImageRef::canonical`] the full one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    /// `docker.io`, `localhost:5000`, …
    pub registry: String,
    /// `library/alpine`.
    pub repository: String,
    /// `latest` when neither tag nor digest was given.
    pub tag: Option<String>,
    /// `sha256:…`; wins over the tag.
    pub digest: Option<String>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidReference {
    /// 64 hexadecimal digits: they would be taken for an image id.
    LooksLikeId(String),
    /// The repository has upper-case letters.
    UpperCase(String),
    /// Anything else that the grammar does not allow.
    Format,
    /// The repository has more than 255 characters.
    TooLong,
    /// The digest names an algorithm that is not known.
    DigestAlgorithm,
    /// The digest does not have as many digits as its algorithm gives.
    DigestLength,
}

impl fmt::Display for InvalidReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LooksLikeId(name) => {
                write!(
                    f,
                    "invalid repository name ({name}), cannot specify 64-byte hexadecimal strings"
                )
            }
            Self::UpperCase(name) => {
                write!(
                    f,
                    "invalid reference format: repository name ({name}) must be lowercase"
                )
            }
            Self::Format => f.write_str("invalid reference format"),
            Self::TooLong => write!(
                f,
                "repository name must not be more than {MAX_REPOSITORY} characters"
            ),
            Self::DigestAlgorithm => f.write_str("unsupported digest algorithm"),
            Self::DigestLength => f.write_str("invalid checksum digest length"),
        }
    }
}

impl std::error::Error for InvalidReference {}

impl ImageRef {
    /// Whether a text is a reference.
    pub(crate) fn check(text: &str) -> Result<(), InvalidReference> {
        Parts::read(text).map(drop)
    }

    /// The name without tag and digest: `docker.io/library/alpine`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The full form: `docker.io/library/alpine:latest`.
    pub fn canonical(&self) -> String {
        self.with_suffix(self.name())
    }

    /// The name as people write it: `alpine`, `ghcr.io/me/app`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match self.repository.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.repository.clone(),
        }
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest);
        }
        text
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.familiar_name()))
    }
}

impl FromStr for ImageRef {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut reference = Parts::read(text)?.reference();
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some(DEFAULT_TAG.to_owned());
        }
        Ok(reference)
    }
}

/// The name under which `--build-context` and its users meet: the short form, without `:latest`. A platform may follow
/// after `::`, for which alone the context is then.
pub fn normalize_context_name(name: &str) -> Result<String, InvalidReference> {
    if let Some((name, platform)) = name.split_once("::") {
        return Ok(format!("{}::{platform}", normalize_context_name(name)?));
    }
    let text = Parts::read(name)?.reference().to_string();
    Ok(text.strip_suffix(":latest").unwrap_or(&text).to_owned())
}

/// A reference taken apart, without the default tag.
struct Parts<'a> {
    registry: &'a str,
    /// `library/` of an official image.
    prefix: &'static str,
    repository: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn read(text: &'a str) -> Result<Self, InvalidReference> {
        if text.len() == 64 && text.bytes().all(is_lower_hex) {
            return Err(InvalidReference::LooksLikeId(text.to_owned()));
        }
        let (registry, rest) = split_registry(text);
        let official = registry == DEFAULT_REGISTRY && !rest.contains('/');
        let prefix = if official { OFFICIAL } else { "" };
        let lowered = rest.split(':').next().unwrap_or_default();
        if has_upper_case(lowered) {
            return Err(InvalidReference::UpperCase(format!("{prefix}{lowered}")));
        }
        let (rest, digest) = split_optional(rest, '@');
        let (repository, tag) = split_optional(rest, ':');
        if !is_registry(registry)
            || !repository.split('/').all(is_component)
            || tag.is_some_and(|tag| !is_tag(tag))
        {
            return Err(InvalidReference::Format);
        }
        if prefix.len() + repository.len() > MAX_REPOSITORY {
            return Err(InvalidReference::TooLong);
        }
        digest.map_or(Ok(()), check_digest)?;
        Ok(Self {
            registry,
            prefix,
            repository,
            tag,
            digest,
        })
    }

    fn reference(self) -> ImageRef {
        ImageRef {
            registry: self.registry.to_owned(),
            repository: [self.prefix, self.repository].concat(),
            tag: self.tag.map(str::to_owned),
            digest: self.digest.map(str::to_owned),
        }
    }
}

fn split_optional(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.split_once(separator) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// Tells the registry from the first part of a path.
fn split_registry(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((LEGACY_REGISTRY, rest)) => (DEFAULT_REGISTRY, rest),
        Some((first, rest)) if names_a_host(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, text),
    }
}

/// Upper case cannot be a repository, so that it must be a host.
fn names_a_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || has_upper_case(first)
}

fn has_upper_case(text: &str) -> bool {
    text.chars().any(|c| c.to_lowercase().ne([c]))
}

fn is_registry(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            !address.is_empty()
                && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        });
    }
    let (host, port) = split_optional(text, ':');
    host.split('.').all(is_host_part) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_host_part(part: &str) -> bool {
    !part.is_empty()
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !part.starts_with('-')
        && !part.ends_with('-')
}

/// `[a-z0-9]+` joined by one dot, one or two underscores, or any number of dashes.
fn is_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let edges_fit = bytes.first().copied().is_some_and(alphanumeric)
        && bytes.last().copied().is_some_and(alphanumeric);
    let separators = part
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|s| !s.is_empty());
    edges_fit
        && separators
            .into_iter()
            .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=MAX_TAG).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_lower_hex(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'f')
}

/// Whether it is `algorithm:hex` of an algorithm that can be checked.
pub(crate) fn check_digest(digest: &str) -> Result<(), InvalidReference> {
    let (algorithm, hex) = digest.split_once(':').ok_or(InvalidReference::Format)?;
    let algorithm_fits = algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    if !algorithm_fits || hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(InvalidReference::Format);
    }
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(InvalidReference::DigestAlgorithm),
    };
    if hex.len() != length {
        return Err(InvalidReference::DigestLength);
    }
    if !hex.bytes().all(is_lower_hex) {
        return Err(InvalidReference::Format);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HEX: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    #[test]
    fn references_are_normalised() {
        let digest = format!("alpine@sha256:{HEX}");
        let both = format!("ghcr.io/a/b:1@sha256:{HEX}");
        let cases = [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            (
                "alpine:3.20",
                "docker.io/library/alpine:3.20",
                "alpine:3.20",
            ),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            (
                "docker.io/alpine",
                "docker.io/library/alpine:latest",
                "alpine:latest",
            ),
            (
                "index.docker.io/alpine",
                "docker.io/library/alpine:latest",
                "alpine:latest",
            ),
            (
                "library/alpine",
                "docker.io/library/alpine:latest",
                "alpine:latest",
            ),
            (
                "docker.io/library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            (
                "localhost/app",
                "localhost/app:latest",
                "localhost/app:latest",
            ),
            (
                "localhost:5000/app:1",
                "localhost:5000/app:1",
                "localhost:5000/app:1",
            ),
            (
                "[::1]:5000/app",
                "[::1]:5000/app:latest",
                "[::1]:5000/app:latest",
            ),
            (
                "127.0.0.1/app",
                "127.0.0.1/app:latest",
                "127.0.0.1/app:latest",
            ),
            ("Registry/app", "Registry/app:latest", "Registry/app:latest"),
            ("a__b/c-.-d/e", "", ""),
            (
                "a__b/c--d/e",
                "docker.io/a__b/c--d/e:latest",
                "a__b/c--d/e:latest",
            ),
            (&digest, &format!("docker.io/library/{digest}"), &digest),
            (&both, &both, &both),
        ];
        for (text, canonical, familiar) in cases {
            let got = text.parse::<ImageRef>();
            let (c, f) =
                got.map_or_else(|_| Default::default(), |r| (r.canonical(), r.to_string()));
            assert_eq!((c.as_str(), f.as_str()), (canonical, familiar), "{text}");
        }
    }

    #[test]
    fn wrong_references_say_why() {
        let long = "a".repeat(256);
        let cases = [
            ("", "invalid reference format"),
            (
                "Alpine",
                "invalid reference format: repository name (library/Alpine) must be lowercase",
            ),
            ("a b", "invalid reference format"),
            ("alpine:", "invalid reference format"),
            ("alpine:-x", "invalid reference format"),
            ("/alpine", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("a-", "invalid reference format"),
            ("a..b/c.d_", "invalid reference format"),
            ("host:port/app", "invalid reference format"),
            (
                HEX,
                &format!(
                    "invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"
                ),
            ),
            (&format!("a@md5:{HEX}"), "unsupported digest algorithm"),
            (&format!("a@sha512:{HEX}"), "invalid checksum digest length"),
            ("a@sha256:12", "invalid reference format"),
            (
                &long,
                "repository name must not be more than 255 characters",
            ),
            ("aé", "invalid reference format"),
        ];
        for (text, message) in cases {
            assert_eq!(
                text.parse::<ImageRef>().unwrap_err().to_string(),
                message,
                "{text}"
            );
        }
    }

    #[test]
    fn context_names_meet() {
        for (name, normal) in [
            ("docker.io/library/alpine", "alpine"),
            ("alpine:latest", "alpine"),
            ("alpine:3", "alpine:3"),
            ("base", "base"),
            ("base:latest::linux/arm64", "base::linux/arm64"),
            ("ghcr.io/a/b:latest", "ghcr.io/a/b"),
        ] {
            assert_eq!(normalize_context_name(name).unwrap(), normal, "{name}");
        }
    }
}
