//! `--name=value` words in front of an instruction's arguments.

use std::borrow::Cow;

use crate::diag::{Code, Diagnostic};
use crate::parse::forms::Part;
use crate::span::{Span, Spanned};
use crate::suggest;

/// A flag as typed, quotes and escapes processed.
#[derive(Debug, Clone)]
pub(crate) struct Flag<'a> {
    /// `--name` or `--name=value`.
    text: Cow<'a, str>,
    span: Span,
    /// Of the value alone.
    value_span: Span,
}

/// Splits the leading flags off. A word `--` ends them.
pub(crate) fn split(part: Part<'_>, escape: char) -> (Vec<Flag<'_>>, Part<'_>) {
    let mut flags = Vec::new();
    let mut rest = part.trim();
    while rest.text().starts_with("--") {
        let (text, length) = unquote(rest.text(), escape);
        let word = rest.sub(0, length);
        rest = rest.from(length).trim();
        if text == "--" {
            break;
        }
        let value_at = word.text().find('=').map_or(length, |at| at + 1);
        flags.push(Flag {
            text,
            span: word.span(),
            value_span: word.from(value_at).span(),
        });
    }
    (flags, rest)
}

/// The first word of `text` without quotes and escapes, and its length as written.
fn unquote(text: &str, escape: char) -> (Cow<'_, str>, usize) {
    let special = |ch: char| ch.is_whitespace() || ch == escape || matches!(ch, '\'' | '"');
    let plain = &text[..text.find(special).unwrap_or(text.len())];
    let rest = &text[plain.len()..];
    if rest.chars().next().is_none_or(char::is_whitespace) {
        return (Cow::Borrowed(plain), plain.len());
    }
    let mut word = plain.to_owned();
    let mut quote = None;
    let mut chars = rest.char_indices();
    while let Some((at, ch)) = chars.next() {
        match quote {
            None if ch.is_whitespace() => return (Cow::Owned(word), plain.len() + at),
            None if matches!(ch, '\'' | '"') => quote = Some(ch),
            Some(open) if open == ch => quote = None,
            // An escape character at the end of the line is dropped.
            _ if ch == escape => word.extend(chars.next().map(|(_, next)| next)),
            _ => word.push(ch),
        }
    }
    (Cow::Owned(word), text.len())
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, `=true` or `=false`.
    Bool,
    /// A value, once.
    Text,
    /// A value each time.
    List,
}

/// The flags of one instruction, checked against what it has.
pub(crate) struct Flags<'a>(Vec<(&'static str, Spanned<&'a str>)>);

impl<'a> Flags<'a> {
    /// Checks names, values and repetitions.
    pub(crate) fn read(
        flags: &'a [Flag<'_>],
        known: &[(&'static str, Takes)],
    ) -> Result<Self, Diagnostic> {
        let mut read: Vec<(&'static str, Spanned<&str>)> = Vec::new();
        for flag in flags {
            let (typed, value) = match flag.text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (&*flag.text, None),
            };
            let bare = typed.strip_prefix("--").unwrap_or(typed);
            let Some((name, takes)) = known.iter().find(|(name, _)| *name == bare) else {
                let error = Diagnostic::error(
                    Code::UnknownFlag,
                    flag.span,
                    format!("unknown flag: {typed}"),
                );
                return Err(error.hint(available(bare, known)));
            };
            if *takes != Takes::List && read.iter().any(|(other, _)| other == name) {
                let message = format!("duplicate flag specified: {typed}");
                return Err(Diagnostic::error(Code::FlagValue, flag.span, message));
            }
            let value = check_value(flag, typed, value, *takes)?;
            read.push((name, Spanned::new(value, flag.value_span)));
        }
        Ok(Self(read))
    }

    /// All values of a list flag.
    pub(crate) fn list(&self, name: &str) -> Vec<Spanned<String>> {
        self.0
            .iter()
            .filter(|(other, _)| *other == name)
            .map(|(_, value)| owned(value))
            .collect()
    }

    /// The value of a text flag, which may be empty.
    pub(crate) fn given(&self, name: &str) -> Option<Spanned<String>> {
        self.0
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| owned(value))
    }

    /// The value of a text flag; an empty one counts as not given.
    pub(crate) fn text(&self, name: &str) -> Option<Spanned<String>> {
        self.given(name).filter(|value| !value.value.is_empty())
    }

    /// The value of a boolean flag.
    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        let mut flags = self.0.iter();
        let (_, value) = flags.find(|(other, _)| *other == name)?;
        Some(value.value == "true")
    }
}

fn owned(value: &Spanned<&str>) -> Spanned<String> {
    Spanned::new(value.value.to_owned(), value.span)
}

fn available(typed: &str, known: &[(&'static str, Takes)]) -> String {
    if let Some(near) = suggest::nearest(typed, known.iter().map(|(name, _)| *name)) {
        return format!("did you mean --{near}?");
    }
    if known.is_empty() {
        return "this instruction has no flags".to_owned();
    }
    let names: Vec<String> = known.iter().map(|(name, _)| format!("--{name}")).collect();
    format!("flags are {}", names.join(", "))
}

fn check_value<'a>(
    flag: &Flag<'_>,
    name: &str,
    value: Option<&'a str>,
    takes: Takes,
) -> Result<&'a str, Diagnostic> {
    let error = |message: String| Err(Diagnostic::error(Code::FlagValue, flag.span, message));
    match (takes, value) {
        (Takes::Bool, None) => Ok("true"),
        (Takes::Text | Takes::List, None) | (Takes::Bool, Some("")) => {
            error(format!("missing a value on flag: {name}"))
        }
        (Takes::Bool, Some(value)) if value.eq_ignore_ascii_case("true") => Ok("true"),
        (Takes::Bool, Some(value)) if value.eq_ignore_ascii_case("false") => Ok("false"),
        (Takes::Bool, Some(value)) => error(format!(
            "expecting boolean value for flag {name}, not: {value}"
        )),
        (Takes::Text | Takes::List, Some(value)) => Ok(value),
    }
}
