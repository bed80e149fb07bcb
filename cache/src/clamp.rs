//! A layer again, with no time later than a moment: what reproducible builds ask for.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::error::At;
use crate::layer::diff::{Against, Diff};
use crate::layer::stream::{self, Want};
use crate::meta::Time;
use crate::snapshot::Facts;
use crate::{Active, DiffId, Error, Layer, Omitted, Result, Store, dir, threads};

impl Store {
    /// Makes a layer like `diff_id` in which every time after `latest` is `latest`; where none is, it is that layer. On
    /// return the layer is in the store; on failure, nothing of it.
    pub fn clamp_layer(&self, diff_id: &DiffId, latest: Time) -> Result<Layer> {
        let Some(facts) = self.facts(diff_id)? else {
            return Err(Error::Missing(format!("layer {diff_id}")));
        };
        if facts.omitted != Omitted::default() {
            return Err(Error::Foreign(*diff_id));
        }
        let clamped = Clamped::open(self.layer_dir(diff_id), latest)?;
        let diff_id = clamped.write(&mut io::sink())?;
        if let Some(layer) = self.layer(&diff_id)? {
            return Ok(layer);
        }
        let active = self.snapshot(&[])?;
        let unpacked = self.unpack_clamped(&clamped, &diff_id, &active)?;
        // Its archive is of the form that is written here, and can be written again byte by byte.
        let facts = Facts {
            foreign: false,
            ..unpacked
        };
        self.publish(active.scratch(), &diff_id, &facts)
    }

    fn unpack_clamped(&self, clamped: &Clamped, diff_id: &DiffId, into: &Active) -> Result<Facts> {
        let (tar, mut out) = io::pipe().at("open", &clamped.path)?;
        std::thread::scope(|scope| {
            let writing = threads::spawn(scope, move || clamped.write(&mut out));
            let writing = writing.at("rewrite", &clamped.path)?;
            let unpacked = self.extract_into(into, tar, diff_id, u64::MAX);
            match writing.join() {
                Ok(Err(error)) if !is_broken_pipe(&error) => Err(error),
                _ => unpacked,
            }
        })
    }
}

/// Whether the reader gave up first, so that its error says why.
fn is_broken_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// The folder of a layer, seen with other times.
struct Clamped {
    path: PathBuf,
    root: OwnedFd,
    latest: Time,
}

impl Clamped {
    fn open(path: PathBuf, latest: Time) -> Result<Self> {
        let root = dir::open(&path).at("open", &path)?;
        Ok(Self { path, root, latest })
    }

    fn write(&self, out: &mut dyn Write) -> Result<DiffId> {
        let diff = Diff::new(&self.path, Against::Nothing)?;
        let entries = diff.map(|entry| {
            let mut entry = entry?;
            entry.meta.mtime = entry.meta.mtime.min(self.latest);
            Ok(entry)
        });
        Ok(stream::run(entries, &self.path, &self.root, Want::Tar, out)?.diff_id)
    }
}
