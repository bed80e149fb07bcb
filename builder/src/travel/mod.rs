//! Caches outside the store (`--cache-from`, `--cache-to`): the keys of steps, and the layers that they lead to.
//!
//! ```text
//! index     what a cache says: keys, layers, selections, cache mounts; a small document
//! place     where caches lie: a registry, an OCI layout, an image's config
//! objects   or something that keeps objects by their names: S3, the cache of GitHub Actions
//! import    the index of each --cache-from, before the first step; nothing else is fetched
//! export    after the build: layers that are not there, then the index
//! mounts    what cache mounts hold, which travels on demand
//! ```
//!
//! A build that finds all its keys runs nothing and fetches no layer. A layer is fetched when something must read it: a step
//! that runs on it, or an output that holds it.
//!
//! **What a cache says is a claim.** Whoever writes the cache decides what its keys lead to, so:
//!
//! 1. A claim counts in the builds that name the cache, and in them only: no record of the store is made of it. What
//!    persists is the index, as a blob, and layers, under the digest that their bytes have.
//! 2. The blob of a layer is what its descriptor says, and its tar what its diff id says, before anything can see them.
//! 3. Before a step runs, the content of every layer below it and of every layer that it reads is compared with what the
//!    cache claimed, because the step's result is recorded under a key made of those contents. The digest of a selection
//!    that only a cache knows is found out anew for the same reason ([`crate::engine::Executor::prove`]).
//! 4. A claim that turns out false, and a layer that cannot be had, is forgotten with a note, and the steps that rest on it
//!    are worked again ([`Lost`]): the cache is smaller then, the build does not fail.
//!
//! What a cache mount holds is no result: it may differ anyway and is in no key. An empty mount of a step that must run is
//! filled with what the cache has for it, checked against its digests, and is then a mount like any other.
//!
//! So a cache that lies can spoil the images of those who name it, as any image can that is used as a base. It cannot make
//! a build that does not name it hit something wrong.

mod export;
mod gha;
mod import;
mod index;
mod mounts;
mod objects;
mod place;
mod s3;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use lapstrake_cache::{Content, DiffId, Digest, Key, Store};
use lapstrake_frontend::image::ImageRef;

pub(crate) use export::{Export, Mode, inline, rename_inline};
pub(crate) use gha::{Gha, Protocol};
pub(crate) use import::import;
pub(crate) use index::INLINE;
pub(crate) use mounts::{Mounts, fill, mounts};
pub(crate) use objects::Objects;
pub(crate) use place::{Images, Place};
pub(crate) use s3::S3;

use crate::events::Events;
use crate::fs::{Built, Chain, ChainLayer, Imported, Keys, Origin, PulledLayer};
use crate::progress::text;

/// A layer of a cache elsewhere cannot be had, or is not what the cache said. It is forgotten already: working the steps that
/// rest on it again will do without.
#[derive(Debug, thiserror::Error)]
#[error("a layer of a cache elsewhere cannot be used")]
pub(crate) struct Lost;

impl Lost {
    /// Whether this is why something failed.
    pub(crate) fn is(error: &anyhow::Error) -> bool {
        error.is::<Self>()
    }
}

/// What a build knows of caches outside the store.
pub(crate) struct Elsewhere {
    events: Events,
    /// Those of `--cache-from` that could be read, in that order.
    caches: Vec<Cache>,
    lost: Mutex<HashSet<(usize, DiffId)>>,
    /// The digests of selections that the build came upon.
    selections: Mutex<BTreeMap<Key, Content>>,
    /// Repositories that have a blob, as far as this build knows.
    repositories: Mutex<HashMap<Digest, Vec<ImageRef>>>,
}

/// One cache, read.
#[derive(Default)]
pub(crate) struct Cache {
    /// For messages.
    name: String,
    steps: HashMap<Key, Arc<Imported>>,
    results: HashMap<Key, Arc<Imported>>,
    selections: HashMap<Key, Content>,
    /// What cache mounts held.
    mounts: HashMap<Key, Arc<PulledLayer>>,
}

impl Elsewhere {
    /// What these caches say.
    pub(crate) fn new(events: Events, caches: Vec<Cache>) -> Self {
        let mut repositories: HashMap<Digest, Vec<ImageRef>> = HashMap::new();
        for layer in caches.iter().flat_map(|cache| cache.steps.values()) {
            if let Some(blob) = &layer.blob
                && let Origin::Registry(name) = &blob.origin
            {
                let known = repositories.entry(blob.descriptor.digest).or_default();
                known.push(name.clone());
            }
        }
        Self {
            events,
            caches,
            lost: Mutex::default(),
            selections: Mutex::default(),
            repositories: Mutex::new(repositories),
        }
    }

