//! Garbage collection after a build, as the config file says.

use std::time::Duration;

use anyhow::Result;
use lapstrake_cache::{Policy, Store};

use super::table::bytes;
use crate::config::Gc;
use crate::events::Events;
use crate::stored;

/// A build ends no later than this because of it.
const MAX_TIME: Duration = Duration::from_secs(2);

/// Removes what the config file says, if it says anything. What this build used stays.
pub(super) fn after_build(store: &Store, gc: &Gc, events: &Events) -> Result<()> {
    let Some(policy) = policy(store, gc)? else {
        return Ok(());
    };
    let now = crate::time::present();
    let removed = store.collect(&policy, now, &mut |store, digest| {
        Ok(stored::reach(store, digest))
    })?;
    if !removed.is_empty() {
        let total = removed.iter().map(|item| item.size).sum();
        events.message(format!(
            "removed {} in {} items that were used least recently, as [gc] of the config file says",
            bytes(total),
            removed.len()
        ));
    }
    Ok(())
}

fn policy(store: &Store, gc: &Gc) -> Result<Option<Policy>> {
    let Gc {
        max_used,
        min_free,
        keep_for,
        cache_mounts,
        max_time,
    } = *gc;
    if (max_used, min_free, keep_for) == (None, None, None) {
        return Ok(None);
    }
    let free = store.free_space()?;
    Ok(Some(Policy {
        unused_for: keep_for,
        max_size: max_used,
        to_free: min_free.map(|wanted| wanted.saturating_sub(free)),
        all: false,
        cache_mounts: cache_mounts.unwrap_or(false),
        max_time: Some(max_time.unwrap_or(MAX_TIME)),
    }))
}
