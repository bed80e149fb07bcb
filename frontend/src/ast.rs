//! The Dockerfile as it was written: one struct per instruction, nothing expanded, every part with its span.

use smol_str::SmolStr;

use crate::span::{Span, Spanned};

/// A word as it was written. A short one takes no memory of its own, and a copy of a long one shares its text.
pub type Word = Spanned<SmolStr>;

/// A parsed Dockerfile. Instructions are in source order; `FROM` starts a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Dockerfile {
    /// The parser directives at the top of the file.
    pub directives: Directives,
    /// All instructions, in source order. At least one is a `FROM`, and only `ARG` stands before it.
    pub instructions: Vec<Instruction>,
}

/// The parser directives (`# name=value` lines at the very top of the file).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Directives {
    /// `# syntax=…`: the whole value. Noted, never executed.
    pub syntax: Option<Word>,
    /// `# escape=`: the escape character, `\` unless set to a backtick.
    pub escape: char,
    /// `# check=…`: the raw value; parsed by the lint rules.
    pub check: Option<Word>,
}

/// One instruction, from its keyword to the end of its last continuation line or heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Instruction {
    /// From the keyword's first byte to the end of the last line that belongs to the instruction.
    pub span: Span,
    /// The keyword as it was typed (`run`, `Run`, `RUN`).
    pub keyword: Word,
    /// The logical line: continuations joined and comments dropped, keyword included, heredoc bodies not.
    /// No blanks around it.
    pub text: SmolStr,
    /// The comment lines above, without `#` and blanks, top to bottom. Blank lines between do not matter, an empty
    /// comment line does: only what follows it counts.
    pub comments: Vec<Word>,
    /// The last line of the command, where there are blank lines among its continuations.
    pub blank_line: Option<Span>,
    /// What it says.
    pub kind: Kind,
}

/// The instruction's meaning, one variant per keyword.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[allow(missing_docs)]
pub enum Kind {
    From(From),
    Arg(Vec<ArgDefault>),
    Env(Pairs),
    Label(Pairs),
    Run(Run),
    Copy(Copy),
    Add(Copy),
    Workdir(Word),
    User(Word),
    Cmd(Command),
    Entrypoint(Command),
    Shell(Vec<SmolStr>),
    /// The words sorted, as the history shows them.
    Expose(Vec<Word>),
    Volume(Vec<Word>),
    Stopsignal(Word),
    Healthcheck(Healthcheck),
    Onbuild(Onbuild),
    Maintainer(SmolStr),
}

/// `FROM [--platform=P] image [AS name]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct From {
    /// `--platform`, not expanded.
    pub platform: Option<Word>,
    /// The image or stage, not expanded.
    pub image: Word,
    /// The stage name as typed. Stages are known by its lower-case form.
    pub name: Option<Word>,
    /// The `AS` in front of the name, as typed.
    pub as_keyword: Option<Word>,
}

/// One `NAME[=default]` of an `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ArgDefault {
    /// The name, a raw word.
    pub name: Word,
    /// The default, as a raw word (not expanded, quotes kept). `ARG X` has none, `ARG X=` an empty one.
    pub default: Option<Word>,
}

/// The pairs of `ENV` or `LABEL`, raw words (not expanded, quotes kept).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Pairs {
    /// `ENV K rest of line` (true) or `ENV K=V …` (false).
    pub legacy: bool,
    /// Key and value in source order.
    pub pairs: Vec<(Word, Word)>,
}

/// A command in shell form (one string) or exec form (JSON array).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[allow(missing_docs)]
pub enum Command {
    Shell(SmolStr),
    Exec(Vec<SmolStr>),
}

/// A heredoc with its body.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Heredoc {
    /// The delimiter without quotes; names the file that `COPY` makes.
    pub name: SmolStr,
    /// The file descriptor typed before `<<`, if any.
    pub fd: Option<u32>,
    /// True when no part of the word was quoted: `COPY` expands the body.
    pub expand: bool,
    /// `<<-`: leading tabs do not count.
    pub chomp: bool,
    /// The body as it stands in the file, each line with its line end. See [`Heredoc::text`].
    pub body: String,
    /// Of the body.
    pub span: Span,
}

