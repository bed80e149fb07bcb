//! OCI layouts (a folder or a tar file) and Docker archives: reading them safely, and the bytes of their fixed files.
//!
//! ```text
//! oci-layout                {"imageLayoutVersion":"1.0.0"}
//! index.json                the manifests, with their names as annotations
//! blobs/sha256/<hex>        everything else
//! manifest.json             only in a Docker archive: config, tags and layers of each image
//! ```
//!
//! A layout is input like any other: a member is a regular file that is opened below the folder's descriptor
//! without following a link (CVE: a blob that is a symlink to a host file), and a blob is handed out only through a
//! reader that checks its size and digest.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use lapstrake_cache::Digest;
use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::archive::Archive;
use super::manifest::{self, Descriptor, Document, Index, MAX_DOCUMENT};
use super::{Verified, media};

/// Content of the file `oci-layout`.
pub const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The annotation that holds an image's tag, or its whole name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation in which containerd keeps the whole name.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A member's bytes as they come, unchecked.
type Raw = Box<dyn Read + Send>;

/// An image layout or archive that is read.
pub struct Layout {
    source: Source,
}

enum Source {
    Folder(File),
    Archive(Archive),
}

/// One image of a Docker archive's `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    /// Member that holds the image config.
    pub config: String,
    /// Names of the image.
    #[serde(default, deserialize_with = "manifest::nullable")]
    pub repo_tags: Vec<String>,
    /// Members that hold the layers, lowest first.
    #[serde(default, deserialize_with = "manifest::nullable")]
    pub layers: Vec<String>,
}

impl Layout {
    /// Opens a layout folder, an OCI archive or a Docker archive.
    ///
    /// # Errors
    /// When the path is neither a folder nor a plain tar file.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let shown = path.display();
        let opened = rustix::fs::open(path, flags, Mode::empty())
            .with_context(|| format!("open image {shown}"))?;
        let file = File::from(opened);
        let kind = file
            .metadata()
            .with_context(|| format!("stat image {shown}"))?;
        let source = if kind.is_dir() {
            Source::Folder(file)
        } else if kind.is_file() {
            Source::Archive(Archive::open(file).with_context(|| format!("open image {shown}"))?)
        } else {
            bail!("open image {shown}: neither a folder nor a file");
        };
        Ok(Self { source })
    }

    /// Whether this is an OCI layout; a Docker archive can be one too.
    ///
    /// # Errors
    /// When the `oci-layout` file is there but is not a regular file.
    pub fn is_oci(&self) -> Result<bool> {
        Ok(self.member("oci-layout")?.is_some())
    }

    /// The index of an OCI layout.
    ///
    /// # Errors
    /// When the marker file or the index is missing, malformed or too large.
    pub fn index(&self) -> Result<Index> {
        let marker = self
            .small("oci-layout")?
            .context("not an OCI layout: it has no oci-layout file")?;
        let marker: Marker = serde_json::from_slice(&marker).context("parse oci-layout")?;
        let version = &marker.image_layout_version;
        ensure!(
            version.starts_with("1."),
            "OCI layout has the unsupported version {version:?}"
        );
        let bytes = self
            .small("index.json")?
            .context("OCI layout has no index.json")?;
        match manifest::parse(&bytes, None).context("read index.json")? {
            Document::Index(index) => Ok(index),
            Document::Manifest(_) => bail!("index.json of the OCI layout is not an index"),
        }
    }

    /// The images of a Docker archive; `None` when it has no `manifest.json`.
    ///
    /// # Errors
    /// When the `manifest.json` is malformed or too large.
    pub fn docker_images(&self) -> Result<Option<Vec<DockerImage>>> {
        let Some(bytes) = self.small("manifest.json")? else {
            return Ok(None);
        };
        let images =
            serde_json::from_slice(&bytes).context("parse manifest.json of the image archive")?;
        Ok(Some(images))
    }

    /// A member of a Docker archive with its size: a config or a layer, whose digest nothing but the image config declares.
    ///
    /// # Errors
    /// When it is missing or not a regular file.
    pub fn docker_member(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64)> {
        self.member(name)?
            .with_context(|| format!("image archive has no {name:?}"))
    }

    /// A blob, checked while it is read.
    ///
    /// # Errors
    /// When it is missing, not a regular file, or not of the declared size.
    pub fn blob(&self, descriptor: &Descriptor) -> Result<Verified<Box<dyn Read + Send>>> {
        let Descriptor { digest, size, .. } = descriptor;
        let (raw, found) = self
            .member(&blob_path(digest))?
            .with_context(|| format!("layout has no blob {digest}"))?;
        ensure!(
            found == *size,
            "blob {digest} has {found} bytes, not the {size} declared"
        );
        Ok(Verified::new(raw, descriptor))
    }

    /// A manifest, index or config, whole and checked.
    ///
    /// # Errors
    /// As [`Layout::blob`], and when it is larger than such a document may be.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = &descriptor.digest;
        self.blob(descriptor)?
            .read_small(MAX_DOCUMENT)
            .with_context(|| format!("read {digest}"))
    }

    fn small(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some((raw, size)) = self.member(name)? else {
            return Ok(None);
        };
        ensure!(
            size <= MAX_DOCUMENT,
            "{name} has {size} bytes, more than {MAX_DOCUMENT}"
        );
        let mut bytes = Vec::new();
        raw.take(MAX_DOCUMENT)
            .read_to_end(&mut bytes)
            .with_context(|| format!("read {name}"))?;
        Ok(Some(bytes))
    }

    fn member(&self, name: &str) -> Result<Option<(Raw, u64)>> {
        match &self.source {
            Source::Archive(archive) => Ok(archive
                .member(name)
                .map(|(section, size)| (Box::new(section) as Raw, size))),
            Source::Folder(folder) => {
                let Some(file) = open_below(folder, name)
                    .with_context(|| format!("open {name:?} of the layout"))?
                else {
                    return Ok(None);
                };
                let size = file
                    .metadata()
                    .with_context(|| format!("stat {name:?} of the layout"))?
                    .len();
                Ok(Some((Box::new(file), size)))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

/// Opens a regular file below a folder, one part of the name at a time and no link on the way.
fn open_below(folder: &File, name: &str) -> Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut at = folder.try_clone()?;
    for part in name.split('/') {
        ensure!(!matches!(part, "" | "." | ".."), "name is not plain");
        at = match rustix::fs::openat(&at, part, flags, Mode::empty()) {
            Ok(next) => File::from(next),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => {
                bail!("it is a symbolic link, which a layout may not have")
            }
            Err(error) => return Err(error.into()),
        };
    }
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&at)?.st_mode);
    ensure!(kind == FileType::RegularFile, "it is not a regular file");
    Ok(Some(at))
}

