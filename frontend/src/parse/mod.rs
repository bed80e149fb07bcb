//! From the source text to typed instructions.

mod flags;
mod forms;
mod health;
mod instructions;
mod mounts;

use crate::ast::{Dockerfile, Heredoc, Instruction, Kind};
use crate::diag::{Code, Diagnostic, MAX_ERRORS};
use crate::heredoc;
use crate::lines::{Lines, Logical};
use crate::span::{Span, to_u32};
use crate::suggest;
use forms::{Args, Form, Part};

pub use mounts::{MountError, MountKind, MountSpec, mount_from, parse_mount};

/// Larger texts are refused.
const MAX_SOURCE: usize = 64 << 20;

/// The instructions there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
}

/// Every keyword with its name.
const KEYWORDS: [(Keyword, &str); 18] = [
    (Keyword::Add, "ADD"),
    (Keyword::Arg, "ARG"),
    (Keyword::Cmd, "CMD"),
    (Keyword::Copy, "COPY"),
    (Keyword::Entrypoint, "ENTRYPOINT"),
    (Keyword::Env, "ENV"),
    (Keyword::Expose, "EXPOSE"),
    (Keyword::From, "FROM"),
    (Keyword::Healthcheck, "HEALTHCHECK"),
    (Keyword::Label, "LABEL"),
    (Keyword::Maintainer, "MAINTAINER"),
    (Keyword::Onbuild, "ONBUILD"),
    (Keyword::Run, "RUN"),
    (Keyword::Shell, "SHELL"),
    (Keyword::Stopsignal, "STOPSIGNAL"),
    (Keyword::User, "USER"),
    (Keyword::Volume, "VOLUME"),
    (Keyword::Workdir, "WORKDIR"),
];

impl Keyword {
    /// Reads a keyword in any case.
    pub(crate) fn read(word: &str) -> Option<Self> {
        KEYWORDS
            .iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(word))
            .map(|(keyword, _)| *keyword)
    }

    /// In upper case.
    pub(crate) fn name(self) -> &'static str {
        KEYWORDS
            .iter()
            .find(|(keyword, _)| *keyword == self)
            .map_or("", |(_, name)| name)
    }

    /// Whether `<<EOF` has a meaning there.
    fn takes_heredocs(self) -> bool {
        matches!(self, Self::Add | Self::Copy | Self::Run)
    }
}

/// Reads a Dockerfile. All errors of the text are reported at once, in source order.
pub fn parse(source: &str) -> Result<Dockerfile, Vec<Diagnostic>> {
    if source.len() > MAX_SOURCE {
        let message = format!(
            "the Dockerfile has {} bytes, more than the maximum of {MAX_SOURCE}",
            source.len()
        );
        return Err(vec![Diagnostic::error(
            Code::FileTooLarge,
            Span::default(),
            message,
        )]);
    }
    if source.is_empty() {
        let error = Diagnostic::error(
            Code::EmptyFile,
            Span::default(),
            "the Dockerfile cannot be empty",
        );
        return Err(vec![error.hint("begin with FROM")]);
    }
    let mut parser = Parser::new(source);
    parser.run();
    parser.finish(source)
}

/// Reads a Dockerfile that may hold bytes that are not UTF-8, which are allowed in comments only. Gives also the
/// text that spans refer to; each such byte is a `?` in it.
pub fn parse_bytes(bytes: &[u8]) -> (String, Result<Dockerfile, Vec<Diagnostic>>) {
    let mut text = String::with_capacity(bytes.len());
    let mut foreign = Vec::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for _ in chunk.invalid() {
            foreign.push(to_u32(text.len()));
            text.push('?');
        }
    }
    let mut result = parse(&text);
    if let Some(at) = first_in_code(&text, &foreign) {
        let error = Diagnostic::error(
            Code::NotUtf8,
            Span::new(at, at + 1),
            "the byte is not UTF-8",
        );
        let hint = match bytes {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "the file looks like UTF-16; save it as UTF-8",
            _ => "save the file as UTF-8",
        };
        let mut errors = result.err().unwrap_or_default();
        errors.insert(0, error.hint(hint));
        result = Err(errors);
    }
    (text, result)
}

