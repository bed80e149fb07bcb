//! What a copy takes: patterns resolved against a source tree, and the digest of all that they select.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use lapstrake_cache::{Content, Encoder, Entry, Hasher, Kind, Meta, Visit};
use lapstrake_frontend::glob::Glob;
use lapstrake_frontend::ignore::Ignore;

use super::tree::Tree;
use crate::explain::listing::Listing;
use crate::paths::{Found, clean, resolve, shown};

/// One thing that a source of a copy selects.
#[derive(Debug)]
pub(crate) struct Item {
    /// Where it is in the tree, links resolved.
    pub(crate) real: PathBuf,
    /// The name it gets in a directory: the last part of the path that was asked for, not of a link's target.
    pub(crate) name: OsString,
    /// The thing itself.
    pub(crate) entry: Entry,
    /// For a directory, all that is taken of it: parents first, paths relative to it.
    pub(crate) below: Vec<Entry>,
}

impl Item {
    pub(crate) fn is_dir(&self) -> bool {
        self.entry.meta.kind == Kind::Dir
    }
}

/// How the text of a source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// As COPY does: with wildcards, directories by what is in them.
    Wildcards,
    /// With `--parents`.
    Parents,
    /// As a path, nothing else; a directory counts with its own mode and owner. For mounts.
    Literal,
}

/// How one source selects.
pub(crate) struct Pattern<'a> {
    /// Relative to the tree's root; may hold wildcards.
    pub(crate) text: &'a str,
    /// What it may be.
    pub(crate) how: How,
    /// `--exclude`.
    pub(crate) excludes: Option<&'a Ignore>,
}

/// Resolves a pattern. A literal path that is not there is an error; a wildcard may match nothing.
pub(crate) fn select(tree: &Tree, pattern: &Pattern) -> Result<Vec<Item>> {
    if pattern.how == How::Parents {
        return super::parents::select(tree, pattern);
    }
    let path = clean(Path::new(pattern.text));
    if pattern.how == How::Literal || !has_wildcard(&path) {
        return Ok(vec![item(tree, &path, pattern)?]);
    }
    let mut items = Vec::new();
    for found in matches(tree, &path)? {
        items.push(item(tree, &found, pattern)?);
    }
    Ok(items)
}

/// Whether Go's filepath.Match would see more than a literal name.
pub(crate) fn has_wildcard(path: &Path) -> bool {
    path.as_os_str()
        .as_bytes()
        .iter()
        .any(|byte| b"*?[\\".contains(byte))
}

fn item(tree: &Tree, path: &Path, pattern: &Pattern) -> Result<Item> {
    let not_found = || format!("{:?}: not found", shown(path));
    let real = follow(tree, path)?;
    let entry = tree.entry(&real)?.with_context(not_found)?;
    let mut item = Item {
        name: path.file_name().map(Into::into).unwrap_or_default(),
        real,
        entry,
        below: Vec::new(),
    };
    if item.is_dir() {
        item.below = contents(tree, &item.real, pattern.excludes)?;
    }
    Ok(item)
}

/// Follows every link of `path`, as far as the tree shows them.
pub(super) fn follow(tree: &Tree, path: &Path) -> Result<PathBuf> {
    resolve(path, |path| {
        Ok(match tree.entry(path)? {
            None => Found::Missing,
            Some(Entry {
                link: Some(target), ..
            }) => Found::Link(target),
            Some(_) => Found::Entry,
        })
    })
}

/// Everything below the directory `real` that the tree shows and `excludes` leaves.
pub(super) fn contents(tree: &Tree, real: &Path, excludes: Option<&Ignore>) -> Result<Vec<Entry>> {
    let filter = |path: &Path, is_dir: bool| {
        let seen = tree.visit(&real.join(path), is_dir);
        match excludes {
            Some(excludes) => both(seen, visit(excludes, path, is_dir)),
            None => seen,
        }
    };
    tree.walk(real, &filter)
}

