//! The end before the end: a command that the user stops.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lapstrake_runtime::{Cancel, was_interrupted};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The status of a command that the user stopped: 128 and SIGINT.
pub(super) const STOPPED: u8 = 130;
/// How long a stopped command may take to end in order. Steps that run are killed at once; what copies, compresses or waits
/// for a network does not notice, and is left behind.
const GRACE: Duration = Duration::from_millis(300);

/// What a command runs on that can be stopped: this thread for sockets and signals, others as there is work that blocks.
pub(super) fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.context("start the command")
}

/// Does `work` to its end, or until SIGINT or SIGTERM and a little longer: then there is no result. A second signal ends the
/// program at once.
pub(super) async fn unless_stopped<T>(cancel: &Cancel, work: impl Future<Output = T>) -> Option<T> {
    let Ok(mut signals) = Signals::new() else {
        return Some(work.await);
    };
    // Before there were handlers: nothing was begun.
    if was_interrupted() {
        return None;
    }
    tokio::pin!(work);
    tokio::select! {
        ended = &mut work => return Some(ended),
        () = signals.next() => {}
    }
    cancel.cancel();
    tokio::spawn(async move {
        signals.next().await;
        std::process::exit(i32::from(STOPPED));
    });
    // Even what ended well now is not what the user waits for.
    let _ = tokio::time::timeout(GRACE, work).await;
    None
}

/// Lets a runtime end with the process. Told to shut down, it would have everyone panic who still asks something of it.
pub(super) fn leave_running(runtime: Runtime) {
    std::mem::forget(runtime);
}

/// The user stopped the command, which is named here.
#[derive(Debug, thiserror::Error)]
#[error("the {0} was stopped")]
pub(super) struct Stopped(pub(super) &'static str);

/// The signals that ask a program to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