/// The first of the offsets that stands in no comment line.
fn first_in_code(text: &str, offsets: &[u32]) -> Option<u32> {
    if offsets.is_empty() || text.len() > MAX_SOURCE {
        return offsets.first().copied();
    }
    let mut parser = Parser::new(text);
    parser.run();
    let comments = parser.lines.dropped;
    let in_comment = |at: u32| {
        let next = comments.partition_point(|comment| comment.start <= at);
        next.checked_sub(1)
            .and_then(|index| comments.get(index))
            .is_some_and(|comment| at < comment.end)
    };
    offsets.iter().copied().find(|at| !in_comment(*at))
}

/// Reads one trigger (`ONBUILD`) of a base image: a single instruction, on its own. Spans refer to `text`.
pub fn parse_trigger(text: &str) -> Result<Instruction, Diagnostic> {
    let mut parser = Parser::new(text);
    parser.run();
    parser.findings.append(&mut parser.lines.findings);
    if let Some(found) = parser.findings.into_iter().next() {
        return Err(found);
    }
    <[Instruction; 1]>::try_from(parser.instructions)
        .map(|[only]| only)
        .map_err(|_| {
            let message = "onbuild trigger should be a single expression";
            Diagnostic::error(Code::Onbuild, Span::new(0, to_u32(text.len())), message)
        })
}

