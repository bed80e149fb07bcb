//! The build context, `--file` and `--build-context`: what a build reads.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use lapstrake_frontend::image::{ImageRef, normalize_context_name};
use lapstrake_frontend::plan::Http;

use super::values::{Invalid, key_value};

/// The main context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextArg {
    /// A directory, which may not exist.
    Dir(PathBuf),
    /// Standard input: a tar, or a Dockerfile without a context.
    Stdin,
    /// A git repository, or an archive or Dockerfile at an http(s) URL.
    Url(String),
}

/// Where the Dockerfile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileArg {
    /// `Dockerfile` in the context (`dockerfile` if there is no such file).
    Default,
    /// A path, seen from the working directory; of a URL context, from its root.
    Path(PathBuf),
    /// Standard input.
    Stdin,
    /// An http(s) URL.
    Url(String),
}

/// What a named context stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory.
    Dir(PathBuf),
    /// `docker-image://`.
    Image(ImageRef),
    /// `oci-layout://PATH[:TAG][@DIGEST]`; tag `latest` where neither is given.
    OciLayout {
        /// The layout's folder.
        path: PathBuf,
        /// The name in its index.
        tag: Option<String>,
        /// Its digest, which wins.
        digest: Option<String>,
    },
    /// A git repository or an http(s) URL.
    Url(String),
}

/// Reads PATH | URL | -. `is_dir` tells directories from URLs that look like one (`github.com/me/app`).
pub(super) fn main_context(
    text: &OsStr,
    is_dir: &dyn Fn(&Path) -> bool,
) -> Result<ContextArg, Invalid> {
    let path = Path::new(text);
    match text.to_str() {
        Some("") => Err("the build context is empty: give a directory, for example .".to_owned()),
        Some("-") => Ok(ContextArg::Stdin),
        Some(url) if is_remote(url) && !is_dir(path) => Ok(ContextArg::Url(url.to_owned())),
        _ => Ok(ContextArg::Dir(path.to_owned())),
    }
}

/// Reads `--file`.
pub(super) fn dockerfile(text: Option<&OsStr>) -> DockerfileArg {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return DockerfileArg::Default;
    };
    match text.to_str() {
        Some("-") => DockerfileArg::Stdin,
        Some(url) if Http::is_url(url) => DockerfileArg::Url(url.to_owned()),
        _ => DockerfileArg::Path(text.into()),
    }
}

/// Reads `NAME=SOURCE`; the name comes out in the form that lowering looks up.
pub(super) fn named(
    text: &str,
    is_dir: &dyn Fn(&Path) -> bool,
) -> Result<(String, ContextSource), Invalid> {
    let (name, Some(source)) = key_value(text)? else {
        return Err(format!("{text:?} is not NAME=SOURCE"));
    };
    let name = normalize_context_name(name).map_err(|error| format!("name {name:?}: {error}"))?;
    if source.is_empty() {
        return Err(format!("{text:?} lacks a source after the ="));
    }
    let source = if let Some(image) = source.strip_prefix("docker-image://") {
        ContextSource::Image(
            image
                .parse()
                .map_err(|error| format!("image {image:?}: {error}"))?,
        )
    } else if let Some(layout) = source.strip_prefix("oci-layout://") {
        oci_layout(layout)
    } else if source.starts_with("target:") {
        return Err(format!(
            "{source:?}: targets exist only in bake files; name a stage with FROM … AS instead"
        ));
    } else if is_remote(source) && !is_dir(Path::new(source)) {
        ContextSource::Url(source.to_owned())
    } else {
        ContextSource::Dir(source.into())
    };
    Ok((name, source))
}

