//! Where COPY and ADD put what they take, and whom it belongs to. Each expectation was seen with BuildKit or
//! read in its code.

use std::collections::BTreeMap;

use super::support::{Entry, TestSpace, entries};

/// All that the result of `dockerfile` holds besides the base image's own files.
fn tree(space: &TestSpace, dockerfile: &str) -> BTreeMap<String, Entry> {
    space.write("Dockerfile", dockerfile);
    entries(&space.build(&["-o", "type=tar,dest=-", "."]).stdout)
}

fn names(space: &TestSpace, dockerfile: &str) -> String {
    let names = tree(space, dockerfile).into_keys();
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn parents_keep_what_follows_any_pivot() {
    let space = TestSpace::empty();
    for path in ["a/b/c/d/foo", "a/b/c2/d/baz", "a/b2/c/d/bar"] {
        space.write(path, path);
    }
    for (sources, want) in [
        ("a/b*/./c/**/bar", "out out/c out/c/d out/c/d/bar"),
        ("a/b/c*/./d/*", "out out/d out/d/baz out/d/foo"),
        ("a/b*/./c2", "out out/c2 out/c2/d out/c2/d/baz"),
        ("a/b/*/*/./foo", "out out/foo"),
        // What a wildcard does not find is no error, but the destination is made where the pivot is there.
        ("a/b/./nope*", "out"),
        ("nope*", "out"),
        ("a/b*/./nope", "out"),
        ("nope*/./a", ""),
    ] {
        let dockerfile = format!("FROM scratch\nCOPY --parents {sources} /out/\n");
        assert_eq!(names(&space, &dockerfile), want, "{sources}");
    }
    for source in ["nope/./a*", "a/./nope", "nope/a"] {
        space.write(
            "Dockerfile",
            format!("FROM scratch\nCOPY --parents {source} /out/\n"),
        );
        let error = space.fails(&["."]);
        assert!(error.contains("not found"), "{source}: {error}");
    }
}

#[test]
fn wildcards_begin_in_a_directory_that_is_there() {
    let space = TestSpace::empty();
    space.write("d/a", "a");
    space.write("e/f/a", "f");
    std::os::unix::fs::symlink("e/f", space.path("link")).unwrap();
    for (source, want) in [
        ("d/*", "out out/a"),
        ("d/*.none", ""),
        ("link/*", "out out/a"),
        // Links that a wildcard meets on its way are not followed.
        ("l*/a", ""),
        ("e/?/a", "out out/a"),
    ] {
        let dockerfile = format!("FROM scratch\nCOPY {source} /out/\n");
        assert_eq!(names(&space, &dockerfile), want, "{source}");
    }
    space.write("Dockerfile", "FROM scratch\nCOPY nope/* /out/\n");
    let error = space.fails(&["."]);
    assert!(error.contains("\"/nope\": not found"), "{error}");
}

/// Two directories whose contents fall together, where the second has a file under two names.
#[test]
fn later_sources_replace_hard_links_too() {
    let space = TestSpace::empty();
    space.write("d1/a", "old");
    space.write("d1/b", "old");
    space.write("d2/a", "new");
    std::fs::hard_link(space.path("d2/a"), space.path("d2/b")).unwrap();
    space.write("Dockerfile", "FROM scratch\nCOPY d* /out/\n");
    let files = space.files(&["."]);
    assert!(files.values().all(|text| text == "new"), "{files:?}");
}

#[test]
fn owners_are_read_as_buildkit_reads_them() {
    let space = TestSpace::empty();
    space.write("a", "a");
    let dockerfile = "FROM busybox\n\
        COPY --chown=user: a /group-is-root\n\
        COPY --chown=:5 a /user-is-root\n\
        COPY --chown=7 a /number\n\
        USER 7\nWORKDIR /made\n\
        USER user\nWORKDIR /named\n";
    let tree = tree(&space, dockerfile);
    for (path, owner) in [
        ("group-is-root", (1000, 0)),
        ("user-is-root", (0, 5)),
        ("number", (7, 7)),
        ("made", (7, 7)),
        ("named", (1000, 1000)),
    ] {
        assert_eq!(tree[path].owner, owner, "{path}");
    }
}

/// The mode of directories on the way to the destination has no special bits.
#[test]
fn made_parents_have_plain_modes() {
    let space = TestSpace::empty();
    space.write("a", "a");
    let tree = tree(&space, "FROM scratch\nCOPY --chmod=7755 a /p/q/a\n");
    assert_eq!((tree["p/q"].mode, tree["p/q/a"].mode), (0o755, 0o7755));
}

#[test]
fn a_new_destination_has_the_time_of_the_last_directory() {
    let space = TestSpace::empty();
    space.write("one/a", "a");
    space.write("two/b", "b");
    let script = "touch -d @1000000000 one; touch -d @1100000000 two";
    super::support::shell(&space.path("."), script);
    // Layers that differ in nothing but times are one: each destination has a name of its own.
    for (to, sources, want) in [
        ("x", "one two", 1_100_000_000),
        ("y", "two one", 1_000_000_000),
        ("z", "one/a two", 1_100_000_000),
    ] {
        let made = tree(&space, &format!("FROM scratch\nCOPY {sources} /{to}/\n"));
        assert_eq!(made[to].mtime, want, "{sources}");
    }
}

#[test]
fn made_directories_inherit_the_group_of_a_setgid_parent() {
    let space = TestSpace::empty();
    space.write("src/sub/file", "x");
    let made = tree(
        &space,
        "FROM busybox\nRUN mkdir /g && chgrp 7 /g && chmod 2775 /g\n\
         COPY src /g/copied/\nCOPY --chown=3:4 src/sub/file /g/owned/\nWORKDIR /g/made/below\n\
         USER 5:6\nWORKDIR /g/user\n",
    );
    let seen = |path: &str| (made[path].mode & 0o7777, made[path].owner);
    assert_eq!(seen("g/copied"), (0o2755, (0, 7)));
    assert_eq!(seen("g/owned"), (0o2755, (3, 4)));
    assert_eq!(seen("g/made/below"), (0o2755, (0, 7)));
    assert_eq!(seen("g/user"), (0o2755, (5, 6)));
    // What is copied has its own mode and owner.
    assert_eq!(seen("g/copied/sub"), (0o755, (0, 0)));
}

#[test]
fn a_file_is_no_working_directory() {
    for path in ["/f", "/f/below", "/link"] {
        let space = TestSpace::with(&format!(
            "FROM busybox\nCOPY f /\nRUN ln -s f /link\nWORKDIR {path}\n"
        ));
        space.write("f", "");
        let error = space.fails(&["."]);
        assert!(
            error.contains("Dockerfile:4") && error.contains("error: /f is not a directory"),
            "{error}"
        );
    }
}
