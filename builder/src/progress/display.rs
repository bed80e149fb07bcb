//! The thread that owns the output, and the handles that feed it.

use std::collections::HashMap;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::limit::{LogLimit, StepLog};
use super::{Event, FailedStep, Progress, StepId, Stream, Warning};

/// Events that may wait. When a terminal stands still, the build waits too instead of filling the memory.
const WAITING: usize = 256;

/// After an event the thread sleeps so long and shows then what came meanwhile: to be woken by each would cost more than
/// to show it, and a cached build has done its steps before a thread wakes twice.
const GATHER: Duration = Duration::from_millis(5);

/// Ten frames a second.
const TICK: Duration = Duration::from_millis(100);

/// Where the parts of a build send their events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Feed {
    sender: SyncSender<Message>,
    start: Instant,
}

#[derive(Debug)]
enum Message {
    Event(Event),
    /// Shown even while others are held back.
    Aside(Event),
    /// Holds back the events that follow.
    Hold,
    /// Shows those that were held back.
    Keep,
    /// Drops those that were held back.
    Forget,
    Close,
}

impl Feed {
    /// The time since the build began, for [`Event`]s.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Hands `event` over. Events sent after [`Display::finish`] are dropped.
    pub fn send(&self, event: Event) {
        self.tell(Message::Event(event));
    }

    /// As [`Feed::send`], for an event that is shown even while others are held back.
    pub fn send_aside(&self, event: Event) {
        self.tell(Message::Aside(event));
    }

    /// Holds back the events that follow until it is known whether they are true.
    pub fn hold(&self) {
        self.tell(Message::Hold);
    }

    /// Shows the events that were held back, if any were.
    pub fn keep(&self) {
        self.tell(Message::Keep);
    }

    /// Drops the events that were held back: they were not true.
    pub fn forget(&self) {
        self.tell(Message::Forget);
    }

    fn tell(&self, message: Message) {
        // A closed display shows nothing more; the build does not care.
        let _ = self.sender.send(message);
    }
}

/// What remains to be said when a build is over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The first step that failed.
    pub failed: Option<FailedStep>,
    /// All warnings, in the order they came.
    pub warnings: Vec<Warning>,
}

/// Shows events until it is finished. Dropping it finishes it too.
#[derive(Debug)]
pub struct Display {
    feed: Feed,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<Summary>>,
}

impl Display {
    /// Starts to show events by way of `progress`. The time of the build counts from `start`.
    pub fn start(
        progress: Box<dyn Progress>,
        limit: LogLimit,
        start: Instant,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING);
        let closing = Arc::new(AtomicBool::new(false));
        let shown = Shown {
            progress,
            closing: Arc::clone(&closing),
            limit,
            logs: HashMap::new(),
            held: None,
            summary: Summary::default(),
        };
        let thread = thread::Builder::new()
            .name("progress".into())
            .spawn(move || shown.run(&receiver, start));
        let thread = thread.map_err(|_| lapstrake_cache::no_threads())?;
        Ok(Self {
            feed: Feed { sender, start },
            closing,
            thread: Some(thread),
        })
    }

    /// A handle for whoever has something to tell.
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// Shows what was sent so far, for the last time.
    pub fn finish(mut self) -> Summary {
        self.close()
    }

    fn close(&mut self) -> Summary {
        let Some(thread) = self.thread.take() else {
            return Summary::default();
        };
        self.closing.store(true, Ordering::Release);
        let _ = self.feed.sender.send(Message::Close);
        thread.thread().unpark();
        thread.join().unwrap_or_default()
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.close();
    }
}

/// The state of the thread.
struct Shown {
    progress: Box<dyn Progress>,
    /// Set before the end is sent. A thread that is still being woken by an event does not notice that it is woken for the
    /// end too.
    closing: Arc<AtomicBool>,
    limit: LogLimit,
    logs: HashMap<StepId, StepLog>,
    /// Events that are held back.
    held: Option<Vec<Event>>,
    summary: Summary,
}

impl Shown {
    fn run(mut self, receiver: &Receiver<Message>, start: Instant) -> Summary {
        let mut next = Instant::now() + TICK;
        let mut closed = false;
        while !closed {
            match receiver.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(first) => {
                    if !self.closing.load(Ordering::Acquire) {
                        thread::park_timeout(GATHER);
                    }
                    closed = self.pass_all(first, receiver);
                }
                Err(RecvTimeoutError::Disconnected) => closed = true,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if now >= next {
                self.progress.tick(start.elapsed());
                next = now + TICK;
            }
            self.progress.flush();
        }
        self.progress.finish(start.elapsed());
        self.summary
    }

