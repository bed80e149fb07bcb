//! The Dockerfile language: parsing, stages and lowering to a build graph. Pure: no I/O, no clock, no environment.
#![forbid(unsafe_code)]

pub mod ast;
pub mod image;
pub mod plan;
pub mod span;
