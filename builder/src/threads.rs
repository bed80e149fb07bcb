//! Threads for the engine and its steps.
//!
//! Not tokio's for work that blocks: where the machine gives no more of them it has new work wait for one that is busy, and
//! the engine would wait for steps that wait for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use lapstrake_cache::no_threads;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Starts a thread for `work`, which may use `tokio`.
pub(crate) fn start(
    name: &str,
    tokio: &Handle,
    work: impl FnOnce() + Send + 'static,
) -> Result<()> {
    let tokio = tokio.clone();
    let begin = move || {
        let _inside = tokio.enter();
        work();
    };
    let started = thread::Builder::new().name(name.into()).spawn(begin);
    started.map(drop).map_err(|_| no_threads().into())
}

/// What `work`, which begins at once, yields on a thread of its own, where it may wait for what tokio does on this one.
pub(crate) fn off<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T>> {
    let (sender, receiver) = oneshot::channel();
    // Nobody may wait any more.
    let started = start("work", &Handle::current(), move || {
        drop(sender.send(work()));
    });
    async move {
        started?;
        receiver.await.context("work aside: internal error")
    }
}

/// Runs `work` on a thread of its own, from where it may use `tokio`; on this one if no other can be had.
pub(crate) fn run(name: &str, tokio: &Handle, work: impl FnOnce() + Send + 'static) {
    let tokio = tokio.clone();
    let work = Arc::new(Mutex::new(Some(move || {
        let _inside = tokio.enter();
        work();
    })));
    let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let theirs = Arc::clone(&work);
    let begin = move || {
        if let Some(work) = take(&theirs) {
            work();
        }
    };
    if thread::Builder::new()
        .name(name.into())
        .spawn(begin)
        .is_err()
        && let Some(work) = take(&work)
    {
        work();
    }
}