    /// Shows what has come, `first` and all that waits; whether that was the end.
    fn pass_all(&mut self, first: Message, receiver: &Receiver<Message>) -> bool {
        for message in iter::once(first).chain(receiver.try_iter().take(WAITING)) {
            match (message, &mut self.held) {
                (Message::Event(event), Some(held)) => held.push(event),
                (Message::Event(event), None) | (Message::Aside(event), _) => self.pass(event),
                (Message::Hold, held) => *held = Some(Vec::new()),
                (Message::Keep, held) => {
                    let kept = held.take().unwrap_or_default();
                    kept.into_iter().for_each(|event| self.pass(event));
                }
                (Message::Forget, held) => *held = None,
                (Message::Close, _) => return true,
            }
        }
        false
    }

    /// Shows `event`, cut to the log limit.
    fn pass(&mut self, mut event: Event) {
        match &mut event {
            Event::Started { id, name, at, .. } => {
                self.logs.insert(*id, StepLog::new(name.clone(), *at));
            }
            Event::Output { id, data, at, .. } => {
                if let Some(log) = self.logs.get_mut(id) {
                    log.pass(data, *at, self.limit);
                    if data.is_empty() {
                        return;
                    }
                }
            }
            Event::Done { id, at } | Event::Cancelled { id, at } | Event::Failed { id, at, .. } => {
                if let Some(log) = self.logs.remove(id) {
                    self.end(*id, log, *at, &event);
                }
            }
            Event::Cached { id, .. } => {
                self.logs.remove(id);
            }
            Event::Warning(warning) => self.summary.warnings.push(warning.clone()),
            Event::Status { .. } | Event::Message { .. } => {}
        }
        self.progress.event(&event);
    }

    fn end(&mut self, id: StepId, mut log: StepLog, at: Duration, event: &Event) {
        if let Some(data) = log.rest() {
            self.progress.event(&Event::Output {
                id,
                stream: Stream::Stdout,
                data,
                at,
            });
        }
        if let Event::Failed { error, .. } = event
            && self.summary.failed.is_none()
        {
            let tail = log.tail();
            self.summary.failed = Some(FailedStep {
                id,
                name: log.name,
                error: error.clone(),
                tail,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Recorder;
    use super::*;

    const AT: Duration = Duration::ZERO;

    fn started(id: u32) -> Event {
        Event::Started {
            id: StepId(id),
            name: format!("step {id}"),
            inputs: vec![],
            at: AT,
        }
    }

    fn output(id: u32, text: &str) -> Event {
        Event::Output {
            id: StepId(id),
            stream: Stream::Stdout,
            data: text.into(),
            at: AT,
        }
    }

    fn run(limit: &str, events: &[Event]) -> (Vec<Event>, Summary) {
        let recorder = Recorder::default();
        let display = Display::start(
            Box::new(recorder.clone()),
            LogLimit::parse(Some(limit)),
            Instant::now(),
        )
        .unwrap();
        let feed = display.feed();
        for event in events {
            feed.send(event.clone());
        }
        let summary = display.finish();
        feed.send(started(99));
        (recorder.events(), summary)
    }

    #[test]
    fn events_pass_in_order_and_the_first_failure_is_kept_with_its_last_lines() {
        let failed = |id| Event::Failed {
            id: StepId(id),
            error: format!("broken {id}"),
            at: AT,
        };
        let events = [
            started(1),
            started(2),
            output(2, "two\nlast"),
            output(1, "one\n"),
            failed(2),
            failed(1),
        ];
        let (seen, summary) = run("-1", &events);
        assert_eq!(seen, events);
        let tail = vec!["0.000 two".to_string(), "0.000 last".to_string()];
        let expected = FailedStep {
            id: StepId(2),
            name: "step 2".into(),
            error: "broken 2".into(),
            tail,
        };
        assert_eq!(summary.failed, Some(expected));
    }

    #[test]
    fn what_was_held_back_is_shown_later_or_never() {
        let recorder = Recorder::default();
        let limit = LogLimit::parse(None);
        let display = Display::start(Box::new(recorder.clone()), limit, Instant::now()).unwrap();
        let feed = display.feed();
        for (id, kept) in [(1, false), (2, true)] {
            feed.hold();
            feed.send(started(id));
            feed.send_aside(started(10 + id));
            if kept { feed.keep() } else { feed.forget() }
        }
        feed.send(started(3));
        display.finish();
        assert_eq!(recorder.events(), [11, 12, 2, 3].map(started));
    }

    #[test]
    fn clipped_output_ends_with_its_size_and_last_lines() {
        let events = [
            started(1),
            output(1, "0123"),
            output(1, "456789\n"),
            Event::Done {
                id: StepId(1),
                at: AT,
            },
        ];
        let (seen, _) = run("3", &events);
        assert_eq!(
            seen.len(),
            4,
            "what is wholly beyond the limit does not pass: {seen:?}"
        );
        assert_eq!(
            seen[2],
            output(1, "[11B of output in all, the last lines:]\n0123456789\n")
        );
        assert_eq!(seen[3], events[3]);
    }
}