/// Splits `PATH[:TAG][@DIGEST]` from the right: paths may hold both signs.
fn oci_layout(text: &str) -> ContextSource {
    let is_digest = |text: &str| {
        let hex = text.strip_prefix("sha256:");
        hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let (text, digest) = match text
        .rsplit_once('@')
        .filter(|(_, digest)| is_digest(digest))
    {
        Some((path, digest)) => (path, Some(digest.to_owned())),
        None => (text, None),
    };
    let is_tag = |tag: &str| {
        !tag.is_empty()
            && tag
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    };
    let (path, tag) = match text.rsplit_once(':').filter(|(_, tag)| is_tag(tag)) {
        Some((path, tag)) => (path, Some(tag.to_owned())),
        None => (text, None),
    };
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    ContextSource::OciLayout {
        path: path.into(),
        tag,
        digest,
    }
}

/// URLs of git and http(s), `user@host:path`, and `github.com/…`.
fn is_remote(text: &str) -> bool {
    let scheme = Http::is_url(text) || text.starts_with("git://") || text.starts_with("ssh://");
    scheme || text.starts_with("github.com/") || is_scp(text)
}

fn is_scp(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else {
        return false;
    };
    let Some((host, path)) = rest.split_once(':') else {
        return false;
    };
    let word = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    };
    word(user) && word(host) && !path.is_empty()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn contexts() {
        let cases = [
            (".", "Dir"),
            ("-", "Stdin"),
            ("app", "Dir"),
            ("./github.com/me/app", "Dir"),
            ("github.com/me/app", "Url"),
            ("github.com/here", "Dir"),
            ("git@github.com:me/app.git", "Url"),
            ("https://host/x.tar.gz", "Url"),
            ("http://host/x", "Url"),
            ("git://host/x", "Url"),
            ("ssh://git@host/x", "Url"),
            ("docker-image://alpine", "Dir"),
            ("a@b", "Dir"),
            ("@b:c", "Dir"),
            ("", "error"),
        ];
        for (text, expected) in cases {
            let context = main_context(OsStr::new(text), &|path| {
                path == Path::new("github.com/here")
            });
            let shown = match context {
                Ok(ContextArg::Dir(_)) => "Dir",
                Ok(ContextArg::Stdin) => "Stdin",
                Ok(ContextArg::Url(_)) => "Url",
                Err(_) => "error",
            };
            assert_eq!(shown, expected, "{text}");
        }
    }

    #[test]
    fn dockerfiles() {
        let file = |text: &str| dockerfile(Some(OsStr::new(text)));
        assert_eq!(dockerfile(None), DockerfileArg::Default);
        assert_eq!(file(""), DockerfileArg::Default);
        assert_eq!(file("-"), DockerfileArg::Stdin);
        assert_eq!(file("a/b"), DockerfileArg::Path("a/b".into()));
        assert_eq!(
            file("https://x/y"),
            DockerfileArg::Url("https://x/y".into())
        );
    }

    #[test]
    fn named_contexts() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let layout =
            |path: &str, tag: Option<&str>, digest: Option<&str>| ContextSource::OciLayout {
                path: path.into(),
                tag: tag.map(str::to_owned),
                digest: digest.map(str::to_owned),
            };
        let cases = [
            (
                "src=../src".to_owned(),
                "src",
                ContextSource::Dir("../src".into()),
            ),
            (
                "docker.io/library/alpine:latest=x".into(),
                "alpine",
                ContextSource::Dir("x".into()),
            ),
            (
                "base=docker-image://alpine:3".into(),
                "base",
                ContextSource::Image("alpine:3".parse().unwrap()),
            ),
            (
                "l=oci-layout:///a/b".into(),
                "l",
                layout("/a/b", Some("latest"), None),
            ),
            (
                "l=oci-layout://a:1.0".into(),
                "l",
                layout("a", Some("1.0"), None),
            ),
            (
                format!("l=oci-layout://a@{digest}"),
                "l",
                layout("a", None, Some(&digest)),
            ),
            (
                format!("l=oci-layout://a:t@{digest}"),
                "l",
                layout("a", Some("t"), Some(&digest)),
            ),
            (
                "l=oci-layout://a:b/c".into(),
                "l",
                layout("a:b/c", Some("latest"), None),
            ),
            (
                "g=https://github.com/a/b.git#v1".into(),
                "g",
                ContextSource::Url("https://github.com/a/b.git#v1".into()),
            ),
        ];
        for (text, name, source) in cases {
            assert_eq!(
                named(&text, &|_| false),
                Ok((name.to_owned(), source)),
                "{text}"
            );
        }
        for text in [
            "src",
            "src=",
            "=x",
            "UPPER=x",
            "a=docker-image://UPPER",
            "a=target:b",
        ] {
            assert!(named(text, &|_| false).is_err(), "{text}");
        }
    }
}