/// The manifest that a name stands for: a digest, a tag, a whole name, or nothing if there is only one manifest.
///
/// # Errors
/// When there is none or more than one such manifest.
pub fn find<'a>(index: &'a Index, name: Option<&str>) -> Result<&'a Descriptor> {
    let named = |descriptor: &&Descriptor| match name {
        None => true,
        Some(name) => {
            let names = [REF_NAME, CONTAINERD_NAME]
                .map(|key| descriptor.annotations.get(key).map(String::as_str));
            names.contains(&Some(name)) || descriptor.digest.to_string() == name
        }
    };
    let mut found = index.manifests.iter().filter(named);
    match (found.next(), found.next(), name) {
        (Some(one), None, _) => Ok(one),
        (None, _, Some(name)) => bail!(
            "image layout has no image {name:?}; it has {}",
            names(index)
        ),
        (None, _, None) => bail!("image layout is empty"),
        (Some(_), Some(_), Some(name)) => {
            bail!("image layout has several images {name:?}: name one by its digest")
        }
        (Some(_), Some(_), None) => bail!(
            "image layout has several images, name one of them: {}",
            names(index)
        ),
    }
}

fn names(index: &Index) -> String {
    let name = |d: &Descriptor| {
        d.annotations
            .get(REF_NAME)
            .cloned()
            .unwrap_or_else(|| d.digest.to_string())
    };
    index
        .manifests
        .iter()
        .map(name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Where a blob lies in a layout.
#[must_use]
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Content of `index.json`.
#[must_use]
pub fn index_json(manifests: Vec<Descriptor>) -> Vec<u8> {
    Index::new(media::OCI_INDEX, manifests).to_bytes()
}

/// Content of a Docker archive's `manifest.json`, for images whose blobs lie as in an OCI layout.
#[must_use]
pub fn docker_json(images: &[DockerImage]) -> Vec<u8> {
    manifest::json(&images)
}

#[cfg(test)]
mod tests;
