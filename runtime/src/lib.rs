//! Runs the commands of a build in namespaces of their own.
//!
//! ```text
//! builder ── enter() ──▶ keeper (pid 1 of the build, one thread, executed anew)
//!    │                      │ clone3: mount, pid, ipc, uts, cgroup (and network) namespaces
//!    └─ run() ◀─ socket ─▶ step (pid 1 of the step) ── takes its steps ──▶ the command
//! ```
#![deny(unsafe_code)]

mod caps;
mod cgroup;
mod dev;
mod devices;
mod enter;
mod exec;
mod hierarchy;
mod init;
mod keeper;
mod limits;
mod mount;
mod network;
mod plan;
mod protect;
mod seccomp;
mod spawn;
mod spec;
mod sys;
mod target;
mod user;
mod wire;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub use enter::{Identity, child_main, enter};
pub use network::{RESOLVER, prepare_network};
pub use spawn::{Cancel, run};
pub use spec::{
    Access, Exit, Limits, Mount, MountKind, Network, Process, Root, RunSpec, Security, Stream,
    Ulimit,
};
pub use user::{User, lookup as lookup_user, lookup_group};

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// [`run`] without [`enter`].
    #[error("run a command: namespaces were not entered")]
    NotEntered,
    /// [`enter`] with other threads around.
    #[error("enter namespaces: other threads are running already")]
    Threads,
    /// [`enter`] failed.
    #[error("{action}: {source}")]
    Enter {
        /// What failed.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A step of the set-up failed; the text names it.
    #[error("{0}")]
    Setup(String),
    /// The command was stopped by [`Cancel::cancel`].
    #[error("run the command: cancelled")]
    Cancelled,
}

/// A read-only view of layers merged, lowest first, as a directory that has no path; it lives as long as the descriptor.
///
/// No layers give an empty directory.
pub fn view(lowers: &[PathBuf]) -> io::Result<OwnedFd> {
    let host = enter::entered().map_err(io::Error::other)?.host;
    mount::view(lowers, host.user_namespace)
}

/// Layers merged as [`view`] shows them, but writable: changes go to `upper`, whose file system also holds the empty folder `work`.
pub fn writable_view(lowers: &[PathBuf], upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    let host = enter::entered().map_err(io::Error::other)?.host;
    mount::writable_view(lowers, upper, work, host.user_namespace)
}
