//! Quotes, escapes and `${…}` in the words of a Dockerfile.
//!
//! One lexer serves four uses: a word ([`word`]), a list of words ([`words`]), a heredoc body, where quotes are
//! text ([`body`]), and the name of a step as progress shows it ([`display`]). The parser uses it also to find the
//! heredocs of a line.

mod lexer;
mod pattern;
mod substitution;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use crate::diag::{Code, Diagnostic};
use crate::span::Spanned;
use lexer::Lexer;

pub(crate) use lexer::Mode;

/// Looks a variable up; `None` is unset.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<Cow<'a, str>>;

/// An expanded text, and what it took. Names are parts of the raw text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion<'a> {
    /// The text, quotes removed.
    pub text: Cow<'a, str>,
    /// The variables that were looked up and are not set.
    pub unset: BTreeSet<&'a str>,
}

/// Expanded words, and what it took.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Words<'a> {
    /// The words, quotes removed. A variable's value is split at blanks where it was not quoted.
    pub words: Vec<String>,
    /// The variables that were looked up and are not set.
    pub unset: BTreeSet<&'a str>,
}

/// Why a text could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpandError {
    /// What is wrong.
    pub message: String,
    /// The byte of the raw text where the bad part begins.
    pub offset: usize,
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ExpandError {}

impl ExpandError {
    /// The error as a finding in the Dockerfile that holds `raw`.
    pub fn diagnostic(&self, raw: &Spanned<impl AsRef<str>>) -> Diagnostic {
        let message = format!(
            "failed to process {:?}: {}",
            raw.value.as_ref(),
            self.message
        );
        Diagnostic::error(Code::Expansion, raw.span, message)
    }
}

/// Expands one word: quotes are removed, variables are not split. `escape` is `\\` or a backtick.
pub fn word<'a>(
    raw: &'a str,
    escape: char,
    lookup: Lookup<'_>,
) -> Result<Expansion<'a>, ExpandError> {
    expand(Lexer::new(raw, escape, Mode::default(), lookup))
}

/// Expands a text and splits the result into words, as `EXPOSE` does.
pub fn words<'a>(raw: &'a str, escape: char, lookup: Lookup<'_>) -> Result<Words<'a>, ExpandError> {
    let mut lexer = Lexer::new(raw, escape, Mode::default(), lookup);
    let words = lexer.split()?;
    Ok(Words {
        words,
        unset: lexer.unset,
    })
}

/// Expands a heredoc body: quotes are text, `\` escapes whatever the file's escape character is.
pub fn body<'a>(raw: &'a str, lookup: Lookup<'_>) -> Result<Expansion<'a>, ExpandError> {
    let mode = Mode {
        quotes_are_text: true,
        ..Mode::default()
    };
    expand(Lexer::new(raw, '\\', mode, lookup))
}

fn expand<'a>(mut lexer: Lexer<'a, '_>) -> Result<Expansion<'a>, ExpandError> {
    let text = lexer.run()?;
    Ok(Expansion {
        text,
        unset: lexer.unset,
    })
}

/// Expands a text for display: quotes and unset variables stay. A text with errors is shown as it is.
pub fn display<'a>(raw: &'a str, escape: char, lookup: Lookup<'_>) -> Cow<'a, str> {
    let mode = Mode {
        keep_quotes: true,
        keep_unset: true,
        ..Mode::default()
    };
    Lexer::new(raw, escape, mode, lookup)
        .run()
        .unwrap_or(Cow::Borrowed(raw))
}

/// Splits a line into words without expanding anything, for the search for heredocs.
pub(crate) fn raw_words(line: &str, mode: Mode) -> Result<Vec<String>, ExpandError> {
    let mode = Mode {
        keep_unset: true,
        ..mode
    };
    Lexer::new(line, '\\', mode, &|_| None).split()
}
