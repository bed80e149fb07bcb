//! The builder: from a Dockerfile to an image.
//!
//! ```text
//! cli ── options ──▶ commands ──▶ build: parse ▶ resolve ⇄ lower ▶ engine (key, look up, work) ▶ assemble ▶ sink
//!                                                  │                 │
//!                                              registry             ops (image, context, http, git, run, copy, make_dir)
//! ```
//!
//! [`progress`] shows what happens; [`oci`] and [`registry`] speak the formats and the protocol of images.

mod ahead;
mod annotations;
mod assemble;
mod belief;
mod build;
mod cdi;
pub mod cli;
mod commands;
mod compress;
mod config;
mod context;
mod engine;
mod epoch;
mod events;
mod explain;
mod fetch;
mod forced;
mod fs;
mod ids;
mod key_agent;
mod machine;
pub mod oci;
mod ops;
mod pack;
mod parallel;
mod paths;
pub mod progress;
pub mod registry;
mod resolve;
mod secrets;
mod sink;
mod stored;
mod threads;
mod time;
mod travel;
mod trees;
mod web;

pub use commands::run;
