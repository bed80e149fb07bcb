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
    config.rootfs.diff_ids = layers
        .layers
        .iter()
        .map(|layer| layer.diff_id().0.to_string())
        .collect();
    let start = match config
        .created
        .clone()
        .filter(|_| !config.history.is_empty())
    {
        Some(created) => created,
        None => first_created(store, plan, layers)?,
    };
    let fixed = epoch.map(|seconds| time::rfc3339(seconds, 0));
    let mut last = fixed.clone().unwrap_or(start);
    for entry in &plan.history {
        if let (None, Some(id)) = (&fixed, entry.layer) {
            last = created(place(id)).context("a history entry names an op without a layer")?;
        }
        config.history.push(HistoryEntry {
            created: Some(last.clone()),
            created_by: entry.created_by.clone(),
            comment: COMMENT.to_owned(),
            empty_layer: entry.layer.is_none(),
            author: String::new(),
        });
    }
    fit_history(&mut config.history, layers.layers.len(), &last);
    config.created = Some(last);
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
    })
}

/// Makes the history name as many layers as there are: base images and contexts that stages begin with may have none.
fn fit_history(history: &mut Vec<HistoryEntry>, layers: usize, created: &str) {
    let mut filled = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        filled += 1;
        entry.empty_layer = filled > layers;
    }
    let missing = HistoryEntry {
        created: Some(created.to_owned()),
        created_by: String::new(),
        comment: ADDED.to_owned(),
        empty_layer: false,
        author: String::new(),
    };
    let count = layers.saturating_sub(filled);
    history.extend(std::iter::repeat_n(missing, count));
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
