//! The engine: one loop owns all build state, workers get owned tasks and answer with owned results.

mod graph;
mod merge;
mod worker;

#[cfg(test)]
mod tests;

use std::cell::LazyCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::channel;

use anyhow::Result;
use lapstrake_cache::{Key, Layer, Store};
use lapstrake_frontend::plan::{Node, OpId};
use lapstrake_runtime::Cancel;
use tokio::runtime::Handle;

pub(crate) use graph::Graph;
pub(crate) use merge::merge;

use crate::belief::Mistaken;
use crate::events::Events;
use crate::explain::Outcome;
use crate::fs::{Built, Chain, ChainLayer, Fs, Keys};
use crate::threads;
use crate::travel::Lost;

/// An op with the results that it reads.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) id: OpId,
    pub(crate) node: Node,
    pub(crate) inputs: Vec<(OpId, Fs)>,
    /// Whether what caches elsewhere claim may go into the key: see [`Executor::prove`].
    pub(crate) believes: bool,
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
    /// A layer.
    Layer {
        ready: Ready<Job>,
        /// The key rests on what a cache elsewhere claims: it is good for look-ups only, see [`Executor::prove`].
        claimed: bool,
    },
}

impl<Job> Prepared<Job> {
    /// A layer whose key rests on nothing that a cache elsewhere claims.
    pub(crate) fn proved(ready: Ready<Job>) -> Self {
        Self::Layer {
            ready,
            claimed: false,
        }
    }
}

/// A layer on `base`, known by `key`; `job` makes it. `step` is a key of the op's definition alone, whatever it reads.
pub(crate) struct Ready<Job> {
    pub(crate) key: Key,
    pub(crate) step: Key,
    pub(crate) base: Chain,
    pub(crate) job: Job,
}

/// What executes ops: the real one of [`crate::ops`], or a scripted one in tests.
pub(crate) trait Executor: Send + Sync + 'static {
    /// What `prepare` found out and `run` needs again.
    type Job;
    /// Computes the op's key from its definition and the content of its inputs.
    fn prepare(&self, task: &Task) -> Result<Prepared<Self::Job>>;
    /// Whether `prepare` yields a source that is there already.
    fn is_at_hand(&self, _node: &Node) -> bool {
        false
    }
    /// Whether images are what they were believed to be so far: waits until that is known.
    fn is_right(&self) -> bool {
        true
    }
    /// Does the work and commits the layer.
    fn run(&self, task: &Task, job: Self::Job) -> Result<Layer>;

    /// As [`Executor::prepare`] for a layer, believing no cache elsewhere.
    fn prove(&self, task: &Task) -> Result<Ready<Self::Job>>;
    /// The layer that a cache elsewhere has for `key`.
    fn elsewhere(&self, _key: &Key) -> Option<ChainLayer> {
        None
    }
    /// The layer of a cache elsewhere for what a step made anew, when it says that its content is the same.
    fn same_elsewhere(&self, _built: &Built, _keys: &Keys) -> Option<ChainLayer> {
        None
    }
    /// Whether a result rests on a layer that turned out not to be had.
    fn is_lost(&self, _fs: &Fs) -> bool {
        false
    }
    /// Whether a result that was made at this time (seconds since 1970) is too old to be taken.
    fn is_expired(&self, task: &Task, made: i64) -> bool;
    /// Is told what became of the op.
    fn settled(&self, task: &Task, outcome: Outcome);
}

/// A step that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) node: Node,
    pub(crate) error: anyhow::Error,
}

/// Works all of `graph` and returns it with every wanted op done, or the first failure once all running steps ended.
/// `finished` sees each result as it comes. When a layer of a cache elsewhere cannot be had after all, the steps that rest
/// on it are worked again. To be called on a thread that may block; steps that run at once run on others.
pub(crate) fn solve<E: Executor>(
    mut graph: Graph,
    executor: &Arc<E>,
    store: &Store,
    events: &Events,
    cancel: &Cancel,
    tokio: &Handle,
    finished: &dyn Fn(OpId, &Fs),
) -> Result<Graph, Box<Failure>> {
    let limit = LazyCell::new(parallel_steps);
    let (sender, receiver) = channel();
    let mut running = 0;
    let mut failure: Option<Box<Failure>> = None;
    let mut lost = false;
    loop {
        while (running < FEWEST || running < *limit)
            && failure.is_none()
            && !lost
            && !cancel.is_cancelled()
        {
            let Some(task) = graph.start_next() else {
                break;
            };
            running += 1;
            let at_hand = executor.is_at_hand(&task.node);
            let (executor, store, events) = (Arc::clone(executor), store.clone(), events.clone());
            let sender = sender.clone();
            let work = move || {
                let id = task.id;
                let work = || worker::work(executor.as_ref(), &store, &events, &task);
                // Nobody is left to hear of it if the engine panicked itself.
                let _ = sender.send((id, catch_unwind(AssertUnwindSafe(work))));
            };
            // Where nothing else runs or could, another thread is of no use: most steps of a cached build take less
            // time than waking one.
            if at_hand || (running == 1 && !graph.has_ready()) {
                work();
                break;
            }
            threads::run("step", tokio, work);
        }
        if running == 0 {
            if !lost || failure.is_some() {
                break;
            }
            graph.redo(&|fs| executor.is_lost(fs));
            lost = false;
            continue;
        }
        // This function has a sender too, so there is always one.
        let Ok((id, worked)) = receiver.recv() else {
            break;
        };
        running -= 1;
        match worked.unwrap_or_else(|panic| resume_unwind(panic)) {
            Ok(fs) => {
                finished(id, &fs);
                graph.done(id, fs);
            }
            Err(error) if Lost::is(&error) => {
                graph.failed(id);
                lost = true;
            }
            Err(error) => {
                graph.failed(id);
                // What fails with an image that is none any more says nothing of the build, which begins again.
                let is_right = executor.is_right();
                let error = if is_right { error } else { Mistaken.into() };
                // Only the first failure is the user's; the others follow from stopping.
                failure.get_or_insert_with(|| {
                    let node = graph.node(id).clone();
                    Box::new(Failure { node, error })
                });
                if is_right {
                    cancel.cancel();
                }
            }
        }
    }
    failure.map_or(Ok(graph), Err)
}

/// So many steps may run at once on any machine.
const FEWEST: usize = 4;

/// How many steps may run at once on this one: they wait for disks and networks as much as for cores.
fn parallel_steps() -> usize {
    std::thread::available_parallelism().map_or(FEWEST, |cores| 2 * cores.get())
}
