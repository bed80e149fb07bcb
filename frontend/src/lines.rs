//! From bytes to logical lines: byte order mark, parser directives, comments, continuations.
//!
//! A logical line is the text of one instruction without its heredocs. It remembers where its pieces stand in
//! the source, so that any part of it has a span.

use std::borrow::Cow;

use crate::ast::{Directives, Word};
use crate::diag::{Code, Diagnostic};
use crate::span::{Span, Spanned, to_u32};

/// Longer physical lines are refused, as other builders do.
const MAX_LINE: usize = 65535;

const BOM: char = '\u{feff}';

/// One instruction's text.
#[derive(Debug)]
pub(crate) struct Logical<'a> {
    /// The pieces joined, leading blanks of the first one dropped.
    pub(crate) text: Cow<'a, str>,
    /// Where the text begins in the source.
    start: usize,
    /// Where the continuations begin, in `text` and in the source.
    pieces: Vec<(usize, usize)>,
    /// The end of the last physical line, without its line feed.
    end: usize,
    /// The comment lines above.
    pub(crate) comments: Vec<Word>,
    /// The last physical line, where there are blank lines among the continuations.
    pub(crate) blank: Option<Span>,
}

impl Logical<'_> {
    /// Where `start..end` of the text stands in the source.
    pub(crate) fn span(&self, start: usize, end: usize) -> Span {
        let from = self.locate(start);
        let to = if end > start {
            self.locate(end - 1) + 1
        } else {
            from
        };
        Span::new(to_u32(from), to_u32(to))
    }

    /// All of it, to the end of its last physical line.
    pub(crate) fn full_span(&self) -> Span {
        let skipped = self.text.len() - self.text.trim_start().len();
        let start = if skipped == self.text.len() {
            0
        } else {
            skipped
        };
        Span::new(to_u32(self.locate(start)), to_u32(self.end))
    }

    fn locate(&self, at: usize) -> usize {
        let after = self.pieces.partition_point(|(start, _)| *start <= at);
        match self.pieces[..after].last() {
            Some((start, source)) => source + (at - start),
            None => self.start + at,
        }
    }
}

