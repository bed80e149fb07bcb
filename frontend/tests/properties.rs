//! Whatever the text is: no panic, spans inside the text, time in proportion to its size.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use lapstrake_frontend::ast::{Dockerfile, Kind};
use lapstrake_frontend::chmod::{Changes, parse as parse_chmod};
use lapstrake_frontend::diag::{Color, Diagnostic};
use lapstrake_frontend::expand;
use lapstrake_frontend::ignore::Ignore;
use lapstrake_frontend::lint::{Scope, lint};
use lapstrake_frontend::span::{LineIndex, Span};
use lapstrake_frontend::{parse, parse_bytes, parse_mount, parse_trigger};
use proptest::prelude::*;

/// Pieces that make interesting Dockerfiles when strung together.
fn piece() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "FROM a\n",
        "FROM ",
        " AS b",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "LABEL ",
        "ONBUILD ",
        "CMD ",
        "SHELL ",
        "HEALTHCHECK ",
        "EXPOSE ",
        "USER ",
        "VOLUME ",
        "WORKDIR ",
        "STOPSIGNAL ",
        "MAINTAINER ",
        "ENTRYPOINT ",
        "run",
        "\n",
        "\r\n",
        "\\\n",
        "`\n",
        "\\",
        " ",
        "\t",
        "#",
        "# escape=`\n",
        "# check=skip=all\n",
        "# syntax=x\n",
        "<<EOF",
        "<<-'EOF'",
        "EOF",
        "\nEOF\n",
        "<<",
        "[\"a\", \"b\"]",
        "[",
        "]",
        "[1]",
        "\"",
        "'",
        "$",
        "${",
        "}",
        "${A:-",
        "${A/b/",
        "${A##*",
        "=",
        "a=b",
        "--",
        "--mount=",
        "--from=",
        "--chown=1",
        "--link",
        "type=bind,source=a",
        ",",
        "\u{feff}",
        "é",
        "\u{2003}",
        "\0",
        "{\"syntax\":\"x\"}",
        "//",
        "NONE",
        "CMD x",
    ]);
    prop_oneof![4 => words.prop_map(str::to_owned), 1 => "\\PC{0,6}", 1 => any::<String>()]
}

fn inside(source: &str, span: Span) {
    assert!(
        span.start <= span.end && span.end as usize <= source.len(),
        "{span:?} of {}",
        source.len()
    );
    assert!(
        source.is_char_boundary(span.start as usize),
        "{span:?} in {source:?}"
    );
    assert!(
        source.is_char_boundary(span.end as usize),
        "{span:?} in {source:?}"
    );
}

fn check_ok(source: &str, dockerfile: &Dockerfile) {
    assert!(
        dockerfile
            .instructions
            .iter()
            .any(|found| matches!(found.kind, Kind::From(_)))
    );
    let mut end = 0;
    for instruction in &dockerfile.instructions {
        inside(source, instruction.span);
        inside(source, instruction.keyword.span);
        assert!(
            instruction.span.start >= end,
            "instructions overlap in {source:?}"
        );
        end = instruction.span.end;
        // The debug form shows every span there is.
        for text in format!("{:?}", instruction.kind).split('@').skip(1) {
            let Some((start, rest)) = text.split_once("..") else {
                continue;
            };
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if let (Ok(start), Ok(end)) = (start.parse(), digits.parse()) {
                inside(source, Span::new(start, end));
            }
        }
    }
    let pieces = dockerfile.pieces(source);
    let text: String = pieces
        .iter()
        .map(|piece| piece.span.slice(source))
        .collect();
    assert_eq!(text, source, "the pieces are not the text");
    let _ = lint(dockerfile, Scope::All, Vec::new(), None);
}