/// What an ignore list says of a path during a walk.
pub(super) fn visit(ignore: &Ignore, path: &Path, is_dir: bool) -> Visit {
    let Some(text) = path.to_str() else {
        return Visit::Take;
    };
    if !ignore.matches(text) {
        Visit::Take
    } else if is_dir && ignore.may_descend(text) {
        Visit::SkipButDescend
    } else {
        Visit::Skip
    }
}

fn both(one: Visit, other: Visit) -> Visit {
    match (one, other) {
        (Visit::Skip, _) | (_, Visit::Skip) => Visit::Skip,
        (Visit::Take, Visit::Take) => Visit::Take,
        _ => Visit::SkipButDescend,
    }
}

/// The paths that match a wildcard pattern, sorted, component by component as filepath.Match does. What stands before the
/// first wildcard must be there, and its links are followed; those that the wildcards meet are not.
pub(super) fn matches(tree: &Tree, pattern: &Path) -> Result<Vec<PathBuf>> {
    let literal = |part: &&OsStr| !has_wildcard(Path::new(part));
    let base: PathBuf = pattern.iter().take_while(literal).collect();
    let real = follow(tree, &base)?;
    if tree.entry(&real)?.is_none() {
        bail!("{:?}: not found", shown(&base));
    }
    let mut found = vec![real];
    for part in pattern.iter().skip_while(literal) {
        let Some(text) = part.to_str() else {
            bail!("the pattern {} is not UTF-8", pattern.display())
        };
        let glob = has_wildcard(Path::new(part)).then(|| Glob::new(text));
        let glob = glob
            .transpose()
            .map_err(|_| anyhow!("the pattern {} is malformed", pattern.display()))?;
        let mut next = Vec::new();
        for dir in found {
            let is_dir = |entry: Entry| entry.meta.kind == Kind::Dir;
            if !tree.entry(&dir)?.is_some_and(is_dir) {
                continue;
            }
            match &glob {
                Some(glob) => next.extend(children(tree, &dir, glob)?),
                None => next.extend(tree.entry(&dir.join(part))?.map(|_| dir.join(part))),
            }
        }
        found = next;
    }
    Ok(found)
}

fn children(tree: &Tree, dir: &Path, glob: &Glob) -> Result<Vec<PathBuf>> {
    let mut names = tree.names(dir)?;
    names.retain(|name| name.to_str().is_some_and(|name| glob.is_match(name)));
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Digests what a source selected: names, types, modes, owners, xattrs, link targets and bytes, but no times.
pub(crate) fn digest(tree: &Tree, items: &[Item], how: How) -> Result<Content> {
    let mut hasher = Hasher::new();
    hasher.text("kind", "selection");
    hasher.list("items", items.len());
    for item in items {
        hasher.field("name", item.name.as_bytes());
        if item.is_dir() && how == How::Literal {
            let Meta { mode, uid, gid, .. } = item.entry.meta;
            hasher.text("itself", &format!("{mode:o} {uid}:{gid}"));
        }
        if item.is_dir() {
            hasher.field("tree", &tree.digest(&item.real, &item.below)?.0);
        } else {
            hasher.field("file", &tree.digest_one(&item.real, &item.entry)?.0);
        }
    }
    Ok(Content(hasher.finish().0))
}

/// Adds what an item takes to a list for people.
pub(crate) fn list(tree: &Tree, item: &Item, listing: &mut Listing) {
    let below = item
        .below
        .iter()
        .map(|entry| (item.real.join(&entry.path), entry));
    let itself = (item.real.clone(), &item.entry);
    let top = (!item.is_dir()).then_some(itself);
    for (path, entry) in top.into_iter().chain(below) {
        let Meta { mode, uid, gid, .. } = entry.meta;
        let content = match &entry.link {
            Some(target) => target.display().to_string(),
            None => tree.beginning(&path, &entry.meta).unwrap_or_default(),
        };
        let kind = format!("{:?} {uid}:{gid}", entry.meta.kind);
        listing.add(&path.display().to_string(), &kind, mode, &content);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_those_of_filepath_match() {
        for (path, want) in [
            ("a/b", false),
            ("a*", true),
            ("a?b", true),
            ("[ab]", true),
            ("a\\*", true),
        ] {
            assert_eq!(has_wildcard(Path::new(path)), want, "{path}");
        }
    }
}
