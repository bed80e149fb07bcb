//! Layers: what one is as a tar, as a folder, and as two digests.
//!
//! As a tar (the OCI image specification's form) a layer lists what differs from the layers below;
//! a name that is deleted is an empty file `.wh.<name>`, a directory that hides what is below holds
//! `.wh..wh..opq`. As a folder (overlayfs's form) a deleted name is a character device 0:0, and
//! hiding is an extended attribute. The folder of a layer that was made here holds exactly what its
//! tar holds, so the tar can be written again at any time, byte by byte.
//!
//! ```text
//! upper + lowers -> diff (what changed, in order) -> stream (tar bytes, two digests) -> Layer
//! tar -> source (blocks) -> extract (confined to a folder) -> Layer
//! ```

pub(crate) mod archive;
pub(crate) mod diff;
pub(crate) mod extract;
pub(crate) mod folder;
pub(crate) mod header;
pub(crate) mod lower;
pub(crate) mod metadata;
pub(crate) mod same;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod unpack;
pub(crate) mod whiteout;

use self::folder::Place;
use crate::meta::Meta;
use crate::xattr::Xattrs;

/// One entry of a layer.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The path below the layer's root, without a slash at either end.
    pub(crate) path: Vec<u8>,
    pub(crate) meta: Meta,
    pub(crate) body: Body,
    /// None where they are read together with the content.
    pub(crate) xattrs: Option<Xattrs>,
}

/// What an entry is.
#[derive(Debug)]
pub(crate) enum Body {
    /// A regular file, and where its content lies.
    File(Place),
    /// Another name of the file whose path is given.
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Dir {
        opaque: bool,
    },
    /// A device or a named pipe.
    Node,
    /// The name is deleted from the layers below.
    Whiteout,
}