fn check_err(source: &str, found: &[Diagnostic]) {
    assert!(!found.is_empty());
    let index = LineIndex::new(source);
    for found in found {
        inside(source, found.span);
        let line = index.line(found.span.start);
        let text = found.render("Dockerfile", source, Color::Plain);
        assert!(
            text.contains(&format!("Dockerfile:{line}:")),
            "line {line} is not in {text}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_text_is_parsed_or_refused(pieces in prop::collection::vec(piece(), 0..40)) {
        let source = pieces.concat();
        match parse(&source) {
            Ok(dockerfile) => check_ok(&source, &dockerfile),
            Err(found) => check_err(&source, &found),
        }
        let _ = parse_trigger(&source);
    }

    #[test]
    fn any_stage_is_parsed_or_refused(pieces in prop::collection::vec(piece(), 0..40)) {
        let source = format!("FROM a\nRUN {}", pieces.concat());
        match parse(&source) {
            Ok(dockerfile) => check_ok(&source, &dockerfile),
            Err(found) => check_err(&source, &found),
        }
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (source, result) = parse_bytes(&bytes);
        prop_assert_eq!(source.len(), bytes.len());
        if let Err(found) = result {
            check_err(&source, &found);
        }
    }

    #[test]
    fn any_word_expands_or_not(pieces in prop::collection::vec(piece(), 0..20)) {
        let text = pieces.concat();
        let lookup = |name: &str| (name.len() % 2 == 1).then(|| format!("{name} *?\\").into());
        for result in [expand::word(&text, '\\', &lookup), expand::word(&text, '`', &lookup), expand::body(&text, &lookup)] {
            if let Err(error) = result {
                prop_assert!(error.offset <= text.len());
            }
        }
        let _ = expand::words(&text, '\\', &lookup);
        let _ = expand::display(&text, '\\', &lookup);
    }

    #[test]
    fn text_without_special_characters_stays(text in "[a-zA-Z0-9 ./_:=,#*?-]{0,60}") {
        prop_assert_eq!(expand::word(&text, '\\', &|_| None).unwrap().text, text.as_str());
    }

    #[test]
    fn any_mount_is_read_or_refused(text in "(type|source|target|from|id|mode|size|env|ro|rw|required|sharing|uid|[=,\"$ a-z0-9]){0,30}") {
        let _ = parse_mount(&text, &mut |word| Ok(word.to_owned()));
    }

    #[test]
    fn any_ignore_list_is_read_or_refused(list in "([!*?a-c./#\\[\\]\\\\-]{0,8}\n){0,6}", path in "([a-c.]{1,3}/){0,3}[a-c]{1,2}") {
        if let Ok(ignore) = Ignore::parse(&list) {
            let taken = !ignore.matches(&path);
            let _ = ignore.may_match_below(&path);
            // A walk that does not enter a directory loses nothing.
            if let Some((parent, _)) = path.rsplit_once('/') {
                prop_assert!(!taken || !ignore.matches(parent) || ignore.may_descend(parent));
            }
        }
    }

    #[test]
    fn modes_keep_the_file_type(text in "[ugoa]{0,3}[-+=][rwxXstugo]{0,4}(,[ugoa]{0,3}[-+=][rwxXst]{0,4}){0,2}", mode: u32, is_dir: bool) {
        prop_assert!(parse_chmod(&text).is_ok());
        let after = Changes::parse(&text).unwrap().apply(mode, is_dir);
        prop_assert_eq!(after & !0o7777, mode & !0o7777);
    }
}

/// Far more than any of these takes, far less than quadratic time would.
const LIMIT: Duration = Duration::from_secs(20);

fn timed(name: &str, source: &str) {
    let start = Instant::now();
    let result = parse(source);
    if let Ok(dockerfile) = &result {
        lint(dockerfile, Scope::All, Vec::new(), None).unwrap();
    }
    let took = start.elapsed();
    assert!(took < LIMIT, "{name}: {} bytes took {took:?}", source.len());
}

#[test]
fn time_is_linear() {
    let many = |text: &str| text.repeat(((10 << 20) / text.len()).min(120_000));
    for (name, source) in [
        (
            "instructions",
            format!(
                "FROM a\n{}",
                many("RUN make -j8 all && make install && rm -rf /tmp/* && echo done\n")
            ),
        ),
        (
            "continuations",
            format!(
                "FROM a\nRUN x \\\n{}",
                many("  && apt-get install something \\\n")
            ),
        ),
        (
            "comments",
            format!("FROM a\n{}", many("# a comment that says very little\n")),
        ),
        (
            "comments inside",
            format!(
                "FROM a\nRUN x \\\n{}",
                many("# a comment that says very little\n")
            ),
        ),
        (
            "pairs",
            format!("FROM a\nENV {}", many("NAME=\"value with blanks\" \\\n")),
        ),
        ("words", format!("FROM a\nCOPY {}", many("some/path \\\n"))),
        (
            "json",
            format!("FROM a\nRUN [\"a\" {}]", many(", \"some text\" \\\n")),
        ),
        (
            "json nested",
            format!("FROM a\nRUN {}", many("[[[[[[[[[[[[[[[[[[[[[[[[[ \\\n")),
        ),
        (
            "heredoc body",
            format!(
                "FROM a\nRUN <<EOF\n{}EOF\n",
                "some line of a script\n".repeat(450_000)
            ),
        ),
        (
            "heredocs",
            format!("FROM a\n{}", many("RUN <<EOF\nx\nEOF\n")),
        ),
        (
            "openers",
            format!(
                "FROM a\nCOPY {}/x\n{}",
                "<<a ".repeat(16_000),
                "a\n".repeat(16_000)
            ),
        ),
        (
            "openers on lines",
            format!(
                "FROM a\nCOPY {}/x\n{}",
                "<<a \\\n".repeat(200_000),
                "a\n".repeat(200_000)
            ),
        ),
        (
            "unterminated",
            format!("FROM a\n{}", many("RUN <<A <<B <<C\n")),
        ),
        ("nothing known", many("SOMETHING else\n")),
        (
            "flags",
            format!(
                "FROM a\nRUN {} x",
                many("--mount=type=cache,target=/x \\\n")
            ),
        ),
        ("quotes", format!("FROM a\nENV A={}", many("'\"'\"' \\\n"))),
        ("stages", format!("FROM a\n{}", many("FROM a AS b\n"))),
        (
            "onbuild",
            format!("FROM a\nONBUILD {}", many("ONBUILD ONBUILD ONBUILD \\\n")),
        ),
        ("blank", many("\n")),
        ("one line", "x".repeat(10 << 20)),
    ] {
        timed(name, &source);
    }
}

#[test]
fn too_much_is_refused() {
    let found = parse(&" ".repeat((64 << 20) + 1)).unwrap_err();
    assert_eq!(found[0].code.name(), "file-too-large");
    let long = format!("FROM a\nRUN {}\n", "x".repeat(65_532));
    assert_eq!(parse(&long).unwrap_err()[0].code.name(), "line-too-long");
    assert!(parse(&format!("FROM a\nRUN {}\n", "x".repeat(65_531))).is_ok());
    assert_eq!(parse(&"FOO\n".repeat(5000)).unwrap_err().len(), 100);
}
