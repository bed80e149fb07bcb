//! Blobs brought into the store from wherever they are.

use std::io::{self, Read};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lapstrake_cache::{Key, Store};

use crate::events::{Counter, Step};
use crate::fs::Origin;
use crate::oci::{Descriptor, Layout};
use crate::registry::{Client, Meter, pull_blob};

/// Makes sure that the store has the blob; bytes are checked against its digest and size before it is visible.
pub(crate) fn fetch_blob(
    store: &Store,
    client: &Client,
    tokio: &tokio::runtime::Handle,
    step: &Step,
    descriptor: &Descriptor,
    origin: &Origin,
) -> Result<()> {
    if store.has_blob(&descriptor.digest) == Some(descriptor.size) {
        return Ok(());
    }
    let _lock = store.lock_key(&Key(*descriptor.digest.as_bytes()), &mut || ())?;
    if store.has_blob(&descriptor.digest) == Some(descriptor.size) {
        return Ok(());
    }
    let counter = step.counter(descriptor.digest.to_string(), Some(descriptor.size));
    match origin {
        Origin::Store => bail!(
            "the store lost the blob {}: build or pull the image again",
            descriptor.digest
        ),
        Origin::Layout(path) => {
            let mut blob = Layout::open(path)?.blob(descriptor)?;
            ingest(
                store,
                descriptor,
                &mut Counting {
                    inner: &mut blob,
                    counter: &counter,
                },
            )?;
        }
        Origin::Objects(objects) => {
            let _entered = tokio.enter();
            let mut blob = objects.open(client, tokio, &descriptor.digest)?;
            ingest(
                store,
                descriptor,
                &mut Counting {
                    inner: &mut blob,
                    counter: &counter,
                },
            )?;
        }
        Origin::Registry(image) => {
            let shown = counter.clone();
            let meter: Meter = Arc::new(move |done| shown.set(done));
            tokio
                .block_on(pull_blob(client, store, image, descriptor, Some(&meter)))
                .with_context(|| format!("fetch {}", descriptor.digest))?;
        }
    }
    counter.done();
    Ok(())
}

fn ingest(store: &Store, descriptor: &Descriptor, from: &mut dyn Read) -> Result<()> {
    let mut blob = store.ingest()?;
    io::copy(&mut from.take(descriptor.size.saturating_add(1)), &mut blob)?;
    Ok(blob.commit_as(&descriptor.digest, descriptor.size)?)
}

/// A reader that counts.
struct Counting<'a> {
    inner: &'a mut dyn Read,
    counter: &'a Counter,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.counter.add(read as u64);
        Ok(read)
    }
}
