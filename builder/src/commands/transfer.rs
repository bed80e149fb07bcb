//! `push` and `pull`: images between the store and registries.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result};
use lapstrake_cache::Store;
use lapstrake_runtime::Cancel;

use super::Surroundings;
use super::stop::{self, Stopped};
use crate::assemble::Image;
use crate::cli::{Isolation, ProgressMode, PullOptions, PushOptions};
use crate::compress::Compression;
use crate::events::{Events, Step};
use crate::fetch::fetch_blob;
use crate::fs::{ChainLayer, Origin};
use crate::pack::{Flavour, Packing};
use crate::parallel;
use crate::resolve::Resolver;
use crate::sink::{Outlet, Output, Sink, Times, name_in_store};
use crate::stored;
use crate::threads;
use crate::travel::Elsewhere;
use crate::trees::Trees;

/// Registries throttle clients that open more.
const DOWNLOADS: usize = 4;

/// Pushes an image of the store under its name. Layers are compressed now.
pub(super) fn push(surroundings: &Surroundings, options: &PushOptions) -> Result<()> {
    let store = surroundings.store()?;
    let stored = stored::find(&store, &options.image.to_string())?;
    let images: Vec<Image> = stored
        .images
        .iter()
        .map(|image| image.to_image())
        .collect::<Result<_>>()?;
    let packing = Packing {
        compression: Compression::default(),
        force: false,
        flavour: Flavour::Oci,
        annotations: stored.annotations,
    };
    let sink = Sink::Registry {
        names: vec![options.image.clone()],
        packing,
        by_digest: false,
    };
    let output = Output {
        sink,
        times: Times::default(),
    };
    let emitted = with_outlet(surroundings, &store, options.progress, move |outlet| {
        output.emit(outlet, &images, None)
    })?;
    if let Some(descriptor) = emitted.descriptor {
        writeln!(std::io::stdout(), "{}@{}", options.image, descriptor.digest)?;
    }
    Ok(())
}

/// Pulls an image into the store, layers and all.
pub(super) fn pull(surroundings: &Surroundings, options: &PullOptions) -> Result<()> {
    let store = surroundings.store()?;
    let platform = options
        .platform
        .clone()
        .unwrap_or_else(crate::machine::platform);
    let image = options.image.clone();
    let digest = with_outlet(surroundings, &store, options.progress, move |outlet| {
        let Outlet {
            store,
            trees: _,
            client,
            events,
            tokio,
            elsewhere: _,
        } = outlet;
        let resolver = Resolver::new(
            store.clone(),
            client.clone(),
            events.clone(),
            true,
            Default::default(),
        );
        let resolver = Arc::new(resolver);
        let pin = tokio.block_on(resolver.pin(&image, &platform))?;
        let step = events.begin(&format!("pulling {image}"));
        let fetched = parallel::map(&pin.chain.layers, DOWNLOADS, |layer| {
            fetch(outlet, &step, layer)
        });
        step.end(fetched.map(|_| pin.manifest))
    })?;
    name_in_store(&store, &options.image, &digest)?;
    writeln!(std::io::stdout(), "{}@{digest}", options.image)?;
    Ok(())
}

fn fetch(outlet: &Outlet, step: &Step, layer: &ChainLayer) -> Result<()> {
    let ChainLayer::Pulled(layer) = layer else {
        return Ok(());
    };
    if let Origin::Store = layer.origin {
        return Ok(());
    }
    fetch_blob(
        &outlet.store,
        &outlet.client,
        &outlet.tokio,
        step,
        &layer.descriptor,
        &layer.origin,
    )
}

/// Runs `work` with progress on standard error, on a thread that may block, until it ends or the user stops it.
fn with_outlet<T: Send + 'static>(
    surroundings: &Surroundings,
    store: &Store,
    progress: ProgressMode,
    work: impl FnOnce(&Outlet) -> Result<T> + Send + 'static,
) -> Result<T> {
    let client = surroundings.client(Vec::new())?;
    let display = progress.start(surroundings.env, surroundings.start)?;
    let runtime = stop::runtime()?;
    let events = Events::new(display.feed());
    let outlet = Outlet {
        store: store.clone(),
        trees: Arc::new(Trees::new(
            store.clone(),
            events.clone(),
            Isolation::Default,
        )),
        client,
        elsewhere: Arc::new(Elsewhere::new(events.clone(), Vec::new())),
        events,
        tokio: runtime.handle().clone(),
    };
    let cancel = Cancel::new().context("prepare to stop")?;
    let working = async { threads::off(move || work(&outlet)).await };
    let result = runtime.block_on(stop::unless_stopped(&cancel, working));
    display.finish();
    if result.is_none() {
        store.close();
    }
    stop::leave_running(runtime);
    result.ok_or(Stopped("transfer"))??
}
