//! How much of a step's output is shown, and the last lines that a failure report needs.

use std::collections::VecDeque;
use std::time::Duration;

use super::lines::Lines;
use super::text::{self, Colour};

/// How many lines a failure report repeats.
const TAIL: usize = 10;

/// The most output of one step that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimit(Option<u64>);

impl Default for LogLimit {
    /// 2 MiB, as BuildKit has it.
    fn default() -> Self {
        Self(Some(2 << 20))
    }
}

impl LogLimit {
    /// Reads `BUILDKIT_STEP_LOG_MAX_SIZE`: bytes, or a negative number for no limit. Anything else is the default.
    pub fn parse(value: Option<&str>) -> Self {
        match value.and_then(|value| value.trim().parse::<i64>().ok()) {
            Some(size) => Self(u64::try_from(size).ok()),
            None => Self::default(),
        }
    }
}

/// The output of one step as it passes by. Holds a few lines, however much comes.
#[derive(Debug, Default)]
pub(super) struct StepLog {
    pub(super) name: String,
    pub(super) started: Duration,
    lines: Lines,
    tail: VecDeque<(Duration, Vec<u8>)>,
    total: u64,
    clipped: bool,
}

impl StepLog {
    pub(super) fn new(name: String, started: Duration) -> Self {
        Self {
            name,
            started,
            ..Self::default()
        }
    }

    /// Takes note of `data` and cuts from it what goes beyond the limit, with a note where it is cut first.
    pub(super) fn pass(&mut self, data: &mut Vec<u8>, at: Duration, limit: LogLimit) {
        let since = at.saturating_sub(self.started);
        let tail = &mut self.tail;
        self.lines
            .push(data, &mut |line| remember(tail, since, line));
        let before = self.total;
        self.total += data.len() as u64;
        let Some(limit) = limit.0 else { return };
        if self.total <= limit {
            return;
        }
        data.truncate(usize::try_from(limit.saturating_sub(before)).unwrap_or(usize::MAX));
        if !self.clipped {
            self.clipped = true;
            let note = format!(
                "\n[output clipped, log limit {} reached; BUILDKIT_STEP_LOG_MAX_SIZE=-1 lifts it]\n",
                text::bytes(limit)
            );
            data.extend_from_slice(note.as_bytes());
        }
    }

    /// What to say when a clipped step ends: how much it wrote, and its last lines.
    pub(super) fn rest(&mut self) -> Option<Vec<u8>> {
        self.end();
        if !self.clipped {
            return None;
        }
        let mut note = format!(
            "[{} of output in all, the last lines:]\n",
            text::bytes(self.total)
        )
        .into_bytes();
        for (_, line) in &self.tail {
            note.extend_from_slice(line);
            note.push(b'\n');
        }
        Some(note)
    }

    /// The last lines, with their times, safe to print.
    pub(super) fn tail(&mut self) -> Vec<String> {
        self.end();
        let lines = self.tail.iter();
        lines
            .map(|(since, bytes)| {
                format!(
                    "{} {}",
                    text::stamp(*since),
                    text::line(bytes, Colour::Drop)
                )
            })
            .collect()
    }

    fn end(&mut self) {
        let since = self.tail.back().map_or(Duration::ZERO, |(since, _)| *since);
        let tail = &mut self.tail;
        self.lines.flush(&mut |line| remember(tail, since, line));
    }
}

/// Keeps the last [`TAIL`] lines and uses the oldest one's memory again.
fn remember(tail: &mut VecDeque<(Duration, Vec<u8>)>, since: Duration, line: &[u8]) {
    let mut kept = if tail.len() == TAIL {
        tail.pop_front().unwrap_or_default().1
    } else {
        Vec::new()
    };
    kept.clear();
    kept.extend_from_slice(line);
    tail.push_back((since, kept));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!(LogLimit::parse(None), LogLimit::default());
        assert_eq!(LogLimit::parse(Some("100")), LogLimit(Some(100)));
        assert_eq!(LogLimit::parse(Some("-1")), LogLimit(None));
        assert_eq!(LogLimit::parse(Some("many")), LogLimit::default());
    }

    #[test]
    fn what_goes_beyond_is_cut_once_with_a_note_and_the_end_is_kept() {
        let mut log = StepLog::new("RUN".into(), Duration::from_secs(1));
        let limit = LogLimit(Some(6));
        let mut passed = Vec::new();
        for (n, line) in ["one\n", "two\n", "three\n", "four\n"].iter().enumerate() {
            let mut data = line.as_bytes().to_vec();
            log.pass(&mut data, Duration::from_secs(1 + n as u64), limit);
            passed.extend(data);
        }
        let text = String::from_utf8_lossy(&passed).into_owned();
        assert_eq!(
            text,
            "one\ntw\n[output clipped, log limit 6B reached; BUILDKIT_STEP_LOG_MAX_SIZE=-1 lifts it]\n"
        );
        assert_eq!(
            log.tail(),
            ["0.000 one", "1.000 two", "2.000 three", "3.000 four"]
        );
        let rest = log
            .rest()
            .map(|rest| String::from_utf8_lossy(&rest).into_owned());
        assert_eq!(
            rest.as_deref(),
            Some("[19B of output in all, the last lines:]\none\ntwo\nthree\nfour\n")
        );
    }

    #[test]
    fn a_short_output_passes_unchanged_and_the_tail_holds_ten_lines() {
        let mut log = StepLog::new("RUN".into(), Duration::ZERO);
        for n in 0..100 {
            let mut data = format!("{n}\n").into_bytes();
            log.pass(&mut data, Duration::ZERO, LogLimit::default());
            assert_eq!(data, format!("{n}\n").into_bytes());
        }
        assert_eq!(log.rest(), None);
        assert_eq!(log.tail().len(), TAIL);
        assert_eq!(log.tail()[9], "0.000 99");
    }
}
