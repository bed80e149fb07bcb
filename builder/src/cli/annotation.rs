//! `--annotation`, and the `annotation…` options of `--output`.

use lapstrake_frontend::image::Platform;

use super::values::{Invalid, key_value};

/// One annotation of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// What carries it.
    pub on: Annotated,
    /// Only for this platform of the image.
    pub platform: Option<Platform>,
    /// `org.opencontainers.image.title`, …
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What carries an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Annotated {
    /// The manifest of each platform.
    Manifest,
    /// The manifest's descriptor in the index.
    ManifestDescriptor,
    /// The index.
    Index,
    /// The index's descriptor, in an OCI layout.
    IndexDescriptor,
}

/// Reads `[TYPE[PLATFORM],…:]KEY=VALUE`. One text may mean several annotations.
pub(super) fn parse(text: &str, local: &Platform) -> Result<Vec<Annotation>, Invalid> {
    let (key, Some(value)) = key_value(text)? else {
        return Err(format!("{text:?} is not KEY=VALUE"));
    };
    let (types, key) = key.split_once(':').unwrap_or(("manifest", key));
    let one = |place: &str| place_of(place, key, value, local);
    types.split(',').map(one).collect()
}

/// Reads the option `name` of `--output` where it is an annotation: `annotation.KEY`, `annotation-index.KEY`,
/// `annotation-manifest[PLATFORM].KEY`.
pub(super) fn parse_option(
    name: &str,
    value: &str,
    local: &Platform,
) -> Option<Result<Annotation, Invalid>> {
    let rest = name.strip_prefix("annotation")?;
    let (place, key) = rest.split_once('.')?;
    let place = match place.strip_prefix('-') {
        Some(place) => place.to_owned(),
        None => format!("manifest{place}"),
    };
    Some(place_of(&place, key, value, local))
}

fn place_of(place: &str, key: &str, value: &str, local: &Platform) -> Result<Annotation, Invalid> {
    let (kind, platform) = match place.split_once('[') {
        None => (place, None),
        Some((kind, rest)) => {
            let platform = rest
                .strip_suffix(']')
                .ok_or_else(|| format!("{place:?} lacks a ]"))?;
            let platform = Platform::parse(platform, local).map_err(|error| error.to_string())?;
            (kind, Some(platform.normalized()))
        }
    };
    let on = match kind {
        "" | "manifest" => Annotated::Manifest,
        "manifest-descriptor" => Annotated::ManifestDescriptor,
        "index" => Annotated::Index,
        "index-descriptor" => Annotated::IndexDescriptor,
        _ => {
            return Err(format!(
                "cannot annotate {kind:?}: use manifest, manifest-descriptor, index or index-descriptor"
            ));
        }
    };
    if key.is_empty() {
        return Err("an annotation lacks its key".to_owned());
    }
    Ok(Annotation {
        on,
        platform,
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(annotations: Result<Vec<Annotation>, Invalid>) -> String {
        let Ok(annotations) = annotations else {
            return "error".into();
        };
        let one = |a: &Annotation| {
            let platform = a
                .platform
                .as_ref()
                .map(|p| format!("[{p}]"))
                .unwrap_or_default();
            format!("{:?}{platform} {}={}", a.on, a.key, a.value)
        };
        annotations.iter().map(one).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn flags() {
        let cases = [
            ("a=b", "Manifest a=b"),
            ("a=b=c:d", "Manifest a=b=c:d"),
            ("index:a=b", "Index a=b"),
            (
                "manifest,index-descriptor:a=b",
                "Manifest a=b | IndexDescriptor a=b",
            ),
            (
                "manifest-descriptor[linux/x86_64]:a=b",
                "ManifestDescriptor[linux/amd64] a=b",
            ),
            ("a", "error"),
            ("=b", "error"),
            ("layer:a=b", "error"),
            ("index[:a=b", "error"),
            ("index[a/b/c/d]:a=b", "error"),
            ("index:=b", "error"),
        ];
        for (text, expected) in cases {
            assert_eq!(
                shown(parse(text, &Platform::new("linux", "arm64", None))),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn options_of_an_output() {
        let cases = [
            ("annotation.a.b", "Manifest a.b=v"),
            ("annotation[linux/arm64].a", "Manifest[linux/arm64] a=v"),
            ("annotation-index.a", "Index a=v"),
            (
                "annotation-manifest[linux/arm64].a",
                "Manifest[linux/arm64] a=v",
            ),
            ("annotation-manifest-descriptor.a", "ManifestDescriptor a=v"),
            ("annotation-x.a", "error"),
            ("annotation.", "error"),
        ];
        for (name, expected) in cases {
            let parsed = parse_option(name, "v", &Platform::new("linux", "arm64", None)).unwrap();
            assert_eq!(shown(parsed.map(|a| vec![a])), expected, "{name}");
        }
        assert!(parse_option("name", "v", &Platform::default()).is_none());
    }
}