/// Reads a source text line by line.
pub(crate) struct Lines<'a> {
    source: &'a str,
    at: usize,
    /// The parser directives so far.
    pub(crate) directives: Directives,
    seen: Vec<String>,
    directives_over: bool,
    comments: Vec<Word>,
    /// The comment lines so far, inside and outside of instructions.
    pub(crate) dropped: Vec<Span>,
    /// What was found wrong with lines and directives.
    pub(crate) findings: Vec<Diagnostic>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(source: &'a str) -> Self {
        let directives = Directives {
            syntax: detect_syntax(source),
            escape: '\\',
            check: detect(source, "check", "#"),
        };
        let at = if source.starts_with(BOM) {
            BOM.len_utf8()
        } else {
            0
        };
        Self {
            source,
            at,
            directives,
            seen: Vec::new(),
            directives_over: false,
            comments: Vec::new(),
            dropped: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// The next physical line with its line feed, and the offset where it begins.
    pub(crate) fn physical(&mut self) -> Option<(usize, &'a str)> {
        let start = self.at;
        let rest = self.source.get(start..).filter(|rest| !rest.is_empty())?;
        // Lines are short: a plain loop is done before a search has begun.
        let length = rest.bytes().position(|byte| byte == b'\n');
        let length = length.unwrap_or(rest.len());
        let line = rest.get(..=length).unwrap_or(rest);
        self.at += line.len();
        if length > MAX_LINE {
            let span = Span::new(to_u32(start), to_u32(start + length));
            let message =
                format!("the line has {length} bytes, more than the maximum of {MAX_LINE}");
            let hint = "split it with line continuations, or copy the data from a file";
            self.findings
                .push(Diagnostic::error(Code::LineTooLong, span, message).hint(hint));
        }
        Some((start, line))
    }

    /// The end of the last physical line, without its line feed.
    pub(crate) fn end(&self) -> u32 {
        let read = self.source.get(..self.at).unwrap_or_default();
        to_u32(read.trim_end_matches(['\r', '\n']).len())
    }

    /// The next instruction's text.
    pub(crate) fn logical(&mut self) -> Option<Logical<'a>> {
        loop {
            let (start, line) = self.physical()?;
            let content = line.trim_end_matches(['\r', '\n']);
            let trimmed = content.trim_start();
            let start = start + content.len() - trimmed.len();
            if trimmed.starts_with('#') {
                self.dropped
                    .push(Span::new(to_u32(start), to_u32(start + trimmed.len())));
                self.comment(start, content, trimmed);
                continue;
            }
            self.directives_over = true;
            let (piece, continued) = self.cut_continuation(trimmed);
            if piece.is_empty() && !continued {
                continue;
            }
            let mut logical = Logical {
                text: Cow::Borrowed(piece),
                start,
                pieces: Vec::new(),
                end: start + trimmed.len(),
                comments: std::mem::take(&mut self.comments),
                blank: None,
            };
            if continued {
                self.join(&mut logical);
            }
            return Some(logical);
        }
    }

    /// Adds the continuation lines. Comments and blank lines among them vanish.
    fn join(&mut self, logical: &mut Logical<'_>) {
        let (mut blank, mut continued) = (false, true);
        let mut last = Span::default();
        while continued {
            let Some((start, line)) = self.physical() else {
                break;
            };
            let content = line.trim_end_matches(['\r', '\n']);
            let trimmed = content.trim_start();
            last = Span::new(to_u32(start), to_u32(start + content.len()));
            if trimmed.starts_with('#') {
                self.dropped.push(last);
            } else if trimmed.is_empty() {
                blank = true;
            } else {
                let (piece, more) = self.cut_continuation(content);
                logical.pieces.push((logical.text.len(), start));
                logical.text.to_mut().push_str(piece);
                logical.end = start + content.len();
                continued = more;
            }
        }
        logical.blank = blank.then_some(last);
    }

    /// A single escape character at the end of the line, blanks after it allowed, goes on in the next line.
    fn cut_continuation<'l>(&self, line: &'l str) -> (&'l str, bool) {
        let escape = self.directives.escape;
        match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
            Some(piece) if !piece.ends_with(escape) => (piece, true),
            _ => (line, false),
        }
    }

    /// `trimmed` is the line from its `#` on, which stands at `start`.
    fn comment(&mut self, start: usize, line: &str, trimmed: &str) {
        if !self.directives_over && self.directive(start, trimmed) {
            return;
        }
        // An indented comment keeps its `#`: it describes nothing and sets no check.
        let text = if line.starts_with('#') {
            &trimmed[1..]
        } else {
            trimmed
        };
        let from = start + trimmed.len() - text.trim_start().len();
        let text = text.trim();
        if text.is_empty() {
            self.comments.clear();
        } else {
            let span = Span::new(to_u32(from), to_u32(from + text.len()));
            self.comments.push(Spanned::new(text.into(), span));
        }
    }

    /// True if the comment is a parser directive.
    fn directive(&mut self, start: usize, comment: &str) -> bool {
        let Some((name, value, offset)) = split_directive(&comment[1..]) else {
            self.directives_over = true;
            return false;
        };
        let from = start + 1 + offset;
        let span = Span::new(to_u32(from), to_u32(from + value.len()));
        if self.seen.contains(&name) {
            let message = format!("only one {name} parser directive can be used");
            self.findings
                .push(Diagnostic::error(Code::Directive, span, message));
            return true;
        }
        if name == "escape" {
            match value {
                "\\" => self.directives.escape = '\\',
                "`" => self.directives.escape = '`',
                other => {
                    let message = format!("invalid escape token '{other}' does not match ` or \\");
                    self.findings
                        .push(Diagnostic::error(Code::Directive, span, message));
                }
            }
        }
        self.seen.push(name);
        true
    }
}

/// Splits `name = value`; also where the value begins. `None` unless the name is a directive's.
fn split_directive(comment: &str) -> Option<(String, &str, usize)> {
    let space = ['\t', '\n', '\u{c}', '\r', ' '];
    let (name, rest) = comment.split_once('=')?;
    let name = name
        .trim_start()
        .trim_end_matches(space)
        .to_ascii_lowercase();
    if !matches!(name.as_str(), "syntax" | "escape" | "check") {
        return None;
    }
    let value = rest.trim_matches(space);
    // Where all is blank, the last blank is the value.
    let value = match (value, rest.char_indices().next_back()) {
        ("", last) => &rest[last?.0..],
        _ => value,
    };
    let before = rest.len() - rest.trim_start_matches(space).len();
    let offset = comment.len() - rest.len() + before.min(rest.len() - value.len());
    Some((name, value, offset))
}

