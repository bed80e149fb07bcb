//! The guard: a process between the builder and a program of the host that must not outlive it.
//!
//! A death signal (`PR_SET_PDEATHSIG`) would not do: it comes when the thread ends that started the program, not the
//! process, and it reaches the program alone, not the helpers that it has started. The guard's standard input is a pipe
//! that only the builder holds. It closes when the builder is gone, for whatever reason, and the guard then kills its
//! process group, which is that of the program and its helpers.

use std::io::{self, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpgrp, kill_process_group, pidfd_open};

use crate::sys;

/// The name by which a process knows that it is a guard.
pub(crate) const NAME: &str = "lapstrake-guard";
/// What a guard writes to standard error, and nothing else, if its program is not installed.
pub const NOT_FOUND: &str = "lapstrake-guard: no such program\n";
/// How it ends then, as shells do.
const NOT_EXECUTED: i32 = 127;

/// A command that runs `program` of the host, without standard input and in a process group of its own. They end with this
/// process at the latest, and when the child's standard input is dropped. The status is that of the program; one that
/// cannot be started has none, and standard error says why: [`NOT_FOUND`], or the system's reason.
pub fn guarded(program: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(NAME).arg(program);
    command.stdin(Stdio::piped()).process_group(0);
    command
}

pub(crate) fn main() -> ! {
    let status = run().unwrap_or_else(|error| {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => NOT_FOUND.to_owned(),
            _ => format!("{error}\n"),
        };
        // The builder reads it: it is the program's own standard error.
        let _ = io::stderr().write_all(reason.as_bytes());
        NOT_EXECUTED
    });
    sys::exit(status)
}

fn run() -> io::Result<i32> {
    let mut arguments = std::env::args_os().skip(1);
    let mut command = Command::new(arguments.next().unwrap_or_default());
    command.args(arguments).stdin(Stdio::null());
    let mut child = command.spawn()?;
    let program = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let builder = io::stdin();
    // That a pipe has closed is reported without being asked for.
    let mut fds = [
        PollFd::new(&program, PollFlags::IN),
        PollFd::new(&builder, PollFlags::empty()),
    ];
    rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
    if !fds[1].revents().is_empty() {
        kill_process_group(getpgrp(), Signal::KILL)?;
    }
    let status = child.wait()?;
    let signal = || 128 + status.signal().unwrap_or_default();
    Ok(status.code().unwrap_or_else(signal))
}
