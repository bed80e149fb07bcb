//! The builder.

pub mod cli;
pub mod oci;
pub mod progress;
pub mod registry;
