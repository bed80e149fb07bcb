//! What the live view knows of each step.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::super::lines::Lines;
use super::super::text::{self, Colour};
use super::super::{Event, StepId};

/// Wider than any terminal; what is longer need not be kept.
const KEPT: usize = 1024;

/// All steps in the order they began.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) steps: Vec<Step>,
    by_id: HashMap<StepId, usize>,
    log_lines: usize,
}

/// One step.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) started: Duration,
    pub(super) ended: Option<Duration>,
    pub(super) outcome: Outcome,
    pub(super) statuses: Vec<Status>,
    pub(super) warnings: Vec<String>,
    /// The last complete lines of output, safe to print.
    pub(super) log: VecDeque<String>,
    /// Bytes of output so far.
    pub(super) written: u64,
    lines: Lines,
}

/// One part of a step's work.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) item: String,
    pub(super) current: u64,
    pub(super) total: Option<u64>,
    pub(super) started: Duration,
    pub(super) ended: Option<Duration>,
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Running,
    Done,
    Cached,
    Failed,
    Cancelled,
}

impl Trace {
    pub(super) fn new(log_lines: usize) -> Self {
        Self {
            log_lines,
            ..Self::default()
        }
    }

    pub(super) fn ended(&self) -> usize {
        self.steps
            .iter()
            .filter(|step| step.ended.is_some())
            .count()
    }

    pub(super) fn any_running(&self) -> bool {
        self.steps.iter().any(|step| step.ended.is_none())
    }

    /// Ends what still runs when the view closes.
    pub(super) fn end_all(&mut self, now: Duration) {
        for step in self.steps.iter_mut().filter(|step| step.ended.is_none()) {
            step.end(Outcome::Cancelled, now);
        }
    }

    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::Started { id, name, at, .. } => self.start(*id, name, *at),
            Event::Cached { id, name, at, .. } => {
                self.start(*id, name, *at);
                self.end(*id, Outcome::Cached, *at);
            }
            Event::Output { id, data, .. } => {
                let log_lines = self.log_lines;
                if let Some(step) = self.running(*id) {
                    step.output(data, log_lines);
                }
            }
            Event::Status {
                id,
                item,
                current,
                total,
                done,
                at,
            } => {
                if let Some(step) = self.running(*id) {
                    step.status(item, (*current, *total), *done, *at);
                }
            }
            Event::Done { id, at } => self.end(*id, Outcome::Done, *at),
            Event::Failed { id, at, .. } => self.end(*id, Outcome::Failed, *at),
            Event::Cancelled { id, at } => self.end(*id, Outcome::Cancelled, *at),
            Event::Warning(warning) => {
                if let Some(step) = warning.step.and_then(|id| self.running(id)) {
                    step.warnings.push(text::name(&warning.text).into_owned());
                }
            }
            Event::Message { .. } => {}
        }
    }

    fn start(&mut self, id: StepId, name: &str, at: Duration) {
        self.by_id.entry(id).or_insert_with(|| {
            self.steps.push(Step {
                name: text::name(name).into_owned(),
                started: at,
                ended: None,
                outcome: Outcome::Running,
                statuses: Vec::new(),
                warnings: Vec::new(),
                log: VecDeque::new(),
                written: 0,
                lines: Lines::default(),
            });
            self.steps.len() - 1
        });
    }

    fn running(&mut self, id: StepId) -> Option<&mut Step> {
        let at = *self.by_id.get(&id)?;
        self.steps.get_mut(at).filter(|step| step.ended.is_none())
    }

    fn end(&mut self, id: StepId, outcome: Outcome, at: Duration) {
        if let Some(step) = self.running(id) {
            step.end(outcome, at);
        }
    }
}

impl Step {
    fn end(&mut self, outcome: Outcome, at: Duration) {
        self.outcome = outcome;
        self.ended = Some(at);
        for status in self.statuses.iter_mut() {
            status.ended.get_or_insert(at);
        }
        self.log = VecDeque::new();
        self.lines = Lines::default();
    }

    fn output(&mut self, data: &[u8], log_lines: usize) {
        self.written += data.len() as u64;
        let log = &mut self.log;
        self.lines.push(data, &mut |line| {
            if log.len() == log_lines {
                log.pop_front();
            }
            log.push_back(shown(line));
        });
    }

    /// The line that is being written, if any.
    pub(super) fn unfinished(&self) -> Option<String> {
        let partial = self.lines.partial();
        (!partial.is_empty()).then(|| shown(partial))
    }

    fn status(&mut self, item: &str, amount: (u64, Option<u64>), done: bool, at: Duration) {
        let item = text::name(item);
        // The newest come up again most often.
        let known = self.statuses.iter().rposition(|status| status.item == item);
        let place = known.unwrap_or_else(|| {
            let status = Status {
                item: item.into_owned(),
                current: 0,
                total: None,
                started: at,
                ended: None,
            };
            self.statuses.push(status);
            self.statuses.len() - 1
        });
        let status = &mut self.statuses[place];
        (status.current, status.total) = amount;
        status.ended = done.then_some(at);
    }
}

fn shown(line: &[u8]) -> String {
    text::line(&line[..line.len().min(KEPT)], Colour::Drop).replace('\t', "    ")
}
