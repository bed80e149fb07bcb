//! `COPY --parents`: what a pattern matches keeps its path below the destination.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use lapstrake_cache::{Entry, Kind, Visit};
use lapstrake_frontend::ignore::Ignore;

use super::select::{self, Item, Pattern, contents, follow, has_wildcard};
use super::tree::Tree;
use crate::paths::{clean, shown};

/// Selects the matches of a pattern as directory items: each pivot with only the matches and their parents below it. A
/// pivot below which nothing matches is still there, and so makes the destination.
pub(super) fn select(tree: &Tree, pattern: &Pattern) -> Result<Vec<Item>> {
    let (pivot, rest) = split_pivot(pattern.text);
    let (pivot, rest) = (clean(Path::new(pivot)), clean(Path::new(rest)));
    let pivots = if has_wildcard(&pivot) {
        select::matches(tree, &pivot)?
    } else {
        vec![pivot.clone()]
    };
    let missing = if has_wildcard(&pivot) || has_wildcard(&rest) {
        Missing::Nothing
    } else {
        Missing::Error
    };
    let mut items = Vec::new();
    for pivot in pivots {
        let real = follow(tree, &pivot)?;
        let Some(entry) = tree.entry(&real)? else {
            anyhow::bail!("{:?}: not found", shown(&pivot));
        };
        let mut taken = BTreeMap::new();
        for path in matches(tree, &real, &rest, missing)? {
            take(tree, &real, &path, pattern, &mut taken)?;
        }
        if entry.meta.kind == Kind::Dir {
            items.push(Item {
                real,
                name: Default::default(),
                entry,
                below: taken.into_values().collect(),
            });
        }
    }
    Ok(items)
}

/// What a path that is not there means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// It matches nothing, as any wildcard may.
    Nothing,
    Error,
}

/// Only what follows the first `/./` of a source is kept below the destination.
fn split_pivot(text: &str) -> (&str, &str) {
    text.split_once("/./").unwrap_or(("", text))
}

/// Matched paths, relative to the pivot.
fn matches(tree: &Tree, pivot: &Path, rest: &Path, missing: Missing) -> Result<Vec<PathBuf>> {
    if !has_wildcard(rest) {
        let path = pivot.join(rest);
        let found = tree.entry(&path)?;
        if found.is_none() && missing == Missing::Error {
            anyhow::bail!("{:?}: not found", shown(&path));
        }
        return Ok(found.map(|_| rest.to_path_buf()).into_iter().collect());
    }
    let text = rest
        .to_str()
        .with_context(|| format!("the pattern {} is not UTF-8", rest.display()))?;
    let wanted = Ignore::from_patterns([text])
        .map_err(|error| anyhow!("read the pattern {text}: {error}"))?;
    let filter = |path: &Path, is_dir: bool| -> Visit {
        let bytes = path.as_os_str().as_bytes();
        match tree.visit(&pivot.join(path), is_dir) {
            Visit::Take if wanted.matches(bytes) => Visit::Take,
            Visit::Take | Visit::SkipButDescend if is_dir && wanted.may_match_below(bytes) => {
                Visit::SkipButDescend
            }
            _ => Visit::Skip,
        }
    };
    let walked = tree.walk(pivot, &filter)?;
    Ok(walked
        .into_iter()
        .filter(|entry| wanted.matches(entry.path.as_os_str().as_bytes()))
        .map(|e| e.path)
        .collect())
}

/// Takes the match, what is below it, and the directories above it with their own metadata.
fn take(
    tree: &Tree,
    pivot: &Path,
    path: &Path,
    pattern: &Pattern,
    taken: &mut BTreeMap<PathBuf, Entry>,
) -> Result<()> {
    let parents: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .filter(|parent| !parent.as_os_str().is_empty())
        .collect();
    for part in parents.into_iter().rev().chain([path]) {
        if part.as_os_str().is_empty() || taken.contains_key(part) {
            continue;
        }
        if let Some(entry) = tree.entry(&pivot.join(part))? {
            taken.insert(
                part.to_path_buf(),
                Entry {
                    path: part.to_path_buf(),
                    ..entry
                },
            );
        }
    }
    let is_dir = tree
        .entry(&pivot.join(path))?
        .is_some_and(|entry| entry.meta.kind == Kind::Dir);
    if is_dir {
        for entry in contents(tree, &pivot.join(path), pattern.excludes)? {
            let below = path.join(&entry.path);
            taken.insert(
                below.clone(),
                Entry {
                    path: below,
                    ..entry
                },
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::split_pivot;

    #[test]
    fn the_first_pivot_counts() {
        assert_eq!(split_pivot("a/./b/./c"), ("a", "b/./c"));
        assert_eq!(split_pivot("a/b"), ("", "a/b"));
        assert_eq!(split_pivot("./a"), ("", "./a"));
    }
}