/// The `syntax` directive in any of its three notations.
fn detect_syntax(source: &str) -> Option<Word> {
    detect(source, "syntax", "#")
        .or_else(|| detect(source, "syntax", "//"))
        .or_else(|| json_syntax(source))
}

/// Looks for a directive as the choice of the frontend does, which differs from the parser: a `#!` line is
/// skipped, and nothing may stand before the comment sign.
fn detect(source: &str, key: &str, sign: &str) -> Option<Word> {
    let mut at = if source.starts_with(BOM) {
        BOM.len_utf8()
    } else {
        0
    };
    let mut seen = Vec::new();
    for (number, line) in source[at..].split_inclusive('\n').enumerate() {
        let start = at;
        at += line.len();
        if number == 0 && line.starts_with("#!") {
            continue;
        }
        let comment = line.trim_end_matches(['\r', '\n']).strip_prefix(sign)?;
        let (name, value, offset) = split_directive(comment)?;
        if seen.contains(&name) {
            return None;
        }
        if name == key {
            let from = start + sign.len() + offset;
            let span = Span::new(to_u32(from), to_u32(from + value.len()));
            return Some(Spanned::new(value.into(), span));
        }
        seen.push(name);
    }
    None
}

/// `{"syntax": "…"}`: the whole text is JSON.
fn json_syntax(source: &str) -> Option<Word> {
    if !source.trim_start_matches(BOM).trim_start().starts_with('{') {
        return None;
    }
    let value: serde_json::Value = serde_json::from_str(source.trim_start_matches(BOM)).ok()?;
    let syntax = value.get("syntax")?.as_str()?.into();
    Some(Spanned::new(syntax, Span::new(0, to_u32(source.len()))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        let mut lines = Lines::new(source);
        std::iter::from_fn(|| lines.logical())
            .map(|line| line.text.into_owned())
            .collect()
    }

    #[test]
    fn joins_continuations() {
        assert_eq!(texts("RUN a \\\n  b\n"), ["RUN a   b"]);
        assert_eq!(
            texts("  RUN a \\ \t\r\n# c\r\n\r\n b\r\nX"),
            ["RUN a  b", "X"]
        );
        assert_eq!(texts("RUN a \\\\\nb"), ["RUN a \\\\", "b"]);
        assert_eq!(texts("RUN a \\\\\\\nb"), ["RUN a \\\\\\", "b"]);
        assert_eq!(texts("RUN a \\"), ["RUN a "]);
        assert_eq!(texts("\\\n\\\nRUN a"), ["RUN a"]);
        assert_eq!(texts("# escape = `\nRUN a `\nb\\\nc"), ["RUN a b\\", "c"]);
    }

    #[test]
    fn spans_survive_joining() {
        let source = "# c\n RUN a \\\n # x\n  bcd \\\n e\n";
        let line = Lines::new(source).logical().unwrap();
        assert_eq!(line.text, "RUN a   bcd  e");
        let at = line.text.find("bcd").unwrap();
        assert_eq!(line.span(at, at + 3).slice(source), "bcd");
        assert_eq!(
            line.full_span().slice(source),
            "RUN a \\\n # x\n  bcd \\\n e"
        );
        assert_eq!(line.comments[0].value, "c");
        assert_eq!(line.comments[0].span.slice(source), "c");
    }

    #[test]
    fn directives_come_first() {
        let directives = |source: &str| {
            let mut lines = Lines::new(source);
            while lines.logical().is_some() {}
            (lines.directives, lines.findings.len())
        };
        assert_eq!(directives("\u{feff}# Escape=`\nX").0.escape, '`');
        assert_eq!(directives("# other=1\n# escape=`\nX").0.escape, '\\');
        assert_eq!(directives("\n# escape=`\nX").0.escape, '\\');
        assert_eq!(directives("# escape=x\n").1, 1);
        assert_eq!(directives("# escape=  \n").1, 1);
        assert_eq!(directives("# syntax=a\n# syntax=b\n").1, 1);
        let syntax = |source: &str| directives(source).0.syntax.map(|found| found.value);
        assert_eq!(
            syntax("#!/usr/bin/x\n#syntax=a b \nX").as_deref(),
            Some("a b")
        );
        assert_eq!(syntax(" # syntax=a\nX"), None);
        assert_eq!(syntax("// syntax=a\nX").as_deref(), Some("a"));
        assert_eq!(syntax("{\"syntax\": \"a\"}").as_deref(), Some("a"));
    }
}
