//! Registries as a sink: blobs first, several at once, then manifests, then tags.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lapstrake_frontend::image::ImageRef;

use super::{Outlet, bring, pack_all, top};
use crate::assemble::Image;
use crate::events::Step;
use crate::fs::Origin;
use crate::oci::Descriptor;
use crate::pack::{Blob, BlobContent, Packed, Packing, open};
use crate::parallel;
use crate::registry::{Meter, Source};

/// Registries throttle clients that open more.
const UPLOADS: usize = 4;

/// Pushes all images under every name.
pub(super) fn emit(
    outlet: &Outlet,
    step: &Step,
    images: &[Image],
    names: &[ImageRef],
    packing: &Packing,
    by_digest: bool,
) -> Result<Descriptor> {
    ensure!(
        !names.is_empty(),
        "a push needs a name: give --tag REGISTRY/NAME:TAG"
    );
    let (packed, index) = pack_all(outlet, step, images, packing)?;
    let descriptor = top(&packed, index.as_ref())?;
    for name in names {
        push(outlet, step, name, &packed, index.as_ref(), by_digest)
            .with_context(|| format!("push {name}"))?;
    }
    Ok(descriptor)
}

/// Pushes `packed` under `name`: every blob before the manifest that names it, the tag at the very end.
pub(crate) fn push(
    outlet: &Outlet,
    step: &Step,
    name: &ImageRef,
    packed: &[Packed],
    index: Option<&Blob>,
    by_digest: bool,
) -> Result<()> {
    let blobs: Vec<&Blob> = packed
        .iter()
        .flat_map(|image| image.layers.iter().chain([&image.config]))
        .collect();
    let mut seen = BTreeSet::new();
    let blobs: Vec<&Blob> = blobs
        .into_iter()
        .filter(|blob| seen.insert(blob.descriptor.digest))
        .collect();
    parallel::map(&blobs, UPLOADS, |blob| push_blob(outlet, step, name, blob))?;
    let last = index.is_none();
    for image in packed {
        push_document(outlet, name, &image.manifest, last && !by_digest)?;
    }
    if let Some(index) = index {
        push_document(outlet, name, index, !by_digest)?;
    }
    step.status(&format!("pushing manifest for {name}"), 0, None, true);
    Ok(())
}

/// Puts a blob into the repository of `name`, unless it is there or the registry can take it from another repository.
pub(crate) fn push_blob(outlet: &Outlet, step: &Step, name: &ImageRef, blob: &Blob) -> Result<()> {
    push_one(outlet, step, name, blob)?;
    outlet
        .elsewhere
        .note_repository(blob.descriptor.digest, name);
    Ok(())
}

fn push_one(outlet: &Outlet, step: &Step, name: &ImageRef, blob: &Blob) -> Result<()> {
    let Descriptor { digest, size, .. } = &blob.descriptor;
    let known = outlet.elsewhere.repository(digest, name);
    // A layer of a base image need not pass through here when the registry has it, or can take it from its repository.
    if let BlobContent::Remote { origin, .. } = &blob.content {
        if outlet
            .tokio
            .block_on(outlet.client.has_blob(name, digest))?
        {
            return Ok(());
        }
        let from = same_registry(origin, name).or(known.as_deref());
        if from.is_some_and(|from| {
            outlet
                .tokio
                .block_on(outlet.client.mount_blob(name, digest, from))
                .unwrap_or(false)
        }) {
            return Ok(());
        }
        bring(outlet, step, blob)?;
    }
    let counter = step.counter(format!("pushing {digest}"), Some(*size));
    let meter: Meter = Arc::new({
        let counter = counter.clone();
        move |sent| counter.set(sent)
    });
    let (store, owned) = (outlet.store.clone(), blob.clone());
    let open = move || open(&store, &owned).map_err(io::Error::other);
    let source = Source {
        descriptor: &blob.descriptor,
        open: &open,
        mount_from: known.as_deref(),
        meter: Some(&meter),
    };
    outlet
        .tokio
        .block_on(outlet.client.push_blob(name, &source))?;
    counter.done();
    Ok(())
}

/// The repository of the same registry that has the blob.
fn same_registry<'a>(origin: &'a Origin, name: &ImageRef) -> Option<&'a str> {
    match origin {
        Origin::Registry(from) if from.registry == name.registry => Some(&from.repository),
        _ => None,
    }
}

/// Pushes a manifest or an index, by its tag or only by its digest.
pub(crate) fn push_document(
    outlet: &Outlet,
    name: &ImageRef,
    document: &Blob,
    tagged: bool,
) -> Result<()> {
    let BlobContent::Bytes(bytes) = &document.content else {
        return Ok(());
    };
    let Descriptor {
        media_type, digest, ..
    } = &document.descriptor;
    let target = if tagged {
        name.clone()
    } else {
        ImageRef {
            tag: None,
            digest: Some(digest.to_string()),
            ..name.clone()
        }
    };
    outlet.tokio.block_on(outlet.client.push_manifest(
        &target,
        bytes.clone().into(),
        media_type,
    ))?;
    Ok(())
}
