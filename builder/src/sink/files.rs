//! The root file system's files as a sink: into a directory, or as a plain tar.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lapstrake_cache::Time;
use lapstrake_frontend::image::Platform;

use super::{Outlet, write_whole};
use crate::assemble::Image;
use crate::events::Step;
use crate::ops::{Tree, copy_all, materialise};

/// Where files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FilesTarget {
    /// `type=local`: a directory; what is there already stays unless it is replaced.
    Directory(PathBuf),
    /// `type=tar`: a file.
    Tar(PathBuf),
    /// `type=tar,dest=-`.
    Stdout,
}

/// Exports the files of every image; several platforms get a folder each unless `split` says otherwise.
pub(super) fn emit(
    outlet: &Outlet,
    step: &Step,
    images: &[Image],
    target: &FilesTarget,
    split: Option<bool>,
) -> Result<()> {
    let split = split.unwrap_or(images.len() > 1);
    ensure!(
        split || images.len() == 1,
        "several platforms need a folder each: leave out platform-split=false"
    );
    let trees: Vec<Exported> = images
        .iter()
        .map(|image| {
            Ok(Exported {
                prefix: prefix(&image.platform, split),
                tree: tree_of(outlet, step, image)?,
                time: image.epoch.map(|secs| Time { secs, nanos: 0 }),
            })
        })
        .collect::<Result<_>>()?;
    match target {
        FilesTarget::Directory(path) => to_directory(&trees, path),
        FilesTarget::Tar(path) => write_whole(path, |out| to_tar(outlet, &trees, out)),
        FilesTarget::Stdout => to_tar(outlet, &trees, &mut std::io::stdout().lock())
            .context("write to standard output"),
    }
}

/// The files of one image, and where they go.
struct Exported {
    prefix: PathBuf,
    tree: Tree,
    /// SOURCE_DATE_EPOCH: the time of everything, as with BuildKit, older files included.
    time: Option<Time>,
}

fn prefix(platform: &Platform, split: bool) -> PathBuf {
    if split {
        PathBuf::from(platform.to_string().replace('/', "_"))
    } else {
        PathBuf::new()
    }
}

fn tree_of(outlet: &Outlet, step: &Step, image: &Image) -> Result<Tree> {
    let lowers = materialise(
        &outlet.trees,
        &outlet.client,
        &outlet.tokio,
        step,
        &outlet.elsewhere,
        &image.layers,
    )?;
    Tree::of_layers(&lowers)
}

/// The files belong to whoever builds, as with BuildKit's client.
fn to_directory(trees: &[Exported], path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    let owner = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    for Exported { prefix, tree, time } in trees {
        copy_all(tree, path, prefix, Some(owner), *time)
            .with_context(|| format!("write to {}", path.display()))?;
    }
    Ok(())
}

/// All trees as one layer without a base: its tar is what is asked for.
fn to_tar(outlet: &Outlet, trees: &[Exported], out: &mut dyn Write) -> Result<()> {
    let active = outlet.store.snapshot(&[])?;
    for Exported { prefix, tree, time } in trees {
        copy_all(tree, active.upper(), prefix, None, *time)?;
    }
    let layer = outlet.store.commit(active)?;
    outlet.store.write_layer_tar(&layer.diff_id, out)?;
    Ok(())
}
