//! `du`: what the store holds, what it takes on the disk, and why it is kept.

use std::collections::HashMap;
use std::io::Write;

use anyhow::Result;
use lapstrake_cache::{DiffId, Digest, Item, Kept, Store, Usage};
use serde_json::{Value, json};

use super::table::{Table, age, bytes};
use crate::cli::{Format, UsageOptions};
use crate::stored;

/// The kinds of what is kept, as filters and tables name them.
pub(super) const KINDS: [&str; 5] = ["layer", "blob", "record", "context", "cache-mount"];

/// Shows what the store holds and what it takes.
pub(super) fn usage(store: &Store, options: &UsageOptions, out: &mut dyn Write) -> Result<()> {
    let UsageOptions { verbose, format } = options;
    let mut usage = store.usage()?;
    let names = stored::rooted_by(store)?;
    usage
        .items
        .sort_by_key(|item| std::cmp::Reverse((item.used, item.size, item.kept)));
    if *format == Format::Json {
        for item in &usage.items {
            writeln!(out, "{}", item_json(item, &names))?;
        }
        let other = json!({ "ID": "", "Type": "other", "Size": usage.other, "Reclaimable": false });
        writeln!(out, "{other}")?;
        return Ok(());
    }
    if *verbose {
        print_items(&usage.items, &names, out)?;
        writeln!(out)?;
    }
    summary(&usage, &names, out)
}

fn summary(usage: &Usage, names: &Names, out: &mut dyn Write) -> Result<()> {
    let mut table = Table::new(&["TYPE", "COUNT", "SIZE", "RECLAIMABLE"]);
    let size = |items: &[&Item]| items.iter().map(|item| item.size).sum::<u64>();
    let mut row = |kind: &str, items: &[&Item], more: u64| {
        let free: Vec<&Item> = items
            .iter()
            .filter(|item| is_reclaimable(item, names))
            .copied()
            .collect();
        let cells = [
            items.len().to_string(),
            bytes(size(items) + more),
            bytes(size(&free)),
        ];
        table.row(std::iter::once(kind.to_owned()).chain(cells));
    };
    for kind in KINDS {
        let items = usage.items.iter().filter(|item| kind_of(item) == kind);
        row(kind, &items.collect::<Vec<_>>(), 0);
    }
    row("other", &[], usage.other);
    row(
        "total",
        &usage.items.iter().collect::<Vec<_>>(),
        usage.other,
    );
    Ok(write!(out, "{table}")?)
}

/// The images that need a digest.
pub(super) type Names = HashMap<Digest, Vec<String>>;

/// What an item is, as filters name it.
pub(super) fn kind_of(item: &Item) -> &'static str {
    match item.kept {
        Kept::Record(_) => "record",
        Kept::StatIndex(_) => "context",
        Kept::Layer(_) => "layer",
        Kept::Blob(_) => "blob",
        Kept::CacheMount(_) => "cache-mount",
    }
}

/// The id of an item, in full.
pub(super) fn id_of(item: &Item) -> String {
    match &item.kept {
        Kept::Record(key) => key.to_string(),
        Kept::StatIndex(id) | Kept::CacheMount(id) => lapstrake_cache::Content(*id).to_string(),
        Kept::Layer(layer) => layer.0.hex(),
        Kept::Blob(blob) => blob.hex(),
    }
}

fn images<'a>(item: &Item, names: &'a Names) -> Option<&'a Vec<String>> {
    match &item.kept {
        Kept::Layer(DiffId(digest)) | Kept::Blob(digest) => names.get(digest),
        Kept::Record(_) | Kept::StatIndex(_) | Kept::CacheMount(_) => None,
    }
}

fn is_reclaimable(item: &Item, names: &Names) -> bool {
    !item.in_use && images(item, names).is_none()
}

/// Why an item is there.
fn kept_for(item: &Item, names: &Names) -> String {
    match images(item, names) {
        _ if item.in_use => "in use by a running build".to_owned(),
        Some(images) if images.len() > 1 => format!("{} and {} more", images[0], images.len() - 1),
        Some(images) => images.concat(),
        None => "cache".to_owned(),
    }
}

fn item_json(item: &Item, names: &Names) -> Value {
    let used = crate::time::rfc3339(item.used.secs, 0);
    json!({
        "ID": id_of(item),
        "Type": kind_of(item),
        "Size": item.size,
        "Shared": item.shared,
        "LastUsedAt": used,
        "InUse": item.in_use,
        "Images": images(item, names).cloned().unwrap_or_default(),
        "Reclaimable": is_reclaimable(item, names),
    })
}

/// Prints items, one a row.
pub(super) fn print_items(items: &[Item], names: &Names, out: &mut dyn Write) -> Result<()> {
    let mut table = Table::new(&["ID", "TYPE", "SIZE", "SHARED", "LAST USED", "KEPT FOR"]);
    for item in items {
        let id: String = id_of(item).chars().take(24).collect();
        table.row([
            id,
            kind_of(item).into(),
            bytes(item.size),
            if item.shared { "yes" } else { "no" }.into(),
            age(&crate::time::rfc3339(item.used.secs, 0)),
            kept_for(item, names),
        ]);
    }
    Ok(write!(out, "{table}")?)
}
