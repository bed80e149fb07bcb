//! `fsck`: whether the store is sound, and with `--repair`, making it so.
//!
//! What is damaged is removed; the next build makes or fetches it again. A name whose image is incomplete goes too,
//! since it cannot be pushed or built upon. What is merely left over (a result whose layer was pruned) is no damage,
//! but `--repair` removes it.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};

use anyhow::{Result, bail};
use lapstrake_cache::{DiffId, Digest, HashingReader, Kept, Repair, Store};
use serde_json::Value;

use crate::cli::FsckOptions;
use crate::compress::decompress;
use crate::oci::manifest::{self, Document, MAX_DOCUMENT};
use crate::progress::text;
use crate::stored;

/// Checks the store; an error if it is not sound and was not repaired.
pub(super) fn fsck(store: &Store, options: &FsckOptions, out: &mut dyn Write) -> Result<()> {
    let FsckOptions { repair } = *options;
    let mut check = Check {
        store,
        repair,
        out,
        damaged: 0,
        unsure: 0,
    };
    check.whole_store()?;
    let (damaged, unsure) = (check.damaged, check.unsure);
    match (damaged, repair) {
        (0, Repair::No) if unsure > 0 => writeln!(
            out,
            "the store is sound as far as it can be checked: lapstrake fsck --repair removes the rest, and the next build \
             fetches it again"
        )?,
        (0, _) => writeln!(out, "the store is sound")?,
        (_, Repair::Yes) => writeln!(
            out,
            "{damaged} damaged, removed: the next build makes them again"
        )?,
        (_, Repair::No) => {
            bail!(
                "{damaged} damaged: lapstrake fsck --repair removes them, and the next build makes them again"
            )
        }
    }
    Ok(())
}

/// The digest of what a blob unpacks to.
fn digest_of(blob: impl Read + Send) -> Result<Digest> {
    let mut reader = HashingReader::new(decompress(blob)?);
    std::io::copy(&mut reader, &mut std::io::sink())?;
    Ok(reader.digest())
}

struct Check<'a> {
    store: &'a Store,
    repair: Repair,
    out: &'a mut dyn Write,
    damaged: usize,
    /// What cannot be checked.
    unsure: usize,
}

