//! Reads a text character by character, and expands on the way.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::pattern::{PatternError, Work};
use super::{ExpandError, Lookup};

/// How much longer than its source a value may become.
pub(super) const MAX_GROWTH: usize = 1 << 20;

/// What the lexer leaves in the text.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mode {
    /// Quotes group, and stay.
    pub(crate) keep_quotes: bool,
    /// Escape characters escape, and stay.
    pub(crate) keep_escapes: bool,
    /// Quotes are like any other character.
    pub(crate) quotes_are_text: bool,
    /// Unset variables stay as they are written.
    pub(crate) keep_unset: bool,
}

/// Words being split off.
#[derive(Default)]
struct Splitter {
    done: Vec<String>,
    word: String,
    inside: bool,
}

impl Splitter {
    fn unquoted(&mut self, text: &str) {
        for ch in text.chars() {
            if !ch.is_whitespace() {
                self.word.push(ch);
                self.inside = true;
            } else if self.inside && !self.word.is_empty() {
                self.done.push(std::mem::take(&mut self.word));
                self.inside = false;
            }
        }
    }

    fn quoted(&mut self, text: &str) {
        self.word.push_str(text);
        self.inside = true;
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

/// One pass over one text.
pub(super) struct Lexer<'a, 'l> {
    pub(super) text: &'a str,
    pub(super) at: usize,
    escape: u8,
    pub(super) mode: Mode,
    pub(super) lookup: Lookup<'l>,
    pub(super) unset: BTreeSet<&'a str>,
    pub(super) depth: usize,
    pub(super) work: Work,
}

impl<'a, 'l> Lexer<'a, 'l> {
    pub(super) fn new(text: &'a str, escape: char, mode: Mode, lookup: Lookup<'l>) -> Self {
        /// No text has this byte.
        const NONE: u8 = 0xff;
        Self {
            text,
            at: 0,
            escape: if escape.is_ascii() {
                escape as u8
            } else {
                NONE
            },
            mode,
            lookup,
            unset: BTreeSet::new(),
            depth: 0,
            work: Work::new(),
        }
    }

    /// Expands the whole text. One that has nothing to expand is left where it is.
    pub(super) fn run(&mut self) -> Result<Cow<'a, str>, ExpandError> {
        let plain = self.plain(None);
        if plain.len() == self.text.len() {
            return Ok(Cow::Borrowed(plain));
        }
        let mut result = String::with_capacity(2 * self.text.len());
        result.push_str(plain);
        self.until(None, None, &mut result)?;
        Ok(Cow::Owned(result))
    }

    /// Expands the whole text and splits it into words.
    pub(super) fn split(&mut self) -> Result<Vec<String>, ExpandError> {
        let mut splitter = Splitter::default();
        self.until(None, Some(&mut splitter), &mut String::new())?;
        Ok(splitter.finish())
    }

    /// Expands a part of a modifier, up to `stop`.
    pub(super) fn part(&mut self, stop: char, keep_escapes: bool) -> Result<String, ExpandError> {
        let outer = std::mem::replace(&mut self.mode.keep_escapes, keep_escapes);
        let mut result = String::new();
        self.until(Some(stop), None, &mut result)?;
        self.mode.keep_escapes = outer;
        Ok(result)
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let ch = self.peek()?;
        self.at += ch.len_utf8();
        Some(ch)
    }

    /// Eats `wanted` if it is next.
    pub(super) fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    pub(super) fn error(&self, offset: usize, message: impl Into<String>) -> ExpandError {
        ExpandError {
            message: message.into(),
            offset,
        }
    }

    pub(super) fn check_size(&self, result: &str) -> Result<(), ExpandError> {
        if result.len() > self.text.len() + MAX_GROWTH {
            return Err(self.error(0, "the expanded value is larger than 1 MiB"));
        }
        Ok(())
    }

    pub(super) fn pattern_error(
        &self,
        offset: usize,
        pattern: &str,
        error: &PatternError,
    ) -> ExpandError {
        let message = match error {
            PatternError::Escape(escape) => {
                format!("invalid pattern ({pattern}) in substitution: invalid escape '{escape}'")
            }
            PatternError::Work => "the expansion takes too many steps".to_owned(),
            PatternError::Size => "the expanded value is larger than 1 MiB".to_owned(),
        };
        self.error(offset, message)
    }

    /// Expands up to `stop`, which is eaten, or to the end of the text.
    fn until(
        &mut self,
        stop: Option<char>,
        mut splitter: Option<&mut Splitter>,
        result: &mut String,
    ) -> Result<(), ExpandError> {
        let begin = self.at;
        loop {
            let plain = self.plain(stop);
            result.push_str(plain);
            if let Some(splitter) = &mut splitter {
                splitter.unquoted(plain);
            }
            let from = result.len();
            let mut quoted = true;
            match self.peek() {
                None => break,
                ch if ch == stop => {
                    self.next();
                    return Ok(());
                }
                Some('$') => {
                    self.dollar(result)?;
                    quoted = false;
                }
                Some('<') => self.opener(result),
                Some('\'') if !self.mode.quotes_are_text => self.single_quoted(result)?,
                Some('"') if !self.mode.quotes_are_text => self.double_quoted(result)?,
                Some(_) => self.escaped(result),
            }
            if let Some(splitter) = &mut splitter {
                match quoted {
                    true => splitter.quoted(&result[from..]),
                    false => splitter.unquoted(&result[from..]),
                }
            }
        }
        match stop {
            None => Ok(()),
            Some(stop) => Err(self.error(begin, format!("syntax error: missing '{stop}'"))),
        }
    }

    /// The text up to the next character that means something, which is most of a text.
    fn plain(&mut self, stop: Option<char>) -> &'a str {
        let quotes = !self.mode.quotes_are_text;
        let stop = stop.map_or(b'$', |stop| stop as u8);
        self.take_until(|byte| match byte {
            b'$' | b'<' => true,
            b'\'' | b'"' => quotes,
            _ => byte == stop,
        })
    }

