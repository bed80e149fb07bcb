//! The store: image layers, blobs, and the results of build steps, on disk.
//!
//! One folder, shared by any number of builds at once, with no daemon between them:
//!
//! ```text
//! version                  what kind of store this is, and how deletions are marked in it
//! lock                     held for microseconds: shared to lease something, exclusively to collect garbage
//! dirty-<boot id>          since when files may not be on the disk yet (see `boot`)
//! blobs/sha256/ab/<hex>    compressed layers, configs, manifests: checked when written and when read
//! layers-v1/<hex>/fs       a layer as an overlay lower directory, named by its diff id (of an amendment the upper of two)
//! layers-v1/<hex>/facts    its content digest and size
//! keys-v1/<key>            what a step came to; the access time says when it was last used
//! stat-v1/<context>        digests of context files that need not be read again
//! mounts-v1/<id>/          cache mounts
//! refs-v1/<name>           image names: the roots of garbage collection
//! locks/<key>              held by the process that works on a key
//! reserve                  some bytes to give up on a full device, so that a prune can start
//! idle/                    the folder of a process that ended, for the next one
//! tmp/<pid>-<n>/           of one process, locked while it lives: scratch folders, files on their way, leases
//! ```
//!
//! **What is visible is complete.** A blob, layer or record gets its name by a rename, after its
//! bytes were hashed. A killed process leaves only its folder in `tmp`, which the next open
//! removes.
//!
//! **What is used is not pruned.** A process leases what it looks up or makes (see `lease`), so
//! garbage collection and builds run side by side.
//!
//! **What is persisted has a version** in its folder's name; programs ignore folders that they do
//! not know. Blobs need none: their name says what they must be.
//!
//! The crate is synchronous, prints nothing, reads no environment variables and never mounts.
//! Archives and the trees made from them are taken to be hostile; the store's folder itself (mode
//! 0700) is not.

mod blob;
mod boot;
mod chain;
mod check;
mod clamp;
mod copy;
mod digest;
mod dir;
mod encode;
mod error;
mod escape;
mod facts;
mod gc;
mod index;
mod layer;
mod lease;
mod meta;
mod mounts;
mod place;
mod refs;
mod remove;
mod session;
mod snapshot;
mod stat_index;
mod store;
mod threads;
mod tree;
mod usage;
mod xattr;

pub use blob::{BlobReader, Ingest};
pub use check::{Damage, Repair};
pub use copy::{
    Attributes, copy_file, kept_xattrs, place_dir, place_node, place_symlink, remove_tree,
    set_attributes,
};
pub use digest::{
    ChainId, Content, DiffId, Digest, HashingReader, HashingWriter, Key, ParseDigestError,
};
pub use encode::{Encoder, Explainer, Hasher, Part};
pub use error::{Error, Result};
pub use gc::{Choice, Item, Kept, Policy, Reach, choose};
pub use index::KeyLock;
pub use layer::extract::{Unpack, unpack_archive};
pub use meta::{Kind, Meta, Time};
pub use mounts::{CacheMount, Sharing};
pub use place::{Created, make_dirs_in_root, open_beneath, open_in_root};
pub use session::Scratch;
pub use snapshot::{Active, Layer, Omitted};
pub use stat_index::StatIndex;
pub use store::{Marks, Options, Store};
pub use threads::{no_threads, prepare_rayon};
pub use tree::{Entry, Filter, Owners, Visit, file_digest, stat_beneath, tree_digest, walk};
pub use usage::Usage;
pub use xattr::{Xattrs, is_kept};
