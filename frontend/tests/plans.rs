//! Golden directories: `testdata/stages/NAME/{Dockerfile,inputs.json,stages.txt}` and
//! `testdata/plan/NAME/{Dockerfile,inputs.json,plan.txt}`; `inputs.json` may be missing. With `UPDATE=1` in the
//! environment the expected files are rewritten. `testdata/outline/NAME/{Dockerfile,inputs.json,outline.txt}` holds what
//! `--call=targets,outline,check` is made of.
//!
//! `inputs.json` may hold `target`, `platform`, `build_args`, `labels`, `network`, `contexts` (a name to `local`, an
//! image, or a URL), `ignore` (a `.dockerignore`), `no_cache` (true, or stages), `multi_platform` and `images` (a reference to its config). Images
//! that it does not have are asked for, and the test gives a bare config.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_macros
)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use lapstrake_frontend::ast::Dockerfile;
use lapstrake_frontend::diag::{Color, Diagnostic};
use lapstrake_frontend::git::GitUrl;
use lapstrake_frontend::ignore::Ignore;
use lapstrake_frontend::image::{Platform, normalize_context_name};
use lapstrake_frontend::plan::{
    Answer, Git, Inputs, Lowered, NamedContext, Network, NoCache, Plan, Wanted,
};
use lapstrake_frontend::span::LineIndex;
use lapstrake_frontend::stage::{Base, StageId, Stages};
use lapstrake_frontend::{Epoch, check, epoch, lower, outline, parse, targets};
use serde_json::{Value, json};

fn folders(kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata")
        .join(kind);
    let entries = fs::read_dir(&root).unwrap();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "no cases in {}", root.display());
    folders
}

/// Compares with, or rewrites, the expected file. True if it differs.
fn differs(path: &Path, actual: &str) -> bool {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, actual).unwrap();
        return false;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected != actual {
        eprintln!("--- {}\n{expected}\n+++ actual\n{actual}", path.display());
    }
    expected != actual
}

fn platform(value: &Value) -> Platform {
    let local = Platform::new("linux", "amd64", None);
    Platform::parse(value.as_str().unwrap_or("linux/amd64"), &local).unwrap()
}

fn context(text: &str) -> NamedContext {
    if text == "local" {
        return NamedContext::Local;
    }
    match GitUrl::parse(text).unwrap() {
        Some(url) => NamedContext::Git(Git {
            remote: url.remote,
            reference: url.reference,
            subdir: url.subdir,
            checksum: url.checksum,
            keep_git_dir: false,
            submodules: true,
            commit_time: url.commit_time.unwrap_or_default(),
        }),
        None if text.starts_with("http") => NamedContext::Http(text.to_owned()),
        None => NamedContext::Image(text.parse().unwrap()),
    }
}

fn strings(value: &Value) -> Vec<(String, String)> {
    let map = value.as_object().cloned().unwrap_or_default();
    map.into_iter()
        .map(|(name, value)| (name, value.as_str().unwrap().to_owned()))
        .collect()
}

fn inputs(json: &Value) -> Inputs {
    let target_platform = platform(&json["platform"]);
    let mut inputs = Inputs {
        target: json["target"].as_str().map(str::to_owned),
        build_args: strings(&json["build_args"]).into_iter().collect(),
        labels: strings(&json["labels"]),
        build_platform: platform(&Value::Null),
        network: match json["network"].as_str() {
            Some("host") => Network::Host,
            Some("none") => Network::None,
            _ => Network::Default,
        },
        no_cache: match &json["no_cache"] {
            Value::Array(names) => NoCache::Stages(
                names
                    .iter()
                    .map(|name| name.as_str().unwrap().to_owned())
                    .collect(),
            ),
            Value::Bool(true) => NoCache::All,
            _ => NoCache::Use,
        },
        multi_platform: json["multi_platform"] == true,
        ignore: Ignore::parse(json["ignore"].as_str().unwrap_or_default()).unwrap(),
        implicit_platform: json["platform"].is_null(),
        target_platform,
        ..Inputs::default()
    };
    for (name, text) in strings(&json["contexts"]) {
        inputs
            .contexts
            .insert(normalize_context_name(&name).unwrap(), context(&text));
    }
    inputs
}

struct Case {
    folder: PathBuf,
    source: String,
    json: Value,
}

impl Case {
    fn read(folder: PathBuf) -> Self {
        let source = fs::read_to_string(folder.join("Dockerfile")).unwrap();
        let json = fs::read(folder.join("inputs.json")).unwrap_or_else(|_| b"{}".to_vec());
        Self {
            folder,
            source,
            json: serde_json::from_slice(&json).unwrap(),
        }
    }

    fn plan(&self) -> Result<Plan, Vec<Diagnostic>> {
        let dockerfile = parse(&self.source)?;
        let mut inputs = inputs(&self.json);
        if let Epoch::At(seconds) = epoch(&dockerfile, &inputs)? {
            inputs.set_epoch(seconds);
        }
        loop {
            match lower(&dockerfile, &inputs)? {
                Lowered::Ready(plan) => return Ok(*plan),
                Lowered::Need(wanted) => {
                    wanted
                        .into_iter()
                        .for_each(|wanted| self.give(&mut inputs, wanted));
                }
            }
        }
    }

