//! `--progress=tty`: a live view, as docker's.
//!
//! ```text
//! [+] Building 3.2s (5/9)
//!  => [build 1/4] FROM docker.io/library/rust:1          1.2s
//!  => => sha256:4abc… 1.05MB / 3.40MB                    0.3s
//!  => [build 2/4] RUN make                               2.0s
//!  => => # cc -o hello hello.c
//! ```
//!
//! Each frame goes out in one write: back to the first line of the frame before, every line anew with the rest of its row cleared, then
//! everything below cleared. Lines are cut to the terminal's width, so that a row of the frame is a row of the terminal;
//! if the terminal became narrower since, the rows that the old frame now takes are counted with its new width.

mod frame;
mod trace;

use std::io::Write;
use std::time::Duration;

use super::colors::Colors;
use super::text::{self, Colour};
use super::{Event, Progress};
use frame::{Row, Size};
use trace::Trace;

/// The live view on `out`; `size` is asked before each frame and answers columns and rows.
pub struct Tty<W, S> {
    out: W,
    size: S,
    colors: Colors,
    log_lines: usize,
    trace: Trace,
    /// The widths of the rows that are on the screen.
    drawn: Vec<usize>,
    /// Lines to show above the view with the next frame.
    messages: Vec<String>,
    changed: bool,
}

/// Lines of output shown of a running step; more and the view would jump.
const LOG_LINES: usize = 6;

impl<W: Write, S: Fn() -> (u16, u16)> Tty<W, S> {
    /// A view of `log_lines` lines of output a running step (`BUILDKIT_TTY_LOG_LINES`).
    pub fn new(out: W, size: S, colors: Colors, log_lines: Option<&str>) -> Self {
        let log_lines = log_lines
            .and_then(|lines| lines.parse().ok())
            .filter(|lines| (1..=100).contains(lines));
        let log_lines = log_lines.unwrap_or(LOG_LINES);
        Self {
            out,
            size,
            colors,
            log_lines,
            trace: Trace::new(log_lines),
            drawn: Vec::new(),
            messages: Vec::new(),
            changed: false,
        }
    }

    fn draw(&mut self, now: Duration, last: bool) {
        let (columns, rows) = (self.size)();
        // The last column stays free: terminals differ in where the cursor is after a full row.
        let size = Size {
            columns: usize::from(columns).saturating_sub(1).max(1),
            rows: usize::from(rows).max(1),
        };
        let frame = frame::compose(&self.trace, now, size, self.log_lines, last);
        let mut out = String::from("\x1b[?25l\r");
        let above: usize = self
            .drawn
            .iter()
            .map(|width| width.div_ceil(usize::from(columns).max(1)).max(1))
            .sum();
        if above > 0 {
            out.push_str(&format!("\x1b[{above}A"));
        }
        for message in self.messages.drain(..) {
            out.push_str(&message);
            out.push_str("\x1b[K\n");
        }
        for Row { text, paint } in &frame {
            out.push_str(&self.colors.paint(*paint, text));
            out.push_str("\x1b[K\n");
        }
        out.push_str("\x1b[J\x1b[?25h");
        let _ = self.out.write_all(out.as_bytes());
        let _ = self.out.flush();
        self.drawn = frame.iter().map(|row| text::width(&row.text)).collect();
        self.changed = false;
    }
}

impl<W: Write + Send, S: Fn() -> (u16, u16) + Send> Progress for Tty<W, S> {
    fn event(&mut self, event: &Event) {
        self.changed = true;
        match event {
            Event::Message { text, .. } => self
                .messages
                .push(text::line(text.as_bytes(), Colour::Drop)),
            event => self.trace.event(event),
        }
    }

    fn tick(&mut self, now: Duration) {
        if self.changed || self.trace.any_running() {
            self.draw(now, false);
        }
    }

    fn finish(&mut self, now: Duration) {
        self.trace.end_all(now);
        self.draw(now, true);
    }
}

/// The size of the terminal at standard error: columns and rows.
pub fn stderr_size() -> (u16, u16) {
    let (rows, columns) = console::Term::stderr().size_checked().unwrap_or((24, 80));
    (columns, rows)
}

#[cfg(test)]
mod tests;
