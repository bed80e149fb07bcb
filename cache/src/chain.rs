//! A stack of layers as the lower directories of one mount.
//!
//! An archive may hold `srv/file` without holding `srv`. In the layer's folder there must be a
//! directory all the same, and its owner and mode would hide those of the layers below. Other
//! builders copy them from below while unpacking; here a layer is unpacked once for every stack, in
//! any order. So such a layer is followed, in the stack, by a small folder that holds only the
//! directories concerned, with what the layers below say of them.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod, fchown, futimens, mkdirat};
use rustix::io::Errno;

use crate::error::At;
use crate::layer::lower::{Found, Lowers};
use crate::meta::Meta;
use crate::snapshot::{group, user};
use crate::xattr::{Target, Xattrs};
use crate::{ChainId, DiffId, Error, Result, Store, dir, place};

impl Store {
    /// The lower directories for a stack of layers, both lowest first. All layers must be in the
    /// store.
    pub fn lowers(&self, layers: &[DiffId]) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::with_capacity(layers.len());
        for (index, diff_id) in layers.iter().enumerate() {
            let Some(facts) = self.facts(diff_id)? else {
                return Err(Error::Missing(format!("layer {diff_id}")));
            };
            paths.extend(facts.amends.map(|amended| self.layer_dir(&amended)));
            paths.push(self.layer_dir(diff_id));
            if facts.implicit.is_empty() || index == 0 {
                continue;
            }
            let Some(chain) = ChainId::of(&layers[..=index]) else {
                continue;
            };
            let known = self.patches().get(&chain).cloned();
            let patch = match known {
                Some(patch) => patch,
                None => {
                    let made = self.make_patch(&facts.implicit, &paths)?;
                    self.patches().insert(chain, made.clone());
                    made
                }
            };
            paths.extend(patch);
        }
        Ok(uncovered(paths))
    }

    /// None if the layers below say nothing of these directories that needs to be said.
    fn make_patch(&self, implicit: &[String], paths: &[PathBuf]) -> Result<Option<PathBuf>> {
        let lowers = Lowers::new(paths);
        let mut dirs = Vec::new();
        for path in implicit
            .iter()
            .filter_map(|path| crate::escape::unescape(path))
        {
            let shown = Path::new(OsStr::from_bytes(&path));
            dirs.extend(
                below(&lowers, &path)
                    .at("look up", shown)?
                    .map(|meta| (path, meta)),
            );
        }
        if dirs.is_empty() {
            return Ok(None);
        }
        let (name, patch) = self.temp_name();
        mkdirat(self.temp_dir(), &name, Mode::RWXU).at("create", &patch)?;
        let root = dir::open_child(self.temp_dir(), &name).at("open", &patch)?;
        describe(&root, &lowers, b"").at("describe", &patch)?;
        for (path, about) in &dirs {
            let path = Path::new(OsStr::from_bytes(path));
            // Directories of the archive that lead to one that it does not list.
            let made = place::make_dirs_in_root(root.as_fd(), path, &mut |path, fd| {
                describe(fd, &lowers, path.as_os_str().as_bytes())
            });
            set(made.at("create", path)?, about).at("describe", path)?;
        }
        Ok(Some(patch))
    }
}

/// Leaves out what is there again further up, where it covers all of itself: the kernel takes no directory twice. So it is
/// with two layers that amend the same one.
fn uncovered(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let is_last = |at: usize| !paths[at + 1..].contains(&paths[at]);
    let kept: Vec<bool> = (0..paths.len()).map(is_last).collect();
    let kept = paths.into_iter().zip(kept).filter(|(_, kept)| *kept);
    kept.map(|(path, _)| path).collect()
}

/// What is known of a directory.
struct About {
    meta: Meta,
    xattrs: Xattrs,
}

/// What the layers below the uppermost say of a directory of it, unless it is what every implicit
/// directory has anyway.
fn below(lowers: &Lowers, path: &[u8]) -> std::io::Result<Option<About>> {
    let Some(found) = merged(lowers, path)? else {
        return Ok(None);
    };
    let Some(&next) = found.get(1) else {
        return Ok(None);
    };
    let about = read(lowers, next, path)?;
    let plain = (about.meta.mode, about.meta.uid, about.meta.gid) == (0o755, 0, 0);
    Ok((!plain || !about.xattrs.is_empty()).then_some(about))
}

/// The layers, uppermost first, that have the directory.
fn merged(lowers: &Lowers, path: &[u8]) -> std::io::Result<Option<Vec<usize>>> {
    let mut layers = lowers.all();
    let ends = path
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| at);
    for end in ends.chain([path.len()]) {
        match lowers.find(&layers, &path[..end])? {
            Found::Dir(found, _) => layers = found,
            _ => return Ok(None),
        }
    }
    Ok((layers.first() == Some(&0)).then_some(layers))
}

fn read(lowers: &Lowers, layer: usize, path: &[u8]) -> std::io::Result<About> {
    let found = lowers.root(layer).open(path, dir::DIRECTORY)?;
    Ok(About {
        meta: dir::stat(&found)?,
        xattrs: Target::Open(found.as_fd()).kept()?,
    })
}

/// Makes a directory of the patch what it is in the layer itself.
fn describe(fd: impl AsFd, lowers: &Lowers, path: &[u8]) -> std::io::Result<()> {
    set(fd, &read(lowers, 0, path)?)
}

fn set(fd: impl AsFd, about: &About) -> std::io::Result<()> {
    let meta = &about.meta;
    match fchown(&fd, Some(user(meta.uid)), Some(group(meta.gid))) {
        // In a user namespace, an owner that cannot be set was not set below either.
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    for (name, value) in &about.xattrs {
        Target::Open(fd.as_fd()).set(name, value)?;
    }
    fchmod(&fd, Mode::from_raw_mode(meta.mode))?;
    Ok(futimens(&fd, &meta.mtime.as_timestamps())?)
}