    fn give(&self, inputs: &mut Inputs, wanted: Wanted) {
        let bare = json!({
            "os": "linux", "architecture": wanted.platform.architecture,
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]}, "rootfs": {"type": "layers", "diff_ids": ["sha256:aa"]},
        });
        let config = self.json["images"]
            .get(wanted.reference.to_string())
            .unwrap_or(&bare);
        let key = (wanted.reference, wanted.platform);
        let old = inputs
            .images
            .insert(key, serde_json::to_vec(config).unwrap());
        assert_eq!(old, None, "an image is asked for twice");
    }

    fn errors(&self, errors: &[Diagnostic]) -> String {
        let texts = errors
            .iter()
            .map(|error| error.render("Dockerfile", &self.source, Color::Plain) + "\n");
        texts.collect::<Vec<_>>().join("\n")
    }

    fn stages(&self, dockerfile: &Dockerfile) -> Result<String, Vec<Diagnostic>> {
        let inputs = inputs(&self.json);
        let stages = Stages::new(dockerfile, &inputs)?;
        let index = LineIndex::new(&self.source);
        let line = |span: lapstrake_frontend::span::Span| index.line(span.start);
        let reachable = stages.reachable(|_| Vec::new());
        let mut out = String::new();
        for (id, stage) in stages.stages.iter().enumerate() {
            let name = stage.name.as_deref().unwrap_or("-");
            write!(out, "{id} {name}, line {}: from ", line(stage.span)).unwrap();
            match &stage.base {
                Base::Scratch => out += "scratch",
                Base::Stage(StageId(base)) => write!(out, "stage {base}").unwrap(),
                Base::Image(image) => out += &image.canonical(),
            }
            if let Some(platform) = &stage.platform {
                write!(out, " for {platform}").unwrap();
            }
            if let Some((name, context)) = &stage.context {
                write!(out, " replaced by {name}: {context:?}").unwrap();
            }
            for (StageId(source), span) in &stage.sources {
                write!(out, ", takes from {source} in line {}", line(*span)).unwrap();
            }
            if stages.target == StageId(id) {
                out += ", the target";
            } else if !reachable.contains(&StageId(id)) {
                out += ", not needed";
            }
            out += "\n";
        }
        Ok(out)
    }
}

#[test]
fn stages() {
    let bad = folders("stages")
        .into_iter()
        .map(Case::read)
        .filter(|case| {
            let stages = parse(&case.source).and_then(|dockerfile| case.stages(&dockerfile));
            differs(
                &case.folder.join("stages.txt"),
                &stages.unwrap_or_else(|errors| case.errors(&errors)),
            )
        });
    assert_eq!(bad.count(), 0, "run with UPDATE=1 and read the difference");
}

#[test]
fn plans() {
    let bad = folders("plan").into_iter().map(Case::read).filter(|case| {
        let plan = case
            .plan()
            .map_or_else(|errors| case.errors(&errors), |plan| plan.to_string());
        differs(&case.folder.join("plan.txt"), &plan)
    });
    assert_eq!(bad.count(), 0, "run with UPDATE=1 and read the difference");
}

impl Case {
    /// Gives an answer the images that it needs.
    fn ask<T>(&self, mut ask: impl FnMut(&Inputs) -> Answer<T>) -> T {
        let mut inputs = inputs(&self.json);
        loop {
            match ask(&inputs) {
                Answer::Ready(answer) => return answer,
                Answer::Need(wanted) => {
                    wanted
                        .into_iter()
                        .for_each(|wanted| self.give(&mut inputs, wanted));
                }
            }
        }
    }

    fn outline(&self) -> String {
        let dockerfile = match parse(&self.source) {
            Ok(dockerfile) => dockerfile,
            Err(errors) => return self.errors(&errors),
        };
        let mut out = String::new();
        for target in targets(&dockerfile) {
            writeln!(out, "{target:?}").unwrap();
        }
        let shown = self.ask(|inputs| match outline(&dockerfile, inputs) {
            Ok(Answer::Need(wanted)) => Answer::Need(wanted),
            Ok(Answer::Ready(outline)) => Answer::Ready(format!("{outline:#?}\n")),
            Err(errors) => Answer::Ready(self.errors(&errors)),
        });
        out += &shown;
        let checked = self.ask(|inputs| check(&dockerfile, inputs));
        let index = LineIndex::new(&self.source);
        for warning in &checked.warnings {
            writeln!(out, "{}", warning.summary(&index)).unwrap();
        }
        out + &self.errors(&checked.errors)
    }
}

#[test]
fn outlines() {
    let bad = folders("outline")
        .into_iter()
        .map(Case::read)
        .filter(|case| differs(&case.folder.join("outline.txt"), &case.outline()));
    assert_eq!(bad.count(), 0, "run with UPDATE=1 and read the difference");
}
