//! The crate's tests, in one program.
#![allow(clippy::unwrap_used)]

mod amended;
mod crash;
mod digests;
mod hostile;
mod overlay;
mod pruning;
mod rootless;
mod roundtrip;
mod shared;
mod support;
mod trees;
