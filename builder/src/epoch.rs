//! What `SOURCE_DATE_EPOCH` stands for, where that is the time of a source.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use lapstrake_cache::Store;
use lapstrake_frontend::{Epoch, EpochSource};
use lapstrake_runtime::Cancel;
use tokio::runtime::Handle;

use crate::build::{BuildError, Request, Site};
use crate::context::LocalContext;
use crate::events::{Events, Step};
use crate::ops::{GitAccess, HttpAccess, git_time, http_time};
use crate::registry::Client;
use crate::secrets::Secrets;
use crate::threads;

/// Finds out the epoch of a build and has all its plans know it.
pub(crate) async fn resolve(request: &mut Request, site: &Site) -> Result<(), BuildError> {
    let Some(first) = request.inputs.first() else {
        return Ok(());
    };
    let epoch = lapstrake_frontend::epoch(&request.dockerfile, first);
    let epoch = match epoch.map_err(BuildError::Dockerfile)? {
        Epoch::At(epoch) => epoch,
        Epoch::Of(source) => {
            let sources = Sources {
                context: request.contexts.get(&None).cloned(),
                store: site.store.clone(),
                client: site.client.clone(),
                secrets: request.secrets.clone(),
                cancel: site.cancel.clone(),
                events: site.events.clone(),
            };
            let tokio = Handle::current();
            let found = threads::off(move || sources.time(&source, &tokio)).await;
            found??
        }
    };
    let inputs = request.inputs.iter_mut();
    inputs.for_each(|inputs| inputs.set_epoch(epoch));
    Ok(())
}

/// What sources are asked with.
struct Sources {
    context: Option<Arc<LocalContext>>,
    store: Store,
    client: Client,
    secrets: Secrets,
    cancel: Cancel,
    events: Events,
}

impl Sources {
    /// The time of a source in seconds since 1970, if it has one.
    fn time(&self, source: &EpochSource, tokio: &Handle) -> Result<Option<i64>> {
        let step = self.events.begin("[internal] resolve SOURCE_DATE_EPOCH");
        let time = self.of(source, tokio, &step);
        step.end(time.context("find out SOURCE_DATE_EPOCH"))
    }

    fn of(&self, source: &EpochSource, tokio: &Handle, step: &Step) -> Result<Option<i64>> {
        let Self {
            context,
            store,
            client,
            secrets,
            cancel,
            events: _,
        } = self;
        match source {
            EpochSource::Context => context.as_ref().map_or(Ok(None), |context| context.time()),
            EpochSource::Git(git) => {
                let access = GitAccess {
                    secrets,
                    cancel,
                    patience: client.time_limits().stall,
                };
                git_time(&access, git, &store.scratch()?).map(Some)
            }
            EpochSource::Http(http) => {
                let access = HttpAccess {
                    store,
                    client,
                    tokio,
                    secrets,
                    step: step.clone(),
                };
                http_time(&access, http)
            }
        }
    }
}

/// The time of the newest file in a folder of ours, in seconds since 1970.
pub(crate) fn newest(root: &Path) -> Result<Option<i64>> {
    let mut newest = None;
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                newest = newest.max(Some(entry.metadata()?.mtime()));
            }
        }
    }
    Ok(newest)
}
