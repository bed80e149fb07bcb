//! The Dockerfile language: parsing, stages and lowering to a build graph. Pure: no I/O, no clock, no environment.
#![forbid(unsafe_code)]

pub mod ast;
pub mod chmod;
pub mod diag;
mod env;
pub mod expand;
pub mod git;
pub mod glob;
mod heredoc;
pub mod ignore;
pub mod image;
mod lines;
pub mod lint;
mod lower;
mod parse;
mod paths;
pub mod plan;
pub mod span;
pub mod stage;
pub mod suggest;

pub use lower::{
    Answer, Checked, Outline, OutlineArg, OutlineMount, Target, check, lower, outline, targets,
};
pub use parse::{
    MountError, MountKind, MountSpec, mount_from, parse, parse_bytes, parse_mount, parse_trigger,
};
