//! From a registry into the store.

use std::io::Write;

use anyhow::{Context, Result};
use bytes::Bytes;
use lapstrake_cache::{Digest, Error as CacheError, Store};
use lapstrake_frontend::image::ImageRef;
use tokio::sync::mpsc;

use super::blob::Blob;
use super::client::Client;
use super::upload::Meter;
use crate::oci::Descriptor;
use crate::oci::manifest::{self, MAX_DOCUMENT};
use crate::threads;

/// How many pieces of a blob are received ahead of the disk.
const AHEAD: usize = 8;

/// Gets a blob into the store, if it is not there. Once it returns, the store has exactly the declared bytes.
///
/// What came wrong is got once more, from the next mirror if there is one.
///
/// # Errors
/// When the blob cannot be got or written ([`super::Error`], [`CacheError`]); the store is as it was before.
pub async fn pull_blob(
    client: &Client,
    store: &Store,
    image: &ImageRef,
    descriptor: &Descriptor,
    meter: Option<&Meter>,
) -> Result<()> {
    if store.has_blob(&descriptor.digest) == Some(descriptor.size) {
        return Ok(());
    }
    let mut blob = client.blob(image, descriptor)?.unhashed();
    loop {
        match receive(&mut blob, store, descriptor, meter).await {
            Err(error) if is_corrupt(&error) && blob.again() => {}
            done => return done,
        }
    }
}

/// Writes on a blocking thread what arrives; the store hashes it on the way.
async fn receive(
    blob: &mut Blob,
    store: &Store,
    descriptor: &Descriptor,
    meter: Option<&Meter>,
) -> Result<()> {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(AHEAD);
    let (store, digest, size) = (store.clone(), descriptor.digest, descriptor.size);
    let writer = threads::off(move || -> Result<()> {
        let mut ingest = store.ingest()?.with_limit(size);
        while let Some(piece) = pieces.blocking_recv() {
            ingest.write_all(&piece)?;
        }
        Ok(ingest.commit_as(&digest, size)?)
    });
    let mut done = 0;
    while let Some(piece) = blob.chunk().await? {
        done += piece.len() as u64;
        // The writer is gone only when it failed; it says why below.
        if sender.send(piece).await.is_err() {
            break;
        }
        if let Some(meter) = meter {
            meter(done);
        }
    }
    drop(sender);
    let written = writer.await.context("write blob")?;
    written.with_context(|| format!("store blob {}", descriptor.digest))
}

fn is_corrupt(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(CacheError::Corrupt { .. }))
}

/// Finds out what a name stands for and gets its manifest or index into the store.
///
/// A digest that the store has is not asked for; of a tag only the digest is asked for if the store has the rest.
///
/// # Errors
/// When no registry or mirror has it, or it cannot be written.
pub async fn fetch_manifest(
    client: &Client,
    store: &Store,
    image: &ImageRef,
) -> Result<(Descriptor, Bytes)> {
    let pinned: Option<Digest> = image
        .digest
        .as_deref()
        .and_then(|digest| digest.parse().ok());
    if let Some(found) = pinned.and_then(|digest| stored_manifest(store, &digest, None)) {
        return Ok(found);
    }
    let claimed = match pinned {
        Some(_) => None,
        None => client.head(image).await?,
    };
    let fetched = match &claimed {
        Some(claimed) => {
            if let Some(found) = stored_manifest(store, &claimed.digest, Some(&claimed.media_type))
            {
                return Ok(found);
            }
            client.manifest(image, &claimed.digest).await?
        }
        None => client.resolve(image).await?,
    };
    keep(store, &fetched.1).await?;
    Ok(fetched)
}

/// Gets the manifest with this digest from the image's repository into the store, if it is not there.
///
/// # Errors
/// As [`fetch_manifest`].
pub async fn fetch_manifest_by_digest(
    client: &Client,
    store: &Store,
    image: &ImageRef,
    digest: &Digest,
) -> Result<(Descriptor, Bytes)> {
    if let Some(found) = stored_manifest(store, digest, None) {
        return Ok(found);
    }
    let fetched = client.manifest(image, digest).await?;
    keep(store, &fetched.1).await?;
    Ok(fetched)
}

/// Gets an image config into the store, if it is not there.
///
/// # Errors
/// When it is larger than a config may be, cannot be got, or cannot be written.
pub async fn fetch_config(
    client: &Client,
    store: &Store,
    image: &ImageRef,
    descriptor: &Descriptor,
) -> Result<Bytes> {
    if let Ok(Some(bytes)) = store.read_blob(&descriptor.digest, MAX_DOCUMENT) {
        return Ok(bytes.into());
    }
    let bytes = client.blob_small(image, descriptor).await?;
    keep(store, &bytes).await?;
    Ok(bytes)
}

/// A manifest of the store; whatever is wrong with it there, the registry has a good one.
fn stored_manifest(
    store: &Store,
    digest: &Digest,
    served_as: Option<&str>,
) -> Option<(Descriptor, Bytes)> {
    let bytes = store.read_blob(digest, MAX_DOCUMENT).ok()??;
    let document = manifest::parse(&bytes, served_as).ok()?;
    let descriptor = Descriptor::new(&document.media_type(served_as), *digest, bytes.len() as u64);
    Some((descriptor, bytes.into()))
}

async fn keep(store: &Store, bytes: &Bytes) -> Result<()> {
    let (store, bytes) = (store.clone(), bytes.clone());
    threads::off(move || store.put_blob(&bytes))
        .await
        .context("write blob")??;
    Ok(())
}