impl Check<'_> {
    fn whole_store(&mut self) -> Result<()> {
        self.store.sweep()?;
        for damage in self.store.check(self.repair)? {
            self.damage(&format!("{} {}", damage.path.display(), damage.what))?;
        }
        self.foreign_layers()?;
        self.names()?;
        self.leftovers()
    }

    fn damage(&mut self, what: &str) -> Result<()> {
        self.damaged += 1;
        writeln!(self.out, "damaged: {}", text::name(what))?;
        Ok(())
    }

    /// Layers that came in blobs are compared with those.
    fn foreign_layers(&mut self) -> Result<()> {
        let foreign = self.store.foreign_layers()?;
        if foreign.is_empty() {
            return Ok(());
        }
        let mut blobs = self.blobs_of_layers()?;
        self.find_blobs(&foreign, &mut blobs)?;
        for layer in foreign {
            let blob = blobs.get(&layer.0).map(|blob| self.store.open_blob(blob));
            let Some(reader) = blob.transpose()?.flatten() else {
                self.unverifiable(&layer)?;
                continue;
            };
            // A blob that is damaged was reported as such.
            let Ok(tar) = decompress(reader) else {
                continue;
            };
            let Ok(is_whole) = self.store.check_foreign(&layer, tar) else {
                continue;
            };
            if !is_whole {
                self.damage(&format!("layer {layer} is not what its archive says"))?;
                if self.repair == Repair::Yes {
                    self.store.remove_layer(&layer)?;
                }
            }
        }
        Ok(())
    }

    /// A layer of which nothing is left to compare it with. One that is in use may well be whole, and stays.
    fn unverifiable(&mut self, layer: &DiffId) -> Result<()> {
        if self.repair == Repair::Yes && self.store.remove_unused_layer(layer)? {
            writeln!(
                self.out,
                "removed: layer {layer}, as the blob that it came in is gone"
            )?;
        } else {
            self.unsure += 1;
            writeln!(
                self.out,
                "cannot be checked: layer {layer}, as the blob that it came in is gone"
            )?;
        }
        Ok(())
    }

    /// Looks for layers of which no image tells in the blobs that no image explains, as those of caches.
    fn find_blobs(&self, layers: &[DiffId], known: &mut HashMap<Digest, Digest>) -> Result<()> {
        let mut wanted: HashSet<Digest> = layers.iter().map(|layer| layer.0).collect();
        wanted.retain(|layer| !known.contains_key(layer));
        if wanted.is_empty() {
            return Ok(());
        }
        let explained: HashSet<Digest> = known.values().copied().collect();
        for item in self.store.usage()?.items {
            let Kept::Blob(blob) = item.kept else {
                continue;
            };
            let reader = match explained.contains(&blob) {
                true => None,
                false => self.store.open_blob(&blob)?,
            };
            let layer = reader.and_then(|reader| digest_of(reader).ok());
            known.extend(
                layer
                    .filter(|layer| wanted.contains(layer))
                    .map(|layer| (layer, blob)),
            );
        }
        Ok(())
    }

    /// For each layer of an image that the store knows, the blob that it came in.
    fn blobs_of_layers(&self) -> Result<HashMap<Digest, Digest>> {
        let mut found = HashMap::new();
        for item in self.store.usage()?.items {
            let Kept::Blob(digest) = item.kept else {
                continue;
            };
            let manifest = self.store.read_blob(&digest, MAX_DOCUMENT).ok().flatten();
            let parsed = manifest.and_then(|bytes| manifest::parse(&bytes, None).ok());
            let Some(Document::Manifest(manifest)) = parsed else {
                continue;
            };
            let config = self.store.read_blob(&manifest.config.digest, MAX_DOCUMENT);
            let Some(config) = config.ok().flatten() else {
                continue;
            };
            if let Ok((_, diff_ids)) = manifest::parse_config(&config, &manifest) {
                let blobs = manifest.layers.iter().map(|layer| layer.digest);
                found.extend(diff_ids.iter().map(|layer| layer.0).zip(blobs));
            }
        }
        Ok(found)
    }

    /// Names of images that are not whole.
    fn names(&mut self) -> Result<()> {
        for (name, digest) in self.store.refs()? {
            let blobs = stored::needs(self.store, &digest).blobs;
            let mut needed = std::iter::once(digest).chain(blobs);
            // Layers that were built here are no blobs before they are pushed.
            let is_here = |digest: &Digest| {
                self.store.has_blob(digest).is_some()
                    || self.store.layer_dir(&DiffId(*digest)).is_dir()
            };
            let missing = needed.find(|digest| !is_here(digest));
            if let Some(missing) = missing {
                self.damage(&format!("image {name} lacks {missing}"))?;
                if self.repair == Repair::Yes {
                    self.store.remove_ref(&name)?;
                }
            }
        }
        Ok(())
    }

    /// Results of steps whose layers are gone, and locks of builds that are.
    fn leftovers(&mut self) -> Result<()> {
        let usage = self.store.usage()?;
        let layers: HashSet<DiffId> = usage
            .items
            .iter()
            .filter_map(|item| match item.kept {
                Kept::Layer(layer) => Some(layer),
                _ => None,
            })
            .collect();
        let mut count = 0;
        for item in &usage.items {
            let Kept::Record(key) = item.kept else {
                continue;
            };
            let record = self.store.peek_record::<Value>(&key)?;
            let layer = record.and_then(|record| record.get("diff_id")?.as_str()?.parse().ok());
            if layer.is_some_and(|layer: DiffId| !layers.contains(&layer)) {
                count += 1;
                if self.repair == Repair::Yes {
                    self.store.remove_record(&key)?;
                }
            }
        }
        let locks = self.store.abandoned_locks(self.repair)?;
        if locks > 0 {
            writeln!(
                self.out,
                "left over: {locks} locks of builds that were killed"
            )?;
        }
        if count > 0 {
            writeln!(
                self.out,
                "left over: {count} results whose layers were removed"
            )?;
        }
        Ok(())
    }
}
