//! Whatever the Dockerfile is: lowering ends, does not panic, and gives a plan that holds together.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lapstrake_frontend::ignore::Ignore;
use lapstrake_frontend::image::{ImageRef, Platform};
use lapstrake_frontend::plan::{
    Answer, CopySource, Inputs, Lowered, Mount, NamedContext, Op, OpId, Plan,
};
use lapstrake_frontend::span::LineIndex;
use lapstrake_frontend::{check, lower, outline, parse};
use proptest::prelude::*;

/// Words that mean something in some instruction.
fn word() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "0",
        "1",
        "scratch",
        "/",
        "..",
        "/a/./b",
        "*.c",
        "[",
        "$A",
        "${B:-x}",
        "${C?no}",
        "\"$A $B\"",
        "https://h/f.tar",
        "https://h/r.git#x:y",
        "git@h:r.git?ref=z",
        "A=1",
        "B=$A",
        "A",
        "80",
        "80-90/udp",
        "SIGINT",
        "<<EOF",
        "--from=a",
        "--from=1",
        "--from=c",
        "--parents",
        "--link",
        "--chmod=644",
        "--chown=$A",
        "--exclude=*",
        "--mount=from=b,target=/m",
        "--mount=type=cache,target=$A",
        "--mount=type=secret,id=s,env=S",
        "--mount=type=ssh",
        "--network=host",
        "--checksum=sha256:00",
        "[\"x\",\"y\"]",
    ]);
    prop_oneof![5 => words.prop_map(str::to_owned), 1 => "[a-c/.$*]{0,4}"]
}

fn line() -> impl Strategy<Value = String> {
    let keywords = prop::sample::select(vec![
        "FROM",
        "FROM",
        "RUN",
        "COPY",
        "COPY",
        "ADD",
        "ENV",
        "ARG",
        "LABEL",
        "WORKDIR",
        "USER",
        "EXPOSE",
        "VOLUME",
        "STOPSIGNAL",
        "CMD",
        "ENTRYPOINT",
        "SHELL",
        "ONBUILD COPY",
        "ONBUILD RUN",
        "ONBUILD ENV",
        "MAINTAINER",
    ]);
    (
        keywords,
        prop::collection::vec(word(), 1..4),
        prop::sample::select(vec!["", " AS a", " AS b", " /d/"]),
    )
        .prop_map(|(keyword, words, end)| {
            let words = if keyword == "FROM" {
                words[0].clone()
            } else {
                words.join(" ")
            };
            let body = if words.contains("<<EOF") {
                "\nx $A\nEOF"
            } else {
                ""
            };
            format!("{keyword} {words}{end}{body}\n")
        })
}

/// A file of those lines with which it stays good.
fn dockerfile(lines: &[String], good: impl Fn(&str) -> bool) -> String {
    let mut source = "ARG A=a\nFROM a AS a\n".to_owned();
    for line in lines {
        let longer = format!("{source}{line}");
        if good(&longer) {
            source = longer;
        }
    }
    source
}

fn config(triggers: &[String]) -> Vec<u8> {
    let triggers: Vec<&str> = triggers.iter().map(|line| line.trim_end()).collect();
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64", "config": {"OnBuild": triggers, "WorkingDir": "w"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:aa"]},
    });
    serde_json::to_vec(&config).unwrap()
}

fn inputs() -> Inputs {
    let platform = Platform::new("linux", "amd64", None);
    Inputs {
        build_platform: platform.clone(),
        target_platform: platform,
        contexts: [("b".to_owned(), NamedContext::Local)].into(),
        ignore: Ignore::parse("*.c\na\n").unwrap(),
        ..Inputs::default()
    }
}

fn operands(op: &Op) -> Vec<OpId> {
    match op {
        Op::Scratch | Op::Image(_) | Op::Context(_) | Op::Http(_) | Op::Git(_) => Vec::new(),
        Op::MakeDir(dir) => vec![dir.base],
        Op::Run(run) => {
            let mounts = run.mounts.iter().filter_map(|mount| match mount {
                Mount::Bind { from, .. } => Some(*from),
                Mount::Cache { from, .. } => *from,
                _ => None,
            });
            mounts.chain([run.base]).collect()
        }
        Op::Copy(copy) => {
            let sources = copy.sources.iter().filter_map(|source| match source {
                CopySource::Path { from, .. } => Some(*from),
                CopySource::Inline { .. } => None,
            });
            sources.chain([copy.base]).collect()
        }
    }
}

fn holds_together(plan: &Plan, source: &str) {
    let mut needed = BTreeSet::from([plan.result]);
    for (index, node) in plan.nodes.iter().enumerate().rev() {
        let id = OpId(u32::try_from(index).unwrap());
        assert!(needed.contains(&id), "{id} is not needed in\n{plan}");
        for operand in operands(&node.op) {
            assert!(
                operand < id,
                "{operand} comes after its user {id} in\n{plan}"
            );
            needed.insert(operand);
        }
        if let Some(span) = node.span {
            assert!(source.get(span.start as usize..span.end as usize).is_some());
        }
    }
    let mut layers = BTreeSet::new();
    let mut at = plan.result;
    loop {
        layers.insert(at);
        at = match &plan.nodes[at.0 as usize].op {
            Op::Run(run) => run.base,
            Op::Copy(copy) => copy.base,
            Op::MakeDir(dir) => dir.base,
            _ => break,
        };
    }
    let recorded: BTreeSet<_> = plan
        .history
        .iter()
        .filter_map(|entry| entry.layer)
        .collect();
    layers.remove(&at);
    assert_eq!(recorded, layers, "history and layers differ in\n{plan}");
}

