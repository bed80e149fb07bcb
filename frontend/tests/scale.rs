//! Large and hostile Dockerfiles: parsed, checked, lowered and linted in time and memory in proportion to their size.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use lapstrake_frontend::ast::Dockerfile;
use lapstrake_frontend::glob::Glob;
use lapstrake_frontend::ignore::Ignore;
use lapstrake_frontend::image::Platform;
use lapstrake_frontend::lint::{Scope, lint};
use lapstrake_frontend::plan::{Answer, Inputs, Lowered, Plan};
use lapstrake_frontend::{check, lower, outline, parse};

/// Far more than any of these takes, far less than quadratic time would.
const LIMIT: Duration = Duration::from_secs(60);

fn inputs() -> Inputs {
    let platform = Platform::new("linux", "amd64", None);
    Inputs {
        build_platform: platform.clone(),
        target_platform: platform,
        ..Inputs::default()
    }
}

/// What the checks of a text do.
fn check_all(dockerfile: &Dockerfile, inputs: &Inputs) {
    assert!(matches!(check(dockerfile, inputs), Answer::Ready(_)));
    let _ = outline(dockerfile, inputs);
}

/// All that a build and its checks do with a text. The plan, or what is wrong first.
fn run(name: &str, source: &str) -> Result<Box<Plan>, String> {
    run_with(name, source, check_all)
}