impl Heredoc {
    /// The body, with `<<-` without the tabs that its lines begin with.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.body.clone();
        }
        self.body
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Run {
    /// `--mount`, raw CSV values; read by [`crate::parse_mount`], which also expands them.
    pub mounts: Vec<Word>,
    /// `--network`: `default`, `none` or `host`.
    pub network: Option<Word>,
    /// `--security`: `sandbox` or `insecure`.
    pub security: Option<Word>,
    /// `--device`.
    pub devices: Vec<Device>,
    /// The command line; in shell form exactly the text handed to the shell when there are no heredocs.
    pub command: Command,
    /// Heredocs in the order of their openers.
    pub heredocs: Vec<Heredoc>,
}

/// A `RUN --device`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Device {
    /// The CDI name.
    pub name: SmolStr,
    /// False: the step runs also without the device.
    pub required: bool,
}

/// What a shell-form `RUN` gives to the words of `SHELL`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Script {
    /// One argument.
    Text(SmolStr),
    /// A heredoc that begins with `#!`: `body` is to be mounted as `/dev/pipes/<name>`, and that path is the
    /// argument.
    #[allow(missing_docs)]
    File { name: SmolStr, body: String },
}

impl Run {
    /// What the shell gets; `None` for the exec form.
    pub fn script(&self) -> Option<Script> {
        let Command::Shell(text) = &self.command else {
            return None;
        };
        let Some(first) = self.heredocs.first() else {
            return Some(Script::Text(text.clone()));
        };
        if crate::heredoc::opener(text).is_some() {
            let body = first.text();
            return Some(match body.starts_with("#!") {
                true => Script::File {
                    name: first.name.clone(),
                    body,
                },
                false => Script::Text(body.into()),
            });
        }
        let mut text = text.to_string();
        for heredoc in &self.heredocs {
            text.push('\n');
            text.push_str(&heredoc.body);
            text.push_str(&heredoc.name);
        }
        Some(Script::Text(text.into()))
    }

    /// The first line of a `RUN <<EOF` script, which names the step; `None` for any other command.
    pub fn script_title(&self) -> Option<String> {
        let Command::Shell(text) = &self.command else {
            return None;
        };
        crate::heredoc::opener(text)?;
        let body = self.heredocs.first()?.body.trim();
        Some(match body.split_once('\n') {
            Some((first, _)) => format!("{}...", first.trim_end_matches('\r')),
            None => body.to_owned(),
        })
    }
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Copy {
    /// `COPY --from`.
    pub from: Option<Word>,
    /// `--chown`, not expanded.
    pub chown: Option<Word>,
    /// `--chmod`, not expanded.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `COPY --parents`.
    pub parents: bool,
    /// `--exclude`, literal.
    pub excludes: Vec<Word>,
    /// `ADD --checksum`, not expanded.
    pub checksum: Option<Word>,
    /// `ADD --keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `ADD --unpack=true|false`.
    pub unpack: Option<bool>,
    /// The sources in order. Paths are copied before heredocs.
    pub sources: Vec<Source>,
    /// The destination, a raw word.
    pub destination: Word,
}

/// A source of `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[allow(missing_docs)]
pub enum Source {
    /// A raw word, not expanded. In JSON form too, where quotes inside the string are expanded like any others.
    Path(Word),
    Heredoc(Heredoc),
}

/// `HEALTHCHECK`. Durations in nanoseconds; zero where absent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[allow(missing_docs)]
pub enum Healthcheck {
    None,
    Cmd {
        command: Command,
        interval: u64,
        timeout: u64,
        start_period: u64,
        start_interval: u64,
        retries: u64,
    },
}

/// `ONBUILD`: the trigger's text, heredoc bodies included, as the image config stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Onbuild {
    /// The instruction to run later.
    pub trigger: Word,
}
