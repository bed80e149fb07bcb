//! Stopping commands.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Stops commands from another thread. Clones share one state, and it is final.
#[derive(Debug, Clone)]
pub struct Cancel {
    event: Arc<OwnedFd>,
}

impl Cancel {
    /// One that is not cancelled yet.
    pub fn new() -> io::Result<Cancel> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Cancel {
            event: Arc::new(event),
        })
    }

    /// Kills every command that runs with this value, and lets none start.
    pub fn cancel(&self) {
        // Fails only when the counter is at its maximum, and then it is set already.
        let _ = rustix::io::write(&*self.event, &1u64.to_ne_bytes());
    }

    /// Can be read from when it is cancelled, and from then on.
    pub(crate) fn event(&self) -> &OwnedFd {
        &self.event
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        let mut fds = [PollFd::new(&*self.event, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }
}
