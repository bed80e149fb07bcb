//! URLs of git trees, as `ADD` and build contexts take them:
//! `https://host/repo.git#ref:subdir`, `git@host:repo?branch=b`, `ssh://…`, `git://…`.

use std::fmt;

use crate::{paths, values};

/// A git URL taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitUrl {
    /// Without fragment and query.
    pub remote: String,
    /// Branch, tag or commit.
    pub reference: Option<String>,
    /// The directory inside the tree.
    pub subdir: Option<String>,
    /// The commit, or its beginning, that must be found.
    pub checksum: Option<String>,
    /// `keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `submodules`.
    pub submodules: Option<bool>,
    /// `mtime=commit` or `mtime=checkout`: files have the time of the commit, or not.
    pub commit_time: Option<bool>,
    /// `github.com/…` without a scheme: only a build context may be given so, for `ADD` it is a path.
    pub bare: bool,
}

/// A git URL whose query says something that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitUrlError(String);

impl fmt::Display for GitUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for GitUrlError {}

impl GitUrl {
    /// Reads a git URL; `None` for anything else.
    pub fn parse(text: &str) -> Result<Option<Self>, GitUrlError> {
        if text.starts_with("./") || text.starts_with("../") {
            return Ok(None);
        }
        let parts = if text.starts_with("github.com/") {
            split_url(&format!("https://{text}")).map(|parts| Parts {
                bare: true,
                ..parts
            })
        } else if let Some(scheme) = scheme(text) {
            let known = ["http", "https", "ssh", "git"].contains(&scheme.as_str());
            let parts = if known { split_url(text) } else { None };
            // A URL of a web server is a git tree only where its name says so.
            parts.filter(|p| !scheme.starts_with("http") || p.path.ends_with(".git"))
        } else {
            split_scp(text)
        };
        let Some(Parts {
            remote,
            query,
            fragment,
            bare,
            ..
        }) = parts
        else {
            return Ok(None);
        };
        let mut url = Self {
            remote,
            bare,
            ..Self::default()
        };
        if let Some((reference, subdir)) = fragment
            .as_ref()
            .map(|f| f.split_once(':').unwrap_or((f, "")))
        {
            url.reference = some(reference);
            url.subdir = some(&paths::below_root(subdir));
        }
        url.read_query(&query)?;
        url.subdir = url.subdir.and_then(|dir| some(&paths::below_root(&dir)));
        Ok(Some(url))
    }

    fn read_query(&mut self, query: &[(String, String)]) -> Result<(), GitUrlError> {
        let (mut tag, mut branch) = (None, None);
        for (index, (key, value)) in query.iter().enumerate() {
            if query[..index].iter().any(|(other, _)| other == key) {
                return Err(GitUrlError(format!("query {key:?} has multiple values")));
            }
            let may_be_bare =
                ["submodules", "keep-git-dir", "fetch-by-commit"].contains(&key.as_str());
            if value.is_empty() && !may_be_bare {
                return Err(GitUrlError(format!("query {key:?} has no value")));
            }
            match key.as_str() {
                "ref" => agree("ref", &mut self.reference, value)?,
                "subdir" => agree("subdir", &mut self.subdir, value)?,
                "tag" => tag = Some(with_prefix("refs/tags/", value)),
                "branch" => branch = Some(with_prefix("refs/heads/", value)),
                "checksum" | "commit" => self.checksum = Some(value.clone()),
                "keep-git-dir" => self.keep_git_dir = Some(boolean(key, value)?),
                "submodules" => self.submodules = Some(boolean(key, value)?),
                "fetch-by-commit" => drop(boolean(key, value)?),
                "mtime" if ["checkout", "commit"].contains(&value.as_str()) => {
                    self.commit_time = Some(value == "commit");
                }
                "mtime" => {
                    let message = format!(
                        "invalid mtime value: {value:?} (must be \"checkout\" or \"commit\")"
                    );
                    return Err(GitUrlError(message));
                }
                _ => return Err(GitUrlError(format!("unexpected query {key:?}"))),
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err(GitUrlError("branch conflicts with tag".to_owned()));
        }
        tag.or(branch)
            .map_or(Ok(()), |name| agree("ref", &mut self.reference, &name))
    }
}

struct Parts {
    remote: String,
    path: String,
    query: Vec<(String, String)>,
    fragment: Option<String>,
    bare: bool,
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// The scheme in lower case.
fn scheme(text: &str) -> Option<String> {
    let (scheme, _) = text.split_once("://")?;
    let fits = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric());
    fits.then(|| scheme.to_lowercase())
}

fn split_url(text: &str) -> Option<Parts> {
    if text.chars().any(char::is_control) {
        return None;
    }
    let (text, fragment) = text
        .split_once('#')
        .map_or((text, None), |(text, f)| (text, Some(f)));
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (scheme, rest) = text.split_once("://")?;
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    Some(Parts {
        remote: format!("{}://{rest}", scheme.to_lowercase()),
        path: decode(path)?,
        query: split_query(query)?,
        fragment: fragment.map_or(Some(None), |f| decode(f).map(Some))?,
        bare: false,
    })
}

/// `user@host:path`.
fn split_scp(text: &str) -> Option<Parts> {
    let (user, rest) = text.split_once('@')?;
    let (host, rest) = rest.split_once(':')?;
    let name = |text: &str, more: &[char]| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || more.contains(&c))
    };
    if !name(user, &['_']) || !name(host, &['.']) || rest.contains('\n') {
        return None;
    }
    let (rest, fragment) = rest
        .split_once('#')
        .map_or((rest, None), |(rest, f)| (rest, Some(f.to_owned())));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let remote = format!("{user}@{host}:{path}");
    Some(Parts {
        remote,
        path: path.to_owned(),
        query: split_query(query)?,
        fragment,
        bare: false,
    })
}

