//! From a plan and the layers that were built to an image's config. JSON that has a digest is made once, here, and carried as bytes.

use anyhow::{Context, Result};
use lapstrake_cache::{Digest, Encoder, Hasher, Store};
use lapstrake_frontend::image::{HistoryEntry, Platform};
use lapstrake_frontend::plan::{OpId, Plan};

use crate::fs::{Chain, Fs};
use crate::time;
use crate::travel::INLINE;

/// The comment of history entries that come from a Dockerfile; tools look for it.
const COMMENT: &str = "buildkit.dockerfile.v0";
/// The comment of entries for layers that no instruction made.
const ADDED: &str = "buildkit.exporter.image.v0";

/// An image of one platform: its config's bytes and its layers.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) platform: Platform,
    /// The config as its digest says.
    pub(crate) config: Vec<u8>,
    /// Docker's image id.
    pub(crate) id: Digest,
    pub(crate) layers: Chain,
    /// So many history entries are the base image's.
    pub(crate) base_history: usize,
    /// SOURCE_DATE_EPOCH, where an output applies it.
    pub(crate) epoch: Option<i64>,
    /// No file that a step made is later than that.
    pub(crate) rewritten: bool,
}

/// Makes the image of `plan`. `place` gives the result of each of the plan's ops; `epoch` is SOURCE_DATE_EPOCH, `cache` the
/// cache that the image is to hold.
pub(crate) fn assemble<'a>(
    store: &Store,
    plan: &Plan,
    place: &dyn Fn(OpId) -> Option<&'a Fs>,
    epoch: Option<i64>,
    cache: Option<&serde_json::Value>,
) -> Result<Image> {
    let Some(Fs::Layers(layers)) = place(plan.result) else {
        anyhow::bail!("the target's file system was not built");
    };
    let mut config = plan.config.clone();
    config.rootfs.diff_ids = layers.diff_ids();
    let base_history = config.history.len();
    let fixed = epoch.map(|seconds| time::rfc3339(seconds, 0));
    for entry in &plan.history {
        let made = entry
            .layer
            .map(|id| created(place(id)).context("a history entry names an op without a layer"));
        config.history.push(HistoryEntry {
            created: fixed.clone().or(made.transpose()?),
            created_by: entry.created_by.clone(),
            comment: COMMENT.to_owned(),
            empty_layer: entry.layer.is_none(),
            author: String::new(),
        });
    }
    fit_history(&mut config.history, layers.layers.len(), fixed);
    date_history(&mut config.history);
    let last = config.history.iter().rev().find_map(|e| e.created.clone());
    config.created = match last {
        Some(last) => Some(last),
        None => Some(first_created(store, plan, layers)?),
    };
    // A base image's own cache is not this image's.
    config.other.remove(INLINE);
    if let Some(cache) = cache {
        config.other.insert(INLINE.to_owned(), cache.clone());
    }
    let config = config.to_json();
    Ok(Image {
        platform: plan.platform.clone(),
        id: Digest::of(&config),
        config,
        layers: layers.clone(),
        base_history,
        epoch: None,
        rewritten: false,
    })
}

/// Makes the history name as many layers as there are: base images and contexts that stages begin with may have none.
fn fit_history(history: &mut Vec<HistoryEntry>, layers: usize, created: Option<String>) {
    let mut filled = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        filled += 1;
        entry.empty_layer = filled > layers;
    }
    let missing = HistoryEntry {
        created,
        created_by: String::new(),
        comment: ADDED.to_owned(),
        empty_layer: false,
        author: String::new(),
    };
    let count = layers.saturating_sub(filled);
    history.extend(std::iter::repeat_n(missing, count));
}

/// Gives entries without a time one, as BuildKit does: the first of them that of the next layer, or of what comes before where
/// no layer follows; later ones that of the layer before.
fn date_history(history: &mut [HistoryEntry]) {
    let is_undated = |entry: &HistoryEntry| entry.created.is_none();
    let Some(at) = history.iter().position(is_undated) else {
        return;
    };
    let (before, rest) = history.split_at_mut(at);
    let next = rest.iter().find_map(|entry| entry.created.clone());
    let mut time = next.or_else(|| before.last().and_then(|entry| entry.created.clone()));
    for entry in rest {
        match &entry.created {
            Some(own) => time = Some(own.clone()),
            None => entry.created.clone_from(&time),
        }
    }
}

fn created(fs: Option<&Fs>) -> Option<String> {
    match fs {
        Some(Fs::Layers(Chain { layers })) => Some(layers.last()?.created()?.to_owned()),
        _ => None,
    }
}

/// When an image without a base was first made: kept in the store, so that building it again gives the same bytes.
fn first_created(store: &Store, plan: &Plan, layers: &Chain) -> Result<String> {
    let mut hasher = Hasher::new();
    hasher.text("kind", "image");
    hasher.field("content", &layers.content().0);
    hasher.field("config", &plan.config.to_json());
    for entry in &plan.history {
        hasher.text("history", &entry.created_by);
    }
    let key = hasher.finish();
    if let Some(created) = store.record::<String>(&key)? {
        return Ok(created);
    }
    let created = time::now();
    store.put_record(&key, &created)?;
    Ok(created)
}
