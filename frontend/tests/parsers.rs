//! Other parsers of Dockerfiles read the same files: where they disagree, `testdata/parsers.txt` says why, and it names
//! every such file and no other. The files are all Dockerfiles of `testdata`.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_macros
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use dockerfile_parser::{Instruction as Old, ShellOrExecExpr};
use lapstrake_frontend::ast::{Command, Kind, Source};
use lapstrake_frontend::span::LineIndex;
use parse_dockerfile::{Command as OtherCommand, Instruction as Other};

/// What a parser made of a text: one line an instruction, or that it refused.
type Shape = Option<Vec<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata")
}

/// Every Dockerfile, by its path in `testdata`.
fn dockerfiles() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().unwrap() == "Dockerfile" {
                let bytes = fs::read(&path).unwrap();
                found.extend(String::from_utf8(bytes).ok().map(|text| (name, text)));
            } else if name.starts_with("conformance/cases/") {
                let text = fs::read_to_string(&path).unwrap();
                found.extend(section(&text).map(|text| (name, text)));
            }
        }
    }
    found
}

/// The Dockerfile of a conformance case.
fn section(case: &str) -> Option<String> {
    let lines = case.split_inclusive('\n');
    let mut inside = lines.skip_while(|line| line.trim_end() != "-- Dockerfile --");
    inside.next()?;
    let is_title = |line: &&str| line.starts_with("-- ") && line.trim_end().ends_with(" --");
    Some(inside.take_while(|line| !is_title(line)).collect())
}

fn ours(text: &str) -> Shape {
    let dockerfile = lapstrake_frontend::parse(text).ok()?;
    let index = LineIndex::new(text);
    let command = |command: &Command| match command {
        Command::Exec(words) => format!("exec {words:?}"),
        Command::Shell(_) => "shell".to_owned(),
    };
    let shape = dockerfile.instructions.iter().map(|instruction| {
        let rest = match &instruction.kind {
            Kind::From(from) => {
                let name = from.name.as_ref().map(|name| name.value.as_str());
                from_shape(&from.image.value, name)
            }
            Kind::Run(run) => command(&run.command),
            Kind::Cmd(other) | Kind::Entrypoint(other) => command(other),
            Kind::Copy(copy) | Kind::Add(copy) => {
                let paths = copy.sources.iter().map(|source| match source {
                    Source::Path(path) => path.value.as_str(),
                    Source::Heredoc(_) => "<<",
                });
                copy_shape(paths, &copy.destination.value)
            }
            _ => String::new(),
        };
        let keyword = instruction.keyword.value.to_uppercase();
        line(index.line(instruction.span.start), &keyword, &rest)
    });
    Some(shape.collect())
}

fn line(number: u32, keyword: &str, rest: &str) -> String {
    format!("{number} {keyword} {rest}").trim_end().to_owned()
}

fn from_shape(image: &str, name: Option<&str>) -> String {
    format!("{image:?} as {name:?}")
}

/// Heredocs are known by their place only: the files that hold them come last.
fn copy_shape<'a>(sources: impl Iterator<Item = &'a str>, destination: &str) -> String {
    format!("{:?} to {destination:?}", sources.collect::<Vec<_>>())
}

/// Of the crate `parse-dockerfile`.
fn other(text: &str) -> Shape {
    let dockerfile = parse_dockerfile::parse(text).ok()?;
    let index = LineIndex::new(text);
    let command = |command: &OtherCommand<'_>| match command {
        OtherCommand::Exec(words) => {
            let words: Vec<&str> = words.value.iter().map(|word| &*word.value).collect();
            format!("exec {words:?}")
        }
        _ => "shell".to_owned(),
    };
    let sources = |sources: &[parse_dockerfile::Source<'_>], dest: &str| {
        let paths = sources.iter().map(|source| match source {
            parse_dockerfile::Source::Path(path) => &*path.value,
            _ => "<<",
        });
        copy_shape(paths, dest)
    };
    let shape = dockerfile.instructions.iter().map(|instruction| {
        let (keyword, span, rest) = match instruction {
            Other::From(from) => {
                let name = from.as_.as_ref().map(|(_, name)| &*name.value);
                let rest = from_shape(&from.image.value, name);
                ("FROM", &from.from.span, rest)
            }
            Other::Run(run) => ("RUN", &run.run.span, command(&run.arguments)),
            Other::Cmd(cmd) => ("CMD", &cmd.cmd.span, command(&cmd.arguments)),
            Other::Entrypoint(entry) => {
                let rest = command(&entry.arguments);
                ("ENTRYPOINT", &entry.entrypoint.span, rest)
            }
            Other::Copy(copy) => {
                let rest = sources(&copy.src, &copy.dest.value);
                ("COPY", &copy.copy.span, rest)
            }
            Other::Add(add) => ("ADD", &add.add.span, sources(&add.src, &add.dest.value)),
            Other::Arg(arg) => ("ARG", &arg.arg.span, String::new()),
            Other::Env(env) => ("ENV", &env.env.span, String::new()),
            Other::Expose(expose) => ("EXPOSE", &expose.expose.span, String::new()),
            Other::Healthcheck(check) => ("HEALTHCHECK", &check.healthcheck.span, String::new()),
            Other::Label(label) => ("LABEL", &label.label.span, String::new()),
            Other::Maintainer(name) => ("MAINTAINER", &name.maintainer.span, String::new()),
            Other::Onbuild(onbuild) => ("ONBUILD", &onbuild.onbuild.span, String::new()),
            Other::Shell(shell) => ("SHELL", &shell.shell.span, String::new()),
            Other::Stopsignal(signal) => ("STOPSIGNAL", &signal.stopsignal.span, String::new()),
            Other::User(user) => ("USER", &user.user.span, String::new()),
            Other::Volume(volume) => ("VOLUME", &volume.volume.span, String::new()),
            Other::Workdir(dir) => ("WORKDIR", &dir.workdir.span, String::new()),
            _ => return "an instruction of a kind that did not exist".to_owned(),
        };
        line(
            index.line(u32::try_from(span.start).unwrap()),
            keyword,
            &rest,
        )
    });
    Some(shape.collect())
}

