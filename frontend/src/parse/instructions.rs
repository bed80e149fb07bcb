//! What each instruction asks of its arguments.

use std::collections::HashMap;

use smol_str::SmolStr;

use crate::ast::{
    ArgDefault, Command, Copy, Device, From, Healthcheck, Heredoc, Kind, Onbuild, Pairs, Run,
    Source, Word,
};
use crate::diag::{Code, Diagnostic};
use crate::heredoc;
use crate::parse::flags::{Flag, Flags, Takes};
use crate::parse::forms::{Args, Form, Part, is_blank};
use crate::parse::{Keyword, flags, health, mounts};
use crate::span::{Span, Spanned, to_u32};

use Takes::{Bool, List, Text};

const ADD_FLAGS: [(&str, Takes); 7] = [
    ("chown", Text),
    ("chmod", Text),
    ("link", Bool),
    ("keep-git-dir", Bool),
    ("checksum", Text),
    ("unpack", Bool),
    ("exclude", List),
];

const COPY_FLAGS: [(&str, Takes); 6] = [
    ("chown", Text),
    ("from", Text),
    ("chmod", Text),
    ("link", Bool),
    ("exclude", List),
    ("parents", Bool),
];

const RUN_FLAGS: [(&str, Takes); 4] = [
    ("mount", List),
    ("network", Text),
    ("security", Text),
    ("device", List),
];

const HEALTH_FLAGS: [(&str, Takes); 5] = [
    ("interval", Text),
    ("timeout", Text),
    ("start-period", Text),
    ("start-interval", Text),
    ("retries", Text),
];

/// An instruction taken apart, not yet understood.
pub(crate) struct Request<'a> {
    pub(crate) keyword: Keyword,
    pub(crate) flags: &'a [Flag<'a>],
    pub(crate) args: Args,
    pub(crate) heredocs: Vec<Heredoc>,
    /// Of the whole logical line.
    pub(crate) span: Span,
    /// The logical line behind the keyword, blanks at its end kept.
    pub(crate) tail: Part<'a>,
    pub(crate) escape: char,
}

