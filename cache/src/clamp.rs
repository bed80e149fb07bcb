//! A layer again, with no time later than a moment: what reproducible builds ask for.

use std::io::{self, Write};

use crate::error::At;
use crate::layer::diff::{Against, Diff};
use crate::layer::folder::{Folder, Place};
use crate::layer::stream::{self, Want};
use crate::meta::Time;
use crate::snapshot::Facts;
use crate::{Active, DiffId, Error, Layer, Omitted, Result, Store, threads};

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
        let folder = self.layer_folder(diff_id, &facts)?;
        let clamped = Clamped { folder, latest };
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
        let path = clamped.folder.path(Place::Own);
        let (tar, mut out) = io::pipe().at("open", path)?;
        std::thread::scope(|scope| {
            let writing = threads::spawn(scope, move || clamped.write(&mut out));
            let writing = writing.at("rewrite", path)?;
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
    folder: Folder,
    latest: Time,
}

impl Clamped {
    fn write(&self, out: &mut dyn Write) -> Result<DiffId> {
        let diff = Diff::new(&self.folder, Against::Nothing)?;
        let entries = diff.map(|entry| {
            let mut entry = entry?;
            entry.meta.mtime = entry.meta.mtime.min(self.latest);
            Ok(entry)
        });
        Ok(stream::run(entries, &self.folder, Want::Tar, out)?.diff_id)
    }
}
