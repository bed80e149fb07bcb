//! The Dockerfile language: parsing, stages and lowering to a build graph. Pure: no I/O, no clock, no environment.
//!
//! [`parse()`] reads a text into typed instructions, each part of which has a [`span::Span`]; or says all that is wrong:
//!
//! ```
//! use lapstrake_frontend::{ast::Kind, diag::Color, parse};
//!
//! let source = "FROM alpine AS build\nRUN --network=none make all\n";
//! let dockerfile = parse(source).unwrap();
//! let Kind::From(from) = &dockerfile.instructions[0].kind else { panic!() };
//! assert_eq!(from.image.value, "alpine");
//! assert_eq!(from.name.as_ref().unwrap().span.slice(source), "build");
//!
//! let source = "FROM alpine\nRUM make\n";
//! let errors = parse(source).unwrap_err();
//! assert_eq!(errors[0].hint.as_deref(), Some("did you mean RUN?"));
//! assert!(errors[0].render("Dockerfile", source, Color::Plain).contains("Dockerfile:2:1"));
//! ```
//!
//! [`lint::lint`] applies the style rules, and [`Dockerfile::pieces`](ast::Dockerfile::pieces) gives editors and
//! formatters the whole text, comments and blanks included:
//!
//! ```
//! use lapstrake_frontend::{lint, parse};
//!
//! let dockerfile = parse("FROM alpine as build\n").unwrap();
//! let report = lint::lint(&dockerfile, lint::Scope::All, Vec::new(), None).unwrap();
//! assert_eq!(report.warnings[0].rule, lint::Rule::FromAsCasing);
//! ```
//!
//! [`lower()`] makes the build graph. It never fetches: it says which image configs it needs, and is called again.
//!
//! ```
//! use lapstrake_frontend::image::Platform;
//! use lapstrake_frontend::plan::{Inputs, Lowered, Op};
//! use lapstrake_frontend::{lower, parse};
//!
//! let dockerfile = parse("FROM alpine\nARG V=1\nRUN echo $V\n").unwrap();
//! let platform = Platform::new("linux", "amd64", None);
//! let mut inputs = Inputs {
//!     build_platform: platform.clone(),
//!     target_platform: platform,
//!     ..Inputs::default()
//! };
//! let plan = loop {
//!     match lower(&dockerfile, &inputs).unwrap() {
//!         Lowered::Ready(plan) => break plan,
//!         Lowered::Need(wanted) => {
//!             for image in wanted {
//!                 inputs.images.insert((image.reference, image.platform), b"{}".to_vec());
//!             }
//!         }
//!     }
//! };
//! let Op::Run(run) = &plan.nodes.last().unwrap().op else { panic!() };
//! assert_eq!(run.argv, ["/bin/sh", "-c", "echo $V"]);
//! ```
//!
//! The feature `serde` (off by default) makes the syntax tree, spans and pieces serialisable both ways, findings one way.
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
pub mod source;
pub mod span;
pub mod stage;
pub mod suggest;
mod text;
pub mod values;

pub use lower::{
    Checked, Outline, OutlineArg, OutlineMount, Target, check, lower, outline, redact, targets,
};
pub use parse::{
    MountError, MountKind, MountSpec, mount_from, parse, parse_bytes, parse_mount, parse_trigger,
};
pub use stage::epoch::{Epoch, EpochSource, epoch};
