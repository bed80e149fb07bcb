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
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            variant: platform.variant.clone(),
            ..Self::default()
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
        let offered = descriptor.platform.as_ref()?;
        Some((rank(offered, wanted)?, descriptor))
    });
    candidates
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, descriptor)| descriptor)
}

/// How far the offer is from the wish: 0 is exact, `None` does not run there.
fn rank(offered: &PlatformSpec, wanted: &Platform) -> Option<usize> {
    if offered.os != wanted.os {
        return None;
    }
    if let (Some(offered), Some(wanted)) = (&offered.os_version, &wanted.os_version)
        && offered != wanted
    {
        return None;
    }
    let offered = canonical(&offered.architecture, offered.variant.as_deref());
    let wanted = canonical(&wanted.architecture, wanted.variant.as_deref());
    runs(&wanted)
        .iter()
        .position(|candidate| *candidate == offered)
}

type Machine = (String, u32);

/// Architecture and variant number, with the defaults filled in: amd64 is v1, arm64 v8, arm v7.
fn canonical(architecture: &str, variant: Option<&str>) -> Machine {
    let architecture = match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "armhf" | "armel" => "arm",
        "i386" => "386",
        other => other,
    };
    let default = match architecture {
        "amd64" => 1,
        "arm64" => 8,
        "arm" => 7,
        _ => 0,
    };
    let number = variant.and_then(|v| {
        v.strip_prefix('v')
            .unwrap_or(v)
            .split('.')
            .next()?
            .parse()
            .ok()
    });
    (architecture.to_owned(), number.unwrap_or(default))
}

/// What a machine runs, best first: the order that containerd prefers.
fn runs((architecture, variant): &Machine) -> Vec<Machine> {
    let down_to = |name: &str, from: u32, to: u32| {
        (to..=from)
            .rev()
            .map(|v| (name.to_owned(), v))
            .collect::<Vec<_>>()
    };
    match architecture.as_str() {
        "amd64" => [
            down_to("amd64", (*variant).clamp(1, 4), 1),
            vec![("386".into(), 0)],
        ]
        .concat(),
        "arm64" => [
            down_to("arm64", (*variant).clamp(8, 9), 8),
            down_to("arm", 8, 5),
        ]
        .concat(),
        "arm" => down_to("arm", (*variant).clamp(5, 8), 5),
        _ => vec![(architecture.clone(), *variant)],
    }
}

/// The platform as people write it.
pub fn shown(platform: &PlatformSpec) -> String {
    let mut text = format!("{}/{}", platform.os, platform.architecture);
    if let Some(variant) = platform
        .variant
        .as_deref()
        .filter(|variant| !variant.is_empty())
    {
        text.push('/');
        text.push_str(variant);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::oci::media;
    use lapstrake_cache::Digest;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap(),
            architecture: parts.next().unwrap(),
            variant: parts.next(),
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
