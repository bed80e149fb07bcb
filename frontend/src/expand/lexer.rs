//! Reads a text character by character, and expands on the way.

use std::collections::BTreeSet;

use super::pattern::{End, Extent, Pattern, PatternError, Work};
use super::{ExpandError, Lookup};

/// How much longer than its source a value may become.
const MAX_GROWTH: usize = 1 << 20;

/// How deep `${a:-${b:-…}}` may go.
const MAX_DEPTH: usize = 200;

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
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    escape: char,
    mode: Mode,
    lookup: Lookup<'a>,
    pub(super) used: BTreeSet<String>,
    pub(super) unset: BTreeSet<String>,
    depth: usize,
    work: Work,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, escape: char, mode: Mode, lookup: Lookup<'a>) -> Self {
        let (used, unset) = (BTreeSet::new(), BTreeSet::new());
        Self {
            text,
            at: 0,
            escape,
            mode,
            lookup,
            used,
            unset,
            depth: 0,
            work: Work::new(),
        }
    }

    /// Expands the whole text.
    pub(super) fn run(&mut self) -> Result<String, ExpandError> {
        self.until(None, self.mode.keep_escapes, None)
    }

    /// Expands the whole text and splits it into words.
    pub(super) fn split(&mut self) -> Result<Vec<String>, ExpandError> {
        let mut splitter = Splitter::default();
        self.until(None, self.mode.keep_escapes, Some(&mut splitter))?;
        Ok(splitter.finish())
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let ch = self.peek()?;
        self.at += ch.len_utf8();
        Some(ch)
    }

    /// Eats `wanted` if it is next.
    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn error(&self, offset: usize, message: impl Into<String>) -> ExpandError {
        ExpandError {
            message: message.into(),
            offset,
        }
    }

    fn check_size(&self, result: &str) -> Result<(), ExpandError> {
        if result.len() > self.text.len() + MAX_GROWTH {
            return Err(self.error(0, "the expanded value is larger than 1 MiB"));
        }
        Ok(())
    }

    fn pattern_error(&self, offset: usize, pattern: &str, error: &PatternError) -> ExpandError {
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
        keep_escapes: bool,
        mut splitter: Option<&mut Splitter>,
    ) -> Result<String, ExpandError> {
        let outer = std::mem::replace(&mut self.mode.keep_escapes, keep_escapes);
        let begin = self.at;
        let mut result = String::new();
        while let Some(ch) = self.peek() {
            if stop == Some(ch) {
                self.at += ch.len_utf8();
                self.mode.keep_escapes = outer;
                return Ok(result);
            }
            let from = result.len();
            let mut quoted = true;
            match ch {
                '$' => {
                    result.push_str(&self.dollar()?);
                    self.check_size(&result)?;
                    quoted = false;
                }
                '<' => self.opener(&mut result),
                '\'' if !self.mode.quotes_are_text => self.single_quoted(&mut result)?,
                '"' if !self.mode.quotes_are_text => self.double_quoted(&mut result)?,
                _ => quoted = self.plain(&mut result),
            }
            if let Some(splitter) = &mut splitter {
                match quoted {
                    true => splitter.quoted(&result[from..]),
                    false => splitter.unquoted(&result[from..]),
                }
            }
        }
        self.mode.keep_escapes = outer;
        match stop {
            None => Ok(result),
            Some(stop) => Err(self.error(begin, format!("syntax error: missing '{stop}'"))),
        }
    }

    /// One character, or an escape character and the next. True if escaped.
    fn plain(&mut self, result: &mut String) -> bool {
        let Some(ch) = self.next() else { return false };
        if ch != self.escape {
            result.push(ch);
            return false;
        }
        if self.mode.keep_escapes {
            result.push(ch);
        }
        result.extend(self.next());
        true
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
                Some('$') => {
                    result.push_str(&self.dollar()?);
                    self.check_size(result)?;
                }
                Some(ch) => {
                    self.at += ch.len_utf8();
                    self.quoted_char(ch, result);
                }
            }
        }
    }

    /// Inside double quotes only `"`, `$` and the escape character itself can be escaped.
    fn quoted_char(&mut self, ch: char, result: &mut String) {
        if ch != self.escape {
            result.push(ch);
            return;
        }
        if self.mode.keep_escapes {
            result.push(ch);
        }
        match self.peek() {
            None => {}
            Some(next) if next == '"' || next == '$' || next == self.escape => {
                self.at += next.len_utf8();
                result.push(next);
            }
            Some(_) => result.push(ch),
        }
    }

    /// `$name`, `${…}` or a lone `$`.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        let begin = self.at;
        self.at += 1;
        if !self.eat('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.get(begin, &name)? {
                None if self.mode.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(begin, "the expansion is nested too deep"));
        }
        let result = self.braces(begin);
        self.depth -= 1;
        result
    }

    /// After `${`.
    fn braces(&mut self, begin: usize) -> Result<String, ExpandError> {
        match self.peek() {
            None => return Err(self.error(begin, "syntax error: missing '}'")),
            Some('{' | '}' | ':') => {
                return Err(self.error(begin, "syntax error: bad substitution"));
            }
            Some(_) => {}
        }
        let name = self.name();
        let modifier_at = self.at;
        match self.next() {
            None => Err(self.error(begin, "syntax error: missing '}'")),
            Some('}') => Ok(match self.get(begin, &name)? {
                None if self.mode.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some('/') => self.replacement(begin, &name),
            Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => {
                self.modified(begin, &name, modifier, false)
            }
            Some(':') => match self.next() {
                Some(modifier @ ('+' | '-' | '?')) => self.modified(begin, &name, modifier, true),
                _ => Err(self.bad_modifier(modifier_at)),
            },
            Some(_) => Err(self.bad_modifier(modifier_at)),
        }
    }

    fn bad_modifier(&self, offset: usize) -> ExpandError {
        let modifier = &self.text[offset..self.at];
        self.error(
            offset,
            format!("unsupported modifier ({modifier}) in substitution"),
        )
    }

    /// After `${name-`, `${name:+` and the like. `or_empty`: a colon, which counts empty as unset.
    fn modified(
        &mut self,
        begin: usize,
        name: &str,
        modifier: char,
        or_empty: bool,
    ) -> Result<String, ExpandError> {
        let word = self.until(Some('}'), matches!(modifier, '#' | '%'), None)?;
        let value = self.get(begin, name)?;
        let colon = if or_empty { ":" } else { "" };
        if value.is_none() && self.mode.keep_unset {
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let missing = value
            .as_deref()
            .is_none_or(|value| or_empty && value.is_empty());
        match modifier {
            '-' if missing => Ok(word),
            '+' if missing => Ok(String::new()),
            '+' => Ok(word),
            '?' if missing => {
                let what = if value.is_none() { "unset" } else { "empty" };
                let default = format!("is not allowed to be {what}");
                let message = if word.is_empty() { default } else { word };
                Err(self.error(begin, format!("{name}: {message}")))
            }
            '#' => self.trim(begin, &value.unwrap_or_default(), &word, End::Front),
            '%' => self.trim(begin, &value.unwrap_or_default(), &word, End::Back),
            _ => Ok(value.unwrap_or_default()),
        }
    }

    /// A pattern that begins with the modifier once more is the longest match.
    fn trim(
        &mut self,
        begin: usize,
        value: &str,
        word: &str,
        end: End,
    ) -> Result<String, ExpandError> {
        let doubled = match end {
            End::Front => word.strip_prefix('#'),
            End::Back => word.strip_prefix('%'),
        };
        let extent = if doubled.is_some() {
            Extent::Longest
        } else {
            Extent::Shortest
        };
        let pattern = doubled.unwrap_or(word);
        Pattern::parse(pattern)
            .and_then(|parsed| parsed.trim(value, end, extent, &mut self.work))
            .map_err(|error| self.pattern_error(begin, pattern, &error))
    }

    /// After `${name/`.
    fn replacement(&mut self, begin: usize, name: &str) -> Result<String, ExpandError> {
        let all = self.eat('/');
        let pattern = self.until(Some('/'), true, None)?;
        let with = self.until(Some('}'), true, None)?;
        let value = self.get(begin, name)?;
        if value.is_none() && self.mode.keep_unset {
            return Ok(format!("${{{name}/{pattern}/{with}}}"));
        }
        let value = value.unwrap_or_default();
        let limit = self.text.len() + MAX_GROWTH;
        Pattern::parse(&pattern)
            .and_then(|parsed| parsed.replace(&value, &with, all, limit, &mut self.work))
            .map_err(|error| self.pattern_error(begin, &pattern, &error))
    }

    /// A name, a number or one special character; empty if there is none.
    fn name(&mut self) -> String {
        let begin = self.at;
        let rest = &self.text[begin..];
        let length = match rest.chars().next() {
            Some(ch) if ch.is_numeric() => rest.find(|ch: char| !ch.is_numeric()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => Some(1),
            _ => rest.find(|ch: char| !ch.is_alphanumeric() && ch != '_'),
        };
        self.at += length.unwrap_or(rest.len());
        self.text[begin..self.at].to_owned()
    }

    fn get(&mut self, begin: usize, name: &str) -> Result<Option<String>, ExpandError> {
        let value = (self.lookup)(name);
        let names = if value.is_some() {
            &mut self.used
        } else {
            &mut self.unset
        };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        let length = value.as_ref().map_or(0, String::len);
        self.work
            .spend(length)
            .map_err(|error| self.pattern_error(begin, "", &error))?;
        Ok(value)
    }
}
