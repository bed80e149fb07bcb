//! What the engine and the sinks say of their progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use lapstrake_frontend::plan::OpId;

use crate::engine::Task;
use lapstrake_runtime::Stream;

use crate::progress::{Event, Feed, StepId, Warning, text};

/// Steps that are no ops get ids from here on.
const OTHERS: u32 = 1 << 24;
/// Bytes between two reports of the same download.
const REPORT_EVERY: u64 = 512 << 10;

/// Sends events of one build; cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    feed: Feed,
    next: Arc<AtomicU32>,
}

impl Events {
    /// Events that go to `feed`.
    pub(crate) fn new(feed: Feed) -> Self {
        Self {
            feed,
            next: Arc::new(AtomicU32::new(OTHERS)),
        }
    }

    /// An op begins.
    pub(crate) fn started(&self, task: &Task) {
        let inputs = task.node.op.inputs().into_iter().map(step).collect();
        self.feed.send(Event::Started {
            id: step(task.id),
            name: task.node.name.clone(),
            inputs,
            at: self.feed.now(),
        });
    }

    /// An op's result was in the store.
    pub(crate) fn cached(&self, task: &Task) {
        let inputs = task.node.op.inputs().into_iter().map(step).collect();
        self.feed.send(Event::Cached {
            id: step(task.id),
            name: task.node.name.clone(),
            inputs,
            at: self.feed.now(),
        });
    }

    /// An op waits for another build that works the same.
    pub(crate) fn waiting(&self, task: &Task) {
        self.message(format!(
            "{}: waiting for another build that runs the same step",
            task.node.name
        ));
    }

    /// A line that belongs to no step.
    pub(crate) fn message(&self, text: String) {
        self.feed.send(Event::Message {
            text,
            at: self.feed.now(),
        });
    }

    /// A build check found something.
    pub(crate) fn warning(&self, warning: Warning) {
        self.feed.send(Event::Warning(warning));
    }

    /// A running step wrote something.
    pub(crate) fn output(&self, task: &Task, stream: Stream, data: &[u8]) {
        self.feed.send(Event::Output {
            id: step(task.id),
            stream,
            data: data.to_vec(),
            at: self.feed.now(),
        });
    }

    /// An op ended well.
    pub(crate) fn done(&self, task: &Task) {
        self.feed.send(Event::Done {
            id: step(task.id),
            at: self.feed.now(),
        });
    }

    /// An op ended badly.
    pub(crate) fn failed(&self, task: &Task, error: &anyhow::Error) {
        self.feed.send(Event::Failed {
            id: step(task.id),
            error: text::causes(error),
            at: self.feed.now(),
        });
    }

    /// An op was stopped because another failed or the user asked.
    pub(crate) fn cancelled(&self, task: &Task) {
        self.feed.send(Event::Cancelled {
            id: step(task.id),
            at: self.feed.now(),
        });
    }

    /// The op's own step, for reports of downloads.
    pub(crate) fn of(&self, task: &Task) -> Step {
        Step {
            events: self.clone(),
            id: step(task.id),
            aside: false,
        }
    }

    /// A step that nobody is shown.
    pub(crate) fn unseen(&self) -> Step {
        let id = StepId(self.next.fetch_add(1, Ordering::Relaxed));
        Step {
            events: self.clone(),
            id,
            aside: false,
        }
    }

    /// Begins a step that is no op, such as an export.
    pub(crate) fn begin(&self, name: &str) -> Step {
        self.begin_step(name, false)
    }

    /// As [`Events::begin`], for a step that is shown even while others are held back.
    pub(crate) fn begin_aside(&self, name: &str) -> Step {
        self.begin_step(name, true)
    }

    fn begin_step(&self, name: &str, aside: bool) -> Step {
        let step = Step {
            id: StepId(self.next.fetch_add(1, Ordering::Relaxed)),
            events: self.clone(),
            aside,
        };
        step.send(Event::Started {
            id: step.id,
            name: name.to_owned(),
            inputs: Vec::new(),
            at: self.feed.now(),
        });
        step
    }

    /// Holds back all that follows until it is known whether it is true.
    pub(crate) fn hold(&self) {
        self.feed.hold();
    }

    /// What was held back, if anything was, is true, or is not.
    pub(crate) fn resolve(&self, is_true: bool) {
        if is_true {
            self.feed.keep();
        } else {
            self.feed.forget();
        }
    }
}

fn step(id: OpId) -> StepId {
    StepId(id.0)
}

/// A step that is under way.
#[derive(Clone)]
pub(crate) struct Step {
    events: Events,
    id: StepId,
    /// Shown even while others are held back.
    aside: bool,
}

impl Step {
    fn send(&self, event: Event) {
        if self.aside {
            self.events.feed.send_aside(event);
        } else {
            self.events.feed.send(event);
        }
    }

    /// Ends the step as `result` says.
    pub(crate) fn end<T>(self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        let at = self.events.feed.now();
        self.send(match &result {
            Ok(_) => Event::Done { id: self.id, at },
            Err(error) => Event::Failed {
                id: self.id,
                error: text::causes(error),
                at,
            },
        });
        result
    }

    /// Says how far a part of the step is.
    pub(crate) fn status(&self, item: &str, current: u64, total: Option<u64>, done: bool) {
        let at = self.events.feed.now();
        self.send(Event::Status {
            id: self.id,
            item: item.to_owned(),
            current,
            total,
            done,
            at,
        });
    }

    /// A counter of bytes for one part of the step, which reports now and then.
    pub(crate) fn counter(&self, item: String, total: Option<u64>) -> Counter {
        let inner = CounterInner {
            step: self.clone(),
            item,
            total,
            seen: AtomicU64::new(0),
            reported: AtomicU64::new(0),
        };
        Counter(Arc::new(inner))
    }
}

/// Counts bytes of a transfer.
#[derive(Clone)]
pub(crate) struct Counter(Arc<CounterInner>);

struct CounterInner {
    step: Step,
    item: String,
    total: Option<u64>,
    seen: AtomicU64,
    reported: AtomicU64,
}

impl Counter {
    /// `bytes` more have passed.
    pub(crate) fn add(&self, bytes: u64) {
        self.set(self.0.seen.load(Ordering::Relaxed) + bytes);
    }

    /// `seen` bytes have passed in all; less than before when a transfer starts again.
    pub(crate) fn set(&self, seen: u64) {
        let CounterInner {
            step, item, total, ..
        } = self.0.as_ref();
        self.0.seen.store(seen, Ordering::Relaxed);
        if seen.abs_diff(self.0.reported.load(Ordering::Relaxed)) >= REPORT_EVERY {
            self.0.reported.store(seen, Ordering::Relaxed);
            step.status(item, seen, *total, false);
        }
    }

    /// All have passed.
    pub(crate) fn done(&self) {
        let CounterInner {
            step,
            item,
            total,
            seen,
            ..
        } = self.0.as_ref();
        step.status(item, seen.load(Ordering::Relaxed), *total, true);
    }
}
