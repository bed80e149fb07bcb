//! `$name` and `${name…}`, with its modifiers.

use std::borrow::Cow;

use super::ExpandError;
use super::lexer::{Lexer, MAX_GROWTH};
use super::pattern::{End, Extent, Pattern};

/// How deep `${a:-${b:-…}}` may go.
const MAX_DEPTH: usize = 200;

impl<'a, 'l> Lexer<'a, 'l> {
    /// `$name`, `${…}` or a lone `$`.
    pub(super) fn dollar(&mut self, result: &mut String) -> Result<(), ExpandError> {
        let begin = self.at;
        self.at += 1;
        if self.eat('{') {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(self.error(begin, "the expansion is nested too deep"));
            }
            self.braces(begin, result)?;
            self.depth -= 1;
        } else {
            match self.name() {
                "" => result.push('$'),
                name => self.variable(begin, name, result)?,
            }
        }
        self.check_size(result)
    }

    /// The value of a variable, written between `begin` and here.
    fn variable(
        &mut self,
        begin: usize,
        name: &'a str,
        result: &mut String,
    ) -> Result<(), ExpandError> {
        match self.get(begin, name)? {
            Some(value) => result.push_str(&value),
            None if self.mode.keep_unset => result.push_str(&self.text[begin..self.at]),
            None => {}
        }
        Ok(())
    }

    /// After `${`.
    fn braces(&mut self, begin: usize, result: &mut String) -> Result<(), ExpandError> {
        match self.peek() {
            None => return Err(self.error(begin, "syntax error: missing '}'")),
            Some('{' | '}' | ':') => {
                return Err(self.error(begin, "syntax error: bad substitution"));
            }
            Some(_) => {}
        }
        let name = self.name();
        let modifier_at = self.at;
        let text = match self.next() {
            None => return Err(self.error(begin, "syntax error: missing '}'")),
            Some('}') => return self.variable(begin, name, result),
            Some('/') => self.replacement(begin, name)?,
            Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => {
                self.modified(begin, name, modifier, false)?
            }
            Some(':') => match self.next() {
                Some(modifier @ ('+' | '-' | '?')) => self.modified(begin, name, modifier, true)?,
                _ => return Err(self.bad_modifier(modifier_at)),
            },
            Some(_) => return Err(self.bad_modifier(modifier_at)),
        };
        result.push_str(&text);
        Ok(())
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
        name: &'a str,
        modifier: char,
        or_empty: bool,
    ) -> Result<String, ExpandError> {
        let word = self.part('}', matches!(modifier, '#' | '%'))?;
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
            _ => Ok(value.unwrap_or_default().into_owned()),
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
    fn replacement(&mut self, begin: usize, name: &'a str) -> Result<String, ExpandError> {
        let all = self.eat('/');
        let pattern = self.part('/', true)?;
        let with = self.part('}', true)?;
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
    fn name(&mut self) -> &'a str {
        let text = self.text;
        let rest = &text[self.at..];
        let length = match rest.chars().next() {
            Some(ch) if ch.is_numeric() => rest.find(|ch: char| !ch.is_numeric()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => Some(1),
            _ => rest.find(|ch: char| !ch.is_alphanumeric() && ch != '_'),
        };
        let name = &rest[..length.unwrap_or(rest.len())];
        self.at += name.len();
        name
    }

    fn get(&mut self, begin: usize, name: &'a str) -> Result<Option<Cow<'l, str>>, ExpandError> {
        let value = (self.lookup)(name);
        if value.is_none() {
            self.unset.insert(name);
        }
        let length = value.as_ref().map_or(0, |value| value.len());
        self.work
            .spend(length)
            .map_err(|error| self.pattern_error(begin, "", &error))?;
        Ok(value)
    }
}
