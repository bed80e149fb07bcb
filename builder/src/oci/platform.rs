//! The platform of a manifest in an index, and which manifest of an index a build wants.

use lapstrake_frontend::image::Platform;
use serde::{Deserialize, Serialize};

use super::manifest::{Descriptor, Index, Other, nullable};

/// `platform` of a descriptor, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlatformSpec {
    /// `amd64`, `arm64`, …
    #[serde(default)]
    pub architecture: String,
    /// `linux`, …
    #[serde(default)]
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// Features that the operating system must have (Windows).
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub os_features: Vec<String>,
    /// `v7`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Unknown members.
    #[serde(flatten)]
    pub other: Other,
}

impl From<&Platform> for PlatformSpec {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.to_string(),
            os: platform.os.to_string(),
            os_version: platform.os_version.as_ref().map(ToString::to_string),
            variant: platform.variant.as_ref().map(ToString::to_string),
            ..Self::default()
        }
    }
}

impl PlatformSpec {
    /// What it says, without features and unknown members.
    #[must_use]
    pub fn to_platform(&self) -> Platform {
        Platform {
            os: self.os.as_str().into(),
            architecture: self.architecture.as_str().into(),
            variant: self.variant.as_deref().map(Into::into),
            os_version: self.os_version.as_deref().map(Into::into),
        }
    }
}

/// The manifest of the index that serves `wanted` best: the same platform, else one that such a machine runs
/// too (arm/v7 on arm64, amd64 without variant on amd64/v3). Of equals the first one wins.
///
/// Attestations (`unknown/unknown`) are never taken.
#[must_use]
pub fn select<'a>(index: &'a Index, wanted: &Platform) -> Option<&'a Descriptor> {
    let candidates = index.manifests.iter().filter_map(|descriptor| {
        let offered = descriptor.platform.as_ref()?.to_platform();
        Some((wanted.score(&offered)?, descriptor))
    });
    candidates
        .min_by_key(|(score, _)| *score)
        .map(|(_, descriptor)| descriptor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::oci::media;
    use lapstrake_cache::Digest;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/');
        Platform {
            os: parts.next().unwrap().into(),
            architecture: parts.next().unwrap().into(),
            variant: parts.next().map(Into::into),
            os_version: None,
        }
    }

    fn chosen(offers: &[&str], wanted: &str) -> Option<String> {
        let manifests = offers.iter().map(|offer| Descriptor {
            platform: Some(PlatformSpec::from(&platform(offer))),
            ..Descriptor::new(media::OCI_MANIFEST, Digest::of(offer.as_bytes()), 1)
        });
        let index = Index::new(media::OCI_INDEX, manifests.collect());
        let descriptor = select(&index, &platform(wanted))?.clone();
        offers
            .iter()
            .find(|offer| Digest::of(offer.as_bytes()) == descriptor.digest)
            .map(|o| (*o).to_owned())
    }

    #[test]
    fn the_best_platform_is_taken() {
        // wanted | offers | taken
        let table = [
            (
                "linux/amd64",
                "linux/arm64 linux/amd64",
                Some("linux/amd64"),
            ),
            ("linux/amd64", "linux/386 linux/amd64", Some("linux/amd64")),
            ("linux/amd64", "linux/386 linux/arm64", Some("linux/386")),
            ("linux/amd64", "windows/amd64 unknown/unknown", None),
            (
                "linux/amd64/v3",
                "linux/amd64/v4 linux/amd64 linux/amd64/v2",
                Some("linux/amd64/v2"),
            ),
            ("linux/amd64", "linux/amd64/v2", None),
            (
                "linux/arm64",
                "linux/arm/v7 linux/arm64/v8",
                Some("linux/arm64/v8"),
            ),
            (
                "linux/arm64",
                "linux/arm/v5 linux/arm/v7",
                Some("linux/arm/v7"),
            ),
            (
                "linux/arm/v6",
                "linux/arm/v7 linux/arm/v5",
                Some("linux/arm/v5"),
            ),
            (
                "linux/arm",
                "linux/arm/v6 linux/arm/v7",
                Some("linux/arm/v7"),
            ),
            (
                "linux/riscv64",
                "linux/amd64 linux/riscv64",
                Some("linux/riscv64"),
            ),
            ("linux/s390x", "linux/amd64", None),
        ];
        for (wanted, offers, taken) in table {
            let offers: Vec<&str> = offers.split(' ').collect();
            assert_eq!(
                chosen(&offers, wanted).as_deref(),
                taken,
                "{wanted} of {offers:?}"
            );
        }
    }
}
