//! The local store as a sink: documents as blobs, layers where they are, names last.

use anyhow::Result;
use lapstrake_frontend::image::ImageRef;

use super::{Outlet, bring, name_in_store, pack_all, store_packing, top};
use crate::annotations::Annotations;
use crate::assemble::Image;
use crate::events::Step;
use crate::oci::Descriptor;
use crate::pack::BlobContent;

/// Puts the images into the store. Layers that were built are not compressed: `push` and `save` do that when it is needed.
pub(super) fn emit(
    outlet: &Outlet,
    step: &Step,
    images: &[Image],
    names: &[ImageRef],
    annotations: &Annotations,
) -> Result<Descriptor> {
    let (packed, index) = pack_all(outlet, step, images, &store_packing(annotations))?;
    // Whoever uses the image later finds it whole, whatever the registries have by then. Without a name nobody will.
    let layers = packed.iter().flat_map(|image| &image.layers);
    for layer in layers.filter(|_| !names.is_empty()) {
        bring(outlet, step, layer)?;
    }
    let documents = packed
        .iter()
        .flat_map(|image| [&image.config, &image.manifest])
        .chain(index.as_ref());
    for document in documents {
        if let BlobContent::Bytes(bytes) = &document.content {
            outlet.store.put_blob(bytes)?;
        }
    }
    let descriptor = top(&packed, index.as_ref())?;
    for name in names {
        name_in_store(&outlet.store, name, &descriptor.digest)?;
        step.status(&format!("naming to {name}"), 0, None, true);
    }
    Ok(descriptor)
}