fn plan(source: &str, triggers: &[String]) -> Option<Plan> {
    let dockerfile = parse(source).unwrap();
    let mut inputs = inputs();
    loop {
        match lower(&dockerfile, &inputs) {
            Err(errors) => {
                assert!(!errors.is_empty());
                return None;
            }
            Ok(Lowered::Ready(plan)) => return Some(*plan),
            Ok(Lowered::Need(wanted)) => {
                for wanted in wanted {
                    let old = inputs
                        .images
                        .insert((wanted.reference, wanted.platform), config(triggers));
                    assert!(old.is_none(), "an image is asked for twice");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn plans_hold_together(lines in prop::collection::vec(line(), 0..25), triggers in prop::collection::vec(line(), 0..3)) {
        let source = dockerfile(&lines, |source| parse(source).is_ok() && plan(source, &triggers).is_some());
        if let Some(plan) = plan(&source, &triggers) {
            holds_together(&plan, &source);
        }
        let source = dockerfile(&lines, |source| parse(source).is_ok());
        let _ = plan(&source, &triggers);
        let dockerfile = parse(&source).unwrap();
        let _ = outline(&dockerfile, &inputs());
        if let Answer::Ready(checked) = check(&dockerfile, &inputs()) {
            for warning in checked.warnings {
                prop_assert!(source.get(warning.span.start as usize..warning.span.end as usize).is_some());
            }
        }
    }

    #[test]
    fn any_text_is_a_reference_or_not(text in "[a-zA-Z0-9:/@._\\[\\]-]{0,40}|\\PC{0,20}") {
        if let Ok(reference) = text.parse::<ImageRef>() {
            prop_assert_eq!(&reference.to_string().parse::<ImageRef>().unwrap(), &reference);
            prop_assert_eq!(reference.canonical().parse::<ImageRef>().unwrap(), reference);
        }
        let local = Platform::new("linux", "amd64", None);
        if let Ok(platform) = Platform::parse(&text, &local) {
            prop_assert_eq!(platform.normalized().normalized(), platform.normalized());
            prop_assert!(platform.matches(&platform));
        }
    }

    #[test]
    fn any_pattern_matches_or_not(patterns in prop::collection::vec("(!|\\*|\\*\\*|/|a|b|\\[a-b\\]|\\?|\\\\|\\.){0,8}", 0..4), path in "[ab./]{0,12}") {
        if let Ok(ignore) = Ignore::from_patterns(&patterns) {
            let inside = format!("{path}/a/b");
            // What a walk does not enter holds nothing that is wanted.
            if !path.is_empty() && !ignore.may_descend(&path) {
                prop_assert!(ignore.matches(&path) && ignore.matches(&inside), "{patterns:?} {path}");
            }
        }
    }
}

#[test]
fn many_instructions_take_time_in_proportion() {
    let lines = |n: usize| {
        let runs = (0..n).map(|i| format!("ADD https://h/{} /x\nCOPY a{i} /\nRUN x\n", i % 50));
        format!("FROM a AS a\n{}", runs.collect::<String>())
    };
    let chain: String = (1..1000)
        .map(|i| format!("FROM s{} AS s{i}\nCOPY --from=s0 / /\n", i - 1))
        .collect();
    for source in [lines(5000), format!("FROM a AS s0\n{chain}")] {
        let start = Instant::now();
        assert!(plan(&source, &[]).is_some());
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            start.elapsed()
        );
    }
}

#[test]
fn a_large_tree_is_matched_at_once() {
    let text = "**/node_modules\n**/*.log\n.git\ndist/**\n!dist/keep\n**/*a*b*c*d*e*f*\n*.md\n!README.md\n";
    let ignore = Ignore::parse(text).unwrap();
    let start = Instant::now();
    let out = (0..50_000)
        .filter(|i| ignore.matches(format!("src/module{}/deep/er/file-{i}.rs", i % 97)))
        .count();
    assert_eq!(out, 0);
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn what_needs_permission_names_its_line() {
    let source =
        "FROM a\nRUN x\nRUN --network=host --security=insecure x\nRUN --device=v.com/c=n x\n";
    let plan = plan(source, &[]).unwrap();
    let index = LineIndex::new(source);
    let asked = plan.entitlements().into_iter();
    let asked: Vec<_> = asked
        .map(|(what, span)| format!("{what} {}", index.line(span.unwrap().start)))
        .collect();
    assert_eq!(
        asked,
        [
            "network.host 3",
            "security.insecure 3",
            "device=v.com/c=n 4"
        ]
    );
}
