//! Platforms: `os[(version)]/architecture[/variant]`, and which image of an index fits one.

use std::fmt;

use smol_str::{SmolStr, StrExt as _};

/// `os/arch[/variant]`, normalised (`x86_64` is `amd64`, `arm64/v8` is `arm64`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Platform {
    /// `linux`, `windows`, …
    pub os: SmolStr,
    /// `amd64`, `arm64`, `arm`, …
    pub architecture: SmolStr,
    /// `v7`, `v2`, …
    pub variant: Option<SmolStr>,
    /// Windows' build number.
    pub os_version: Option<SmolStr>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPlatform {
    text: String,
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reason {
    Wildcard,
    Component(String),
    Unknown,
    Parts,
}

impl fmt::Display for InvalidPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, reason } = self;
        match reason {
            Reason::Wildcard => write!(f, "{text:?}: wildcards not yet supported"),
            Reason::Component(part) => write!(f, "{part:?} is an invalid component of {text:?}"),
            Reason::Unknown => write!(f, "{text:?}: unknown operating system or architecture"),
            Reason::Parts => write!(f, "{text:?}: cannot parse platform specifier"),
        }
    }
}

impl std::error::Error for InvalidPlatform {}

impl Platform {
    /// `linux/amd64` and the like, not normalised further.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        Self {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.filter(|v| !v.is_empty()).map(SmolStr::new),
            os_version: None,
        }
    }

    /// Reads a platform as the command line and `FROM --platform` give it. A lone system or architecture is
    /// completed from `local`, the platform of this machine.
    pub fn parse(text: &str, local: &Self) -> Result<Self, InvalidPlatform> {
        let fail = |reason| InvalidPlatform {
            text: text.to_owned(),
            reason,
        };
        if text.contains('*') {
            return Err(fail(Reason::Wildcard));
        }
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        let (os, os_version) =
            split_os(parts[0]).ok_or_else(|| fail(Reason::Component(parts[0].to_owned())))?;
        if let Some(part) = parts[1..].iter().find(|part| !is_component(part)) {
            return Err(fail(Reason::Component((*part).to_owned())));
        }
        let (architecture, variant) = match *parts.as_slice() {
            [_] if is_known_os(&os) => (local.architecture.clone(), local.variant.clone()),
            [word] => {
                let (architecture, variant) = short_architecture(word);
                if !is_known_architecture(&architecture) {
                    return Err(fail(Reason::Unknown));
                }
                return Ok(Self {
                    os: local.os.clone(),
                    architecture,
                    variant,
                    os_version: None,
                });
            }
            [_, architecture] => short_architecture(architecture),
            [_, architecture, variant] => full_architecture(architecture, variant),
            _ => return Err(fail(Reason::Parts)),
        };
        Ok(Self {
            os,
            architecture,
            variant,
            os_version,
        })
    }

    /// The one spelling of this platform: `x86_64` becomes `amd64`, `arm64/v8` `arm64`, `arm` `arm/v7`.
    pub fn normalized(&self) -> Self {
        let (architecture, variant) = normalize(
            &self.architecture,
            self.variant.as_deref().unwrap_or_default(),
        );
        Self {
            os: system(&self.os),
            architecture,
            variant,
            os_version: self.os_version.clone(),
        }
    }

    /// Without the system's version: `linux/arm/v7`.
    pub fn short(&self) -> String {
        let mut text = format!("{}/{}", self.os, self.architecture);
        if let Some(variant) = &self.variant {
            text.push('/');
            text.push_str(variant);
        }
        text
    }

    /// True where an image for `other` runs here.
    pub fn matches(&self, other: &Self) -> bool {
        self.score(other).is_some()
    }

    /// How far `other` is from what is wanted: 0 is exact, greater is worse, `None` does not run at all. Of the
    /// images of an index the first with the least score is the one to take.
    pub fn score(&self, other: &Self) -> Option<u32> {
        let wanted = self.normalized();
        let other = other.normalized();
        if wanted.os != other.os || !version_fits(&wanted, &other) {
            return None;
        }
        let found = (
            other.architecture.as_str(),
            other.variant.as_deref().unwrap_or_default(),
        );
        let position = compatible(&wanted)
            .iter()
            .position(|(a, v)| (*a, v.as_str()) == found)?;
        u32::try_from(position).ok()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            os,
            architecture,
            variant,
            os_version,
        } = self;
        match os_version {
            Some(version) => write!(f, "{os}({version})/{architecture}")?,
            None => write!(f, "{os}/{architecture}")?,
        }
        variant
            .as_ref()
            .map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// What runs on a normalised platform, best first.
