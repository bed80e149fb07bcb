//! Which files a copy selected, so that the next miss of it can name those that changed.
//!
//! A list is kept under the digest of the selection: copies of the same files share it, and a hit writes none. It holds
//! for each path the type, the mode and the first bytes of the content's digest, compressed. Of each copy the last few
//! lists are kept.

use std::collections::BTreeMap;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use lapstrake_cache::{Content, Encoder, Hasher, Key, Store};
use serde::{Deserialize, Serialize};

/// Of selections with more files none are named.
const MOST: usize = 200_000;
/// What a list may take, unpacked.
const LONGEST: usize = 64 << 20;

/// What is known of each selected path.
pub(crate) type Listing = BTreeMap<String, File>;

/// One selected file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    /// Type and owner.
    pub(crate) kind: String,
    pub(crate) mode: u32,
    /// The beginning of the content's digest, or a link's target.
    pub(crate) content: String,
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
    if listing.len() > MOST {
        return Ok(());
    }
    let text = serde_json::to_vec(listing)?;
    let zstd = STANDARD_NO_PAD.encode(zstd::bulk::compress(&text, 1)?);
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
    Ok(Some(serde_json::from_slice(&text)?))
}

/// What changed from one selection to another.
pub(crate) fn compare(old: &Listing, new: &Listing) -> Vec<Difference> {
    let what = |path: &String| match (old.get(path), new.get(path)) {
        (None, _) => Some("new"),
        (_, None) => Some("removed"),
        (Some(old), Some(new)) if old.kind != new.kind => Some("type or owner"),
        (Some(old), Some(new)) if old.content != new.content => Some("content"),
        (Some(old), Some(new)) if old.mode != new.mode => Some("mode"),
        _ => None,
    };
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort_unstable();
    paths.dedup();
    let differences = paths.into_iter().filter_map(|path| {
        let path_is = |what| Difference {
            path: path.clone(),
            what,
        };
        what(path).map(path_is)
    });
    differences.collect()
}

fn key(selection: &Content) -> Key {
    let mut hasher = Hasher::new();
    hasher.text("kind", "listing");
    hasher.field("selection", &selection.0);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(kind: &str, mode: u32, content: &str) -> File {
        File {
            kind: kind.into(),
            mode,
            content: content.into(),
        }
    }

    #[test]
    fn differences_say_what_they_are() {
        let old = Listing::from([
            ("a".into(), file("f", 0o644, "1")),
            ("b".into(), file("f", 0o644, "1")),
            ("c".into(), file("f", 0o644, "1")),
            ("d".into(), file("f", 0o644, "1")),
            ("e".into(), file("f", 0o644, "1")),
        ]);
        let new = Listing::from([
            ("a".into(), file("f", 0o644, "1")),
            ("b".into(), file("f", 0o644, "2")),
            ("c".into(), file("f", 0o755, "1")),
            ("d".into(), file("l", 0o644, "1")),
            ("f".into(), file("f", 0o644, "1")),
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
