//! Aligned columns, and numbers as people read them.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use lapstrake_cache::Digest;

use crate::progress::text;

/// A table that is printed when all rows are known.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(heads: &[&str]) -> Self {
        Self {
            rows: vec![heads.iter().map(ToString::to_string).collect()],
        }
    }

    /// Adds a row. What images say of themselves is made safe for a terminal.
    pub(crate) fn row(&mut self, row: Vec<String>) {
        let safe = row.into_iter().map(|cell| text::name(&cell).into_owned());
        self.rows.push(safe.collect());
    }

    /// Prints all rows, columns three blanks apart.
    pub(crate) fn print(&self, out: &mut dyn Write) -> Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            writeln!(out, "{}", cells.collect::<Vec<_>>().join("   ").trim_end())?;
        }
        Ok(())
    }
}

/// The first 12 digits of a digest.
pub(crate) fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

/// A size in decimal units, as docker prints them.
pub(crate) fn bytes(size: u64) -> String {
    let mut value = size as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" || value >= 100.0 {
                format!("{value:.0}{unit}")
            } else {
                format!("{value:.3}{unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.3}TB")
}

/// How long ago an RFC 3339 time was, roughly.
pub(crate) fn age(time: &str) -> String {
    let Some(then) = crate::time::parse(time) else {
        return time.to_owned();
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs() as i64);
    let seconds = (now - then).max(0);
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        86_400..2_592_000 => (seconds / 86_400, "day"),
        2_592_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes() {
        for (size, want) in [
            (0, "0B"),
            (999, "999B"),
            (1500, "1.500kB"),
            (123_456_789, "123MB"),
        ] {
            assert_eq!(bytes(size), want);
        }
    }
}
