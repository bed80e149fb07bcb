//! The Dockerfile as it was written: one struct per instruction, nothing expanded, every part with its span.

use crate::span::{Span, Spanned};

/// A parsed Dockerfile. Instructions are in source order; `FROM` starts a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The parser directives at the top of the file.
    pub directives: Directives,
    /// All instructions, in source order.
    pub instructions: Vec<Instruction>,
}

/// The parser directives (`# name=value` lines at the very top of the file).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=…`: the whole value. Noted, never executed.
    pub syntax: Option<Spanned<String>>,
    /// `# escape=`: the escape character, `\` unless set to a backtick.
    pub escape: char,
    /// `# check=…`: the raw value; parsed by the lint rules.
    pub check: Option<Spanned<String>>,
}

/// One instruction, from its keyword to the end of its last continuation line or heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// From the keyword's first byte to the end of the last line that belongs to the instruction.
    pub span: Span,
    /// The keyword as it was typed (`run`, `Run`, `RUN`).
    pub keyword: Spanned<String>,
    /// The logical line: continuations joined and comments dropped, keyword included, heredoc bodies not.
    pub text: String,
    /// The comment lines directly above, without `#` and one leading blank, top to bottom.
    pub comments: Vec<Spanned<String>>,
    /// What it says.
    pub kind: Kind,
}

/// The instruction's meaning, one variant per keyword.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    From(From),
    Arg(Vec<ArgDefault>),
    Env(Pairs),
    Label(Pairs),
    Run(Run),
    Copy(Copy),
    Add(Copy),
    Workdir(Spanned<String>),
    User(Spanned<String>),
    Cmd(Command),
    Entrypoint(Command),
    Shell(Vec<String>),
    Expose(Vec<Spanned<String>>),
    Volume(Vec<Spanned<String>>),
    Stopsignal(Spanned<String>),
    Healthcheck(Healthcheck),
    Onbuild(Onbuild),
    Maintainer(String),
}

/// `FROM [--platform=P] image [AS name]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// `--platform`, not expanded.
    pub platform: Option<Spanned<String>>,
    /// The image or stage, not expanded.
    pub image: Spanned<String>,
    /// The stage name as typed.
    pub name: Option<Spanned<String>>,
}

/// One `NAME[=default]` of an `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDefault {
    /// The name (quotes removed).
    pub name: Spanned<String>,
    /// The default, as a raw word (not expanded, quotes kept). `ARG X` has none, `ARG X=` an empty one.
    pub default: Option<Spanned<String>>,
}

/// The pairs of `ENV` or `LABEL`, raw words (not expanded, quotes kept).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// `ENV K rest of line` (true) or `ENV K=V …` (false).
    pub legacy: bool,
    /// Key and value in source order.
    pub pairs: Vec<(Spanned<String>, Spanned<String>)>,
}

/// A command in shell form (one string) or exec form (JSON array).
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Command {
    Shell(String),
    Exec(Vec<String>),
}

/// A heredoc with its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without quotes; names the file that `COPY` makes.
    pub name: String,
    /// The file descriptor typed before `<<`, if any.
    pub fd: Option<u32>,
    /// True when no part of the word was quoted: `COPY` expands the body.
    pub expand: bool,
    /// `<<-`: leading tabs were stripped from the body and its end.
    pub chomp: bool,
    /// The body, each line with its line feed.
    pub body: String,
    /// Of the body.
    pub span: Span,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// `--mount`, raw CSV values; read by [`crate::parse_mount`] after expansion.
    pub mounts: Vec<Spanned<String>>,
    /// `--network`.
    pub network: Option<Spanned<String>>,
    /// `--security`.
    pub security: Option<Spanned<String>>,
    /// `--device`.
    pub devices: Vec<Spanned<String>>,
    /// The command line; in shell form exactly the text handed to the shell when there are no heredocs.
    pub command: Command,
    /// Heredocs in the order of their openers.
    pub heredocs: Vec<Heredoc>,
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// `COPY --from`.
    pub from: Option<Spanned<String>>,
    /// `--chown`, not expanded.
    pub chown: Option<Spanned<String>>,
    /// `--chmod`, not expanded.
    pub chmod: Option<Spanned<String>>,
    /// `--link`.
    pub link: bool,
    /// `COPY --parents`.
    pub parents: bool,
    /// `--exclude`, literal.
    pub excludes: Vec<Spanned<String>>,
    /// `ADD --checksum`, not expanded.
    pub checksum: Option<Spanned<String>>,
    /// `ADD --keep-git-dir`.
    pub keep_git_dir: bool,
    /// `ADD --unpack=true|false`.
    pub unpack: Option<bool>,
    /// The sources in order.
    pub sources: Vec<Source>,
    /// The destination, a raw word.
    pub destination: Spanned<String>,
}

/// A source of `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Source {
    /// A raw word (not expanded; in JSON form quotes are already literal, see `json`).
    Path(Spanned<String>),
    Heredoc(Heredoc),
}

/// `HEALTHCHECK`. Durations in nanoseconds; zero where absent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Healthcheck {
    None,
    Cmd { command: Command, interval: u64, timeout: u64, start_period: u64, start_interval: u64, retries: u64 },
}

/// `ONBUILD`: the trigger's text, heredoc bodies included, as the image config stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The instruction to run later.
    pub trigger: Spanned<String>,
}
