//! The builder.

pub mod cli;
pub mod progress;
