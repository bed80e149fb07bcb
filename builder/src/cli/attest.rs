//! `--attest`, and its short forms `--sbom` and `--provenance`.

use std::collections::BTreeMap;

use super::values::{self, Invalid, boolean};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
