//! WORKDIR: the directory and its missing parents, owned by the current user.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use lapstrake_cache::{Layer, Time};
use lapstrake_frontend::plan::MakeDir;
use rustix::fs::FileType;

use super::Ops;
use super::copy::canvas::{Canvas, NewDir, is};
use crate::engine::Task;
use crate::fs::Chain;
use crate::paths::{clean, shown};

/// Makes the directory unless it is there; either way the step is a layer.
pub(super) fn run(ops: &Ops, task: &Task, op: &MakeDir, base: &Chain) -> Result<Layer> {
    let lowers = ops.materialise(task, base)?;
    let active = ops.store.snapshot(&lowers)?;
    let mut canvas = Canvas::over(&lowers, &active)?;
    let named = !op.user.is_empty();
    let owner = named
        .then(|| super::owner::of_chown(canvas.base(), &op.user))
        .transpose()?;
    let path = canvas.resolve(&clean(Path::new(&op.path)))?;
    let missing = missing(&canvas, &path)?;
    if !missing.is_empty() {
        canvas.directory(&path, NewDir { mode: None, owner })?;
    }
    if let Some(secs) = ops.settings.epoch {
        let time = Time { secs, nanos: 0 };
        missing.iter().for_each(|made| canvas.set_time(made, time));
    }
    canvas.finish()?;
    Ok(ops.store.commit(active)?)
}

/// `path` and its parents, as far as they are not there.
fn missing(canvas: &Canvas, path: &Path) -> Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    for part in path.ancestors().filter(|part| !part.as_os_str().is_empty()) {
        match canvas.stat(part)? {
            None => missing.push(part.to_path_buf()),
            Some(stat) if is(&stat, FileType::Directory) => break,
            Some(_) => bail!("{} is not a directory", shown(part)),
        }
    }
    Ok(missing)
}
