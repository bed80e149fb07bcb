//! The Dockerfile language: parsing, stages and lowering to a build graph. Pure: no I/O, no clock, no environment.
#![forbid(unsafe_code)]

pub mod ast;
pub mod glob;
pub mod ignore;
pub mod image;
mod paths;
pub mod plan;
pub mod span;