impl Request<'_> {
    /// Checks flags and arguments.
    pub(crate) fn kind(self) -> Result<Kind, Diagnostic> {
        match self.keyword {
            Keyword::From => self.from().map(Kind::From),
            Keyword::Arg => self.arg().map(Kind::Arg),
            Keyword::Env => self.pairs().map(Kind::Env),
            Keyword::Label => self.pairs().map(Kind::Label),
            Keyword::Run => self.run().map(Kind::Run),
            Keyword::Copy => self.copy(&COPY_FLAGS).map(Kind::Copy),
            Keyword::Add => self.copy(&ADD_FLAGS).map(Kind::Add),
            Keyword::Workdir => self.one().map(Kind::Workdir),
            Keyword::User => self.one().map(Kind::User),
            Keyword::Cmd => self.command().map(Kind::Cmd),
            Keyword::Entrypoint => self.command().map(Kind::Entrypoint),
            Keyword::Shell => self.shell().map(Kind::Shell),
            Keyword::Expose => self.expose().map(Kind::Expose),
            Keyword::Volume => self.volume().map(Kind::Volume),
            // Its flags are not looked at.
            Keyword::Stopsignal => self.single().map(Kind::Stopsignal),
            Keyword::Healthcheck => self.healthcheck().map(Kind::Healthcheck),
            Keyword::Onbuild => self.onbuild().map(Kind::Onbuild),
            Keyword::Maintainer => self.one().map(|name| Kind::Maintainer(name.value)),
        }
    }

    fn error<T>(&self, code: Code, message: impl Into<String>) -> Result<T, Diagnostic> {
        Err(Diagnostic::error(code, self.span, message))
    }

    fn no_flags(&self) -> Result<(), Diagnostic> {
        Flags::read(self.flags, &[]).map(|_| ())
    }

    fn at_least_one(&self) -> Result<(), Diagnostic> {
        if self.args.words.is_empty() {
            return self.error(
                Code::Arguments,
                format!("{} requires at least one argument", self.keyword.name()),
            );
        }
        Ok(())
    }

    fn single(mut self) -> Result<Word, Diagnostic> {
        match self.args.words.pop() {
            Some(word) => Ok(word),
            None => self.error(
                Code::Arguments,
                format!("{} requires exactly one argument", self.keyword.name()),
            ),
        }
    }

    fn one(self) -> Result<Word, Diagnostic> {
        self.no_flags()?;
        self.single()
    }

    fn from(self) -> Result<From, Diagnostic> {
        let flags = Flags::read(self.flags, &[("platform", Text)])?;
        let mut words = self.args.words.into_iter();
        let (image, as_keyword, name, more) =
            (words.next(), words.next(), words.next(), words.next());
        let platform = flags.text("platform");
        match (image, as_keyword, name, more) {
            (Some(image), None, None, None) => Ok(From {
                platform,
                image,
                name: None,
                as_keyword: None,
            }),
            (Some(image), Some(as_keyword), Some(name), None)
                if as_keyword.value.eq_ignore_ascii_case("as") =>
            {
                check_stage_name(&name)?;
                Ok(From {
                    platform,
                    image,
                    name: Some(name),
                    as_keyword: Some(as_keyword),
                })
            }
            _ => {
                let message = "FROM requires either one or three arguments";
                Err(Diagnostic::error(Code::Arguments, self.span, message)
                    .hint("write FROM image [AS name]"))
            }
        }
    }

    /// Flags in front of the names are skipped, as everywhere where this instruction is read.
    fn arg(self) -> Result<Vec<ArgDefault>, Diagnostic> {
        self.at_least_one()?;
        let read = |word: Word| {
            let Some((name, default)) = word.value.split_once('=') else {
                return Ok(ArgDefault {
                    name: word,
                    default: None,
                });
            };
            if name.is_empty() {
                return Err(Diagnostic::error(
                    Code::Arguments,
                    word.span,
                    "ARG names can not be blank",
                ));
            }
            let (before, after) = split_span(word.span, name.len(), default.len());
            let name = Spanned::new(name.into(), before);
            Ok(ArgDefault {
                name,
                default: Some(Spanned::new(default.into(), after)),
            })
        };
        self.args.words.into_iter().map(read).collect()
    }

    fn pairs(self) -> Result<Pairs, Diagnostic> {
        self.no_flags()?;
        self.at_least_one()?;
        let legacy = self.args.form == Form::Legacy;
        let mut pairs = Vec::with_capacity(self.args.words.len() / 2);
        let mut words = self.args.words.into_iter();
        while let (Some(key), Some(value)) = (words.next(), words.next()) {
            if key.value.is_empty() {
                let message = format!("{} names can not be blank", self.keyword.name());
                return Err(Diagnostic::error(Code::Arguments, value.span, message));
            }
            pairs.push((key, value));
        }
        Ok(Pairs { legacy, pairs })
    }

    fn command(self) -> Result<Command, Diagnostic> {
        self.no_flags()?;
        Ok(command(self.args))
    }

    fn run(self) -> Result<Run, Diagnostic> {
        let flags = Flags::read(self.flags, &RUN_FLAGS)?;
        let run = Run {
            mounts: flags.list("mount"),
            network: flags.given("network"),
            security: flags.given("security"),
            devices: flags
                .list("device")
                .iter()
                .map(device)
                .collect::<Result<_, _>>()?,
            command: command(self.args),
            heredocs: self.heredocs,
        };
        for mount in &run.mounts {
            mounts::check(&mount.value).map_err(|error| error.diagnostic(mount.span))?;
        }
        one_of(
            run.network.as_ref(),
            &["default", "none", "host"],
            "network mode",
        )?;
        one_of(
            run.security.as_ref(),
            &["sandbox", "insecure"],
            "security mode",
        )?;
        Ok(run)
    }

    fn copy(mut self, known: &[(&'static str, Takes)]) -> Result<Copy, Diagnostic> {
        let flags = Flags::read(self.flags, known)?;
        let name = self.keyword.name();
        let Some(destination) = self
            .args
            .words
            .pop()
            .filter(|_| !self.args.words.is_empty())
        else {
            let message = format!(
                "{name} requires at least two arguments, but only one was provided; \
                 destination could not be determined"
            );
            let error = Diagnostic::error(Code::Arguments, self.span, message);
            return Err(error.hint(format!("write {name} source... destination")));
        };
        if heredoc::opener(&destination.value).is_some() {
            let message = format!("{name} cannot accept a heredoc as a destination");
            return Err(Diagnostic::error(Code::Heredoc, destination.span, message));
        }
        // Of equal names the last body counts.
        let bodies = self
            .heredocs
            .iter()
            .map(|heredoc| (heredoc.name.as_str(), heredoc))
            .collect();
        let words = self.args.words.into_iter();
        let sources = words.map(|word| source(word, &bodies)).collect();
        Ok(Copy {
            from: flags.text("from"),
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.boolean("link").unwrap_or(false),
            parents: flags.boolean("parents").unwrap_or(false),
            excludes: flags.list("exclude"),
            checksum: flags.text("checksum"),
            keep_git_dir: flags.boolean("keep-git-dir"),
            unpack: flags.boolean("unpack"),
            sources,
            destination,
        })
    }

    fn shell(self) -> Result<Vec<SmolStr>, Diagnostic> {
        self.no_flags()?;
        self.at_least_one()?;
        if self.args.form != Form::Json {
            let error = Diagnostic::error(
                Code::Arguments,
                self.span,
                "SHELL requires the arguments to be in JSON form",
            );
            return Err(error.hint("write SHELL [\"executable\", \"parameter\"]"));
        }
        Ok(self.args.words.into_iter().map(|word| word.value).collect())
    }

    fn expose(mut self) -> Result<Vec<Word>, Diagnostic> {
        self.at_least_one()?;
        self.no_flags()?;
        self.args.words.sort_by(|a, b| a.value.cmp(&b.value));
        Ok(self.args.words)
    }

    fn volume(self) -> Result<Vec<Word>, Diagnostic> {
        self.at_least_one()?;
        self.no_flags()?;
        let trim = |word: Word| match word.value.trim() {
            "" => {
                let message = "VOLUME specified can not be an empty string";
                Err(Diagnostic::error(Code::Arguments, word.span, message))
            }
            path => Ok(Spanned::new(path.into(), word.span)),
        };
        self.args.words.into_iter().map(trim).collect()
    }

    fn healthcheck(mut self) -> Result<Healthcheck, Diagnostic> {
        self.at_least_one()?;
        let kind = self.args.words.remove(0);
        let none = kind.value.eq_ignore_ascii_case("NONE");
        if none && !self.args.words.is_empty() {
            return self.error(Code::Arguments, "HEALTHCHECK NONE takes no arguments");
        }
        if none {
            return Ok(Healthcheck::None);
        }
        let flags = Flags::read(self.flags, &HEALTH_FLAGS)?;
        if !kind.value.eq_ignore_ascii_case("CMD") {
            let message = format!("unknown type {:?} in HEALTHCHECK (try CMD)", kind.value);
            return Err(Diagnostic::error(Code::Arguments, kind.span, message));
        }
        if self.args.words.is_empty() {
            return self.error(Code::Arguments, "missing command after HEALTHCHECK CMD");
        }
        Ok(Healthcheck::Cmd {
            command: command(self.args),
            interval: health::interval(&flags, "interval")?,
            timeout: health::interval(&flags, "timeout")?,
            start_period: health::interval(&flags, "start-period")?,
            start_interval: health::interval(&flags, "start-interval")?,
            retries: health::retries(&flags)?,
        })
    }

    fn onbuild(self) -> Result<Onbuild, Diagnostic> {
        self.at_least_one()?;
        self.no_flags()?;
        let (word, _) = self.tail.trim().first(char::is_whitespace);
        match Keyword::read(word.text()) {
            Some(Keyword::Onbuild) => {
                let message = "chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed";
                return Err(Diagnostic::error(Code::Onbuild, word.span(), message));
            }
            Some(keyword @ (Keyword::Maintainer | Keyword::From)) => {
                let message = format!("{} isn't allowed as an ONBUILD trigger", keyword.name());
                return Err(Diagnostic::error(Code::Onbuild, word.span(), message));
            }
            _ => {}
        }
        trigger(self.tail.trim(), self.escape)?;
        let mut text = self.tail.text().trim_start().to_owned();
        for heredoc in &self.heredocs {
            text.push('\n');
            text.push_str(&heredoc.body);
            text.push_str(&heredoc.name);
        }
        Ok(Onbuild {
            trigger: Spanned::new(text.into(), self.tail.trim().span()),
        })
    }
}

/// The instruction inside an `ONBUILD`, as far as it can be read without understanding it, and whether it is
/// in JSON form.
pub(crate) fn trigger(text: Part<'_>, escape: char) -> Result<Option<(Keyword, bool)>, Diagnostic> {
    let (word, rest) = text.first(is_blank);
    let Some(keyword) = Keyword::read(word.text()) else {
        return Ok(None);
    };
    let (_, rest) = flags::split(rest, escape);
    let args = Args::read(keyword, rest, escape)?;
    Ok(Some((keyword, args.form == Form::Json)))
}

/// One string in shell form, also where nothing was written.
fn command(mut args: Args) -> Command {
    match args.form {
        Form::Json => Command::Exec(args.words.into_iter().map(|word| word.value).collect()),
        Form::Plain | Form::Legacy => {
            Command::Shell(args.words.pop().map(|word| word.value).unwrap_or_default())
        }
    }
}

/// A path, or the heredoc of that name.
fn source(word: Word, bodies: &HashMap<&str, &Heredoc>) -> Source {
    let Some(opener) = heredoc::opener(&word.value) else {
        return Source::Path(word);
    };
    let found = bodies.get(opener.name.as_str());
    Source::Heredoc(Heredoc {
        body: found
            .map(|heredoc| heredoc.body.clone())
            .unwrap_or_default(),
        span: found.map_or(word.span, |heredoc| heredoc.span),
        name: opener.name,
        fd: opener.fd,
        expand: opener.expand,
        chomp: opener.chomp,
    })
}

fn check_stage_name(name: &Word) -> Result<(), Diagnostic> {
    let lower = name.value.to_lowercase();
    let rest_is_fine = lower
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
    if rest_is_fine && lower.starts_with(|ch: char| ch.is_ascii_lowercase()) {
        return Ok(());
    }
    let message = format!(
        "invalid name for build stage: {:?}, name can't start with a number or contain symbols",
        name.value
    );
    Err(Diagnostic::error(Code::StageName, name.span, message))
}

/// The spans left and right of the `=` of a word; the whole word where it is not in one piece.
fn split_span(word: Span, left: usize, right: usize) -> (Span, Span) {
    if (word.end - word.start) as usize != left + 1 + right {
        return (word, word);
    }
    let equals = word.start + to_u32(left);
    (
        Span::new(word.start, equals),
        Span::new(equals + 1, word.end),
    )
}

fn one_of(value: Option<&Word>, allowed: &[&str], what: &str) -> Result<(), Diagnostic> {
    let Some(value) = value.filter(|value| !allowed.contains(&value.value.as_str())) else {
        return Ok(());
    };
    let message = format!("invalid {what} {:?}", value.value);
    let hint = format!("it must be one of {}", allowed.join(", "));
    Err(Diagnostic::error(Code::FlagValue, value.span, message).hint(hint))
}

fn device(value: &Word) -> Result<Device, Diagnostic> {
    mounts::device(&value.value).map_err(|error| {
        let mut error = error.diagnostic(value.span);
        error.code = Code::FlagValue;
        error
    })
}