    /// The layer that some cache has for the key of a step: one that can be had rather than one that cannot.
    pub(crate) fn step(&self, key: &Key) -> Option<Arc<Imported>> {
        self.choose(|cache| cache.steps.get(key))
    }

    /// What some cache has for the result of a step that was worked here, when that is of the same content: then the image is
    /// what it was on the other machine, times included.
    pub(crate) fn same(&self, built: &Built, keys: &Keys) -> Option<Arc<Imported>> {
        let found = self.choose(|cache| cache.results.get(&keys.result))?;
        let is_same = found.content == built.layer.content && found.blob.is_some();
        is_same.then(|| {
            let keys = *keys;
            let found = found.as_ref().clone();
            Arc::new(Imported { keys, ..found })
        })
    }

    /// The digest of a selection, as some cache says.
    pub(crate) fn selection(&self, key: &Key) -> Option<Content> {
        let mut found = self
            .caches
            .iter()
            .filter_map(|cache| cache.selections.get(key));
        found.next().copied()
    }

    /// What some cache has for a cache mount.
    pub(crate) fn mount(&self, key: &Key) -> Option<&Arc<PulledLayer>> {
        self.caches.iter().find_map(|cache| cache.mounts.get(key))
    }

    /// Notes a selection that the build came upon, for whoever it travels to.
    pub(crate) fn note_selection(&self, key: Key, content: Content) {
        lock(&self.selections).insert(key, content);
    }

    fn selections(&self) -> BTreeMap<Key, Content> {
        lock(&self.selections).clone()
    }

    fn choose<'a>(
        &'a self,
        find: impl Fn(&'a Cache) -> Option<&'a Arc<Imported>>,
    ) -> Option<Arc<Imported>> {
        let lost = lock(&self.lost);
        let mut usable = self
            .caches
            .iter()
            .filter_map(find)
            .filter(|layer| !lost.contains(&(layer.cache, layer.diff_id)));
        let first = usable.next()?;
        let held = std::iter::once(first)
            .chain(usable)
            .find(|layer| layer.blob.is_some());
        Some(Arc::clone(held.unwrap_or(first)))
    }

    /// Forgets a layer, for the reason `error`.
    pub(crate) fn lose(&self, layer: &Imported, error: &anyhow::Error) {
        if lock(&self.lost).insert((layer.cache, layer.diff_id)) && layer.blob.is_some() {
            let name = self
                .caches
                .get(layer.cache)
                .map_or("", |cache| cache.name.as_str());
            self.events.message(format!(
                "cache {name}: layer {} cannot be used, its step is worked again: {}",
                layer.diff_id,
                text::causes(error)
            ));
        }
    }

    /// Whether a layer of the chain was lost.
    pub(crate) fn has_lost(&self, chain: &Chain) -> bool {
        let lost = lock(&self.lost);
        chain.layers.iter().any(|layer| match layer {
            ChainLayer::Imported(layer) => lost.contains(&(layer.cache, layer.diff_id)),
            ChainLayer::Built(_) | ChainLayer::Pulled(_) => false,
        })
    }

    /// Compares the layers of a chain, which the store has unless they were lost, with what was said of them.
    ///
    /// # Errors
    /// With [`Lost`] when one is lost, or not what it was said to be.
    pub(crate) fn verify(&self, store: &Store, chain: &Chain) -> Result<()> {
        for layer in &chain.layers {
            let ChainLayer::Imported(layer) = layer else {
                continue;
            };
            let found = store.layer(&layer.diff_id)?;
            if found.is_some_and(|found| found.content != layer.content) {
                let error = anyhow::anyhow!("its content is not what the cache says");
                self.lose(layer, &error);
            }
        }
        if self.has_lost(chain) {
            bail!(Lost);
        }
        Ok(())
    }

    /// Notes that a repository has a blob.
    pub(crate) fn note_repository(&self, digest: Digest, name: &ImageRef) {
        let mut repositories = lock(&self.repositories);
        let known = repositories.entry(digest).or_default();
        let is_same = |other: &ImageRef| {
            (&other.registry, &other.repository) == (&name.registry, &name.repository)
        };
        if !known.iter().any(is_same) {
            known.push(name.clone());
        }
    }

    /// Another repository of the registry of `name` that has a blob.
    pub(crate) fn repository(&self, digest: &Digest, name: &ImageRef) -> Option<String> {
        let repositories = lock(&self.repositories);
        let fits = |other: &&ImageRef| {
            other.registry == name.registry && other.repository != name.repository
        };
        let found = repositories.get(digest)?.iter().find(fits)?;
        Some(found.repository.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
