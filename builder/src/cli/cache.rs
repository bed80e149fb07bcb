//! `--cache-from` and `--cache-to`, `--attest` and its short forms, `--call`: values that are a type with options.

use std::collections::BTreeMap;

use super::values::{self, Invalid, boolean};

/// A cache outside the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSpec {
    /// `registry`, `local`, `inline`, …
    pub kind: String,
    /// Its other options.
    pub options: BTreeMap<String, String>,
}

impl CacheSpec {
    /// Reads `type=TYPE,KEY=VALUE,…`, or image names separated by commas.
    pub(super) fn parse(text: &str) -> Result<Vec<Self>, Invalid> {
        if !text.contains('=') {
            let registry = |name: String| Self {
                kind: "registry".to_owned(),
                options: BTreeMap::from([("ref".to_owned(), name)]),
            };
            return Ok(values::fields(text)?.into_iter().map(registry).collect());
        }
        let mut options = Self::options(text)?;
        match options.remove("type").filter(|kind| !kind.is_empty()) {
            Some(kind) => Ok(vec![Self { kind, options }]),
            None => Err(format!(
                "{text:?} lacks a type: use type=registry,ref=… or type=local,…"
            )),
        }
    }

    /// `KEY=VALUE` fields; those that follow `mounts=ID` without a `=` are more of its ids.
    fn options(text: &str) -> Result<BTreeMap<String, String>, Invalid> {
        let mut options: BTreeMap<String, String> = BTreeMap::new();
        let mut last = String::new();
        for field in values::fields(text)? {
            match (field.split_once('='), options.get_mut("mounts")) {
                (Some((key, value)), _) => {
                    last = key.trim().to_ascii_lowercase();
                    options.insert(last.clone(), value.to_owned());
                }
                (None, Some(ids)) if last == "mounts" => {
                    ids.push(',');
                    ids.push_str(&field);
                }
                (None, _) => return Err(format!("{field:?} in {text:?} is not KEY=VALUE")),
            }
        }
        Ok(options)
    }
}

/// A statement about the image, kept beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// `sbom` or `provenance`.
    pub kind: String,
    /// Its other options.
    pub options: BTreeMap<String, String>,
}

impl Attestation {
    /// Reads `--attest`. The second value is false where the attestation is switched off.
    pub(super) fn parse(text: &str) -> Result<(Self, bool), Invalid> {
        let mut options: BTreeMap<String, String> = values::pairs(text)?.into_iter().collect();
        let kind = options.remove("type").unwrap_or_default();
        if kind != "sbom" && kind != "provenance" {
            return Err(format!(
                "{text:?}: the type of an attestation is sbom or provenance"
            ));
        }
        let disabled = options
            .remove("disabled")
            .map_or(Ok(false), |value| boolean(&value))?;
        Ok((Self { kind, options }, !disabled))
    }

    /// Reads `--sbom` and `--provenance`: a boolean, or options.
    pub(super) fn parse_short(kind: &str, text: &str) -> Result<(Self, bool), Invalid> {
        match boolean(text) {
            Ok(wanted) => Ok((
                Self {
                    kind: kind.to_owned(),
                    options: BTreeMap::new(),
                },
                wanted,
            )),
            Err(_) => Self::parse(&format!("type={kind},{text}")),
        }
    }
}

/// What a build is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Call {
    /// An image.
    #[default]
    Build,
    /// Something about the Dockerfile.
    Describe {
        /// `check`, `outline`, `targets` or `subrequests.describe`.
        method: Method,
        /// `format=json`.
        json: bool,
    },
}

/// See [`Call::Describe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The lint rules' findings; any is a failure.
    Check,
    /// Arguments, secrets and mounts of the target.
    Outline,
    /// The stages that can be targets.
    Targets,
    /// The methods there are.
    Methods,
}

impl Call {
    /// Reads `METHOD[,format=json|text]`.
    pub(super) fn parse(text: &str) -> Result<Self, Invalid> {
        let (mut method, mut json) = (None, false);
        for field in values::fields(text)? {
            match field.as_str() {
                "" | "format=text" | "build" => {}
                "format=json" => json = true,
                "check" | "lint" => method = Some(Method::Check),
                "outline" => method = Some(Method::Outline),
                "targets" => method = Some(Method::Targets),
                "subrequests.describe" => method = Some(Method::Methods),
                _ => {
                    return Err(format!(
                        "{field:?}: use build, check, outline, targets or subrequests.describe, with format=json or text"
                    ));
                }
            }
        }
        Ok(method.map_or(Self::Build, |method| Self::Describe { method, json }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn caches() {
        let shown = |text| {
            CacheSpec::parse(text).map_or("error".to_owned(), |specs| {
                let one = |spec: &CacheSpec| format!("{} {:?}", spec.kind, spec.options);
                specs.iter().map(one).collect::<Vec<_>>().join(" | ")
            })
        };
        assert_eq!(shown("me/app:cache"), r#"registry {"ref": "me/app:cache"}"#);
        assert_eq!(
            shown("a,b"),
            r#"registry {"ref": "a"} | registry {"ref": "b"}"#
        );
        assert_eq!(
            shown("type=local,src=dir,mode=max"),
            r#"local {"mode": "max", "src": "dir"}"#
        );
        for text in [
            "type=local,mounts=a,b,dest=d",
            r#"type=local,"mounts=a,b",dest=d"#,
        ] {
            assert_eq!(shown(text), r#"local {"dest": "d", "mounts": "a,b"}"#);
        }
        assert_eq!(shown("type=local,mounts=a,dest=d,b"), "error");
        assert_eq!(shown("src=dir"), "error");
        assert_eq!(shown("type=local,src"), "error");
    }

    #[test]
    fn attestations() {
        let shown = |parsed: Result<(Attestation, bool), Invalid>| {
            parsed.map_or("error".to_owned(), |(a, on)| {
                format!("{} {:?} {on}", a.kind, a.options)
            })
        };
        assert_eq!(
            shown(Attestation::parse("type=sbom,generator=x")),
            r#"sbom {"generator": "x"} true"#
        );
        assert_eq!(
            shown(Attestation::parse("type=provenance,disabled=true")),
            "provenance {} false"
        );
        assert_eq!(shown(Attestation::parse("type=vex")), "error");
        assert_eq!(shown(Attestation::parse("mode=max")), "error");
        assert_eq!(
            shown(Attestation::parse_short("sbom", "false")),
            "sbom {} false"
        );
        assert_eq!(
            shown(Attestation::parse_short("provenance", "mode=max")),
            r#"provenance {"mode": "max"} true"#
        );
        assert_eq!(
            shown(Attestation::parse_short("provenance", "max")),
            "error"
        );
    }

    #[test]
    fn calls() {
        let describe = |method, json| Some(Call::Describe { method, json });
        let cases = [
            ("build", Some(Call::Build)),
            ("", Some(Call::Build)),
            ("check", describe(Method::Check, false)),
            ("lint,format=json", describe(Method::Check, true)),
            ("outline", describe(Method::Outline, false)),
            ("targets,format=text", describe(Method::Targets, false)),
            (
                "subrequests.describe,format=json",
                describe(Method::Methods, true),
            ),
            ("check,format=yaml", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Call::parse(text).ok(), expected, "{text}");
        }
    }
}
