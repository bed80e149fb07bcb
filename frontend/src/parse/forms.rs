//! The shapes that arguments come in: text, words, quoted words, JSON arrays, pairs.

use smol_str::SmolStr;

use crate::ast::Word;
use crate::diag::{Code, Diagnostic};
use crate::lines::Logical;
use crate::parse::Keyword;
use crate::span::{Span, Spanned};

/// What separates words that have no quotes.
pub(crate) fn is_blank(ch: char) -> bool {
    matches!(ch, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// A part of a logical line.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    line: &'a Logical<'a>,
    start: usize,
    end: usize,
}

impl<'a> Part<'a> {
    /// The whole line.
    pub(crate) fn all(line: &'a Logical<'a>) -> Self {
        Self {
            line,
            start: 0,
            end: line.text.len(),
        }
        .trim()
    }

    pub(crate) fn text(&self) -> &'a str {
        self.line.text.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) fn span(&self) -> Span {
        self.line.span(self.start, self.end)
    }

    /// From byte `start` to byte `end` of this part.
    pub(crate) fn sub(&self, start: usize, end: usize) -> Self {
        Self {
            line: self.line,
            start: self.start + start,
            end: self.start + end.max(start),
        }
    }

    /// From byte `start` on.
    pub(crate) fn from(&self, start: usize) -> Self {
        Self {
            start: self.start + start,
            ..*self
        }
    }

    pub(crate) fn trim(&self) -> Self {
        let part = self.trim_start();
        part.sub(0, part.text().trim_end().len())
    }

    fn trim_start(&self) -> Self {
        let text = self.text();
        self.from(text.len() - text.trim_start().len())
    }

    /// The first word and what follows the blanks behind it.
    pub(crate) fn first(&self, is_blank: impl Fn(char) -> bool) -> (Self, Self) {
        let text = self.text();
        let end = text.find(&is_blank).unwrap_or(text.len());
        let rest = &text[end..];
        let next = end + rest.len() - rest.trim_start_matches(is_blank).len();
        (self.sub(0, end), self.from(next))
    }

    /// The same with what was trimmed off the end of the line.
    pub(crate) fn untrimmed(&self) -> Self {
        Self {
            end: self.line.text.len(),
            ..*self
        }
    }

    pub(crate) fn spanned(&self) -> Word {
        Spanned::new(self.text().into(), self.span())
    }
}

/// How arguments were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Json,
    /// `ENV name rest of line`.
    Legacy,
}

/// The arguments of an instruction. Pairs are flat: name, value, name, value.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) words: Vec<Word>,
    pub(crate) form: Form,
}

impl Args {
    fn plain(words: Vec<Word>) -> Self {
        Self {
            words,
            form: Form::Plain,
        }
    }

    /// The keyword and `rest`, the trimmed text behind its flags, taken apart.
    pub(crate) fn read(keyword: Keyword, rest: Part<'_>, escape: char) -> Result<Self, Diagnostic> {
        use Keyword::*;
        Ok(match keyword {
            Add | Copy | Volume => match json(rest)? {
                Some(args) => args,
                None => Self::plain(fields(rest)),
            },
            Cmd | Entrypoint | Run | Shell => command(rest)?,
            Env | Label => pairs(keyword, rest, escape)?,
            Arg => Self::plain(
                quoted_words(rest, escape)
                    .map(|word| word.spanned())
                    .collect(),
            ),
            From | Expose => Self::plain(fields(rest)),
            Healthcheck => {
                let (kind, command_line) = rest.first(char::is_whitespace);
                let mut args = command(command_line)?;
                if !kind.text().is_empty() {
                    args.words.insert(0, kind.spanned());
                }
                args
            }
            Maintainer | Onbuild | Stopsignal | User | Workdir => Self::plain(text(rest)),
        })
    }
}

/// The text as one argument, or none.
fn text(part: Part<'_>) -> Vec<Word> {
    if part.text().is_empty() {
        Vec::new()
    } else {
        vec![part.spanned()]
    }
}

fn command(part: Part<'_>) -> Result<Args, Diagnostic> {
    Ok(json(part)?.unwrap_or_else(|| Args::plain(text(part))))
}

