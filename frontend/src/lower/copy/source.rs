//! The sources of a `COPY` or `ADD`: files, here-documents, URLs and git trees.

use super::{Request, Verb};
use crate::ast::{self, Word};
use crate::diag::{Code, Diagnostic};
use crate::expand;
use crate::git::GitUrl;
use crate::glob::{self, BadPattern, Glob};
use crate::ignore::Ignore;
use crate::image::check_digest;
use crate::lint::Warning;
use crate::lower::{Lowering, State};
use crate::paths;
use crate::plan::{CopySource, Git, Http, Op, OpId};
use crate::span::{Span, Spanned};
use crate::text;

impl Lowering<'_> {
    fn download(&mut self, state: &State, request: &Request<'_>, op: Op) -> OpId {
        let name = || request.name.clone();
        self.graph
            .source(op, name, Some(request.span), &state.stage)
    }

    pub(super) fn copy_source(
        &mut self,
        state: &mut State,
        request: &Request<'_>,
        from: Option<OpId>,
        path: &Word,
    ) -> Result<CopySource, Diagnostic> {
        request.check_checksum(path)?;
        let git = GitUrl::parse(&path.value);
        let git =
            git.map_err(|error| Diagnostic::error(Code::CopySource, path.span, error.to_string()))?;
        if let Some(git) = git.filter(|git| !git.bare) {
            request.needs_add("source can't be a git ref for COPY", path.span)?;
            let from = self.download(state, request, Op::Git(request.git(git, path)?));
            return Ok(CopySource::Path {
                from,
                pattern: String::new(),
                unpack: false,
            });
        }
        if Http::is_url(&path.value) {
            request.needs_add("source can't be a URL for COPY", path.span)?;
            let http = request.http(path)?;
            let pattern = glob::escape(&http.filename);
            let from = self.download(state, request, Op::Http(http));
            return Ok(CopySource::Path {
                from,
                pattern,
                unpack: request.copy.unpack == Some(true),
            });
        }
        if from.is_none() {
            self.warn_of_ignored(state, request.verb, &path.value);
        }
        let pattern = local_pattern(&path.value, request.copy.parents);
        check_pattern(&pattern, request.copy.parents).map_err(|reason| {
            Diagnostic::error(
                Code::CopySource,
                path.span,
                format!("{reason}: {}", text::quote(&path.value)),
            )
        })?;
        let unpack = request.copy.unpack.unwrap_or(request.verb == Verb::Add);
        let from = match from {
            Some(from) => from,
            None => self.graph.context(None),
        };
        Ok(CopySource::Path {
            from,
            pattern,
            unpack,
        })
    }

    /// With exceptions it cannot be said without looking what is left of a directory.
    fn warn_of_ignored(&self, state: &mut State, verb: Verb, path: &str) {
        let ignore = &self.inputs.ignore;
        if ignore.is_empty() || ignore.has_exceptions() {
            return;
        }
        let path = paths::clean(path);
        let ignored = match path.as_str() {
            "." | "/" => ignore.takes_everything(),
            path => ignore.matches(path),
        };
        if ignored {
            let command = match verb {
                Verb::Copy => "Copy",
                Verb::Add => "Add",
            };
            state
                .warnings
                .push(Warning::copy_ignored_file(state.at, command, &path));
        }
    }
}

impl Request<'_> {
    fn needs_add(&self, message: &str, span: Span) -> Result<(), Diagnostic> {
        match self.verb {
            Verb::Add => Ok(()),
            Verb::Copy => Err(Diagnostic::error(Code::CopySource, span, message).hint("use ADD")),
        }
    }

    fn check_checksum(&self, path: &Word) -> Result<(), Diagnostic> {
        let Some(checksum) = &self.checksum else {
            return Ok(());
        };
        let remote = Http::is_url(&path.value) || matches!(GitUrl::parse(&path.value), Ok(Some(_)));
        let message = if self.copy.sources.len() != 1 {
            "checksum can't be specified for multiple sources"
        } else if !remote {
            "checksum requires HTTP(S) or Git sources"
        } else {
            return Ok(());
        };
        Err(Diagnostic::error(Code::FlagValue, checksum.span, message))
    }

    /// What flag and URL both say must agree.
    fn git(&self, mut url: GitUrl, path: &Word) -> Result<Git, Diagnostic> {
        let fail = |message: String| Diagnostic::error(Code::CopySource, path.span, message);
        let keep = match (self.copy.keep_git_dir, url.keep_git_dir) {
            (Some(flag), Some(query)) if flag != query => {
                return Err(fail("inconsistent keep-git-dir configuration".to_owned()));
            }
            (flag, query) => query.or(flag).unwrap_or_default(),
        };
        let flag = self
            .checksum
            .as_ref()
            .map(|checksum| checksum.value.to_string());
        let given = flag.iter().chain(&url.checksum);
        if let Some(wrong) = given
            .into_iter()
            .find(|sum| !sum.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(fail(format!(
                "invalid checksum {wrong:?} for Git source, expected hex commit hash"
            )));
        }
        let checksum = match (flag, url.checksum.take()) {
            (Some(flag), Some(query)) if flag != query => {
                return Err(fail(format!("checksum mismatch {flag:?} != {query:?}")));
            }
            (flag, query) => query.or(flag),
        };
        Ok(Git {
            checksum,
            keep_git_dir: keep,
            ..Git::from(url)
        })
    }

    fn http(&self, path: &Word) -> Result<Http, Diagnostic> {
        if let Some(checksum) = self
            .checksum
            .as_ref()
            .filter(|c| check_digest(&c.value).is_err())
        {
            let message = format!("invalid checksum {:?}", checksum.value);
            return Err(Diagnostic::error(Code::FlagValue, checksum.span, message)
                .hint("write it as sha256: and 64 hexadecimal digits"));
        }
        let checksum = self
            .checksum
            .as_ref()
            .map(|checksum| checksum.value.to_string());
        Ok(Http {
            url: path.value.to_string(),
            checksum,
            filename: filename(&path.value),
        })
    }
}

