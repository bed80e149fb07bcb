//! What RUN mounts read: layers, or a part of a local context.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use lapstrake_cache::Content;
use lapstrake_frontend::plan::OpId;

use super::{Known, Ops, Selected, context_layer, digest_source, list_all, literal};
use crate::context::LocalContext;
use crate::engine::Task;
use crate::fs::{Chain, Fs};
use crate::paths::clean;

/// A tree that a RUN mount reads.
pub(crate) enum MountSource {
    /// Layers.
    Chain(Chain),
    /// A part of a local context: becomes a layer when the step must run.
    Context {
        context: Arc<LocalContext>,
        path: String,
        content: Content,
    },
}

impl MountSource {
    /// The layer directories to mount, lowest first.
    pub(crate) fn lowers(&self, ops: &Ops, task: &Task) -> Result<Vec<PathBuf>> {
        match self {
            Self::Chain(chain) => ops.materialise(task, chain),
            Self::Context {
                context,
                path,
                content,
            } => {
                let layer = context_layer(ops, context, path, content)?;
                Ok(ops.store.lowers(&[layer.diff_id])?)
            }
        }
    }
}

/// What a RUN mount reads.
pub(crate) struct Mounted {
    pub(crate) source: MountSource,
    /// The digest of just that.
    pub(crate) known: Known,
    pub(crate) found: Found,
}

/// What a mount selects, where that had to be found out for the key.
pub(crate) struct Found(Option<Selected>);

impl Found {
    /// Keeps the names of the files, for the explanation of the next miss.
    pub(crate) fn list(&self, ops: &Ops, content: &Content) -> Result<()> {
        match &self.0 {
            Some(selected) => list_all(ops, content, &[selected]),
            None => Ok(()),
        }
    }
}

/// What a RUN mount of `path` of the op `from` reads.
pub(crate) fn mount_source(ops: &Ops, task: &Task, from: OpId, path: &str) -> Result<Mounted> {
    let fs = task.input(from)?;
    if let (Fs::Layers(chain), true) = (fs, clean(Path::new(path)).as_os_str().is_empty()) {
        return Ok(Mounted {
            source: MountSource::Chain(chain.clone()),
            known: Known::proved(chain.content()),
            found: Found(None),
        });
    }
    let pattern = literal(path);
    let (known, selected) = digest_source(ops, task, from, &pattern)?;
    let source = match fs {
        Fs::Layers(chain) => MountSource::Chain(chain.clone()),
        Fs::Local(context) => MountSource::Context {
            context: Arc::clone(context),
            path: path.to_owned(),
            content: known.content,
        },
    };
    Ok(Mounted {
        source,
        known,
        found: Found(selected),
    })
}