    /// The text up to the next escape character or to what else is `special`, all of which are ASCII.
    fn take_until(&mut self, special: impl Fn(u8) -> bool) -> &'a str {
        let (text, escape) = (self.text, self.escape);
        let rest = &text[self.at..];
        let end = rest
            .bytes()
            .position(|byte| byte == escape || special(byte));
        let plain = &rest[..end.unwrap_or(rest.len())];
        self.at += plain.len();
        plain
    }

    /// An escape character and the next.
    fn escaped(&mut self, result: &mut String) {
        let escape = self.next().filter(|_| self.mode.keep_escapes);
        result.extend(escape);
        result.extend(self.next());
    }

    /// The blanks between `<<` and the word of a heredoc do not end a word.
    fn opener(&mut self, result: &mut String) {
        let begin = self.at;
        self.at += 1;
        if self.eat('<') {
            while matches!(self.peek(), Some('\t' | '\r' | ' ')) {
                self.at += 1;
            }
        }
        result.push_str(&self.text[begin..self.at]);
    }

    fn single_quoted(&mut self, result: &mut String) -> Result<(), ExpandError> {
        let begin = self.at;
        let inner = begin + 1;
        let Some(length) = self.text[inner..].find('\'') else {
            return Err(self.error(
                begin,
                "unexpected end of statement while looking for matching single-quote",
            ));
        };
        self.at = inner + length + 1;
        result.push_str(match self.mode.keep_quotes {
            true => &self.text[begin..self.at],
            false => &self.text[inner..inner + length],
        });
        Ok(())
    }

    fn double_quoted(&mut self, result: &mut String) -> Result<(), ExpandError> {
        let begin = self.at;
        self.at += 1;
        if self.mode.keep_quotes {
            result.push('"');
        }
        loop {
            result.push_str(self.take_until(|byte| matches!(byte, b'"' | b'$')));
            match self.peek() {
                None => {
                    let message =
                        "unexpected end of statement while looking for matching double-quote";
                    return Err(self.error(begin, message));
                }
                Some('"') => {
                    self.at += 1;
                    if self.mode.keep_quotes {
                        result.push('"');
                    }
                    return Ok(());
                }
                Some('$') => self.dollar(result)?,
                Some(_) => self.escaped_in_quotes(result),
            }
        }
    }

    /// Inside double quotes only `"`, `$` and the escape character itself can be escaped.
    fn escaped_in_quotes(&mut self, result: &mut String) {
        let escape = self.next();
        if self.mode.keep_escapes {
            result.extend(escape);
        }
        match self.peek() {
            None => {}
            Some(next) if next == '"' || next == '$' || next == char::from(self.escape) => {
                self.at += next.len_utf8();
                result.push(next);
            }
            Some(_) => result.extend(escape),
        }
    }
}
