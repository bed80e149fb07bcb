//! Aligned columns, and numbers as people read them.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use lapstrake_cache::Digest;

use crate::progress::text;

/// A table that is shown when all rows are known. What images and Dockerfiles say of themselves is made safe for a
/// terminal.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    gap: usize,
}

impl Table {
    /// A table with these headings, columns three blanks apart.
    pub(crate) fn new(heads: &[&str]) -> Self {
        let mut table = Self {
            rows: Vec::new(),
            gap: 3,
        };
        table.row(heads);
        table
    }

    /// Puts columns so many blanks apart.
    pub(crate) fn gap(mut self, gap: usize) -> Self {
        self.gap = gap;
        self
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        let cells = cells.into_iter();
        let safe = cells.map(|cell| text::name(cell.as_ref()).into_owned());
        self.rows.push(safe.collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        let gap = " ".repeat(self.gap);
        for row in &self.rows {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join(&gap).trim_end())?;
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
