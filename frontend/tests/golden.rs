//! Golden directories: `testdata/parse/ok/NAME/{Dockerfile,ast.txt}` and `testdata/parse/err/NAME/{Dockerfile,error.txt}`.
//! With `UPDATE=1` in the environment the expected files are rewritten.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_macros
)]

use std::fs;
use std::path::{Path, PathBuf};

use lapstrake_frontend::diag::Color;
use lapstrake_frontend::parse_bytes;
use lapstrake_frontend::span::LineIndex;

fn folders(kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata/parse")
        .join(kind);
    let mut folders: Vec<PathBuf> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
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

/// One paragraph an instruction: lines, keyword, text, then what it was read as.
fn dump(bytes: &[u8]) -> Option<String> {
    let (source, result) = parse_bytes(bytes);
    let dockerfile = result.ok()?;
    let index = LineIndex::new(&source);
    let mut out = format!("{:?}\n", dockerfile.directives);
    for instruction in &dockerfile.instructions {
        let (first, last) = index.lines(instruction.span);
        out += &format!("\n{first}-{last} {:?}\n", instruction.text);
        for comment in &instruction.comments {
            out += &format!("# {comment:?}\n");
        }
        if let Some(span) = instruction.blank_line {
            out += &format!("blank line {}\n", index.line(span.start));
        }
        out += &format!("{:?}\n", instruction.kind);
    }
    Some(out)
}

#[test]
fn ok() {
    let bad = folders("ok").into_iter().filter(|folder| {
        let bytes = fs::read(folder.join("Dockerfile")).unwrap();
        let actual = dump(&bytes).unwrap_or_else(|| "does not parse\n".to_owned());
        differs(&folder.join("ast.txt"), &actual)
    });
    assert_eq!(bad.count(), 0, "run with UPDATE=1 and read the difference");
}

#[test]
fn err() {
    let bad = folders("err").into_iter().filter(|folder| {
        let bytes = fs::read(folder.join("Dockerfile")).unwrap();
        let (source, result) = parse_bytes(&bytes);
        let found = result.err().unwrap_or_default();
        let texts = found
            .iter()
            .map(|found| found.render("Dockerfile", &source, Color::Plain) + "\n");
        differs(
            &folder.join("error.txt"),
            &texts.collect::<Vec<_>>().join("\n"),
        )
    });
    assert_eq!(bad.count(), 0, "run with UPDATE=1 and read the difference");
}
