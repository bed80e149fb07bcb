//! `prune`: removes what no image needs and no build uses.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, IsTerminal as _, Write};

use anyhow::Result;
use lapstrake_cache::{Digest, Item, Policy, Store, Usage, choose};

use super::table::bytes;
use super::usage::{id_of, kind_of, print_items};
use crate::cli::PruneOptions;
use crate::stored;

/// Removes what the filters select: all of it, or what was used least recently until little enough is left.
pub(super) fn prune(store: &Store, options: &PruneOptions, out: &mut dyn Write) -> Result<()> {
    let PruneOptions {
        force,
        dry_run,
        verbose,
        ..
    } = options;
    if !force && !dry_run && !confirmed()? {
        return Ok(());
    }
    let free = store.free_space()?;
    let choose = |usage: &Usage, rooted: &HashSet<Digest>| chosen(usage, rooted, options, free);
    let removed = if *dry_run {
        let usage = store.usage()?;
        let chosen = usage.removable(choose(&usage, &stored::rooted(store)?));
        chosen.into_iter().filter(|item| !item.in_use).collect()
    } else {
        store.collect_chosen(&choose, None, &mut |store, digest| {
            Ok(stored::reach(store, digest))
        })?
    };
    if *verbose {
        print_items(&removed, &HashMap::new(), out)?;
    }
    let total = bytes(removed.iter().map(|item| item.size).sum());
    let what = if *dry_run {
        "would be reclaimed"
    } else {
        "reclaimed"
    };
    writeln!(out, "Total: {} in {} items {what}", total, removed.len())?;
    Ok(())
}

/// People are asked; programs need not say --force.
fn confirmed() -> Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(true);
    }
    eprint!("This removes cache that no image needs. Continue? [y/N] ");
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn chosen(usage: &Usage, rooted: &HashSet<Digest>, options: &PruneOptions, free: u64) -> Vec<Item> {
    let PruneOptions {
        all,
        until,
        kinds,
        ids,
        keep,
        max_used,
        min_free,
        ..
    } = options;
    let now = crate::time::present();
    let oldest = until.map(|age| now.secs.saturating_sub_unsigned(age.as_secs()));
    let is_selected = |item: &Item| {
        oldest.is_none_or(|oldest| item.used.secs <= oldest)
            && (kinds.is_empty() || kinds.contains(&kind_of(item)))
            && (ids.is_empty() || ids.iter().any(|id| id_of(item).starts_with(id)))
    };
    let items = usage.items.iter().copied().filter(is_selected).collect();
    let selected = Usage { items, other: 0 };
    // What is not selected stays, and counts.
    let staying = usage.total() - selected.total();
    let max_size = [keep, max_used].into_iter().flatten().min();
    let policy = Policy {
        unused_for: None,
        max_size: max_size.map(|max| max.saturating_sub(staying)),
        to_free: min_free.map(|wanted| wanted.saturating_sub(free)),
        all: max_size.is_none() && min_free.is_none(),
        // Who names them means them.
        cache_mounts: *all || kinds.contains(&"cache-mount") || !ids.is_empty(),
        max_time: None,
    };
    choose(&selected, rooted, now, &policy)
}