struct Parser<'a> {
    lines: Lines<'a>,
    instructions: Vec<Instruction>,
    findings: Vec<Diagnostic>,
    /// A `FROM` was seen, or something that was probably meant to be one.
    in_stage: bool,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str) -> Self {
        Self {
            lines: Lines::new(source),
            // A guess; of a large text it is not worth its memory.
            instructions: Vec::with_capacity((source.len() / 64).min(1024)),
            findings: Vec::new(),
            in_stage: false,
        }
    }

    fn run(&mut self) {
        while let Some(line) = self.lines.logical() {
            match self.instruction(line) {
                Ok(instruction) => self.instructions.push(instruction),
                Err(found) => self.findings.push(found),
            }
            if self.findings.len() + self.lines.findings.len() >= MAX_ERRORS {
                return;
            }
        }
    }

    fn instruction(&mut self, mut line: Logical<'a>) -> Result<Instruction, Diagnostic> {
        let escape = self.lines.directives.escape;
        let comments = std::mem::take(&mut line.comments);
        let (word, tail) = Part::all(&line).first(forms::is_blank);
        let Some(keyword) = Keyword::read(word.text()) else {
            return Err(self.unknown(word, &line));
        };
        self.in_stage |= keyword == Keyword::From;
        let (flags, rest) = flags::split(tail, escape);
        let args = Args::read(keyword, rest, escape);
        let heredocs = self.heredocs(keyword, &args, rest, &line)?;
        let span = line.full_span();
        let end = if heredocs.is_empty() {
            span.end
        } else {
            self.lines.end()
        };
        let request = instructions::Request {
            keyword,
            flags: &flags,
            args: args?,
            heredocs,
            span,
            tail: tail.untrimmed(),
            escape,
        };
        let keyword = word.spanned();
        let kind = request.kind()?;
        Ok(Instruction {
            span: Span::new(span.start, end),
            keyword,
            text: line.text.trim().into(),
            comments,
            blank_line: line.blank,
            kind,
        })
    }

    /// Nothing that follows from the instruction's absence is reported.
    fn unknown(&mut self, word: Part<'_>, line: &Logical<'_>) -> Diagnostic {
        let typed = word.text();
        let near = suggest::nearest(
            &typed.to_uppercase(),
            KEYWORDS.iter().map(|(_, name)| *name),
        );
        let meant = near.and_then(Keyword::read);
        self.in_stage |= meant.is_none_or(|meant| meant == Keyword::From);
        if meant.is_some_and(Keyword::takes_heredocs) {
            // Without an end they swallow the rest of the file; one error is enough.
            let _ = heredoc::bodies(
                heredoc::openers(&line.text),
                &mut self.lines,
                line.full_span(),
            );
        }
        let message = format!("unknown instruction: {typed}");
        let mut error = Diagnostic::error(Code::UnknownInstruction, word.span(), message);
        if typed.starts_with(['&', '|', ';']) {
            let escape = self.lines.directives.escape;
            return error.hint(format!(
                "to go on with a command, end the line before with {escape}"
            ));
        }
        let lower = typed.chars().all(|ch| !ch.is_uppercase());
        error.hint = near.map(|near| {
            format!(
                "did you mean {}?",
                if lower {
                    near.to_lowercase()
                } else {
                    near.to_owned()
                }
            )
        });
        error
    }

    /// Reads the bodies of the heredocs that the line opens.
    fn heredocs(
        &mut self,
        keyword: Keyword,
        args: &Result<Args, Diagnostic>,
        rest: Part<'_>,
        line: &Logical<'_>,
    ) -> Result<Vec<Heredoc>, Diagnostic> {
        let taker = match keyword {
            Keyword::Onbuild => instructions::trigger(rest, self.lines.directives.escape)?,
            _ => Some((
                keyword,
                args.as_ref().is_ok_and(|args| args.form == Form::Json),
            )),
        };
        match taker {
            Some((keyword, false)) if keyword.takes_heredocs() => heredoc::bodies(
                heredoc::openers(&line.text),
                &mut self.lines,
                line.full_span(),
            ),
            _ => Ok(Vec::new()),
        }
    }

    fn finish(mut self, source: &str) -> Result<Dockerfile, Vec<Diagnostic>> {
        self.check_stages(source);
        self.findings.append(&mut self.lines.findings);
        if self.findings.is_empty() {
            return Ok(Dockerfile {
                directives: self.lines.directives,
                instructions: self.instructions,
            });
        }
        self.findings.sort_by_key(|found| found.span);
        Err(self.findings)
    }

    /// There is a stage, and nothing but `ARG` before it.
    fn check_stages(&mut self, source: &str) {
        if self.instructions.is_empty() {
            if self.findings.is_empty() {
                let end = to_u32(source.trim_end_matches('\n').len());
                let message = "file with no instructions";
                let error = Diagnostic::error(Code::EmptyFile, Span::new(end, end), message);
                self.findings.push(error.hint("begin with FROM"));
            }
            return;
        }
        let outside = self
            .instructions
            .iter()
            .take_while(|found| !matches!(found.kind, Kind::From(_)));
        let outside =
            outside.take_while(|found| self.findings.iter().all(|other| other.span > found.span));
        if let Some(first) = outside
            .clone()
            .find(|found| !matches!(found.kind, Kind::Arg(_)))
        {
            let message = "no build stage in current context";
            let error = Diagnostic::error(Code::BeforeFrom, first.span, message);
            self.findings
                .push(error.hint("only ARG may stand before the first FROM"));
        } else if !self.in_stage {
            let span = self
                .instructions
                .last()
                .map_or(Span::default(), |last| last.span);
            let message = "dockerfile contains no stages to build";
            self.findings
                .push(Diagnostic::error(Code::NoStages, span, message).hint("add a FROM"));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn triggers() {
        let found = parse_trigger("RUN <<EOF\na\nEOF").unwrap();
        assert_eq!(found.text, "RUN <<EOF");
        assert!(matches!(found.kind, Kind::Run(run) if run.heredocs.len() == 1));
        // What a base image says is always read with the usual escape character.
        assert!(parse_trigger("ENV A=b\\ c").is_ok());
        let message = |text| parse_trigger(text).unwrap_err().message;
        assert_eq!(
            message("ENV A=b\nENV C=d"),
            "onbuild trigger should be a single expression"
        );
        assert_eq!(message(""), "onbuild trigger should be a single expression");
        assert_eq!(message("RUN --x y"), "unknown flag: --x");
    }

    #[test]
    fn errors_do_not_cascade() {
        let codes = |source: &str| {
            let found = parse(source).unwrap_err();
            found
                .iter()
                .map(|found| found.code.name())
                .collect::<Vec<_>>()
        };
        assert_eq!(codes("FORM a\nRUN b\nCMD c\n"), ["unknown-instruction"]);
        assert_eq!(codes("FROM a AS 1\nRUN b\n"), ["stage-name"]);
        assert_eq!(codes("ARG\nRUN b\nFROM a\n"), ["arguments"]);
        assert_eq!(
            codes("FROM a\nRNU <<EOF\nx y\nEOF\n"),
            ["unknown-instruction"]
        );
        assert_eq!(
            codes("FROM a\nCOPY [1] <<EOF /\nRUN <<X\nfoo bar\n"),
            ["heredoc"]
        );
        assert_eq!(codes("RUN a\nRUN b\n"), ["before-from"]);
        assert_eq!(
            codes("RNU a\nLABEL b=c\n"),
            ["unknown-instruction", "no-stages"]
        );
    }

    #[test]
    fn utf16_is_named() {
        let bytes: Vec<u8> = "FROM a\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let found = parse_bytes(&[&[0xff, 0xfe], &bytes[..]].concat())
            .1
            .unwrap_err();
        assert_eq!(
            found[0].hint.as_deref(),
            Some("the file looks like UTF-16; save it as UTF-8")
        );
    }
}
