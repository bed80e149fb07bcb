//! One op from its inputs to its result: key, look-up, work, record.

use anyhow::Result;
use lapstrake_cache::{Content, DiffId, Encoder, Hasher, Key, Layer, Store};
use serde::{Deserialize, Serialize};

use super::{Executor, Prepared, Task};
use crate::events::Events;
use crate::fs::{Built, Chain, Fs};
use crate::time;

/// What the store keeps under a key.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    diff_id: DiffId,
    content: Content,
    /// When the layer was made: cached steps keep their time, so that an unchanged build gives an unchanged image.
    created: String,
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
        Err(error) if is_cancelled(error) => events.cancelled(task),
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
    let (key, step, base, job) = match executor.prepare(task)? {
        Prepared::Source(fs) => return Ok(fs),
        Prepared::Layer {
            key,
            step,
            base,
            job,
        } => (key, step, base, job),
    };
    if let Some(built) = find(store, task, &key)? {
        events.cached(task);
        return Ok(Fs::Layers(base.with(built)));
    }
    let _lock = store.lock_key(&key, &mut || events.waiting(task))?;
    if let Some(built) = find(store, task, &key)? {
        events.cached(task);
        return Ok(Fs::Layers(base.with(built)));
    }
    let layer = executor.run(task, job)?;
    let built = settle(store, &step, &base, layer)?;
    put(store, &key, &built)?;
    Ok(Fs::Layers(base.with(built)))
}

/// The stored result of `key`, if its layer is still there.
fn find(store: &Store, task: &Task, key: &Key) -> Result<Option<Built>> {
    if task.node.ignore_cache {
        return Ok(None);
    }
    take(store, key)
}

fn take(store: &Store, key: &Key) -> Result<Option<Built>> {
    let Some(record) = store.record::<Record>(key)? else {
        return Ok(None);
    };
    let Some(layer) = store.layer(&record.diff_id)? else {
        return Ok(None);
    };
    Ok(Some(Built {
        layer: Layer {
            content: record.content,
            ..layer
        },
        created: record.created,
    }))
}

fn put(store: &Store, key: &Key, built: &Built) -> Result<()> {
    let Built { layer, created } = built;
    Ok(store.put_record(
        key,
        &Record {
            diff_id: layer.diff_id,
            content: layer.content,
            created: created.clone(),
        },
    )?)
}

/// Early cutoff: a step that was worked again and made what it had made on this base before yields the stored layer, so
/// that nothing after it changes, times included. Another step is never taken for it: it may have set the times itself.
fn settle(store: &Store, step: &Key, base: &Chain, layer: Layer) -> Result<Built> {
    let mut hasher = Hasher::new();
    hasher.text("kind", "result");
    hasher.field("step", &step.0);
    hasher.field("base", &base.content().0);
    hasher.field("content", &layer.content.0);
    let key = hasher.finish();
    if let Some(same) = take(store, &key)? {
        return Ok(same);
    }
    let built = Built {
        layer,
        created: time::now(),
    };
    put(store, &key, &built)?;
    Ok(built)
}