fn compatible(platform: &Platform) -> Vec<(&str, String)> {
    let architecture = platform.architecture.as_str();
    let variant = platform.variant.as_deref().unwrap_or_default().to_owned();
    match architecture {
        "amd64" => {
            let mut all = vec![(architecture, variant.clone())];
            let level = number(&variant).unwrap_or(1);
            all.extend((2..level).rev().map(|n| (architecture, format!("v{n}"))));
            if level > 1 {
                all.push((architecture, String::new()));
            }
            all.push(("386", String::new()));
            all
        }
        "arm" => arm(&variant),
        "arm64" => {
            let mut all = arm64(&variant);
            all.extend(arm("v8"));
            all
        }
        _ => vec![(architecture, variant)],
    }
}

fn arm(variant: &str) -> Vec<(&'static str, String)> {
    let mut all = vec![("arm", variant.to_owned())];
    if let Some(version) = number(variant) {
        all.extend((5..version).rev().map(|n| ("arm", format!("v{n}"))));
    }
    all
}

/// Each v9 runs what the v8 of five minor versions above it runs.
fn arm64(variant: &str) -> Vec<(&'static str, String)> {
    let (major, minor) = match variant {
        "" => (8, 0),
        _ => match variant.split_once('.') {
            Some((major, minor)) => (number(major).unwrap_or(0), minor.parse().unwrap_or(0)),
            None => (number(variant).unwrap_or(0), 0),
        },
    };
    let name = |major: u32, minor: u32| match (major, minor) {
        (8, 0) => String::new(),
        (_, 0) => format!("v{major}"),
        _ => format!("v{major}.{minor}"),
    };
    let down = |major: u32, minor: u32| (0..=minor).rev().map(move |m| ("arm64", name(major, m)));
    match (major, minor) {
        (8, 0..=9) => down(8, minor).collect(),
        (9, 0..=7) => down(9, minor).chain(down(8, (minor + 5).min(9))).collect(),
        _ => vec![("arm64", variant.to_owned())],
    }
}

/// The version in `v7`. Bounded, so that a list of versions below it stays small.
fn number(variant: &str) -> Option<u32> {
    variant
        .strip_prefix('v')
        .unwrap_or(variant)
        .parse()
        .ok()
        .filter(|n| *n < 100)
}

/// Windows images need the same build number; revisions of it do not matter.
fn version_fits(wanted: &Platform, other: &Platform) -> bool {
    let (Some(wanted_version), Some(version)) = (&wanted.os_version, &other.os_version) else {
        return true;
    };
    wanted.os != "windows"
        || wanted_version
            .split('.')
            .take(3)
            .eq(version.split('.').take(3))
}

/// `linux` or `windows(10.0.17763)`.
fn split_os(part: &str) -> Option<(SmolStr, Option<SmolStr>)> {
    let (name, version) = match part.split_once('(') {
        Some((name, rest)) => (name, Some(rest.strip_suffix(')')?)),
        None => (part, None),
    };
    let name_fits = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if !name_fits || version.is_some_and(|v| !v.is_empty() && !is_component(v)) {
        return None;
    }
    let version = version.filter(|v| !v.is_empty());
    Some((system(name), version.map(SmolStr::new)))
}

/// The one spelling of an operating system.
fn system(name: &str) -> SmolStr {
    match name.to_lowercase_smolstr() {
        name if name == "macos" => SmolStr::new_static("darwin"),
        name => name,
    }
}

fn is_component(part: &str) -> bool {
    !part.is_empty()
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// `arm` alone stands for `arm/v7`, but is written without.
fn short_architecture(word: &str) -> (SmolStr, Option<SmolStr>) {
    let (architecture, variant) = normalize(word, "");
    let variant = variant.filter(|v| !(architecture == "arm" && v == "v7"));
    (architecture, variant)
}

/// `arm64/v8` keeps what was typed.
fn full_architecture(architecture: &str, variant: &str) -> (SmolStr, Option<SmolStr>) {
    let (architecture, variant) = normalize(architecture, variant);
    let variant = if architecture == "arm64" {
        variant.or(Some(SmolStr::new_static("v8")))
    } else {
        variant
    };
    (architecture, variant)
}

fn normalize(architecture: &str, variant: &str) -> (SmolStr, Option<SmolStr>) {
    let (architecture, variant) = (
        architecture.to_lowercase_smolstr(),
        variant.to_lowercase_smolstr(),
    );
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", v) => ("arm64", v),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        (a, v) => (a, v),
    };
    let variant = Some(variant).filter(|v| !v.is_empty());
    (architecture.into(), variant.map(SmolStr::new))
}

fn is_known_os(os: &str) -> bool {
    matches!(
        os,
        "aix"
            | "android"
            | "darwin"
            | "dragonfly"
            | "freebsd"
            | "hurd"
            | "illumos"
            | "ios"
            | "js"
            | "linux"
            | "nacl"
            | "netbsd"
            | "openbsd"
            | "plan9"
            | "solaris"
            | "windows"
            | "zos"
    )
}

