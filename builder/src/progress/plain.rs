//! `--progress=plain`: lines for logs and pipes, in BuildKit's form.
//!
//! ```text
//! #4 [build 1/2] FROM docker.io/library/alpine:3.20
//! #4 sha256:4abc… 1.05MB / 3.40MB 0.2s
//! #4 ...                                  another step has more to say
//!
//! #5 [stage-1 2/2] RUN make
//! #5 0.123 cc -o hello hello.c
//! #5 DONE 0.3s
//! ```
//!
//! One running step has the word. What others say waits (a bounded amount), until that step ends, falls silent or has had its time;
//! then the word goes to the one that has waited longest. A step that ended is shown at once.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use super::lines::Lines;
use super::text::{self, Colour};
use super::{Event, Progress, StepId};

/// A step keeps the word this long while others wait.
const TURN: Duration = Duration::from_secs(5);

/// A step that says nothing for so long loses the word to one that waits.
const SILENCE: Duration = Duration::from_secs(1);

/// Bytes of one waiting step; with more the step gets the word.
const MOST_WAITING: usize = 1 << 20;

/// A status is shown again when it went on by a twentieth of its total, or after [`TURN`].
const STATUS_PARTS: u64 = 20;

/// Writes lines to `out`. Errors of `out` are dropped: a closed pipe must not stop a build.
#[derive(Debug)]
pub struct Plain<W> {
    out: W,
    colour: Colour,
    steps: BTreeMap<StepId, Step>,
    current: Option<Turn>,
    shown: u32,
}

/// The step that has the word.
#[derive(Debug)]
struct Turn {
    id: StepId,
    since: Duration,
    last: Duration,
}

#[derive(Debug)]
struct Step {
    number: Option<u32>,
    name: String,
    started: Duration,
    lines: Lines,
    /// Whole lines to show, each with its line end.
    queue: Vec<String>,
    queued: usize,
    waiting: Option<Duration>,
    statuses: HashMap<String, Status>,
    /// The last line, once the step ended.
    end: Option<String>,
}

#[derive(Debug)]
struct Status {
    started: Duration,
    shown: Duration,
    current: u64,
    /// Its line in the queue, which a newer one replaces.
    queued: Option<usize>,
}

impl<W: Write> Plain<W> {
    /// Shows lines on `out`, with the colours that a step's output has if `colour` says so.
    pub fn new(out: W, colour: Colour) -> Self {
        Self {
            out,
            colour,
            steps: BTreeMap::new(),
            current: None,
            shown: 0,
        }
    }

    fn start(&mut self, id: StepId, name: &str, at: Duration) {
        self.steps.entry(id).or_insert_with(|| Step {
            number: None,
            name: text::name(name).into_owned(),
            started: at,
            lines: Lines::default(),
            queue: Vec::new(),
            queued: 0,
            waiting: Some(at),
            statuses: HashMap::new(),
            end: None,
        });
    }

    fn end(&mut self, id: StepId, at: Duration, verdict: &str) {
        let colour = self.colour;
        let Some(step) = self.steps.get_mut(&id) else {
            return;
        };
        let mut lines = std::mem::take(&mut step.lines);
        lines.flush(&mut |line| step.say(at, line, colour));
        step.end = Some(verdict.to_owned());
        self.schedule(at);
    }

    fn output(&mut self, id: StepId, data: &[u8], at: Duration) {
        let colour = self.colour;
        let Some(step) = self.steps.get_mut(&id) else {
            return;
        };
        let mut lines = std::mem::take(&mut step.lines);
        lines.push(data, &mut |line| step.say(at, line, colour));
        step.lines = lines;
        if step.queued > MOST_WAITING {
            self.give_word(id, at);
        }
        self.schedule(at);
    }

    /// Shows all that may be shown now, and decides who has the word.
    fn schedule(&mut self, now: Duration) {
        // The one with the word first, so that it need not be named again.
        let ended =
            |plain: &Self, id: &StepId| plain.steps.get(id).is_some_and(|step| step.end.is_some());
        if let Some(turn) = &self.current {
            let id = turn.id;
            self.speak(id, now);
            if ended(self, &id) {
                self.close(id);
            }
        }
        let done: Vec<StepId> = self
            .steps
            .iter()
            .filter(|(_, step)| step.end.is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in done {
            self.give_word(id, now);
            self.close(id);
        }
        if self
            .current
            .as_ref()
            .is_none_or(|turn| now >= turn.since + TURN || now >= turn.last + SILENCE)
            && let Some(id) = self.longest_waiting()
        {
            self.give_word(id, now);
        }
    }

    fn longest_waiting(&self) -> Option<StepId> {
        let waiting = self
            .steps
            .iter()
            .filter_map(|(id, step)| Some((step.waiting?, *id)));
        // While one has the word, others must have something to say; a mere start can wait until nobody has.
        let able =
            waiting.filter(|(_, id)| self.current.is_none() || !self.steps[id].queue.is_empty());
        able.min().map(|(_, id)| id).or_else(|| {
            if self.current.is_some() {
                None
            } else {
                self.steps.keys().next().copied()
            }
        })
    }

    /// Gives the word to `id`, naming it if it did not have it, and shows what it has to say.
    fn give_word(&mut self, id: StepId, now: Duration) {
        if self.current.as_ref().is_none_or(|turn| turn.id != id) {
            let mut head = String::new();
            if let Some(number) = self
                .current
                .take()
                .and_then(|turn| self.steps.get(&turn.id)?.number)
            {
                let _ = writeln!(head, "#{number} ...");
            }
            let Some(step) = self.steps.get_mut(&id) else {
                return;
            };
            if self.shown > 0 {
                head.push('\n');
            }
            let next = &mut self.shown;
            let number = *step.number.get_or_insert_with(|| {
                *next += 1;
                *next
            });
            let _ = writeln!(head, "#{number} {}", step.name);
            self.write(&head);
            self.current = Some(Turn {
                id,
                since: now,
                last: now,
            });
        }
        self.speak(id, now);
    }

    /// Shows what `id`, which has the word, has to say.
    fn speak(&mut self, id: StepId, now: Duration) {
        let Some(step) = self.steps.get_mut(&id) else {
            return;
        };
        step.waiting = None;
        if step.queue.is_empty() {
            return;
        }
        let number = step.number.unwrap_or_default();
        let mut lines = String::with_capacity(step.queued + 8 * step.queue.len());
        for line in step.queue.drain(..) {
            let _ = writeln!(lines, "#{number} {line}");
        }
        step.queued = 0;
        for status in step.statuses.values_mut() {
            status.queued = None;
        }
        if let Some(turn) = &mut self.current {
            turn.last = now;
        }
        self.write(&lines);
    }

    /// Shows the last line of a step that ended and has the word.
    fn close(&mut self, id: StepId) {
        self.current = None;
        let Some(step) = self.steps.remove(&id) else {
            return;
        };
        let number = step.number.unwrap_or_default();
        let mut lines = String::new();
        for line in step.end.unwrap_or_default().lines() {
            let _ = writeln!(lines, "#{number} {line}");
        }
        self.write(&lines);
    }

    fn message(&mut self, message: &str) {
        let gap = if self.shown > 0 { "\n" } else { "" };
        self.write(&format!("{gap}{}\n", text::name(message)));
        // The next line of the step that has the word must name it again.
        self.current = None;
        self.shown = self.shown.max(1);
    }

    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes());
    }
}

