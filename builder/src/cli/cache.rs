//! `--cache-from` and `--cache-to`: a type with options.

use std::collections::BTreeMap;

use super::values::{self, Invalid};

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

#[cfg(test)]
mod tests {
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
}