/// Of the crate `dockerfile-parser`, which is no longer maintained.
fn old(text: &str) -> Shape {
    let dockerfile = dockerfile_parser::Dockerfile::parse(text).ok()?;
    let index = LineIndex::new(text);
    let command = |expr: &ShellOrExecExpr| match expr {
        ShellOrExecExpr::Exec(words) => format!("exec {:?}", words.as_str_vec()),
        ShellOrExecExpr::Shell(_) => "shell".to_owned(),
    };
    let shape = dockerfile.instructions.iter().map(|instruction| {
        let (keyword, rest) = match instruction {
            Old::From(from) => {
                let name = from.alias.as_ref().map(|name| name.content.as_str());
                ("FROM".to_owned(), from_shape(&from.image.content, name))
            }
            Old::Run(run) => ("RUN".to_owned(), command(&run.expr)),
            Old::Cmd(cmd) => ("CMD".to_owned(), command(&cmd.expr)),
            Old::Entrypoint(entry) => ("ENTRYPOINT".to_owned(), command(&entry.expr)),
            Old::Copy(copy) => {
                let sources = copy.sources.iter().map(|source| source.content.as_str());
                let rest = copy_shape(sources, &copy.destination.content);
                ("COPY".to_owned(), rest)
            }
            Old::Arg(_) => ("ARG".to_owned(), String::new()),
            Old::Label(_) => ("LABEL".to_owned(), String::new()),
            Old::Env(_) => ("ENV".to_owned(), String::new()),
            // It does not look into these.
            Old::Misc(misc) => (misc.instruction.content.to_uppercase(), String::new()),
        };
        let start = u32::try_from(instruction.span().start).unwrap();
        line(index.line(start), &keyword, &rest)
    });
    Some(shape.collect())
}

/// What `dockerfile-parser` leaves out of our own reading.
fn for_old(shape: Shape) -> Shape {
    let cut = |line: String| match line.split_once(" ADD ") {
        Some((number, _)) => format!("{number} ADD"),
        None => line,
    };
    shape.map(|lines| lines.into_iter().map(cut).collect())
}

/// `refuses`, `accepts`, or the first line that differs.
fn disagreement(ours: &Shape, theirs: &Shape) -> Option<String> {
    match (ours, theirs) {
        (Some(_), None) => Some("refuses".to_owned()),
        (None, Some(_)) => Some("accepts".to_owned()),
        (ours, theirs) if ours == theirs => None,
        (Some(ours), Some(theirs)) => {
            let (ours, theirs) = (ours.iter(), theirs.iter());
            let pair = ours.zip(theirs).find(|(ours, theirs)| ours != theirs);
            Some(format!("{pair:?}"))
        }
        (None, None) => None,
    }
}

/// The table: under a line `CRATE: CLASS` the files, indented; `#` begins a comment.
fn known() -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(root().join("parsers.txt")).unwrap();
    let mut known = BTreeSet::new();
    let mut partner = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("  ") {
            Some(file) => assert!(
                known.insert((partner.clone(), file.to_owned())),
                "{file} twice"
            ),
            None => partner = line.split(':').next().unwrap_or_default().to_owned(),
        }
    }
    known
}

#[test]
fn disagreements_are_known() {
    let mut found = BTreeMap::new();
    for (name, text) in dockerfiles() {
        let own = ours(&text);
        let pairs = [
            ("parse-dockerfile", disagreement(&own, &other(&text))),
            (
                "dockerfile-parser",
                disagreement(&for_old(own), &old(&text)),
            ),
        ];
        for (partner, what) in pairs {
            let key = (partner.to_owned(), name.clone());
            found.extend(what.map(|what| (key, what)));
        }
    }
    let known = known();
    for ((partner, name), what) in found.iter().filter(|(key, _)| !known.contains(*key)) {
        eprintln!("{partner} {name}: {what}");
    }
    for (partner, name) in known.iter().filter(|key| !found.contains_key(*key)) {
        eprintln!("{partner} {name}: no disagreement any more");
    }
    assert!(
        found.keys().eq(&known),
        "change testdata/parsers.txt where the difference is right"
    );
}
