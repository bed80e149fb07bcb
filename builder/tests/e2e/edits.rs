//! Sequences of edits, each with exactly the steps that must be worked after it.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;

use lapstrake_cache::Digest;

use super::registry::{Reply, Request};
use super::support::{
    MANIFEST, TestSpace, archive, base_images, manifest, moved_base, shell, worked,
};

/// What it is, what it does, and the steps that must be worked then.
pub(super) type Edit<'a> = (&'a str, &'a dyn Fn(), &'a [&'a str]);

/// Builds after each edit, which says what must be worked.
pub(super) fn after_each(space: &TestSpace, arguments: &[&str], edits: &[Edit<'_>]) {
    space.build(arguments);
    for (what, edit, expected) in edits {
        edit();
        let mut steps = worked(&space.build(arguments));
        steps.sort();
        steps.dedup();
        let mut expected: Vec<&str> = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(steps, expected, "after: {what}");
        assert_eq!(
            worked(&space.build(arguments)),
            [""; 0],
            "again after: {what}"
        );
    }
}

#[test]
fn edits_of_files() {
    let dockerfile =
        "FROM busybox\nCOPY src /src\nRUN ls /src > /names\nRUN cat /names\nCOPY top /\n";
    let space = TestSpace::with(dockerfile);
    for name in ["src/a", "src/d/b", "src/c", "top", "elsewhere"] {
        space.write(name, name);
    }
    let mode = |name: &str, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(space.path(name), permissions).unwrap();
    };
    let sh = |script: &str| drop(shell(&space.path("."), script));
    // A command stands on everything below it, whatever it reads of that.
    let all: &[&str] = &[
        "COPY src /src",
        "RUN ls /src > /names",
        "RUN cat /names",
        "COPY top /",
    ];
    after_each(
        &space,
        &["."],
        &[
            (
                "times",
                &|| sh("touch -d '2001-01-01' src/a src/d src top"),
                &[],
            ),
            ("owners", &|| sh("chown -R 1234:1234 src"), &[]),
            ("an edit elsewhere", &|| space.write("elsewhere", "x"), &[]),
            ("a new file elsewhere", &|| space.write("new", "x"), &[]),
            ("content", &|| space.write("src/a", "changed"), all),
            (
                "content of equal size and time",
                &|| sh("touch -r src/a t; printf changeD > src/a; touch -r t src/a; rm t"),
                all,
            ),
            ("back", &|| space.write("src/a", "changed"), &[]),
            ("a mode", &|| mode("src/a", 0o755), all),
            ("a mode of a folder", &|| mode("src/d", 0o700), all),
            ("a rename", &|| sh("mv src/c src/e"), all),
            ("a rename below", &|| sh("mv src/d/b src/d/x"), all),
            (
                "a file becomes a link",
                &|| sh("rm src/e; ln -s a src/e"),
                all,
            ),
            ("the link leads elsewhere", &|| sh("ln -sfn d src/e"), all),
            ("an empty folder", &|| sh("mkdir src/f"), all),
            ("a file removed", &|| sh("rm -r src/f"), &[]),
            (
                "the last copy",
                &|| space.write("top", "x"),
                &["COPY top /"],
            ),
        ],
    );
}

#[test]
fn a_context_elsewhere_is_the_same() {
    let space = TestSpace::with("FROM busybox\nCOPY . /src\nRUN cat /src/a > /b\n");
    space.write("a", "1");
    space.write("d/e", "2");
    space.build(&["."]);
    shell(&space.path(".."), "cp -r context other; chown -R 7:7 other");
    assert_eq!(worked(&space.build(&["../other"])), [""; 0]);
}

#[test]
fn edits_of_ignore_lists() {
    let space = TestSpace::with("FROM scratch\nCOPY src /src\nCOPY all /all\n");
    for name in ["src/a", "src/b.o", "all/c", "notes"] {
        space.write(name, name);
    }
    let ignore = |text: &str| space.write(".dockerignore", text);
    after_each(
        &space,
        &["."],
        &[
            ("nothing is left out", &|| ignore("# comment\n"), &[]),
            ("what is not copied", &|| ignore("notes\n*.md\n"), &[]),
            (
                "what is copied",
                &|| ignore("src/*.o\n"),
                &["COPY src /src", "COPY all /all"],
            ),
            ("the same by another pattern", &|| ignore("**/*.o\n"), &[]),
            ("an exception", &|| ignore("**/*.o\n!src/b.o\n"), &[]),
            (
                "a file that is left out changes",
                &|| {
                    ignore("**/*.o\n");
                    space.write("src/b.o", "x");
                },
                &[],
            ),
        ],
    );
}

#[test]
fn edits_of_the_dockerfile() {
    let space = TestSpace::with("");
    let write = |text: &str| space.write("Dockerfile", text);
    let start = "FROM busybox\nARG A=1\nCOPY f /\nRUN echo one > /one\nENV E=1\nRUN echo two > /two\nWORKDIR /w\nRUN echo three > three\n";
    write(start);
    space.write("f", "f");
    after_each(
        &space,
        &["."],
        &[
            (
                "comments and blanks",
                &|| write(&format!("# comment\n\n{start}")),
                &[],
            ),
            (
                "labels, ports and commands",
                &|| write(&format!("{start}LABEL a=b\nEXPOSE 80\nCMD [\"x\"]\n")),
                &[],
            ),
            (
                "a label between",
                &|| write(&start.replace("ENV E=1", "LABEL a=b\nENV E=1")),
                &[],
            ),
            (
                "a variable",
                &|| write(&start.replace("E=1", "E=2")),
                &["RUN echo two > /two", "RUN echo three > three"],
            ),
            (
                "the same variable by another form",
                &|| write(&start.replace("ENV E=1", "ENV E 1")),
                &[],
            ),
            (
                "an argument's default",
                &|| write(&start.replace("A=1", "A=2")),
                &[
                    "RUN echo one > /one",
                    "RUN echo two > /two",
                    "RUN echo three > three",
                ],
            ),
            (
                "an argument later",
                &|| write(&start.replace("ENV E=1", "ARG B=1\nENV E=1")),
                &["RUN echo two > /two", "RUN echo three > three"],
            ),
            (
                "a command in the middle that does the same",
                &|| write(&start.replace("echo two > /two", "echo two  > /two")),
                &["RUN echo two  > /two"],
            ),
            (
                "a folder",
                &|| write(&start.replace("/w", "/v")),
                &["WORKDIR /v", "RUN echo three > three"],
            ),
            (
                "another name for the stage",
                &|| write(&start.replace("FROM busybox", "FROM busybox AS x")),
                &[],
            ),
            (
                "a stage before that nobody needs",
                &|| write(&format!("FROM busybox AS y\nRUN exit 1\n{start}")),
                &[],
            ),
        ],
    );
}

#[test]
fn arguments_count_from_their_line_on() {
    let space = TestSpace::with(
        "ARG G=1\nFROM busybox\nRUN echo 0 > /0\nARG A\nRUN echo a > /a\nARG B\nCOPY f /\nRUN echo b > /b\n",
    );
    space.write("f", "f");
    space.build(&["."]);
    let changed = |arguments: &[&str]| worked(&space.build(&[arguments, &["."]].concat()));
    assert_eq!(changed(&["--build-arg=G=2"]), [""; 0]);
    assert_eq!(changed(&["--build-arg=B=2"]), ["RUN echo b > /b"]);
    assert_eq!(
        changed(&["--build-arg=A=2"]),
        ["RUN echo a > /a", "RUN echo b > /b"]
    );
    assert_eq!(changed(&["--build-arg=HTTP_PROXY=http://x"]), [""; 0]);
}

#[test]
fn edits_of_mounts_and_stages() {
    let space = TestSpace::with(
        "FROM busybox AS tool\nCOPY tool /tool\nRUN cat /tool > /made\n\
         FROM busybox AS other\nCOPY other /other\n\
         FROM busybox\n\
         RUN --mount=type=bind,source=data,target=/data cat /data/x > /x\n\
         RUN --mount=type=bind,from=tool,source=/made,target=/m cat /m > /y\n\
         COPY --from=other /other /z\n",
    );
    for name in ["tool", "other", "data/x", "data/y"] {
        space.write(name, name);
    }
    let bound = "RUN --mount=type=bind,source=data,target=/data cat /data/x > /x";
    let from = "RUN --mount=type=bind,from=tool,source=/made,target=/m cat /m > /y";
    let tool: &[&str] = &["COPY tool /tool", "RUN cat /tool > /made"];
    after_each(
        &space,
        &["."],
        &[
            // It is read, though only by chance not looked at; what it makes is the same.
            (
                "a file of the mount",
                &|| space.write("data/y", "x"),
                &[bound],
            ),
            (
                "the file that is read",
                &|| space.write("data/x", "x"),
                &[bound, from, "COPY --from=other /other /z"],
            ),
            (
                "a stage's input",
                &|| space.write("other", "x"),
                &["COPY other /other", "COPY --from=other /other /z"],
            ),
            (
                "a mounted stage's input",
                &|| space.write("tool", "x"),
                &[tool, &[from, "COPY --from=other /other /z"]].concat(),
            ),
        ],
    );
}

#[test]
fn a_stage_that_makes_the_same_ends_the_rebuild() {
    let space = TestSpace::with(
        "FROM busybox AS a\nCOPY in /\nRUN grep -c x /in > /n; true\n\
         FROM a AS b\nRUN echo b > /b\n\
         FROM busybox\nCOPY --from=a /n /\nRUN cat /n > /m\nCOPY --from=b /b /\n",
    );
    space.write("in", "x\n");
    after_each(
        &space,
        &["."],
        &[
            (
                "a count that stays",
                &|| space.write("in", "x\ny\n"),
                &[
                    "COPY in /",
                    "RUN grep -c x /in > /n; true",
                    "RUN echo b > /b",
                ],
            ),
            (
                "a count that changes",
                &|| space.write("in", "x\nx\n"),
                &[
                    "COPY in /",
                    "RUN grep -c x /in > /n; true",
                    "RUN echo b > /b",
                    "COPY --from=a /n /",
                    "RUN cat /n > /m",
                    "COPY --from=b /b /",
                ],
            ),
        ],
    );
}

/// Written again within the tick of the clock in which it was read: size, and perhaps time, are the same.
#[test]
fn quick_edits_are_seen() {
    let space = TestSpace::with("FROM scratch\nCOPY a /\n");
    for n in 0..8 {
        space.write("a", format!("{n}"));
        assert_eq!(space.files(&["."])["a"], format!("{n}"));
    }
}

/// Has the latest image of `repository` hold `text`.
fn put_base(repository: &str, text: &str) {
    let registry = base_images();
    let image = manifest(registry, repository, "amd64", &moved_base(text));
    registry.put_manifest(repository, "latest", MANIFEST, &image);
}

#[test]
fn a_base_that_moved_under_its_tag() {
    let put = |text: &str| put_base("library/moving", text);
    put("one");
    let space = TestSpace::with("FROM --platform=linux/amd64 moving\nCOPY f /\n");
    space.write("f", "f");
    space.build(&["."]);
    assert_eq!(worked(&space.build(&["--pull", "."])), [""; 0]);
    put("two");
    let told = space.build(&["--pull", "--explain", "."]);
    assert_eq!(worked(&told), ["COPY f /"]);
    assert!(
        told.stderr
            .contains("COPY f /: base image: new digest sha256:"),
        "{}",
        told.stderr
    );
    put("one");
    assert_eq!(worked(&space.build(&["--pull", "."])), [""; 0]);
}

/// A build begins with what a tag stood for the last time, and tells and does nothing that would not be true.
#[test]
fn a_base_is_believed_until_its_registry_answers() {
    let put = |text: &str| put_base("library/believed", text);
    put("one");
    let space =
        TestSpace::with("ARG A=1\nFROM --platform=linux/amd64 believed\nWORKDIR /w\nCOPY f .\n");
    space.write("f", "f");
    space.build(&["-t", "made", "."]);
    assert_eq!(worked(&space.build(&["-t", "made", "."])), [""; 0]);
    put("two");
    let anew = space.build(&["-t", "made", "."]);
    assert_eq!(worked(&anew), ["WORKDIR /w", "COPY f ."]);
    assert!(!anew.stderr.contains("CACHED"), "{}", anew.stderr);
    // Half of it is believed: the one that is to be worked waits for the answer.
    space.write("f", "g");
    put("one");
    let anew = space.build(&["-t", "made", "."]);
    assert_eq!(worked(&anew), ["COPY f ."]);
    assert_eq!(
        anew.stderr.matches("[2/3] WORKDIR").count(),
        1,
        "{}",
        anew.stderr
    );
    // A registry that does not know the image any more.
    let made = space.run(&["inspect", "made"]).text();
    let gone = Reply::new(404);
    base_images().fail(1, "HEAD /v2/library/believed/", gone);
    let refused = space.run(&["build", "--progress=plain", "-t", "made", "."]);
    assert_eq!(refused.code, Some(1));
    for part in ["load metadata for", "Dockerfile:2", "ERROR"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    assert!(!refused.stderr.contains("CACHED"), "{}", refused.stderr);
    assert_eq!(space.run(&["inspect", "made"]).text(), made);
}

/// What a step cannot do with what a tag stood for the last time is no failure of the build, and is not even tried where
/// layers would have to be fetched for it.
#[test]
fn what_fails_with_the_base_of_the_last_time_is_done_with_that_of_now() {
    let registry = base_images();
    let put = |name: &str| {
        let layer = archive(&[(name, "x")]);
        let image = manifest(registry, "library/wanting", "amd64", &layer);
        registry.put_manifest("library/wanting", "latest", MANIFEST, &image);
        Digest::of(&layer)
    };
    put("other");
    let base = "FROM --platform=linux/amd64 wanting AS base\n";
    let space = TestSpace::with(&format!("{base}FROM scratch\nCOPY --from=base /wanted /\n"));
    assert!(space.fails(&["."]).contains("not found"));
    put("wanted");
    assert_eq!(worked(&space.build(&["."])), ["COPY --from=base /wanted /"]);
    // Its manifest is known, its layer is not.
    let old = put("older");
    space.write("plan", base);
    space.build(&["-f", "plan", "."]);
    put("wanted");
    registry.log();
    space.build(&["--no-cache-filter=*", "."]);
    let blob = format!("/blobs/{old}");
    let is_of_old = |request: &Request| request.path.ends_with(&blob);
    assert!(!registry.log().iter().any(is_of_old));
    // What it still stands for is not whole any more.
    put("torn");
    let torn = manifest(
        registry,
        "library/wanting",
        "amd64",
        &archive(&[("torn", "x")]),
    );
    let torn: serde_json::Value = serde_json::from_slice(&torn).unwrap();
    let config = torn["config"]["digest"].as_str().unwrap().to_owned();
    let path = format!("GET /v2/library/wanting/blobs/{config}");
    registry.fail(9, &path, Reply::new(403));
    for _ in 0..2 {
        let said = space.fails(&["."]);
        assert!(
            said.contains("> [internal] load metadata for wanting"),
            "{said}"
        );
    }
}

/// Two ways to write the same: no step is worked for a change of the one into the other.
#[test]
fn other_spellings_are_the_same() {
    let start = "# syntax=docker/dockerfile:1\nFROM busybox\nENV A=1 B=2\nLABEL x=y z=1\n\
        COPY --chmod=644 f /g\nWORKDIR /w\n\
        RUN --mount=type=secret,id=s --mount=type=cache,target=/c --mount=type=bind,target=m \\\n  # comment\n  \
        echo one\n\
        COPY <<E /h\ntext\nE\nRUN echo two\n";
    let space = TestSpace::with(start);
    space.write("f", "f");
    // The Dockerfile is not part of what is mounted.
    space.write(".dockerignore", "Dockerfile\n.dockerignore\n");
    space.build(&["."]);
    for (old, new) in [
        ("# syntax=docker/dockerfile:1\n", ""),
        (
            "# syntax=docker/dockerfile:1\n",
            "# check=skip=all\n\n# more\n",
        ),
        ("  # comment\n", ""),
        ("RUN echo two", "run echo two   "),
        ("ENV A=1 B=2", "ENV A=1\nENV B=\"2\""),
        ("LABEL x=y z=1", "LABEL z=1\nLABEL x=y\nSTOPSIGNAL 9"),
        ("644 f /g", "0644 ./f /./g"),
        ("644 f /g", "644 [\"f\", \"/g\"]"),
        ("WORKDIR /w", "WORKDIR w/"),
        (
            "type=secret,id=s",
            "id=s,type=secret,target=/run/secrets/s,mode=0400",
        ),
        (
            "type=cache,target=/c",
            "type=cache,dst=/c/,id=/c,sharing=shared",
        ),
        ("type=bind,target=m", "target=/w/m,source=.,readonly=true"),
        ("COPY <<E", "COPY <<'E'"),
        ("RUN echo two", "RUN --network=default echo two"),
    ] {
        assert!(start.contains(old), "{old}");
        space.write("Dockerfile", start.replace(old, new));
        let steps = worked(&space.build(&["."]));
        assert_eq!(steps, [""; 0], "{new}");
    }
}