/// [`run`] with something else for the checks.
fn run_with(
    name: &str,
    source: &str,
    checks: fn(&Dockerfile, &Inputs),
) -> Result<Box<Plan>, String> {
    let start = Instant::now();
    let result = match parse(source) {
        Err(errors) => Err(errors[0].code.name().to_owned()),
        Ok(dockerfile) => {
            let mut inputs = inputs();
            loop {
                match lower(&dockerfile, &inputs) {
                    Ok(Lowered::Ready(plan)) => {
                        checks(&dockerfile, &inputs);
                        let warnings = plan.warnings.clone();
                        lint(&dockerfile, Scope::All, warnings, None).unwrap();
                        break Ok(plan);
                    }
                    Ok(Lowered::Need(wanted)) => {
                        for wanted in wanted {
                            let key = (wanted.reference, wanted.platform);
                            inputs.images.insert(key, br#"{"os":"linux"}"#.to_vec());
                        }
                    }
                    Err(errors) => break Err(errors[0].code.name().to_owned()),
                }
            }
        }
    };
    let took = start.elapsed();
    assert!(took < LIMIT, "{name}: {} bytes took {took:?}", source.len());
    result
}

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

#[test]
fn many_instructions() {
    let run_all = |name: &str, line: &dyn Fn(usize) -> String| {
        run(name, &format!("FROM a\n{}", lines(20_000, line)))
    };
    let runs = lines(100_000, |i| format!("RUN make part-{i}\n"));
    let plan = run("runs", &format!("FROM a\n{runs}")).unwrap();
    assert_eq!(plan.nodes.len(), 100_001);
    run_all("variables", &|i| format!("ENV A{i}=$A{}\n", i / 2)).unwrap();
    run_all("unknown variables", &|i| {
        format!("LABEL a=$LONG_NAME_{i}\n")
    })
    .unwrap();
    run_all("labels", &|i| format!("LABEL a{i}=b\n")).unwrap();
    run_all("downloads", &|i| format!("ADD https://h/{i} /x\n")).unwrap();
    run_all("images", &|i| format!("COPY --from=image-{i} / /\n")).unwrap();
    let bad = run_all("bad sources", &|i| format!("COPY --from=!!{i} / /\n"));
    assert_eq!(bad.unwrap_err(), "image-reference");
}

#[test]
fn thousands_of_stages() {
    let chain = lines(1000, |i| match i {
        0 => "FROM a AS s0\n".to_owned(),
        _ => format!(
            "FROM s{} AS s{i}\nENV A{i}=$A{}\nLABEL l{i}=x\nRUN x\n",
            i - 1,
            i / 2
        ),
    });
    // Each step carries all variables so far.
    assert_eq!(run("chain", &chain).unwrap().nodes.len(), 1000);
    for count in [1000, 5000] {
        let plan = |name: &str, stage: &dyn Fn(usize) -> String| {
            run(name, &lines(count, stage)).map(|plan| plan.nodes.len())
        };
        let chain = plan("plain chain", &|i| match i {
            0 => "FROM a AS s0\n".to_owned(),
            _ => format!(
                "FROM s{} AS s{i}\nLABEL l{i}=x\nENV B=${{B}}x\nRUN x\n",
                i - 1
            ),
        });
        assert_eq!(chain.unwrap(), count);
        let bases = plan("own bases", &|i| {
            format!(
                "FROM image-{i} AS s{i}\nCOPY --from={} / /\n",
                i.saturating_sub(1)
            )
        });
        assert!(matches!(bases.unwrap_err().as_str(), "cycle"));
        let diamond = plan("diamond", &|i| match i {
            0 => "FROM a AS s0\n".to_owned(),
            _ => format!(
                "FROM s0 AS s{i}\nCOPY --from=s{} / /\nCOPY --from=s{} / /\n",
                i - 1,
                i / 2
            ),
        });
        assert_eq!(diamond.unwrap(), 2 * count - 1);
        let ahead = plan("ahead", &|i| {
            format!("FROM a AS s{i}\nCOPY --from=s{} / /\n", (i + 1) % count)
        });
        assert_eq!(ahead.unwrap_err(), "cycle");
        let names = plan("undeclared", &|i| {
            format!("FROM a${{LONG_NAME_{i}}} AS s{i}\n")
        });
        assert_eq!(names.unwrap(), 1);
    }
}

#[test]
fn plans_do_not_explode() {
    let large = "x".repeat(60_000);
    let refused = [
        (
            "one large variable",
            format!(
                "FROM a\nENV A={large}\n{}",
                lines(10_000, |_| "RUN x\n".to_owned())
            ),
        ),
        (
            "copies of a variable",
            format!(
                "FROM a\nENV A={large}\n{}",
                lines(10_000, |i| format!("LABEL a{i}=$A\n"))
            ),
        ),
        (
            "variables and steps",
            format!(
                "FROM a\n{}",
                lines(50_000, |i| format!("ENV A{i}=x\nRUN x\n"))
            ),
        ),
        (
            "arguments and steps",
            format!(
                "FROM a\n{}",
                lines(50_000, |i| format!("ARG A{i}=x\nRUN x\n"))
            ),
        ),
        (
            "relative directories",
            format!("FROM a\n{}", lines(100_000, |_| "WORKDIR a\n".to_owned())),
        ),
        (
            "stages on one",
            format!(
                "FROM a AS s\nENV {} B=x\n{}",
                lines(20_000, |i| format!("A{i}=x \\\n")),
                lines(5000, |i| format!(
                    "FROM s AS s{i}\nCOPY --from=s{} / /\n",
                    if i == 0 {
                        String::new()
                    } else {
                        (i - 1).to_string()
                    }
                ))
            ),
        ),
        (
            "shells",
            format!(
                "FROM a\nSHELL [\"{large}\"]\n{}",
                lines(10_000, |_| "CMD x\n".to_owned())
            ),
        ),
    ];
    for (name, source) in refused {
        assert_eq!(
            run_with(name, &source, |_, _| ()).unwrap_err(),
            "plan-too-large",
            "{name}"
        );
    }
    let doubling = lines(64, |i| format!("ARG A{}=$A{i}$A{i}\n", i + 1));
    let bomb = format!("FROM a\nARG A0=x\n{doubling}");
    assert_eq!(run("doubling", &bomb).unwrap_err(), "expansion");
    assert_eq!(
        run("doubling before", &format!("ARG A0=x\n{doubling}FROM a\n")).unwrap_err(),
        "expansion"
    );
    let ports = format!("FROM a\nEXPOSE {}\n", "1-65535 \\\n".repeat(5000));
    assert_eq!(run("ports", &ports).unwrap_err(), "port");
}

#[test]
fn one_large_instruction() {
    let all = |line: &dyn Fn(usize) -> String| lines(100_000, line);
    for (name, source) in [
        (
            "mounts",
            format!(
                "FROM a\nRUN {} x\n",
                all(&|i| format!("--mount=type=tmpfs,target=/a{i} \\\n"))
            ),
        ),
        (
            "secrets",
            format!(
                "FROM a\nRUN {} x\n",
                all(&|i| format!("--mount=type=secret,id=a{i},env=A{i} \\\n"))
            ),
        ),
        (
            "pairs",
            format!(
                "FROM a\nENV {}\n",
                all(&|i| format!("A{i}=\"$B{i} x\" \\\n"))
            ),
        ),
        (
            "heredoc",
            format!(
                "FROM a\nCOPY <<EOF /x\n{}EOF\n",
                all(&|i| format!("$A{i} text\n"))
            ),
        ),
        (
            "excludes",
            format!(
                "FROM a\nCOPY {} / /\n",
                all(&|i| format!("--exclude=**/*a*{i} \\\n"))
            ),
        ),
        (
            "volumes",
            format!("FROM a\nVOLUME {}\n", all(&|i| format!("/a{i} \\\n"))),
        ),
    ] {
        run(name, &source).unwrap_or_else(|code| panic!("{name}: {code}"));
    }
}

#[test]
fn hostile_expansions() {
    let a = "a".repeat(30_000);
    let stars = "*a".repeat(1500);
    let deep = format!("{}{}", "${A:-".repeat(10_000), "}".repeat(10_000));
    for (name, line) in [
        ("substitution", "LABEL x=${V//a/b}".to_owned()),
        ("substitution of nothing", format!("LABEL x=${{V//{a}b/c}}")),
        ("prefix", format!("LABEL x=${{V##{stars}b}}")),
        ("suffix", format!("LABEL x=${{V%%b{stars}}}")),
        ("deep", format!("LABEL x={deep}")),
        ("deep heredoc", format!("COPY <<EOF /x\n{deep}\nEOF")),
    ] {
        let _ = run(name, &format!("FROM a\nENV V={a}\n{line}\n"));
    }
}

#[test]
fn heredocs_without_number_or_end() {
    let one_each = lines(3000, |i| format!("COPY <<E{i} /{i}\n$A text\nE{i}\n"));
    let plan = run("one each", &format!("FROM a\n{one_each}")).unwrap();
    assert_eq!(plan.nodes.len(), 3001);
    let openers = lines(3000, |i| format!("<<E{i} "));
    let bodies = lines(3000, |i| format!("text\nE{i}\n"));
    let source = format!("FROM a\nRUN {openers}\n{bodies}COPY {openers} /\n{bodies}");
    assert_eq!(run("all in one", &source).unwrap().nodes.len(), 3);
    let open = format!("FROM a\nRUN <<EOF\n{}", "text\n".repeat(1 << 20));
    assert_eq!(run("open", &open).unwrap_err(), "heredoc");
    let long = format!("FROM a\nRUN {}\n", "x".repeat(20 << 20));
    assert_eq!(run("line", &long).unwrap_err(), "line-too-long");
}

#[test]
fn stages_that_take_from_themselves() {
    for line in [
        "COPY --from=s /a /b",
        "COPY --from=S /a /b",
        "COPY --from=0 /a /b",
        "RUN --mount=from=s,target=/m x",
    ] {
        let found = run(line, &format!("FROM a AS s\n{line}\n"));
        assert_eq!(found.unwrap_err(), "cycle", "{line}");
    }
}

/// The patterns are such that each star may stand for almost anything; names are made of what they match, but for the end.
#[test]
fn patterns_that_match_everywhere() {
    let names: Vec<String> = (0..3000)
        .map(|i| format!("dir{}/{}{i}", i % 30, "a".repeat(60)))
        .collect();
    for (part, count) in [("*a", 200), ("*[a-c]", 40), ("*?", 40)] {
        let list = lines(count, |i| format!("**/{}{i}b\n", part.repeat(30)));
        let start = Instant::now();
        let ignore = Ignore::parse(&list).unwrap();
        assert!(!names.iter().any(|name| ignore.matches(name)));
        assert!(start.elapsed() < LIMIT, "{part}: {:?}", start.elapsed());
    }

    let glob = Glob::new(&format!("dir*/{}[^0-9]", "*a".repeat(30))).unwrap();
    let many = names.iter().cycle().take(10_000);
    let start = Instant::now();
    assert_eq!(many.filter(|name| glob.is_match(name)).count(), 0);
    assert!(start.elapsed() < LIMIT, "copy: {:?}", start.elapsed());
}