fn fields(part: Part<'_>) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = part;
    while !rest.text().is_empty() {
        let (word, next) = rest.first(is_blank);
        words.push(word.spanned());
        rest = next;
    }
    words
}

/// The first word of those with quotes, which stay, and what follows it. A lone escape character at the very end is
/// dropped.
fn quoted<'a>(part: Part<'a>, escape: char) -> Option<(Part<'a>, Part<'a>)> {
    let part = part.trim_start();
    let text = part.text();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, ch)) = chars.next() {
        if ch == escape && quote != Some('\'') {
            if chars.next().is_none() {
                let word = part.sub(0, at);
                return Some((word, part.from(text.len()))).filter(|_| at > 0);
            }
        } else if quote == Some(ch) {
            quote = None;
        } else if quote.is_none() {
            match ch {
                '\'' | '"' => quote = Some(ch),
                _ if ch.is_whitespace() => return Some((part.sub(0, at), part.from(at))),
                _ => {}
            }
        }
    }
    Some((part, part.from(text.len()))).filter(|_| !text.is_empty())
}

fn quoted_words(part: Part<'_>, escape: char) -> impl Iterator<Item = Part<'_>> {
    let mut rest = part;
    std::iter::from_fn(move || {
        let (word, next) = quoted(rest, escape)?;
        rest = next;
        Some(word)
    })
}

fn pairs(keyword: Keyword, part: Part<'_>, escape: char) -> Result<Args, Diagnostic> {
    let name = keyword.name();
    let mut words = quoted_words(part, escape).peekable();
    if words
        .peek()
        .is_some_and(|first| !first.text().contains('='))
    {
        let (key, value) = part.first(is_blank);
        if value.text().is_empty() {
            let message = format!("{name} must have two arguments");
            let hint = format!("write {name} {}=value", key.text());
            return Err(Diagnostic::error(Code::Arguments, part.span(), message).hint(hint));
        }
        return Ok(Args {
            words: vec![key.spanned(), value.spanned()],
            form: Form::Legacy,
        });
    }
    let mut flat = Vec::new();
    for word in words {
        let Some(equals) = word.text().bytes().position(|byte| byte == b'=') else {
            let message = format!(
                "can't find = in {:?}; it must be of the form name=value",
                word.text()
            );
            let hint = "quote values that hold blanks";
            return Err(Diagnostic::error(Code::Arguments, word.span(), message).hint(hint));
        };
        flat.push(word.sub(0, equals).spanned());
        flat.push(word.from(equals + 1).spanned());
    }
    Ok(Args::plain(flat))
}

/// A JSON array of strings. `None` for anything that is not valid JSON or no array: that is shell form.
fn json(part: Part<'_>) -> Result<Option<Args>, Diagnostic> {
    if !part.text().starts_with('[') {
        return Ok(None);
    }
    let Ok(elements) = serde_json::from_str::<Vec<Element>>(part.text()) else {
        return Ok(None);
    };
    let span = part.span();
    let mut words = Vec::with_capacity(elements.len());
    for element in elements {
        let Element(Some(text)) = element else {
            let message = "when using JSON array syntax, arrays must be comprised of strings only";
            let hint = "put every element in double quotes";
            return Err(Diagnostic::error(Code::JsonStrings, span, message).hint(hint));
        };
        words.push(Spanned::new(text, span));
    }
    Ok(Some(Args {
        words,
        form: Form::Json,
    }))
}

/// An element of a JSON array: a string, or anything else, however deep.
struct Element(Option<SmolStr>);

impl<'de> serde::Deserialize<'de> for Element {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor).map(Self)
    }
}

struct ElementVisitor;

impl<'de> serde::de::Visitor<'de> for ElementVisitor {
    type Value = Option<SmolStr>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.into()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(
        self,
        mut elements: A,
    ) -> Result<Self::Value, A::Error> {
        while elements.next_element::<serde::de::IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(
        self,
        mut entries: A,
    ) -> Result<Self::Value, A::Error> {
        while entries
            .next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?
            .is_some()
        {}
        Ok(None)
    }
}
