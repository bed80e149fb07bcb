//! Images as bytes: descriptors, manifests and indexes, OCI layouts and archives, and the check that they hold together.
//!
//! A document that has a digest is parsed from the very bytes that were hashed and serialised once; whoever
//! passes it on passes the bytes. Everything here reads hostile input: sizes are bounded before anything is
//! read, digests are typed before they name a file, and unknown fields survive a round trip.

mod archive;
pub mod layout;
pub mod manifest;
pub mod platform;
pub mod verified;
pub mod verify;

pub use layout::Layout;
pub use manifest::{Descriptor, Document, Index, Manifest};
pub use verified::Verified;

/// Media types of the documents and blobs of an image.
pub mod media {
    /// An OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An OCI layer, not compressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// An OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// An OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// The keys of a build cache, as the config of a manifest whose layers are the cache's.
    pub const CACHE: &str = "application/vnd.lapstrake.cache.v1+json";
    /// A Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// A Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// A Docker layer, not compressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// A Docker layer, zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

    /// How a layer's bytes are compressed, according to its media type.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Compression {
        /// A plain tar.
        None,
        /// gzip, one member or several.
        Gzip,
        /// zstd.
        Zstd,
    }

    /// The compression that a layer media type declares; `None` when it is not a layer of an image.
    ///
    /// The types for layers that "must not be distributed" count: a registry that has them may serve them.
    #[must_use]
    pub fn compression(media_type: &str) -> Option<Compression> {
        let oci = media_type
            .strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar")
            .or_else(|| media_type.strip_prefix(OCI_LAYER));
        let docker = media_type
            .strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar")
            .or_else(|| media_type.strip_prefix(DOCKER_LAYER));
        match oci.or(docker)? {
            "" => Some(Compression::None),
            "+gzip" | ".gzip" => Some(Compression::Gzip),
            "+zstd" | ".zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// Whether this is a manifest for one image (as opposed to an index).
    #[must_use]
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether this is an index: a list of manifests.
    #[must_use]
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_INDEX)
    }
}
