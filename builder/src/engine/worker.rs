//! One op from its inputs to its result: key, look-up, work, record.

use anyhow::Result;
use lapstrake_cache::{Content, DiffId, Encoder, Hasher, Key, Layer, Store};
use serde::{Deserialize, Serialize};

use super::{Executor, Prepared, Ready, Task};
use crate::events::Events;
use crate::explain::Outcome;
use crate::fs::{Built, Chain, ChainLayer, Fs, Keys};
use crate::time;
use crate::travel::Lost;

/// What the store keeps under a key.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    diff_id: DiffId,
    content: Content,
    /// When the layer was made: cached steps keep their time, so that an unchanged build gives an unchanged image.
    created: String,
    /// When the step was worked last, in seconds since 1970; with early cutoff later than `created`.
    #[serde(default)]
    worked: i64,
}

/// Finds the result of `task` in the store or works it. Of several processes and steps that want the same key one works,
/// the others wait for it and take the result.
pub(super) fn work<E: Executor>(
    executor: &E,
    store: &Store,
    events: &Events,
    task: &Task,
) -> Result<Fs> {
    events.started(task);
    let result = work_started(executor, store, events, task);
    match &result {
        Ok(_) => events.done(task),
        Err(error) if is_cancelled(error) || Lost::is(error) => events.cancelled(task),
        Err(error) => events.failed(task, error),
    }
    result
}

fn is_cancelled(error: &anyhow::Error) -> bool {
    let cancelled =
        |cause: &lapstrake_runtime::Error| matches!(cause, lapstrake_runtime::Error::Cancelled);
    error.downcast_ref().is_some_and(cancelled)
}

fn work_started<E: Executor>(
    executor: &E,
    store: &Store,
    events: &Events,
    task: &Task,
) -> Result<Fs> {
    let (mut ready, claimed) = match executor.prepare(task)? {
        Prepared::Source(fs) => return Ok(fs),
        Prepared::Layer { ready, claimed } => (ready, claimed),
    };
    let cached = |ready: &Ready<E::Job>, layer| {
        events.cached(task);
        executor.settled(task, Outcome::Hit);
        Ok(Fs::Layers(ready.base.with(layer)))
    };
    if let Some(layer) = find(executor, store, task, &ready)? {
        return cached(&ready, layer);
    }
    if claimed {
        // What is worked is recorded under what was found here, not under what a cache says.
        ready = executor.prove(task)?;
        if let Some(layer) = find(executor, store, task, &ready)? {
            return cached(&ready, layer);
        }
    }
    let _lock = store.lock_key(&ready.key, &mut || events.waiting(task))?;
    if let Some(layer) = find(executor, store, task, &ready)? {
        return cached(&ready, layer);
    }
    let Ready {
        key,
        step,
        base,
        job,
    } = ready;
    let layer = executor.run(task, job)?;
    let (built, outcome) = settle(store, key, &step, &base, layer)?;
    put(store, &key, &built)?;
    executor.settled(task, outcome);
    let same = built
        .keys
        .filter(|_| !task.node.ignore_cache)
        .and_then(|keys| executor.same_elsewhere(&built, &keys));
    Ok(Fs::Layers(
        base.with(same.unwrap_or(ChainLayer::Built(built))),
    ))
}

/// The result of a key that the store has, or that a cache elsewhere speaks of.
fn find<E: Executor>(
    executor: &E,
    store: &Store,
    task: &Task,
    ready: &Ready<E::Job>,
) -> Result<Option<ChainLayer>> {
    if task.node.ignore_cache {
        return Ok(None);
    }
    let Ready {
        key, step, base, ..
    } = ready;
    let result = |content: &Content| result_key(step, base, content);
    if let Some(record) = store.record::<Record>(key)?
        && !executor.is_expired(task, record.worked)
        && let Some(mut built) = take(store, record)?
    {
        built.keys = Some(Keys {
            step: *key,
            result: result(&built.layer.content),
        });
        return Ok(Some(ChainLayer::Built(built)));
    }
    let is_fresh = |layer: &ChainLayer| match layer {
        ChainLayer::Imported(layer) => {
            time::parse(&layer.created).is_none_or(|made| !executor.is_expired(task, made))
        }
        ChainLayer::Built(_) | ChainLayer::Pulled(_) => true,
    };
    Ok(executor.elsewhere(key).filter(is_fresh))
}

/// The stored result of a record, if its layer is still there.
fn take(store: &Store, record: Record) -> Result<Option<Built>> {
    let Some(layer) = store.layer(&record.diff_id)? else {
        return Ok(None);
    };
    Ok(Some(Built {
        layer: Layer {
            content: record.content,
            ..layer
        },
        created: record.created,
        keys: None,
    }))
}

fn put(store: &Store, key: &Key, built: &Built) -> Result<()> {
    let Built {
        layer,
        created,
        keys: _,
    } = built;
    Ok(store.put_record(
        key,
        &Record {
            diff_id: layer.diff_id,
            content: layer.content,
            created: created.clone(),
            worked: time::present().secs,
        },
    )?)
}

/// Early cutoff: a step that was worked again and made what it had made on this base before yields the stored layer, so
/// that nothing after it changes, times included. Another step is never taken for it: it may have set the times itself.
fn settle(
    store: &Store,
    key: Key,
    step: &Key,
    base: &Chain,
    layer: Layer,
) -> Result<(Built, Outcome)> {
    let keys = Keys {
        step: key,
        result: result_key(step, base, &layer.content),
    };
    if let Some(record) = store.record(&keys.result)?
        && let Some(same) = take(store, record)?
    {
        let same = Built {
            keys: Some(keys),
            ..same
        };
        return Ok((same, Outcome::Same));
    }
    let built = Built {
        layer,
        created: time::now(),
        keys: Some(keys),
    };
    put(store, &keys.result, &built)?;
    Ok((built, Outcome::Miss))
}

fn result_key(step: &Key, base: &Chain, content: &Content) -> Key {
    let mut hasher = Hasher::new();
    hasher.text("kind", "result");
    hasher.field("step", &step.0);
    hasher.field("base", &base.content().0);
    hasher.field("content", &content.0);
    hasher.finish()
}
