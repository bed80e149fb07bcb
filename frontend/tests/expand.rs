//! The table in `testdata/expand.txt`.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_macros
)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use lapstrake_frontend::expand::{body, display, word, words};

fn decode(field: &str) -> String {
    let field = field.trim();
    let field = field
        .strip_suffix("\\_")
        .map_or(field.to_owned(), |field| format!("{field} "));
    field.replace("<n>", "\n").replace("<>", "")
}

#[test]
fn table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/expand.txt");
    let mut variables = BTreeMap::new();
    let (mut bad, mut count) = (Vec::new(), 0);
    for (number, line) in std::fs::read_to_string(path).unwrap().lines().enumerate() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        if let Some((name, value)) = line
            .strip_prefix("set ")
            .and_then(|line| line.split_once('='))
        {
            let value = value
                .strip_suffix("\\_")
                .map_or(value.to_owned(), |value| format!("{value} "));
            variables.insert(name.to_owned(), value.replace("<n>", "\n"));
            continue;
        }
        let fields: Vec<&str> = line.split(" | ").collect();
        let [kind, input, expected] = fields[..] else {
            panic!("line {}: {line}", number + 1)
        };
        let (input, expected) = (decode(input), decode(expected));
        let lookup = |name: &str| variables.get(name).map(Cow::from);
        let actual = match kind {
            "word" => word(&input, '\\', &lookup).map(|found| found.text.into_owned()),
            "tick" => word(&input, '`', &lookup).map(|found| found.text.into_owned()),
            "words" => words(&input, '\\', &lookup).map(|found| found.words.join(",")),
            "body" => body(&input, &lookup).map(|found| found.text.into_owned()),
            "name" => Ok(display(&input, '\\', &lookup).into_owned()),
            _ => panic!("line {}: unknown kind {kind}", number + 1),
        };
        let actual = actual.unwrap_or_else(|error| format!("error: {error}"));
        let fits = if expected.starts_with("error") {
            actual.starts_with(&expected)
        } else {
            actual == expected
        };
        if !fits {
            bad.push(format!(
                "line {}: {input}\n  expected {expected:?}\n  found    {actual:?}",
                number + 1
            ));
        }
        count += 1;
    }
    assert!(count > 150, "{count} cases");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn unset_names_are_reported() {
    let lookup = |name: &str| ["A", "B"].contains(&name).then(|| "x".into());
    let found = word("$A ${B:-$C} ${D+$E} '$F' \\$G ${A/${H}/}", '\\', &lookup).unwrap();
    assert_eq!(
        found.unset.into_iter().collect::<Vec<_>>(),
        ["C", "D", "E", "H"]
    );
}

#[test]
fn growth_is_bounded() {
    let big = "x".repeat(600_000);
    let lookup = |_: &str| Some(Cow::from(&big));
    assert!(word("$A", '\\', &lookup).is_ok());
    for text in ["$A$A", "\"$A$A\"", "${A//x/xx}", "${A:+$A$A}"] {
        let error = word(text, '\\', &lookup).unwrap_err();
        assert_eq!(
            error.message, "the expanded value is larger than 1 MiB",
            "{text}"
        );
    }
    let many = "${A:+}".repeat(1000);
    assert_eq!(
        word(&many, '\\', &lookup).unwrap_err().message,
        "the expansion takes too many steps"
    );
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "${A:-".repeat(depth), "}".repeat(depth));
    assert!(word(&nested(200), '\\', &|_| None).is_ok());
    for depth in [201, 100_000] {
        let error = word(&nested(depth), '\\', &|_| None).unwrap_err();
        assert_eq!(error.message, "the expansion is nested too deep");
    }
}
