//! Which files a copy selected, so that the next miss of it can name those that changed.
//!
//! A list is kept under the digest of the selection: copies of the same files share it, and a hit writes none. It holds
//! for each path the type, the mode and the first bytes of the content's digest, compressed. Of each copy the last few
//! lists are kept.

use std::collections::HashMap;
use std::fmt::Write as _;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use lapstrake_cache::{Content, Encoder, Hasher, Key, Store};
use serde::{Deserialize, Serialize};

/// Of selections with more files none are named.
const MOST: usize = 200_000;
/// What a list may take, unpacked.
const LONGEST: usize = 64 << 20;

/// What is known of the selected paths: of each the path and its facts, a NUL after either.
#[derive(Debug, Default)]
pub(crate) struct Listing(String);

/// One selected file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct File<'a> {
    /// Type and owner.
    kind: &'a str,
    /// In octal.
    mode: &'a str,
    /// The beginning of the content's digest, or a link's target.
    content: &'a str,
}

impl Listing {
    /// Adds a path; of the same one twice the later counts.
    pub(crate) fn add(&mut self, path: &str, kind: &str, mode: u32, content: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{path}\0{kind}\n{mode:o}\n{content}\0");
    }

    /// Paths and their facts.
    fn entries(&self) -> Vec<(&str, &str)> {
        let mut parts = self.0.split_terminator('\0');
        std::iter::from_fn(|| Some((parts.next()?, parts.next()?))).collect()
    }
}

fn files<'a>(entries: &[(&'a str, &'a str)]) -> HashMap<&'a str, File<'a>> {
    let files = entries.iter();
    files
        .map(|(path, facts)| (*path, File::read(facts)))
        .collect()
}

impl<'a> File<'a> {
    fn read(facts: &'a str) -> Self {
        let mut facts = facts.splitn(3, '\n');
        let mut fact = || facts.next().unwrap_or_default();
        let (kind, mode, content) = (fact(), fact(), fact());
        Self {
            kind,
            mode,
            content,
        }
    }
}

/// A path that is not what it was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) path: String,
    pub(crate) what: &'static str,
}

/// What the store keeps.
#[derive(Serialize, Deserialize)]
struct Record {
    zstd: String,
}

/// Whether the list of this selection is there already.
pub(crate) fn is_known(store: &Store, selection: &Content) -> Result<bool> {
    Ok(store.record::<Record>(&key(selection))?.is_some())
}

/// Keeps the list of a selection, if it is not too long.
pub(crate) fn save(store: &Store, selection: &Content, listing: &Listing) -> Result<()> {
    if listing.0.matches('\0').count() > 2 * MOST {
        return Ok(());
    }
    let zstd = STANDARD_NO_PAD.encode(zstd::bulk::compress(listing.0.as_bytes(), 1)?);
    Ok(store.put_record(&key(selection), &Record { zstd })?)
}

/// Removes the list of a selection.
pub(crate) fn remove(store: &Store, selection: &Content) -> Result<()> {
    store.remove_record(&key(selection))?;
    Ok(())
}

/// The list of a selection, if there is one.
pub(crate) fn load(store: &Store, selection: &Content) -> Result<Option<Listing>> {
    let Some(Record { zstd }) = store.record(&key(selection))? else {
        return Ok(None);
    };
    let text = zstd::bulk::decompress(&STANDARD_NO_PAD.decode(zstd)?, LONGEST)?;
    Ok(Some(Listing(String::from_utf8(text)?)))
}

/// What changed from one selection to another, by path.
pub(crate) fn compare(old: &Listing, new: &Listing) -> Vec<Difference> {
    let (old, new) = (old.entries(), new.entries());
    let (old, new) = without_common_ends(&old, &new);
    let (old, new) = (files(old), files(new));
    let changed = new.iter().filter_map(|(path, new)| {
        let what = match old.get(path) {
            None => "new",
            Some(old) if old.kind != new.kind => "type or owner",
            Some(old) if old.content != new.content => "content",
            Some(old) if old.mode != new.mode => "mode",
            Some(_) => return None,
        };
        Some((*path, what))
    });
    let removed = old.keys().filter(|path| !new.contains_key(*path));
    let removed = removed.map(|path| (*path, "removed"));
    let difference = |(path, what): (&str, _)| Difference {
        path: path.to_owned(),
        what,
    };
    let mut differences: Vec<Difference> = changed.chain(removed).map(difference).collect();
    differences.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    differences
}

/// Mostly a few files of very many have changed, and the others come in the same order.
fn without_common_ends<'a, T: PartialEq>(one: &'a [T], other: &'a [T]) -> (&'a [T], &'a [T]) {
    let same = one.iter().zip(other);
    let same = same.take_while(|(one, other)| one == other).count();
    let (one, other) = (&one[same..], &other[same..]);
    let same = one.iter().rev().zip(other.iter().rev());
    let same = same.take_while(|(one, other)| one == other).count();
    (&one[..one.len() - same], &other[..other.len() - same])
}

fn key(selection: &Content) -> Key {
    let mut hasher = Hasher::new();
    hasher.text("kind", "listing of texts");
    hasher.field("selection", &selection.0);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(files: &[(&str, &str, u32, &str)]) -> Listing {
        let mut listing = Listing::default();
        for (path, kind, mode, content) in files {
            listing.add(path, kind, *mode, content);
        }
        listing
    }

    #[test]
    fn differences_say_what_they_are() {
        let old = listing(&[
            ("a", "f", 0o644, "1"),
            ("b", "f", 0o644, "1"),
            ("c", "f", 0o644, "1"),
            ("d", "f", 0o644, "1"),
            ("e", "f", 0o644, "1"),
        ]);
        let new = listing(&[
            ("f", "f", 0o644, "1"),
            ("a", "f", 0o644, "1"),
            ("b", "f", 0o644, "2"),
            ("c", "f", 0o755, "1"),
            ("d", "l", 0o644, "to\nwhere"),
        ]);
        let found: Vec<(String, &str)> = compare(&old, &new)
            .into_iter()
            .map(|found| (found.path, found.what))
            .collect();
        let expected = [
            ("b", "content"),
            ("c", "mode"),
            ("d", "type or owner"),
            ("e", "removed"),
            ("f", "new"),
        ];
        let expected: Vec<(String, &str)> = expected
            .into_iter()
            .map(|(path, what)| (path.to_owned(), what))
            .collect();
        assert_eq!(found, expected);
    }
}
