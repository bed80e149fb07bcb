//! What can be done with a layer as soon as it is made, while later steps run: compressing it for the outputs, and bringing it
//! to the caches that the build leaves for others.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use lapstrake_frontend::plan::OpId;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::compress::Compression;
use crate::fs::{ChainLayer, Fs};
use crate::pack::{compress_ahead, is_compressed};
use crate::sink::{Outlet, Output};
use crate::threads;
use crate::travel::{Export, Mode};

/// Layers that are on their way to caches at once; steps need the machine too.
const UPLOADS: usize = 4;

/// See the module. A failure here is met again, and reported, where the layer is needed.
pub(crate) struct Ahead {
    outlet: Outlet,
    /// Of the outputs.
    compressions: HashSet<Compression>,
    exports: Vec<Export>,
    /// The ops whose layers go into an image.
    in_image: HashSet<OpId>,
    permits: Arc<Semaphore>,
    uploads: Mutex<Vec<JoinHandle<()>>>,
}

impl Ahead {
    pub(crate) fn new(
        outlet: &Outlet,
        outputs: &[Output],
        epoch: Option<i64>,
        exports: &[Export],
        in_image: HashSet<OpId>,
    ) -> Self {
        let packings = outputs.iter().filter_map(|output| output.packing(epoch));
        Self {
            outlet: outlet.clone(),
            compressions: packings.map(|packing| packing.compression).collect(),
            exports: exports.to_vec(),
            in_image,
            permits: Arc::new(Semaphore::new(UPLOADS)),
            uploads: Mutex::default(),
        }
    }

    /// The op `id` has yielded `fs`.
    pub(crate) fn start(&self, id: OpId, fs: &Fs) {
        let Fs::Layers(chain) = fs else { return };
        let Some(layer @ ChainLayer::Built(built)) = chain.layers.last() else {
            return;
        };
        let in_image = self.in_image.contains(&id);
        let (store, diff_id) = (&self.outlet.store, built.layer.diff_id);
        let to_compress = |how: &&Compression| in_image && !is_compressed(store, diff_id, **how);
        for how in self.compressions.iter().filter(to_compress).copied() {
            let store = store.clone();
            let compress = move || drop(compress_ahead(&store, diff_id, how));
            // Where no thread can be had it is done when it is needed.
            let _ = threads::start("compress", &self.outlet.tokio, compress);
        }
        // What no step made is in no cache.
        let exports = self.exports.iter().filter(|_| built.keys.is_some());
        for export in exports.filter(|export| in_image || export.mode == Mode::Max) {
            let (outlet, export) = (self.outlet.clone(), export.clone());
            let (layer, permits) = (layer.clone(), Arc::clone(&self.permits));
            let upload = self.outlet.tokio.spawn(async move {
                let Ok(_permit) = permits.acquire_owned().await else {
                    return;
                };
                // It ends with the process that it belongs to, at the latest.
                let _ = threads::off(move || export.ahead(&outlet, &layer)).await;
            });
            let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
            uploads.push(upload);
        }
    }

    /// Waits until all layers are where they were to be brought. To be called on a thread that may block.
    pub(crate) fn wait(&self) {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        for upload in std::mem::take(&mut *uploads) {
            // One that died is made again.
            let _ = self.outlet.tokio.block_on(upload);
        }
    }
}