/// A pattern that matches nothing is no error, but one that cannot match is. With `--parents` what follows the pivot may
/// hold `**`.
fn check_pattern(pattern: &str, parents: bool) -> Result<(), BadPattern> {
    if !parents {
        return if glob::has_wildcard(pattern) {
            Glob::new(pattern).map(drop)
        } else {
            Ok(())
        };
    }
    let (root, rest) = pattern.split_once("/./").unwrap_or(("", pattern));
    check_pattern(root, false)?;
    Ignore::from_patterns([rest])
        .map(drop)
        .map_err(|_| BadPattern)
}

/// The delimiter names the file, and so must be a name.
pub(super) fn inline(state: &mut State, heredoc: &ast::Heredoc) -> Result<CopySource, Diagnostic> {
    let name = paths::below_root(&heredoc.name);
    if name.is_empty() || name.contains('/') {
        let message = format!(
            "a here-document cannot be a file of the name {:?}",
            heredoc.name
        );
        return Err(Diagnostic::error(Code::CopySource, heredoc.span, message)
            .hint("use a delimiter without slashes, and name the file in the destination"));
    }
    let text = heredoc.text();
    if !heredoc.expand {
        return Ok(CopySource::Inline { name, text });
    }
    let expanded = expand::body(&text, &|name| state.env.lookup(name))
        .map_err(|error| error.diagnostic(&Spanned::new(text.clone(), heredoc.span)))?;
    state.warn_of_unset(&expanded.unset);
    let text = expanded.text.into_owned();
    Ok(CopySource::Inline { name, text })
}

/// The path below the root of its file system. `..` does not leave it.
fn local_pattern(path: &str, parents: bool) -> String {
    let pivot = path.split_once("/./").filter(|_| parents);
    let Some((before, after)) = pivot else {
        return paths::below_root(path);
    };
    match (paths::below_root(before), paths::below_root(after)) {
        (before, after) if before.is_empty() => after,
        (before, after) => format!("{before}/./{after}"),
    }
}

/// The last part of a URL's path.
fn filename(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    let decoded = crate::git::decode(path);
    match paths::base(decoded.as_deref().unwrap_or_default()) {
        "." | ".." | "/" => "__unnamed__".to_owned(),
        name if name.contains('\0') => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_urls() {
        for (url, want) in [
            ("http://h/a/b.tar?x=1#y", "b.tar"),
            ("https://h/a/", "a"),
            ("https://h", "__unnamed__"),
            ("https://h/", "__unnamed__"),
            ("https://h/a%20b", "a b"),
            ("https://h/%2e%2e", "__unnamed__"),
            ("https://h/a%2fb", "b"),
        ] {
            assert_eq!(filename(url), want, "{url}");
        }
    }

    #[test]
    fn sources_stay_below_their_root() {
        for (path, parents, want) in [
            ("../../a", false, "a"),
            ("/a/", false, "a"),
            (".", false, ""),
            ("", false, ""),
            ("./a/../b*", false, "b*"),
            ("a/./b", false, "a/b"),
            ("a/./b", true, "a/./b"),
            ("/x/y/./b/./c/", true, "x/y/./b/c"),
            ("./a/b", true, "a/b"),
            ("../x/./b", true, "x/./b"),
        ] {
            assert_eq!(local_pattern(path, parents), want, "{path}");
        }
    }
}
