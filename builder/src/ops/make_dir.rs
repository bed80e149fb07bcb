//! WORKDIR: the directory and its missing parents, owned by the current user.

use std::path::Path;

use anyhow::Result;
use lapstrake_cache::Layer;
use lapstrake_frontend::plan::MakeDir;

use super::Ops;
use super::copy::canvas::{Canvas, NewDir};
use crate::engine::Task;
use crate::fs::Chain;
use crate::paths::clean;

/// Makes the directory unless it is there; either way the step is a layer.
pub(super) fn run(ops: &Ops, task: &Task, op: &MakeDir, base: &Chain) -> Result<Layer> {
    let lowers = ops.materialise(task, base)?;
    let active = ops.store.snapshot(&lowers)?;
    let mut canvas = Canvas::over(&lowers, &active)?;
    let named = !op.user.is_empty();
    let owner = named.then(|| super::owner::of_chown(canvas.base(), &op.user));
    let path = canvas.resolve(&clean(Path::new(&op.path)))?;
    if canvas.stat(&path)?.is_none() {
        canvas.directory(&path, NewDir { mode: None, owner })?;
    }
    canvas.finish()?;
    Ok(ops.store.commit(active)?)
}
