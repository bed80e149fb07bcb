//! The index of each `--cache-from`, read before the first step.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lapstrake_cache::DiffId;

use super::index::{INLINE, Index};
use super::{Cache, Elsewhere, Images, Place};
use crate::oci::manifest::{Document, parse_config};
use crate::oci::{Descriptor, Manifest, media};
use crate::progress::text;
use crate::sink::Outlet;
use crate::threads;

/// A cache that does not answer is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of an index of images no more are looked into.
const MAX_IMAGES: usize = 32;

/// The outlet with what all caches say, which are read at once. One that cannot be read is left out with a note.
pub(crate) async fn import(outlet: Outlet, places: &[Place]) -> Outlet {
    let reading: Vec<_> = places
        .iter()
        .enumerate()
        .map(|(number, place)| {
            let (outlet, place) = (outlet.clone(), place.clone());
            let read = threads::off(move || one(&outlet, &place, number));
            tokio::time::timeout(PATIENCE, read)
        })
        .collect();
    let mut caches = Vec::with_capacity(places.len());
    for (place, reading) in places.iter().zip(reading) {
        let read = match reading.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(anyhow::anyhow!(
                "it did not answer within {} s",
                PATIENCE.as_secs()
            )),
        };
        caches.push(read.unwrap_or_else(|error| {
            outlet.events.message(format!(
                "cache {} is not used: {}",
                place.name(),
                text::causes(&error)
            ));
            Cache::default()
        }));
    }
    Outlet {
        elsewhere: Arc::new(Elsewhere::new(outlet.events.clone(), caches)),
        ..outlet
    }
}

fn one(outlet: &Outlet, place: &Place, number: usize) -> Result<Cache> {
    let name = place.name();
    let step = outlet
        .events
        .begin(&format!("importing cache manifest from {name}"));
    let read = indexes(outlet, place);
    // It is no failure of the build: the note says why.
    step.end(Ok(()))?;
    let mut cache = Cache {
        name,
        ..Cache::default()
    };
    for index in read? {
        index.add_to(&mut cache, number, &place.origin());
    }
    Ok(cache)
}

fn indexes(outlet: &Outlet, place: &Place) -> Result<Vec<Index>> {
    match place {
        Place::Images(images) => of_images(outlet, images),
        Place::Objects(objects) => Ok(vec![Index::parse(&objects.index(outlet)?)?]),
    }
}

fn of_images(outlet: &Outlet, place: &Images) -> Result<Vec<Index>> {
    match place.top(outlet)? {
        Document::Manifest(manifest) => Ok(vec![of_manifest(outlet, place, &manifest)?]),
        Document::Index(index) => {
            let images = index
                .manifests
                .iter()
                .filter(|image| media::is_manifest(&image.media_type));
            let mut found = Vec::new();
            for image in images.take(MAX_IMAGES) {
                if let Document::Manifest(manifest) = place.manifest(outlet, image)? {
                    found.extend(of_manifest(outlet, place, &manifest).ok());
                }
            }
            if found.is_empty() {
                bail!("none of its images holds a cache of lapstrake");
            }
            Ok(found)
        }
    }
}

fn of_manifest(outlet: &Outlet, place: &Images, manifest: &Manifest) -> Result<Index> {
    match manifest.config.media_type.as_str() {
        media::CACHE => Index::parse(&place.config(outlet, &manifest.config)?),
        media::OCI_CONFIG | media::DOCKER_CONFIG => {
            inline(&place.config(outlet, &manifest.config)?, manifest)
        }
        other => bail!("it is no cache of lapstrake: its config is of type {other:?}"),
    }
}

/// The index in the config of an image, whose layers are the blobs.
fn inline(config: &[u8], manifest: &Manifest) -> Result<Index> {
    let (parsed, diff_ids) = parse_config(config, manifest)?;
    let index = parsed
        .other
        .get(INLINE)
        .context("the image holds no cache: build it with --cache-to type=inline")?;
    let mut index = Index::parse(&serde_json::to_vec(index)?)?;
    let blobs: HashMap<DiffId, Descriptor> = diff_ids
        .into_iter()
        .zip(manifest.layers.iter().cloned())
        .collect();
    index.fill(&blobs);
    Ok(index)
}
