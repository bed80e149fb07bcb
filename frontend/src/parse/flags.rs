//! `--name=value` words in front of an instruction's arguments.

use crate::diag::{Code, Diagnostic};
use crate::parse::forms::Part;
use crate::span::{Span, Spanned};
use crate::suggest;

/// A flag as typed, quotes and escapes processed.
#[derive(Debug, Clone)]
pub(crate) struct Flag {
    /// `--name` or `--name=value`.
    text: String,
    span: Span,
    /// Of the value alone.
    value_span: Span,
}

/// Splits the leading flags off. A word `--` ends them.
pub(crate) fn split(part: Part<'_>, escape: char) -> (Vec<Flag>, Part<'_>) {
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
fn unquote(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, ch)) = chars.next() {
        match quote {
            None if ch.is_whitespace() => return (word, at),
            None if matches!(ch, '\'' | '"') => quote = Some(ch),
            Some(open) if open == ch => quote = None,
            // An escape character at the end of the line is dropped.
            _ if ch == escape => word.extend(chars.next().map(|(_, next)| next)),
            _ => word.push(ch),
        }
    }
    (word, text.len())
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
pub(crate) struct Flags(Vec<(&'static str, Spanned<String>)>);

impl Flags {
    /// Checks names, values and repetitions.
    pub(crate) fn read(
        flags: &[Flag],
        known: &[(&'static str, Takes)],
    ) -> Result<Self, Diagnostic> {
        let mut read: Vec<(&'static str, Spanned<String>)> = Vec::new();
        for flag in flags {
            let (typed, value) = match flag.text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag.text.as_str(), None),
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
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// The value of a text flag, which may be empty.
    pub(crate) fn given(&self, name: &str) -> Option<Spanned<String>> {
        self.0
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| value.clone())
    }

    /// The value of a text flag; an empty one counts as not given.
    pub(crate) fn text(&self, name: &str) -> Option<Spanned<String>> {
        self.given(name).filter(|value| !value.value.is_empty())
    }

    /// The value of a boolean flag.
    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        self.given(name).map(|value| value.value == "true")
    }
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

fn check_value(
    flag: &Flag,
    name: &str,
    value: Option<&str>,
    takes: Takes,
) -> Result<String, Diagnostic> {
    let error = |message: String| Err(Diagnostic::error(Code::FlagValue, flag.span, message));
    match (takes, value) {
        (Takes::Bool, None) => Ok("true".to_owned()),
        (Takes::Text | Takes::List, None) | (Takes::Bool, Some("")) => {
            error(format!("missing a value on flag: {name}"))
        }
        (Takes::Bool, Some(value)) => match value.to_lowercase().as_str() {
            word @ ("true" | "false") => Ok(word.to_owned()),
            _ => error(format!(
                "expecting boolean value for flag {name}, not: {value}"
            )),
        },
        (Takes::Text | Takes::List, Some(value)) => Ok(value.to_owned()),
    }
}
