//! The child's side of a step: takes the list of steps one by one, then becomes the command. Never returns.
//!
//! Runs as process 1 of new namespaces, forked from the single-threaded keeper. Nothing of the image is executed or
//! read before the last steps, and everything that this process holds open is close-on-exec.

mod state;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Mode;
use rustix::process::umask;

use crate::plan::{STDERR, STDOUT, Step};
use crate::report::Report;
use crate::{exec, sys, wire};
use state::State;

/// The exit code of a child that never became a command; its report says why.
pub(crate) const FAILED: i32 = 125;

/// Runs the step whose plan arrives on `socket`.
///
/// Where access to devices is not bounded otherwise, no device but those of the new `/dev` can be opened.
pub(crate) fn main(socket: &OwnedFd, devices_bounded: bool) -> ! {
    // A signal to the own process group (`kill 0`) shall reach neither the keeper nor other steps.
    let _ = rustix::process::setsid();
    let code = std::panic::catch_unwind(|| run(socket, devices_bounded)).unwrap_or_else(|_| {
        Report::failed("set up the step: internal error").send(socket);
        FAILED
    });
    sys::exit(code)
}

fn run(socket: &OwnedFd, devices_bounded: bool) -> i32 {
    let Ok(Some((steps, fds))) = wire::take::<Vec<Step>>(socket) else {
        return FAILED;
    };
    let mut state = State::new(fds, devices_bounded);
    for step in steps {
        let name = step.describe();
        if let Step::Exec { argv, env } = step {
            return exec(socket, state, &argv, env);
        }
        if let Err(error) = state.take(step) {
            return failed(socket, state, &name, &error);
        }
    }
    FAILED
}

fn failed(socket: &OwnedFd, state: State, what: &str, error: &io::Error) -> i32 {
    let report = Report::Failed {
        message: format!("{what}: {error}"),
        stubs: state.stubs,
    };
    report.send(socket);
    FAILED
}

fn exec(socket: &OwnedFd, state: State, argv: &[String], env: Vec<(String, String)>) -> i32 {
    let null = state.null.as_ref().map(AsFd::as_fd);
    let streams = || exec::standard_streams(null, state.slot(STDOUT)?, state.slot(STDERR)?);
    if let Err(error) = streams() {
        return failed(socket, state, "connect the output", &error);
    }
    umask(Mode::from_raw_mode(0o022));
    Report::Ready { stubs: state.stubs }.send(socket);
    let home = state.user.as_ref().map_or("/", |user| user.home.as_str());
    let (code, message) = exec::command(argv, env, home);
    Report::NotExecuted { code, message }.send(socket);
    code
}