fn is_known_architecture(architecture: &str) -> bool {
    matches!(
        architecture,
        "386"
            | "amd64"
            | "amd64p32"
            | "arm"
            | "armbe"
            | "arm64"
            | "arm64be"
            | "ppc64"
            | "ppc64le"
            | "loong64"
            | "mips"
            | "mipsle"
            | "mips64"
            | "mips64le"
            | "mips64p32"
            | "mips64p32le"
            | "ppc"
            | "riscv"
            | "riscv64"
            | "s390"
            | "s390x"
            | "sparc"
            | "sparc64"
            | "wasm"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn platform(text: &str) -> Platform {
        Platform::parse(text, &Platform::new("linux", "amd64", None)).unwrap()
    }

    #[test]
    fn platforms_are_read_and_written() {
        for (text, shown, normal) in [
            ("linux/amd64", "linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64", "linux/arm64"),
            ("linux/arm", "linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6", "linux/arm/v6"),
            ("arm64", "linux/arm64", "linux/arm64"),
            ("arm", "linux/arm", "linux/arm/v7"),
            ("i386", "linux/386", "linux/386"),
            ("linux", "linux/amd64", "linux/amd64"),
            ("windows", "windows/amd64", "windows/amd64"),
            ("macos/arm64", "darwin/arm64", "darwin/arm64"),
            ("linux/amd64/v1", "linux/amd64", "linux/amd64"),
            (
                "windows(10.0.17763)/amd64",
                "windows(10.0.17763)/amd64",
                "windows(10.0.17763)/amd64",
            ),
        ] {
            let got = platform(text);
            assert_eq!(
                (
                    got.to_string().as_str(),
                    got.normalized().to_string().as_str()
                ),
                (shown, normal),
                "{text}"
            );
        }
    }

    #[test]
    fn wrong_platforms_say_why() {
        for (text, message) in [
            ("", "\"\" is an invalid component of \"\""),
            ("linux/*", "\"linux/*\": wildcards not yet supported"),
            (
                "linux/am d64",
                "\"am d64\" is an invalid component of \"linux/am d64\"",
            ),
            ("what", "\"what\": unknown operating system or architecture"),
            ("a/b/c/d", "\"a/b/c/d\": cannot parse platform specifier"),
            ("linux//v7", "\"\" is an invalid component of \"linux//v7\""),
        ] {
            let local = Platform::new("linux", "amd64", None);
            assert_eq!(
                Platform::parse(text, &local).unwrap_err().to_string(),
                message,
                "{text}"
            );
        }
    }

    #[test]
    fn the_nearest_platform_is_taken() {
        fn order(wanted: &str, offered: &[&'static str]) -> Vec<&'static str> {
            let wanted = platform(wanted);
            let mut fits: Vec<_> = offered
                .iter()
                .filter_map(|o| wanted.score(&platform(o)).map(|s| (s, *o)))
                .collect();
            fits.sort();
            fits.into_iter().map(|(_, o)| o).collect()
        }
        assert_eq!(
            order(
                "linux/arm/v7",
                &[
                    "linux/arm/v5",
                    "linux/arm/v6",
                    "linux/arm64",
                    "linux/arm/v7",
                    "linux/arm/v8"
                ]
            ),
            ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]
        );
        assert_eq!(
            order(
                "linux/arm64",
                &[
                    "linux/arm",
                    "linux/arm64/v9",
                    "linux/arm64/v8",
                    "linux/amd64",
                    "linux/arm/v8"
                ]
            ),
            ["linux/arm64/v8", "linux/arm/v8", "linux/arm"]
        );
        assert_eq!(
            order(
                "linux/amd64",
                &[
                    "linux/386",
                    "linux/amd64/v2",
                    "linux/amd64",
                    "windows/amd64"
                ]
            ),
            ["linux/amd64", "linux/386"]
        );
        assert_eq!(
            order(
                "linux/amd64/v3",
                &[
                    "linux/amd64",
                    "linux/amd64/v2",
                    "linux/amd64/v4",
                    "linux/amd64/v3"
                ]
            ),
            ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"]
        );
        assert_eq!(
            order(
                "linux/arm64/v9.1",
                &[
                    "linux/arm64/v8.6",
                    "linux/arm64/v8.7",
                    "linux/arm64/v9",
                    "linux/arm64"
                ]
            ),
            ["linux/arm64/v9", "linux/arm64/v8.6", "linux/arm64"]
        );
        assert_eq!(
            order("linux/riscv64", &["linux/amd64", "linux/riscv64"]),
            ["linux/riscv64"]
        );
        assert_eq!(
            order(
                "windows(10.0.17763.1)/amd64",
                &["windows(10.0.17763.99)/amd64", "windows(10.0.20348)/amd64"]
            ),
            ["windows(10.0.17763.99)/amd64"]
        );
    }
}
