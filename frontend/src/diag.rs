//! What is wrong with a Dockerfile, and how people see it.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::lint::Rule;
use crate::span::{LineIndex, Span};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[allow(missing_docs)]
pub enum Severity {
    Error,
    Warning,
}

/// Whether the rendered text carries terminal colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)]
pub enum Color {
    #[default]
    Plain,
    Ansi,
}

/// A finding in a source text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Which kind of finding; stable, for scripts.
    pub code: Code,
    /// Where.
    pub span: Span,
    /// What is wrong, without full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

macro_rules! codes {
    ($($variant:ident $name:literal $doc:literal,)*) => {
        /// The kinds of findings. Their names are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $doc] $variant,)*
            /// A style rule; named like it.
            Rule(Rule),
        }

        impl Code {
            /// The stable name, as shown in brackets.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Rule(rule) => rule.name(),
                }
            }
        }
    };
}

codes! {
    FileTooLarge "file-too-large" "The text is larger than any Dockerfile should be.",
    NotUtf8 "not-utf8" "An instruction holds bytes that are not UTF-8.",
    LineTooLong "line-too-long" "A line is longer than 65535 bytes.",
    EmptyFile "empty-file" "There is no instruction.",
    NoStages "no-stages" "There is no `FROM`.",
    BeforeFrom "before-from" "An instruction other than `ARG` stands before the first `FROM`.",
    Directive "directive" "A parser directive is repeated or has a bad value.",
    UnknownInstruction "unknown-instruction" "No such instruction.",
    UnknownFlag "unknown-flag" "The instruction has no such flag.",
    FlagValue "flag-value" "A flag is repeated, lacks its value or has a bad one.",
    Arguments "arguments" "Too few or too many arguments, or a bad one.",
    JsonStrings "json-strings" "A JSON array holds something else than strings.",
    Heredoc "heredoc" "A here-document has no end, or stands where none may.",
    StageName "stage-name" "A bad name for a build stage.",
    Onbuild "onbuild" "An instruction that cannot be a trigger, or a bad trigger of a base image.",
    Expansion "expansion" "A variable expansion failed.",
    Mount "mount" "A bad `--mount`.",
    Check "check" "A bad `# check=`, or one that turns warnings into errors.",
    ImageReference "image-reference" "Something that should be an image or a stage is neither.",
    ImageConfig "image-config" "The config of an image cannot be read.",
    Platform "platform" "A bad `--platform`.",
    Target "target" "The stage to build does not exist.",
    StageReference "stage-reference" "A `--from` names a stage that is not there, or comes later.",
    Cycle "cycle" "Stages take from each other in a circle.",
    CopySource "copy-source" "A source that cannot be copied.",
    PlanTooLarge "plan-too-large" "What the steps and the history hold is out of all proportion.",
    Port "port" "A bad port in `EXPOSE`.",
    Epoch "source-date-epoch" "A `SOURCE_DATE_EPOCH` that stands for no time.",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// After so many errors the rest is not looked at.
pub(crate) const MAX_ERRORS: usize = 100;

/// As its name.
#[cfg(feature = "serde")]
impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Excerpts show at most this many lines of a span.
const EXCERPT_LINES: u32 = 8;

/// Lines this long are refused anyway.
const EXCERPT_BYTES: usize = 1 << 19;

impl Diagnostic {
    /// An error without hint.
    pub fn error(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            span,
            message: message.into(),
            hint: None,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The finding with `file_name:line:column`, the source lines and a caret. Ends without line feed.
    pub fn render(&self, file_name: &str, source: &str, color: Color) -> String {
        self.render_with(file_name, source, &LineIndex::new(source), color)
    }

    /// [`Diagnostic::render`] for callers that render many findings of one text.
    pub fn render_with(
        &self,
        file_name: &str,
        source: &str,
        index: &LineIndex,
        color: Color,
    ) -> String {
        let excerpt = Excerpt::new(self.span, source, index);
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let snippet = Snippet::source(excerpt.text.as_str())
            .line_start(excerpt.first_line as usize)
            .path(file_name)
            .annotation(AnnotationKind::Primary.span(excerpt.start..excerpt.end));
        let title = level
            .primary_title(self.message.as_str())
            .id(self.code.name());
        let mut group = Group::with_title(title).element(snippet);
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        match color {
            Color::Plain => Renderer::plain().render(&[group]),
            Color::Ansi => Renderer::styled().render(&[group]),
        }
    }
}

/// The few lines of the source that are shown; the whole text may be large.
struct Excerpt {
    text: String,
    first_line: u32,
    start: usize,
    end: usize,
}

impl Excerpt {
    fn new(span: Span, source: &str, index: &LineIndex) -> Self {
        let (first_line, last_line) = index.lines(span);
        let last_line = last_line.min(first_line + EXCERPT_LINES - 1);
        let from = index.start(first_line) as usize;
        let mut to = index.start(last_line + 1) as usize;
        if to <= index.start(last_line) as usize {
            to = source.len();
        }
        let to = floor(source, to.min(from + EXCERPT_BYTES)).max(from);
        let text = source.get(from..to).unwrap_or("").to_owned();
        let start = floor(&text, (span.start as usize).saturating_sub(from));
        let end = floor(&text, (span.end as usize).saturating_sub(from)).max(start);
        Self {
            text,
            first_line,
            start,
            end,
        }
    }
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_file_line_and_caret() {
        let source = "FROM scratch\nCOPPY a b\n";
        let found = Diagnostic::error(
            Code::UnknownInstruction,
            Span::new(13, 18),
            "unknown instruction: COPPY",
        )
        .hint("did you mean COPY?");
        let text = found.render("Dockerfile", source, Color::Plain);
        assert_eq!(
            text,
            "error[unknown-instruction]: unknown instruction: COPPY\n \
             --> Dockerfile:2:1\n  |\n2 | COPPY a b\n  | ^^^^^\n  |\n  = help: did you mean COPY?"
        );
    }

    #[test]
    fn survives_any_span() {
        let source = "FROM ü\n";
        for start in 0..12 {
            for end in 0..12 {
                let found = Diagnostic::error(Code::Arguments, Span::new(start, end), "x");
                assert!(found.render("f", source, Color::Ansi).contains("f:"));
                assert!(found.render("f", "", Color::Plain).contains("f:1"));
            }
        }
    }
}
