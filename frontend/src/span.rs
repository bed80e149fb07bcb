//! Positions in a source text.

use std::fmt;

/// A byte range of the source text, `start..end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// `start..end`.
    pub fn new(start: u32, end: u32) -> Self {
        Self { start, end }
    }

    /// The text it covers; empty where it does not fit `source`.
    pub fn slice<'a>(&self, source: &'a str) -> &'a str {
        source
            .get(self.start as usize..self.end as usize)
            .unwrap_or("")
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// A value and where it was written.
#[derive(Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// `value`, written at `span`.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl<T: fmt::Debug> fmt::Debug for Spanned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} @{:?}", self.value, self.span)
    }
}

/// A line and a column, both from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[allow(missing_docs)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// Where the lines of a source text begin.
#[derive(Debug, Clone)]
pub struct LineIndex {
    starts: Vec<u32>,
}

impl LineIndex {
    /// Reads `source` once.
    pub fn new(source: &str) -> Self {
        let breaks = source
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0)
            .chain(breaks.map(|(at, _)| to_u32(at + 1)))
            .collect();
        Self { starts }
    }

    /// The line of a byte offset, from 1.
    pub fn line(&self, offset: u32) -> u32 {
        to_u32(self.starts.partition_point(|start| *start <= offset))
    }

    /// The offset of the first byte of `line` (from 1); the last line's where there are fewer.
    pub fn start(&self, line: u32) -> u32 {
        let index = (line.max(1) as usize).min(self.starts.len()) - 1;
        self.starts[index]
    }

    /// The line and column of a byte offset of `source`, the text this index was made of.
    pub fn position(&self, source: &str, offset: u32) -> Position {
        let line = self.line(offset);
        let before = Span::new(self.start(line), offset).slice(source);
        Position {
            line,
            column: to_u32(before.chars().count() + 1),
        }
    }

    /// The first and the last line that a span touches. A line feed at its end does not touch the next line.
    pub fn lines(&self, span: Span) -> (u32, u32) {
        let last = span.end.saturating_sub(1).max(span.start);
        (self.line(span.start), self.line(last))
    }
}

/// Offsets fit 32 bits, because the parser refuses larger texts.
pub(crate) fn to_u32(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns() {
        let source = "FROM a\n\nRÜN b";
        let index = LineIndex::new(source);
        assert_eq!(index.position(source, 0), Position { line: 1, column: 1 });
        assert_eq!(index.position(source, 6), Position { line: 1, column: 7 });
        assert_eq!(index.position(source, 7), Position { line: 2, column: 1 });
        assert_eq!(index.position(source, 12), Position { line: 3, column: 4 });
        assert_eq!(index.lines(Span::new(0, 7)), (1, 1));
        assert_eq!(index.lines(Span::new(0, 9)), (1, 3));
        assert_eq!(index.start(99), 8);
    }
}
