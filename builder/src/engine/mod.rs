//! The engine: one loop owns all build state, workers get owned tasks and answer with owned results.

mod graph;
mod merge;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use anyhow::Result;
use lapstrake_cache::{Key, Layer, Store};
use lapstrake_frontend::plan::{Node, OpId};
use lapstrake_runtime::Cancel;
use tokio::task::JoinSet;

pub(crate) use graph::{Graph, index, inputs};
pub(crate) use merge::merge;

use crate::events::Events;
use crate::fs::{Chain, Fs};

/// An op with the results that it reads.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) id: OpId,
    pub(crate) node: Node,
    pub(crate) inputs: Vec<(OpId, Fs)>,
}

impl Task {
    /// The result of the input `id`.
    pub(crate) fn input(&self, id: OpId) -> Result<&Fs> {
        let found = self.inputs.iter().find(|(input, _)| *input == id);
        found
            .map(|(_, fs)| fs)
            .ok_or_else(|| anyhow::anyhow!("op {} is not an input of this step", id.0))
    }
}

/// What an op turns out to be once its inputs are known.
pub(crate) enum Prepared<Job> {
    /// A source: nothing has to be worked.
    Source(Fs),
    /// A layer on `base`, known by `key`; `job` makes it. `step` is a key of the op's definition alone, whatever it reads.
    Layer {
        key: Key,
        step: Key,
        base: Chain,
        job: Job,
    },
}

/// What executes ops: the real one of [`crate::ops`], or a scripted one in tests.
pub(crate) trait Executor: Send + Sync + 'static {
    /// What `prepare` found out and `run` needs again.
    type Job;
    /// Computes the op's key from its definition and the content of its inputs.
    fn prepare(&self, task: &Task) -> Result<Prepared<Self::Job>>;
    /// Does the work and commits the layer.
    fn run(&self, task: &Task, job: Self::Job) -> Result<Layer>;
}

/// A step that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) node: Node,
    pub(crate) error: anyhow::Error,
}

/// Works all of `graph` and returns it with every wanted op done, or the first failure once all running steps ended.
/// `finished` sees each result as it comes.
pub(crate) async fn solve<E: Executor>(
    mut graph: Graph,
    executor: Arc<E>,
    store: &Store,
    events: &Events,
    cancel: &Cancel,
    finished: &(dyn Fn(OpId, &Fs) + Sync),
) -> Result<Graph, Box<Failure>> {
    let limit = parallel_steps();
    let mut running = JoinSet::new();
    let mut failure: Option<Box<Failure>> = None;
    loop {
        while running.len() < limit && failure.is_none() && !cancel.is_cancelled() {
            let Some(task) = graph.start_next() else {
                break;
            };
            let (executor, store, events) = (Arc::clone(&executor), store.clone(), events.clone());
            running.spawn_blocking(move || {
                (
                    task.id,
                    worker::work(executor.as_ref(), &store, &events, &task),
                )
            });
        }
        match running.join_next().await {
            None => break,
            Some(Ok((id, Ok(fs)))) => {
                finished(id, &fs);
                graph.done(id, fs);
            }
            Some(Ok((id, Err(error)))) => {
                graph.failed(id);
                // Only the first failure is the user's; the others follow from stopping.
                failure.get_or_insert_with(|| {
                    Box::new(Failure {
                        node: graph.node(id).clone(),
                        error,
                    })
                });
                cancel.cancel();
            }
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    failure.map_or(Ok(graph), Err)
}

/// Steps wait for disks and networks as much as for cores.
fn parallel_steps() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| (2 * cores.get()).max(4))
}
