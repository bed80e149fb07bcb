//! What the caller of a step is told of it, by its process and by the keeper.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::target::Stub;
use crate::wire;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Everything is set up, the command starts now.
    Ready { stubs: Vec<Stub> },
    /// A step of the set-up failed.
    Failed { message: String, stubs: Vec<Stub> },
    /// The command could not be executed; the shell's code for it, and why.
    NotExecuted { code: i32, message: String },
    /// The process ended: status as of `wait(2)`.
    Exited {
        code: Option<i32>,
        signal: Option<i32>,
        out_of_memory: bool,
    },
}

impl Report {
    /// A failure before anything was made in the root.
    pub(crate) fn failed(message: impl Into<String>) -> Report {
        Report::Failed {
            message: message.into(),
            stubs: Vec::new(),
        }
    }

    /// Nobody is left to tell if the caller is gone: the keeper kills the step then.
    pub(crate) fn send(&self, socket: &OwnedFd) {
        let _ = wire::put(socket, self, &[]);
    }
}
