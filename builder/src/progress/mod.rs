//! What people see of a build while it runs.
//!
//! ```text
//! engine, sinks ── Event ──▶ Feed ──(bounded channel)──▶ Display thread ── clip, tails ──▶ dyn Progress
//!                                                             │                             plain | tty | json | quiet
//!                                                             └─▶ Summary (failed step with its last lines, warnings)
//! ```
//!
//! The engine says what happens, in [`Event`]s that carry their own time; it never waits for a terminal longer than the
//! channel is full, and it never formats. One thread owns the output: it takes the events of a few milliseconds together,
//! and draws at most ten times a second.
//! Everything that comes from a build (names, output, errors) is made safe for a terminal before it is written: see [`text`].
//! Writing to a closed pipe is never an error.

mod colors;
mod display;
mod failure;
mod json;
mod limit;
mod lines;
mod plain;
mod recorder;
pub mod text;
mod tty;

use std::time::Duration;

pub use lapstrake_runtime::Stream;

pub use colors::Colors;
pub use display::{Display, Feed, Summary};
pub use failure::{Excerpt, FailedStep, Failure, render_failure, render_warnings};
pub use json::Json;
pub use limit::LogLimit;
pub use plain::Plain;
pub use recorder::Recorder;
pub use tty::{Tty, stderr_size};

/// A step as progress numbers it: the engine's choice, unique in a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub u32);

/// Something that happened. `at` is the time since the build began ([`Feed::now`]).
///
/// A step is first named by `Started` or `Cached`; it ends with `Cached`, `Done`, `Failed` or `Cancelled`, and events
/// after its end are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step begins to work.
    Started {
        /// Which.
        id: StepId,
        /// `[build 2/4] RUN make`.
        name: String,
        /// The steps it reads.
        inputs: Vec<StepId>,
        /// When.
        at: Duration,
    },
    /// A step's result was found in the cache: it is done, with or without a `Started` before.
    Cached {
        /// Which.
        id: StepId,
        /// `[build 2/4] RUN make`.
        name: String,
        /// The steps it reads.
        inputs: Vec<StepId>,
        /// When.
        at: Duration,
    },
    /// Bytes that a running step wrote; not cut at line ends.
    Output {
        /// Which.
        id: StepId,
        /// Where it wrote them.
        stream: Stream,
        /// As they came.
        data: Vec<u8>,
        /// When.
        at: Duration,
    },
    /// How far one part of a step is: a download, an extraction, a push.
    Status {
        /// Which.
        id: StepId,
        /// `sha256:4abc…` or `extracting sha256:4abc…`: the same text again replaces what was said before.
        item: String,
        /// Bytes so far.
        current: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
        /// True once it is finished.
        done: bool,
        /// When.
        at: Duration,
    },
    /// A step ended well.
    Done {
        /// Which.
        id: StepId,
        /// When.
        at: Duration,
    },
    /// A step ended badly.
    Failed {
        /// Which.
        id: StepId,
        /// Why.
        error: String,
        /// When.
        at: Duration,
    },
    /// A step was stopped because another failed or the user asked.
    Cancelled {
        /// Which.
        id: StepId,
        /// When.
        at: Duration,
    },
    /// Something the user should mend, of a step or of the Dockerfile.
    Warning(Warning),
    /// A line that belongs to no step, such as a wait for another build.
    Message {
        /// One line.
        text: String,
        /// When.
        at: Duration,
    },
}

/// See [`Event::Warning`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Warning {
    /// The step it belongs to, if any.
    pub step: Option<StepId>,
    /// One line: `StageNameCasing: stage name 'Build' should be lowercase`.
    pub text: String,
    /// More, shown on request.
    pub detail: Vec<String>,
    /// Where it is explained.
    pub url: Option<String>,
    /// The Dockerfile's name and the line, counted from 1.
    pub place: Option<(String, u32)>,
}

/// One way to show events. All calls come from one thread.
pub trait Progress: Send {
    /// Takes note of `event`, and shows it at once or later.
    fn event(&mut self, event: &Event);
    /// Called some ten times a second, with the time since the build began: what waited may be drawn.
    fn tick(&mut self, _now: Duration) {}
    /// Called when no event waits: what was shown may not stay in a buffer.
    fn flush(&mut self) {}
    /// The last call: shows whatever was held back.
    fn finish(&mut self, now: Duration);
}

/// `--progress=quiet` and `none`: nothing is shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn event(&mut self, _event: &Event) {}
    fn finish(&mut self, _now: Duration) {}
}
