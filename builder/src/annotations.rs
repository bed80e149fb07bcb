//! Annotations of manifests, of the index above them, and of the descriptors of both.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use lapstrake_frontend::image::Platform;

/// Keys and values.
pub(crate) type Pairs = BTreeMap<String, String>;

/// What the documents of an output are annotated with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Annotations {
    pub(crate) manifest: ByPlatform,
    pub(crate) manifest_descriptor: ByPlatform,
    pub(crate) index: Pairs,
    pub(crate) index_descriptor: Pairs,
}

/// Annotations of the images of some platforms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ByPlatform(BTreeMap<Option<Platform>, Pairs>);

impl ByPlatform {
    /// Adds annotations, for one platform or for all.
    pub(crate) fn extend(
        &mut self,
        platform: Option<Platform>,
        pairs: impl IntoIterator<Item = (String, String)>,
    ) {
        self.0.entry(platform).or_default().extend(pairs);
    }

    /// Those of `platform`: what is said of it alone comes before what is said of all.
    pub(crate) fn of(&self, platform: &Platform) -> Pairs {
        let one = Some(platform.clone());
        let both = [&None, &one].into_iter().filter_map(|key| self.0.get(key));
        both.flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

impl Annotations {
    /// Refuses what images of these platforms cannot carry.
    pub(crate) fn check(&self, platforms: &[&Platform]) -> Result<()> {
        let named = [&self.manifest, &self.manifest_descriptor];
        let named = named.into_iter().flat_map(|part| part.0.keys().flatten());
        for platform in named {
            if !platforms.contains(&platform) {
                bail!("--annotation: no image of platform {platform} is built");
            }
        }
        if platforms.len() == 1 && !(self.index.is_empty() && self.index_descriptor.is_empty()) {
            bail!("--annotation: an image of one platform has no index to annotate");
        }
        Ok(())
    }

    /// Whether there is anything that documents of Docker's types have no place for.
    pub(crate) fn needs_oci(&self) -> bool {
        let Self {
            manifest: _,
            manifest_descriptor,
            index,
            index_descriptor,
        } = self;
        !(manifest_descriptor.0.is_empty() && index.is_empty() && index_descriptor.is_empty())
    }
}
