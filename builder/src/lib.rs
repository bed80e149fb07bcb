//! The builder.

pub mod progress;