impl Step {
    fn say(&mut self, at: Duration, line: &[u8], colour: Colour) {
        let stamp = text::stamp(at.saturating_sub(self.started));
        self.queue(at, format!("{stamp} {}", text::line(line, colour)));
    }

    fn queue(&mut self, at: Duration, line: String) {
        self.waiting.get_or_insert(at);
        self.queued += line.len();
        self.queue.push(line);
    }

    fn status(&mut self, item: &str, amount: (u64, Option<u64>), done: bool, at: Duration) {
        let (current, total) = amount;
        let known = self.statuses.get_mut(item);
        let status = match known {
            Some(status) => {
                let step = total.unwrap_or(u64::MAX) / STATUS_PARTS;
                let moved = current.saturating_sub(status.current) >= step.max(1);
                if !done && !moved && at < status.shown + TURN {
                    return;
                }
                status
            }
            None => self.statuses.entry(item.to_owned()).or_insert(Status {
                started: at,
                shown: at,
                current,
                queued: None,
            }),
        };
        (status.shown, status.current) = (at, current);
        let seconds = at.saturating_sub(status.started).as_secs_f64();
        let mut line = text::name(item).into_owned();
        let amount = text::amount(current, total);
        if !amount.is_empty() {
            let _ = write!(line, " {amount}");
        }
        if seconds > 0.01 {
            let _ = write!(line, " {seconds:.1}s");
        }
        if done {
            line.push_str(" done");
        }
        match status.queued.and_then(|place| self.queue.get_mut(place)) {
            Some(queued) => {
                self.queued = self.queued - queued.len() + line.len();
                *queued = line;
            }
            None => {
                status.queued = Some(self.queue.len());
                self.queue(at, line);
            }
        }
        if done {
            self.statuses.remove(item);
        }
    }
}

impl<W: Write + Send> Progress for Plain<W> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Started { id, name, at, .. } => {
                self.start(*id, name, *at);
                self.schedule(*at);
            }
            Event::Cached { id, name, at, .. } => {
                self.start(*id, name, *at);
                self.end(*id, *at, "CACHED");
            }
            Event::Output { id, data, at, .. } => self.output(*id, data, *at),
            Event::Status {
                id,
                item,
                current,
                total,
                done,
                at,
            } => {
                if let Some(step) = self.steps.get_mut(id) {
                    step.status(item, (*current, *total), *done, *at);
                    self.schedule(*at);
                }
            }
            Event::Done { id, at } => {
                let took = self
                    .steps
                    .get(id)
                    .map_or(Duration::ZERO, |step| at.saturating_sub(step.started));
                self.end(*id, *at, &format!("DONE {:.1}s", took.as_secs_f64()));
            }
            Event::Failed { id, error, at } => {
                let error: Vec<String> = text::paragraphs(error).collect();
                self.end(*id, *at, &format!("ERROR: {}", error.join("\n")));
            }
            Event::Cancelled { id, at } => self.end(*id, *at, "CANCELED"),
            Event::Warning(warning) => {
                if let Some(step) = warning.step.and_then(|id| self.steps.get_mut(&id)) {
                    step.queue(step.started, format!("WARN: {}", text::name(&warning.text)));
                }
            }
            Event::Message { text, .. } => self.message(text),
        }
    }

    fn tick(&mut self, now: Duration) {
        self.schedule(now);
    }

    fn flush(&mut self) {
        let _ = self.out.flush();
    }

    /// Steps that never ended (a build that was stopped) still show what they had said.
    fn finish(&mut self, now: Duration) {
        let colour = self.colour;
        for id in self.steps.keys().copied().collect::<Vec<_>>() {
            if let Some(step) = self.steps.get_mut(&id) {
                let mut lines = std::mem::take(&mut step.lines);
                lines.flush(&mut |line| step.say(now, line, colour));
                if !step.queue.is_empty() {
                    self.give_word(id, now);
                }
            }
        }
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests;
