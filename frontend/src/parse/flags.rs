//! `--name=value` words in front of an instruction's arguments.

use std::borrow::Cow;

use crate::ast::Word;
use crate::diag::{Code, Diagnostic};
use crate::parse::forms::Part;
use crate::span::{Span, Spanned};
use crate::suggest;

/// A flag as typed, quotes and escapes processed.
#[derive(Debug, Clone)]
pub(crate) struct Flag<'a> {
    /// `--name` or `--name=value`.
    text: Cow<'a, str>,
    /// Where the `=` stands in it.
    equals: Option<usize>,
    span: Span,
    /// Of the value alone.
    value_span: Span,
}

impl Flag<'_> {
    /// The name and the value.
    fn parts(&self) -> (&str, Option<&str>) {
        let name = &self.text[..self.equals.unwrap_or(self.text.len())];
        let value = self.equals.map(|at| &self.text[at + 1..]);
        (name.strip_prefix("--").unwrap_or(name), value)
    }
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
            equals: text.find('='),
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
pub(crate) struct Flags<'a>(&'a [Flag<'a>]);

impl<'a> Flags<'a> {
    /// Checks names, values and repetitions.
    pub(crate) fn read(flags: &'a [Flag<'a>], known: &[(&str, Takes)]) -> Result<Self, Diagnostic> {
        for (index, flag) in flags.iter().enumerate() {
            let (name, value) = flag.parts();
            let Some((_, takes)) = known.iter().find(|(known, _)| *known == name) else {
                let message = format!("unknown flag: --{name}");
                let error = Diagnostic::error(Code::UnknownFlag, flag.span, message);
                return Err(error.hint(available(name, known)));
            };
            if *takes != Takes::List && flags[..index].iter().any(|other| other.parts().0 == name) {
                let message = format!("duplicate flag specified: --{name}");
                return Err(Diagnostic::error(Code::FlagValue, flag.span, message));
            }
            check_value(name, value, *takes)
                .map_err(|message| Diagnostic::error(Code::FlagValue, flag.span, message))?;
        }
        Ok(Self(flags))
    }

    fn named(&self, name: &str) -> impl Iterator<Item = Word> {
        self.0.iter().filter_map(move |flag| {
            let (other, value) = flag.parts();
            let value = || Spanned::new(value.unwrap_or("true").into(), flag.value_span);
            (other == name).then(value)
        })
    }

    /// All values of a list flag.
    pub(crate) fn list(&self, name: &str) -> Vec<Word> {
        self.named(name).collect()
    }

    /// The value of a text flag, which may be empty.
    pub(crate) fn given(&self, name: &str) -> Option<Word> {
        self.named(name).next()
    }

    /// The value of a text flag; an empty one counts as not given.
    pub(crate) fn text(&self, name: &str) -> Option<Word> {
        self.given(name).filter(|value| !value.value.is_empty())
    }

    /// The value of a boolean flag.
    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        let flag = self.named(name).next()?;
        Some(flag.value.eq_ignore_ascii_case("true"))
    }
}

fn available(typed: &str, known: &[(&str, Takes)]) -> String {
    if let Some(near) = suggest::nearest(typed, known.iter().map(|(name, _)| *name)) {
        return format!("did you mean --{near}?");
    }
    if known.is_empty() {
        return "this instruction has no flags".to_owned();
    }
    let names: Vec<String> = known.iter().map(|(name, _)| format!("--{name}")).collect();
    format!("flags are {}", names.join(", "))
}

fn check_value(name: &str, value: Option<&str>, takes: Takes) -> Result<(), String> {
    match (takes, value) {
        (Takes::Bool, None) | (Takes::Text | Takes::List, Some(_)) => Ok(()),
        (Takes::Text | Takes::List, None) | (Takes::Bool, Some("")) => {
            Err(format!("missing a value on flag: --{name}"))
        }
        (Takes::Bool, Some(value)) => {
            let either = ["true", "false"];
            if either.iter().any(|word| word.eq_ignore_ascii_case(value)) {
                return Ok(());
            }
            Err(format!(
                "expecting boolean value for flag --{name}, not: {value}"
            ))
        }
    }
}
