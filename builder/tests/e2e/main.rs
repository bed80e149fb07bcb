//! The program as people use it: each test runs it in a folder of its own, with a store of its own, on base images that
//! a registry in this process serves.
#![allow(clippy::unwrap_used)]

mod objects;
pub mod registry;
pub mod support;

mod attacks;
mod bare;
mod check;
mod control;
mod copies;
mod crash;
mod edits;
mod epoch;
mod explain;
mod layers;
mod moved;
mod outputs;
mod platforms;
mod rebuild;
mod sources;
mod steps;
mod store;
mod together;
mod travel;
mod users;
