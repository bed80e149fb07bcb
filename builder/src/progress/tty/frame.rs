//! One frame of the live view, as rows of text: a pure function of what is known.

use std::time::Duration;

use super::super::colors::Paint;
use super::super::text;
use super::trace::{Outcome, Status, Step, Trace};

/// The room for a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// One row, no wider than the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) text: String,
    pub(super) paint: Paint,
}

/// A row of a step before it is known which ones fit.
struct Candidate {
    row: Row,
    running: bool,
    /// The step whose output may be shown below it.
    step: Option<usize>,
}

/// Draws `trace` at the time `now`. The last frame shows all rows and no output, however small the terminal.
pub(super) fn compose(
    trace: &Trace,
    now: Duration,
    size: Size,
    log_lines: usize,
    last: bool,
) -> Vec<Row> {
    let mut candidates = Vec::new();
    for (at, step) in trace.steps.iter().enumerate() {
        rows_of(at, step, now, size.columns, &mut candidates);
    }
    // One row for the heading, one for the cursor.
    let room = size.rows.saturating_sub(2);
    let logs = if last {
        Vec::new()
    } else {
        steps_with_output(trace, &candidates, room, log_lines)
    };
    let reserved: usize = logs.len() * log_lines;
    if !last {
        candidates = most_important(candidates, room.saturating_sub(reserved));
    }
    let mut rows = vec![heading(trace, now, size.columns, last)];
    for candidate in candidates {
        rows.push(candidate.row);
        if let Some(step) = candidate.step.filter(|step| logs.contains(step)) {
            output_of(&trace.steps[step], size.columns, log_lines, &mut rows);
        }
    }
    if !last {
        rows.truncate(size.rows.saturating_sub(1).max(1));
    }
    rows
}

fn heading(trace: &Trace, now: Duration, columns: usize, last: bool) -> Row {
    let (ended, total) = (trace.ended(), trace.steps.len());
    let finished = if last && ended == total && total > 0 {
        " FINISHED"
    } else {
        ""
    };
    let heading = format!(
        "[+] Building {:.1}s ({ended}/{total}){finished}",
        now.as_secs_f64()
    );
    Row {
        text: text::fit(&heading, columns).into_owned(),
        paint: Paint::Plain,
    }
}

fn rows_of(at: usize, step: &Step, now: Duration, columns: usize, rows: &mut Vec<Candidate>) {
    let (mark, paint) = match step.outcome {
        Outcome::Running => ("", Paint::Plain),
        Outcome::Done => ("", Paint::Finished),
        Outcome::Cached => ("CACHED ", Paint::Finished),
        Outcome::Failed => ("ERROR ", Paint::Failed),
        Outcome::Cancelled => ("CANCELED ", Paint::Cancelled),
    };
    let running = step.ended.is_none();
    let took = step.ended.unwrap_or(now).saturating_sub(step.started);
    let row = Row {
        text: line(&format!("{mark}{}", step.name), "", took, columns),
        paint,
    };
    rows.push(Candidate {
        row,
        running,
        step: running.then_some(at),
    });
    for status in &step.statuses {
        rows.push(status_row(status, now, columns));
    }
    for warning in &step.warnings {
        let text = text::fit(&format!(" => WARN: {warning}"), columns).into_owned();
        rows.push(Candidate {
            row: Row {
                text,
                paint: Paint::Warning,
            },
            running: false,
            step: None,
        });
    }
}

fn status_row(status: &Status, now: Duration, columns: usize) -> Candidate {
    let took = status.ended.unwrap_or(now).saturating_sub(status.started);
    let amount = text::amount(status.current, status.total);
    let paint = if status.ended.is_some() {
        Paint::Finished
    } else {
        Paint::Plain
    };
    let text = line(&format!("=> {}", status.item), &amount, took, columns);
    Candidate {
        row: Row { text, paint },
        running: status.ended.is_none(),
        step: None,
    }
}

/// ` => name amount       1.2s`: the time at the right, the name cut to what is left. A very narrow terminal shows the name alone.
fn line(name: &str, amount: &str, took: Duration, columns: usize) -> String {
    let seconds = took.as_secs_f64();
    let timer = format!("{:.1}s", if seconds < 0.05 { 0.0 } else { seconds });
    let name = name.replace('\t', " ");
    let room = columns.saturating_sub(4 + 1 + timer.len());
    if room < 12 {
        return text::fit(&format!(" => {name}"), columns).into_owned();
    }
    let left = if amount.is_empty() || room < amount.len() + 1 + 12 {
        text::fit(&name, room).into_owned()
    } else {
        format!("{} {amount}", text::fit(&name, room - amount.len() - 1))
    };
    let gap = columns.saturating_sub(4 + text::width(&left) + timer.len());
    format!(" => {left}{:gap$}{timer}", "")
}

/// The running steps whose output is shown: those that wrote most, while there is room.
fn steps_with_output(
    trace: &Trace,
    rows: &[Candidate],
    room: usize,
    log_lines: usize,
) -> Vec<usize> {
    let mut talking: Vec<usize> = rows.iter().filter_map(|row| row.step).collect();
    talking.retain(|at| trace.steps[*at].written > 0);
    talking.sort_by_key(|at| std::cmp::Reverse(trace.steps[*at].written));
    let running = rows.iter().filter(|row| row.running).count();
    let fit = room.saturating_sub(running) / (log_lines + 3).max(1);
    talking.truncate(fit);
    talking
}

fn output_of(step: &Step, columns: usize, log_lines: usize, rows: &mut Vec<Row>) {
    let unfinished = step.unfinished();
    let mut lines: Vec<&str> = step
        .log
        .iter()
        .map(String::as_str)
        .chain(unfinished.as_deref())
        .collect();
    lines.drain(..lines.len().saturating_sub(log_lines));
    for line in lines {
        let text = text::fit(&format!(" => => # {line}"), columns).into_owned();
        rows.push(Row {
            text,
            paint: Paint::Log,
        });
    }
}

/// Keeps `limit` rows in their order: what runs first of all, then the latest of the others.
fn most_important(rows: Vec<Candidate>, limit: usize) -> Vec<Candidate> {
    if rows.len() <= limit {
        return rows;
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|at| (std::cmp::Reverse(rows[*at].running), std::cmp::Reverse(*at)));
    order.truncate(limit);
    let kept = |at: &usize| order.contains(at);
    rows.into_iter()
        .enumerate()
        .filter(|(at, _)| kept(at))
        .map(|(_, row)| row)
        .collect()
}
