//! `SOURCE_DATE_EPOCH` in an output: the image says of nothing that it is younger, and with `rewrite-timestamp` no file of it
//! is. What a base image brought keeps its times.

use anyhow::{Context, Result};
use lapstrake_cache::{DiffId, Digest, Encoder, Hasher, Layer, Store, Time};
use lapstrake_frontend::image::ImageConfig;

use super::Outlet;
use crate::assemble::Image;
use crate::events::Step;
use crate::fs::{Built, Chain, ChainLayer};
use crate::ops::materialise;
use crate::parallel;
use crate::time;
use crate::travel::{INLINE, rename_inline};

/// Each layer is read and written by several threads.
const LAYERS_AT_ONCE: usize = 2;

/// The times that an output asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// `source-date-epoch=`, in place of the build's; nothing after the `=` means none.
    pub(crate) epoch: Option<Option<i64>>,
    /// `rewrite-timestamp`.
    pub(crate) rewrite: bool,
}

impl Times {
    /// The moment that counts in this output, where the build has `epoch`.
    fn latest(self, epoch: Option<i64>) -> Option<i64> {
        self.epoch.unwrap_or(epoch)
    }

    /// Whether layers come out with other bytes than the steps made.
    pub(super) fn rewrites(self, epoch: Option<i64>) -> bool {
        self.rewrite && self.latest(epoch).is_some()
    }

    /// The images as this output has them.
    pub(super) fn apply(
        self,
        outlet: &Outlet,
        step: &Step,
        images: &[Image],
        epoch: Option<i64>,
    ) -> Result<Vec<Image>> {
        let Some(latest) = self.latest(epoch) else {
            if self.rewrite {
                let note = "--output: rewrite-timestamp changes nothing without SOURCE_DATE_EPOCH";
                outlet.events.message(note.to_owned());
            }
            return Ok(images.to_vec());
        };
        let apply = |image| self.apply_to(outlet, step, image, latest);
        images.iter().map(apply).collect()
    }

    fn apply_to(self, outlet: &Outlet, step: &Step, image: &Image, latest: i64) -> Result<Image> {
        let mut config =
            ImageConfig::from_json(&image.config).context("read the image's config")?;
        let earlier = |time: &str| earlier(time, latest);
        for entry in config.history.iter_mut().skip(image.base_history) {
            entry.created = entry.created.as_deref().map(earlier);
        }
        let mut history = config.history.iter().rev();
        config.created = history
            .find_map(|entry| entry.created.clone())
            .or_else(|| config.created.as_deref().map(earlier));
        let layers = if self.rewrite {
            rewrite(outlet, step, &image.layers, latest)?
        } else {
            image.layers.clone()
        };
        config.rootfs.diff_ids = layers.diff_ids();
        if let Some(index) = config.other.remove(INLINE) {
            let ids = |chain: &Chain| chain.layers.iter().map(ChainLayer::diff_id).collect();
            let (old, new): (Vec<_>, Vec<_>) = (ids(&image.layers), ids(&layers));
            let names = old.into_iter().zip(new).collect();
            let index = rename_inline(index, &names, earlier)?;
            config.other.insert(INLINE.to_owned(), index);
        }
        let config = config.to_json();
        Ok(Image {
            id: Digest::of(&config),
            config,
            layers,
            epoch: Some(latest),
            rewritten: self.rewrite,
            ..image.clone()
        })
    }
}

/// The time, or `latest` if it is later. What the build itself writes is in UTC.
fn earlier(time: &str, latest: i64) -> String {
    match time::parse(time) {
        // A fraction of a second on top is later too.
        Some(seconds) if seconds >= latest => time::rfc3339(latest, 0),
        _ => time.to_owned(),
    }
}

/// The layers with no file later than `latest`, but for those of images.
fn rewrite(outlet: &Outlet, step: &Step, chain: &Chain, latest: i64) -> Result<Chain> {
    let Outlet {
        store,
        trees,
        client,
        tokio,
        elsewhere,
        events: _,
    } = outlet;
    let title = format!(
        "rewriting layers with source-date-epoch {latest} ({})",
        time::rfc3339(latest, 0)
    );
    step.status(&title, 0, None, false);
    let is_made = |layer: &&ChainLayer| !matches!(layer, ChainLayer::Pulled(_));
    let made = Chain {
        layers: chain.layers.iter().filter(is_made).cloned().collect(),
    };
    materialise(trees, client, tokio, step, elsewhere, &made)?;
    let layers = parallel::map(&chain.layers, LAYERS_AT_ONCE, |layer| {
        let Some(created) = layer.created() else {
            return Ok(layer.clone());
        };
        Ok(ChainLayer::Built(Built {
            layer: clamped(store, layer.diff_id(), latest)?,
            created: created.to_owned(),
            keys: None,
        }))
    })?;
    step.status(&title, 0, None, true);
    Ok(Chain { layers })
}

/// The layer with no time after `latest`, made once.
fn clamped(store: &Store, diff_id: DiffId, latest: i64) -> Result<Layer> {
    let mut hasher = Hasher::new();
    hasher.text("kind", "clamped layer");
    hasher.field("diff id", diff_id.0.as_bytes());
    hasher.text("latest", &latest.to_string());
    let key = hasher.finish();
    let known = || -> Result<Option<Layer>> {
        match store.record::<DiffId>(&key)? {
            Some(known) => Ok(store.layer(&known)?),
            None => Ok(None),
        }
    };
    if let Some(layer) = known()? {
        return Ok(layer);
    }
    let _lock = store.lock_key(&key, &mut || ())?;
    if let Some(layer) = known()? {
        return Ok(layer);
    }
    let latest = Time {
        secs: latest,
        nanos: 0,
    };
    let layer = store
        .clamp_layer(&diff_id, latest)
        .with_context(|| format!("rewrite the times of layer {diff_id}"))?;
    store.put_record(&key, &layer.diff_id)?;
    Ok(layer)
}
