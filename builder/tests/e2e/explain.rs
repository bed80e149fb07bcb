//! What a build says of why it worked a step.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use super::support::TestSpace;

/// The lines of the explanation, without the number in front of each step.
fn explained(space: &TestSpace, arguments: &[&str]) -> Vec<String> {
    let ended = space.build(&[&["--explain"], arguments].concat());
    lines(&ended.stderr)
}

fn lines(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let (word, rest) = line.split_once(' ')?;
        let (_, rest) = rest.trim_start().split_once("] ")?;
        ["hit", "miss", "fail"]
            .contains(&word)
            .then(|| format!("{word} {rest}"))
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn files_that_changed_are_named() {
    let space = TestSpace::with("FROM busybox\nCOPY src /src\nRUN cat /src/a.py\n");
    space.write("src/a.py", "1");
    space.write("src/c.py", "1");
    space.write("src/d.py", "1");
    assert_eq!(
        explained(&space, &["."]),
        [
            "miss COPY src /src: it was not worked before",
            "miss RUN cat /src/a.py: it was not worked before"
        ]
    );
    assert_eq!(
        explained(&space, &["."]),
        ["hit COPY src /src", "hit RUN cat /src/a.py"]
    );
    space.write("src/a.py", "2");
    space.write("src/b.py", "1");
    std::fs::remove_file(space.path("src/d.py")).unwrap();
    std::fs::set_permissions(space.path("src/c.py"), PermissionsExt::from_mode(0o600)).unwrap();
    let told = explained(&space, &["."]);
    assert_eq!(
        told[0],
        "miss COPY src /src: 4 files changed: src/a.py (content), src/b.py (new), src/c.py (mode), src/d.py (removed)"
    );
    assert!(
        told[1]
            .starts_with("miss RUN cat /src/a.py: it stands on [2/3] COPY src /src, which changed"),
        "{told:?}"
    );
    let afterwards = space.run(&["explain"]).text();
    assert_eq!(lines(&afterwards), told);
    let one = space.run(&["explain", "2/3"]).text();
    assert!(one.contains("destination: /src"), "{one}");
    assert_eq!(lines(&one), told[..1]);
    assert_eq!(space.run(&["explain", "copy", "src"]).text(), one);
    assert_eq!(space.run(&["explain", "nothing"]).code, Some(1));
}

#[test]
fn a_build_between_that_changes_nothing_does_not_forget() {
    let space = TestSpace::with("FROM scratch\nCOPY a b /\n");
    space.write("a", "1");
    space.write("b", "1");
    space.build(&["."]);
    space.build(&["."]);
    space.write("b", "2");
    assert_eq!(
        explained(&space, &["."]),
        ["miss COPY a b /: 1 file changed: b (content)"]
    );
    // Back to what is cached, then on to something new.
    space.write("b", "1");
    assert_eq!(explained(&space, &["."]), ["hit COPY a b /"]);
    space.write("a", "3");
    assert_eq!(
        explained(&space, &["."]),
        ["miss COPY a b /: 1 file changed: a (content)"]
    );
}

#[test]
fn variables_commands_and_settings_are_named() {
    let dockerfile = |command: &str| {
        format!(
            "FROM busybox\nARG MODE=x\nWORKDIR /w\nRUN {command}\nRUN --mount=type=tmpfs,target=/t true\n"
        )
    };
    let space = TestSpace::with(&dockerfile("echo 1 > n"));
    space.build(&["."]);
    assert_eq!(
        explained(&space, &["--build-arg=MODE=y", "."])[1],
        "miss RUN echo 1 > n: env MODE changed"
    );
    space.write("Dockerfile", dockerfile("echo 2 > n"));
    let told = explained(&space, &["--build-arg=MODE=y", "."]);
    assert_eq!(told[1], "miss RUN echo 2 > n: the command changed");
    assert!(
        told[2].contains("RUN echo 2 > n, which changed"),
        "{told:?}"
    );
    // A line before: the others are known again, and what is new is not taken for one of them.
    let inserted =
        dockerfile("echo 2 > n").replace("WORKDIR /w\n", "WORKDIR /w\nRUN echo 3 > /m\n");
    space.write("Dockerfile", inserted);
    let told = explained(&space, &["--build-arg=MODE=y", "."]);
    assert_eq!(told[1], "miss RUN echo 3 > /m: it was not worked before");
    assert!(
        told[2].contains("RUN echo 3 > /m, which changed"),
        "{told:?}"
    );
    let told = explained(&space, &["--build-arg=MODE=y", "--network=none", "."]);
    assert!(
        told[2].starts_with("miss RUN echo 2 > n: network changed from default to none"),
        "{told:?}"
    );
}

#[test]
fn what_a_stage_yields_is_named() {
    let space = TestSpace::with(
        "FROM busybox AS build\nCOPY in /\nRUN mkdir /out && cat /in > /out/a && touch /out/b\nFROM scratch\nCOPY --from=build /out /\n",
    );
    space.write("in", "1");
    space.build(&["."]);
    space.write("in", "2");
    let told = explained(&space, &["."]);
    assert_eq!(
        told[2],
        "miss COPY --from=build /out /: 1 file changed: out/a (content)"
    );
}

#[test]
fn forced_and_failed_steps_say_so() {
    let space = TestSpace::with("FROM busybox\nRUN echo 1 > /n\nRUN test -e /n\n");
    space.build(&["."]);
    let told = explained(&space, &["--no-cache", "."]);
    assert_eq!(
        told[0],
        "miss RUN echo 1 > /n: the cache was not to be used; it made what it had made before"
    );
    space.write(
        "Dockerfile",
        "FROM busybox\nRUN echo 1 > /n\nRUN test -e /m\n",
    );
    let failed = space.fails(&["--explain", "."]);
    assert!(
        failed.contains("RUN test -e /m: the command changed"),
        "{failed}"
    );
    let printed = space.run(&["explain", "--format=json"]).text();
    let steps: Vec<serde_json::Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(steps[1]["outcome"], "hit");
}

#[test]
fn files_that_mounts_read_are_named() {
    let space = TestSpace::with(
        "FROM busybox AS build\nCOPY in /in\nRUN mkdir /out && cat /in > /out/a && touch /out/b\n\
         FROM busybox\n\
         RUN --mount=type=bind,source=src,target=/s --mount=type=bind,from=build,source=/out,target=/o cat /s/* /o/a > /r\n\
         RUN --mount=type=bind,target=/all --mount=type=bind,from=build,target=/whole ls -R /all /whole/in > /r; cat /all/src/* /whole/in > /r\n",
    );
    let told = |space: &TestSpace| {
        let mut told = explained(space, &["."]);
        told.retain(|line| line.contains("RUN --mount"));
        told.into_iter()
            .map(|line| line.split_once(": ").map(|(_, why)| why.to_owned()))
            .collect::<Vec<_>>()
    };
    space.write("src/a.c", "1");
    space.write("in", "1");
    told(&space);
    assert_eq!(told(&space), [None, None]);
    space.write("src/a.c", "2");
    let [first, second] = told(&space).try_into().unwrap();
    assert_eq!(
        first.unwrap(),
        "bind mount /s: 1 file changed: src/a.c (content)"
    );
    assert!(
        second
            .unwrap()
            .contains("bind mount /all: 1 file changed: src/a.c (content)")
    );
    space.write("in", "2");
    space.write("src/b.c", "");
    let [first, second] = told(&space).try_into().unwrap();
    assert_eq!(
        first.unwrap(),
        "bind mount /s: 1 file changed: src/b.c (new); bind mount /o: 1 file changed: out/a (content)"
    );
    let second = second.unwrap();
    assert!(second.contains("bind mount /all: 2 files changed: in (content), src/b.c (new)"));
    assert!(second.contains("bind mount /whole: what it reads changed"));
}

#[test]
fn builds_of_a_target_are_compared_with_each_other() {
    let dockerfile = |more: &str| {
        format!("FROM busybox AS one\nARG MODE=x\n{more}RUN true\nFROM one AS two\nRUN true 2\n")
    };
    let space = TestSpace::with(&dockerfile(""));
    let one = ["--target=one", "."];
    let two = ["--target=two", "--build-arg=MODE=y", "."];
    space.build(&one);
    space.build(&two);
    space.write("Dockerfile", dockerfile("USER 1\n"));
    for arguments in [&one[..], &two[..]] {
        let told = explained(&space, arguments).swap_remove(0);
        assert!(
            told.starts_with("miss RUN true: user ") && !told.contains("env"),
            "{told}"
        );
    }
}

#[test]
fn builds_for_a_platform_are_compared_with_each_other() {
    let space = TestSpace::with("FROM two\nCOPY src /src\n");
    let why = |platform: &str| explained(&space, &["--platform", platform, "."]).swap_remove(0);
    space.write("src/a", "");
    why("linux/amd64");
    space.write("src/b", "");
    why("linux/arm64");
    space.write("src/c", "");
    assert_eq!(
        why("linux/amd64"),
        "miss COPY src /src: 2 files changed: src/b (new), src/c (new)"
    );
    space.write("src/d", "");
    // In a build for both each is compared with its own.
    assert_eq!(
        explained(&space, &["--platform=linux/amd64,linux/arm64", "."]),
        [
            "miss COPY src /src: 1 file changed: src/d (new)",
            "miss COPY src /src: 2 files changed: src/c (new), src/d (new)"
        ]
    );
}
