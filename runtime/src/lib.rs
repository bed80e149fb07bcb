//! Runs the commands of a build, each in namespaces of its own.
//!
//! ```text
//! builder ── 1st run() ─▶ keeper                pid 1 of the build; one thread; this program, executed anew
//!   │                      │ clone3             mount, pid, ipc, uts, cgroup, time (and network) namespaces
//!   └─ run() ◀─ socket ─▶ step                  pid 1 of the step: takes the steps of its plan, then
//!                          ▼ execve             is the command
//! ```
//!
//! [`run`] turns a [`RunSpec`] into a list of steps by a pure function (`plan`), opens what the list refers to, and asks
//! the keeper for a process. The process receives list and descriptors over a socket, and interprets them (`init`). The
//! keeper tells how it ended.
//!
//! Why a keeper, and not a child of the builder: forking a process with threads is only safe if the child does nothing but
//! execute a program, so each step would be this program once more, at 1 ms a start; a fork of the keeper takes 0.2 ms. A step
//! takes 2 to 3 ms in all. And the builder can be killed: whatever it was doing, the keeper then sees its socket
//! close, kills the steps, removes their control groups and ends. What the builder runs of the host is guarded the same way
//! ([`guarded`]).
//!
//! # What depends on order
//!
//! - [`child_main`] before anything else, [`enter()`] before any thread: a user namespace can only be entered by a
//!   process of one thread, and a mount namespace is one of a thread.
//! - A control group namespace is made after joining the group that becomes its root; a sysfs is mounted after joining the
//!   network that it shows.
//! - Mounts of the caller come after ours, and what hides parts of `/proc` and `/sys` comes last, so that no mount
//!   uncovers anything.
//! - Names of users are looked up after the root has changed, with nothing of the host left to reach.
//! - The filter of system calls is loaded before capabilities are dropped: `no_new_privs` is off, as `sudo` has to work, and
//!   without it loading a filter takes a capability.
//!
//! # What holds
//!
//! - No path of an image is joined to a path of the host: it is looked up below an open directory, with links confined.
//! - A command sees no descriptor, variable, process, mount, key or terminal of the builder.
//! - It can open no device but null, zero, full, random, urandom, tty and its own pseudo-terminals.
//! - When [`run`] returns, no process, mount or control group of the command is left.
#![deny(unsafe_code)]

mod bare;
mod cancel;
mod caps;
mod cgroup;
mod dev;
mod devices;
mod early;
mod enter;
mod exec;
mod guard;
mod hierarchy;
mod ids;
mod init;
mod keeper;
mod layers;
mod limits;
mod merge;
mod mount;
mod network;
mod overlay;
mod plan;
mod protect;
mod report;
mod seccomp;
mod spawn;
mod spec;
mod sys;
mod sysfs;
mod target;
mod times;
mod user;
mod wire;

use std::io;

pub use cancel::Cancel;
pub use early::{has_stdout, note_signals, was_interrupted};
pub use enter::{Identity, child_main, enter, enter_bare};
pub use guard::{NOT_FOUND, guarded};
pub use ids::has_ids;
pub use layers::{Layers, can_overlay, finish_view, show_layers, view, writable_view};
pub use merge::Marks;
pub use network::{RESOLVER, prepare_network};
pub use spawn::run;
pub use spec::{
    Access, Device, DeviceKind, Exit, Limits, Mount, MountKind, Network, Process, Root, RunSpec,
    Security, Stream, Ulimit,
};
pub use user::{User, lookup as lookup_user, lookup_group};

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// [`run`] without [`enter()`].
    #[error("run a command: namespaces were not entered")]
    NotEntered,
    /// [`enter()`] with other threads around.
    #[error("enter namespaces: other threads are running already")]
    Threads,
    /// [`enter()`] failed.
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
