//! Builds every case of `testdata/conformance` with the binary and compares the image with its golden result.
//!
//! A case is one text file, `cases/NAME.txt`: header lines (`# title:`, `# symlink: PATH -> TARGET`, `# mode: PATH OCTAL`,
//! `# dir: PATH OCTAL`), then sections `-- NAME --` that are files, but for `args`, which holds command-line flags.
//! `golden/NAME.json` says whether the build succeeds and, if so, the image's config, the pattern of its history, its number of layers
//! and every path that differs from the base image; for a build that must fail it may hold the `line` that the messages must name.
//! The three base images are made from the machine's static busybox and served by a registry inside the test.
//!
//! Each case is a test of its own, so `cargo test --test conformance copy-` runs those that copy. `CONFORMANCE_BUILDER` names another
//! program with the same command line to run instead.

#![allow(clippy::unwrap_used)]

mod base;
mod case;
mod facts;
#[path = "../e2e/registry.rs"]
pub mod registry;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

use base::BaseImages;
use case::Case;

/// A build that takes longer hangs.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// More would be a list of bugs.
const MOST_DIFFERENCES: usize = 3;

/// What all cases share.
struct Space {
    builder: PathBuf,
    data: PathBuf,
    /// Cases that differ on purpose, and why.
    differences: BTreeMap<String, String>,
    store: tempfile::TempDir,
    base: BaseImages,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    match prepare() {
        Ok((space, names)) => {
            let trials = names.into_iter().map(|name| trial(&space, name)).collect();
            let conclusion = libtest_mimic::run(&arguments, trials);
            drop(space);
            conclusion.exit_code()
        }
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> Result<(Arc<Space>, Vec<String>)> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata")
        .canonicalize()?;
    let data = testdata.join("conformance");
    let differences = read_differences(&testdata.join("conformance-differences.txt"))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(data.join("cases"))? {
        let file = entry?.file_name();
        if let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".txt")) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    for name in differences.keys() {
        ensure!(
            names.contains(name),
            "conformance-differences.txt names {name}, which is no case"
        );
    }
    let base = BaseImages::serve()?;
    let store = tempfile::Builder::new()
        .prefix("conformance-store-")
        .tempdir()?;
    let builder = std::env::var_os("CONFORMANCE_BUILDER")
        .map_or_else(|| env!("CARGO_BIN_EXE_lapstrake").into(), PathBuf::from);
    Ok((
        Arc::new(Space {
            builder,
            data,
            differences,
            store,
            base,
        }),
        names,
    ))
}

/// Reads `NAME: reason` lines.
fn read_differences(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut all = BTreeMap::new();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (name, reason) = line
            .split_once(": ")
            .with_context(|| format!("conformance-differences.txt: no reason in {line:?}"))?;
        all.insert(name.to_owned(), reason.to_owned());
    }
    ensure!(
        all.len() <= MOST_DIFFERENCES,
        "conformance-differences.txt lists {} cases, at most {MOST_DIFFERENCES} are allowed",
        all.len()
    );
    Ok(all)
}

fn trial(space: &Arc<Space>, name: String) -> Trial {
    let space = Arc::clone(space);
    Trial::test(name.clone(), move || judge(&space, &name))
}

fn judge(space: &Space, name: &str) -> Result<(), Failed> {
    let (wrong, log) =
        check(space, name).unwrap_or_else(|error| (vec![format!("{error:#}")], String::new()));
    match (wrong.is_empty(), space.differences.get(name)) {
        (true, None) => Ok(()),
        (true, Some(_)) => Err(format!(
            "{name} matches its golden result: take it out of conformance-differences.txt"
        )
        .into()),
        (false, Some(reason)) => {
            eprintln!("{name} differs on purpose: {reason}");
            Ok(())
        }
        (false, None) => Err(format!("{}\n--- the build said ---\n{log}", wrong.join("\n")).into()),
    }
}

/// Builds one case; gives what differs from its golden result, and what the build printed.
fn check(space: &Space, name: &str) -> Result<(Vec<String>, String)> {
    let golden = fs::read_to_string(space.data.join("golden").join(format!("{name}.json")))?;
    let mut want: Value = serde_json::from_str(&golden)?;
    let line = want
        .as_object_mut()
        .and_then(|want| want.shift_remove("line"));
    let case = Case::read(&space.data.join("cases").join(format!("{name}.txt")))?;

    let (got, log) = build(space, &case)?;
    let got: Value = serde_json::from_str(
        &got.to_string()
            .replace(space.base.registry.host(), "REGISTRY"),
    )?;
    let mut wrong = Vec::new();
    compare(&want, &got, "", &mut wrong);
    if let Some(line) = line.filter(|_| wrong.is_empty())
        && !names_line(&log, &line.to_string())
    {
        wrong.push(format!("the messages do not name Dockerfile:{line}"));
    }
    Ok((wrong, log))
}

fn build(space: &Space, case: &Case) -> Result<(Value, String)> {
    let folder = tempfile::Builder::new().prefix("conformance-").tempdir()?;
    let root = folder.path().join("case");
    case.materialise(&root, space.base.registry.host())?;
    let out = folder.path().join("image.tar");
    let log_path = folder.path().join("log");
    let log_file = File::create(&log_path)?;
    let status = wait(
        Command::new(&space.builder)
            .arg("build")
            .args(
                case.args
                    .iter()
                    .map(|arg| arg.replace("REGISTRY", space.base.registry.host())),
            )
            .args(["-f", "Dockerfile", "--progress=plain", "--output"])
            .arg(format!("type=oci,dest={}", out.display()))
            .arg("context")
            .current_dir(&root)
            .env("LAPSTRAKE_ROOT", space.store.path())
            .stdin(Stdio::null())
            .stdout(log_file.try_clone()?)
            .stderr(log_file),
    )?;
    let log = String::from_utf8_lossy(&fs::read(&log_path)?).into_owned();
    if status.success() {
        let images = facts::read_image(&out, &space.base.paths)?;
        return Ok((json!({"ok": true, "images": images}), log));
    }
    match status.code() {
        Some(code) if code != 101 && !log.trim().is_empty() => Ok((json!({"ok": false}), log)),
        code => Ok((json!({"ok": false, "crashed": code}), log)),
    }
}

fn wait(command: &mut Command) -> Result<ExitStatus> {
    let mut child = command.spawn()?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > TIME_LIMIT {
            child.kill()?;
            child.wait()?;
            bail!("the build took longer than {} s", TIME_LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Adds a line for each leaf that differs; a missing member is the same as null.
fn compare(want: &Value, got: &Value, place: &str, wrong: &mut Vec<String>) {
    let (Value::Object(a), Value::Object(b)) = (want, got) else {
        if want != got {
            wrong.push(format!(
                "{}: want {want}, got {got}",
                if place.is_empty() { "/" } else { place }
            ));
        }
        return;
    };
    let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    for key in keys {
        let null = Value::Null;
        let place = format!("{place}/{}", key.trim_matches('/'));
        compare(
            a.get(key).unwrap_or(&null),
            b.get(key).unwrap_or(&null),
            &place,
            wrong,
        );
    }
}

/// Whether the log holds `Dockerfile:LINE`, not followed by another digit.
fn names_line(log: &str, line: &str) -> bool {
    let needle = format!("Dockerfile:{line}");
    log.match_indices(&needle).any(|(at, _)| {
        !log[at + needle.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}