fn split_query(query: &str) -> Option<Vec<(String, String)>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(key, true)?, unescape(value, true)?))
        })
        .collect()
}

/// Resolves `%41`; `None` where that makes no text.
pub(crate) fn decode(text: &str) -> Option<String> {
    unescape(text, false)
}

/// [`decode`], in queries also of `+`.
fn unescape(text: &str, plus: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        bytes.push(match b {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let valid = digits.iter().all(u8::is_ascii_hexdigit);
                let digits = std::str::from_utf8(&digits).ok().filter(|_| valid)?;
                u8::from_str_radix(digits, 16).ok()?
            }
            b'+' if plus => b' ',
            b => b,
        });
    }
    String::from_utf8(bytes).ok()
}

fn with_prefix(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) {
        name.to_owned()
    } else {
        format!("{prefix}{name}")
    }
}

fn agree(what: &str, slot: &mut Option<String>, value: &str) -> Result<(), GitUrlError> {
    match slot {
        Some(old) if old != value => Err(GitUrlError(format!(
            "{what} conflicts: {old:?} vs {value:?}"
        ))),
        _ => {
            *slot = Some(value.to_owned());
            Ok(())
        }
    }
}

fn boolean(key: &str, value: &str) -> Result<bool, GitUrlError> {
    match value {
        "" => Ok(true),
        value => values::boolean(value)
            .ok_or_else(|| GitUrlError(format!("invalid {key} value: {value:?}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(text: &str) -> String {
        match GitUrl::parse(text) {
            Ok(None) => "no".to_owned(),
            Err(error) => error.to_string(),
            Ok(Some(url)) => {
                let mut out = url.remote;
                for (key, value) in [
                    ("ref", url.reference),
                    ("dir", url.subdir),
                    ("sum", url.checksum),
                ] {
                    out += &value.map(|v| format!(" {key}={v}")).unwrap_or_default();
                }
                for (key, value) in [
                    ("keep", url.keep_git_dir),
                    ("sub", url.submodules),
                    ("commit-time", url.commit_time),
                    ("bare", Some(url.bare).filter(|b| *b)),
                ] {
                    out += &value.map(|v| format!(" {key}={v}")).unwrap_or_default();
                }
                out
            }
        }
    }

    #[test]
    fn git_urls_are_told_from_others() {
        for (text, want) in [
            ("https://github.com/a/b.git", "https://github.com/a/b.git"),
            (
                "https://github.com/a/b.git#v1",
                "https://github.com/a/b.git ref=v1",
            ),
            (
                "https://github.com/a/b.git#v1:sub/../dir",
                "https://github.com/a/b.git ref=v1 dir=dir",
            ),
            (
                "https://github.com/a/b.git#:dir",
                "https://github.com/a/b.git dir=dir",
            ),
            ("https://github.com/a/b", "no"),
            ("https://host/a.tar.gz", "no"),
            ("ftp://host/a.git", "no"),
            ("HTTPS://host/a.git", "https://host/a.git"),
            ("git://host/a", "git://host/a"),
            ("ssh://git@host:22/a", "ssh://git@host:22/a"),
            (
                "git@github.com:a/b.git#main",
                "git@github.com:a/b.git ref=main",
            ),
            ("git@github.com:a/b", "git@github.com:a/b"),
            ("user@host:dir?branch=x", "user@host:dir ref=refs/heads/x"),
            ("a@b", "no"),
            ("./a@b:c", "no"),
            ("../x.git", "no"),
            ("dir/file.git", "no"),
            ("", "no"),
            ("github.com/a/b", "https://github.com/a/b bare=true"),
            (
                "https://h/a.git?tag=v1&subdir=d",
                "https://h/a.git ref=refs/tags/v1 dir=d",
            ),
            (
                "https://h/a.git?ref=x&checksum=abc&keep-git-dir&submodules=false",
                "https://h/a.git ref=x sum=abc keep=true sub=false",
            ),
            ("https://h/a.git?subdir=/../x/", "https://h/a.git dir=x"),
            (
                "https://h/a.git?mtime=commit&fetch-by-commit=1",
                "https://h/a.git commit-time=true",
            ),
            (
                "https://h/a.git?mtime=checkout",
                "https://h/a.git commit-time=false",
            ),
            ("https://h/a.git?ref=x#y", "ref conflicts: \"y\" vs \"x\""),
            (
                "https://h/a.git?subdir=x#y:z",
                "subdir conflicts: \"z\" vs \"x\"",
            ),
            (
                "https://h/a.git?tag=x&branch=y",
                "branch conflicts with tag",
            ),
            ("https://h/a.git?ref=", "query \"ref\" has no value"),
            (
                "https://h/a.git?ref=a&ref=b",
                "query \"ref\" has multiple values",
            ),
            ("https://h/a.git?what=b", "unexpected query \"what\""),
            (
                "https://h/a.git?submodules=maybe",
                "invalid submodules value: \"maybe\"",
            ),
            ("https://h/a.git?ref=a%20b", "https://h/a.git ref=a b"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }
}
