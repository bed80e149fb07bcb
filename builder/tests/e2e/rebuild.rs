//! What is built again after a change, and that nothing of the old shows in the new.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, SystemTime};

use super::support::{TestSpace, shell, worked};

#[test]
fn nothing_changed_nothing_is_worked() {
    let space = TestSpace::with("FROM busybox\nWORKDIR /w\nCOPY a .\nRUN cat a > b\n");
    space.write("a", "1");
    let first = space.build(&["-q", "."]).text();
    let again = space.build(&["."]);
    assert_eq!(worked(&again), [""; 0]);
    assert_eq!(space.build(&["-q", "."]).text(), first);
}

#[test]
fn an_edit_elsewhere_keeps_the_hit() {
    let space = TestSpace::with("FROM busybox\nCOPY a /\nRUN cat /a > /c\nCOPY b /\n");
    space.write("a", "1");
    space.write("b", "1");
    space.build(&["."]);
    space.write("b", "2");
    assert_eq!(worked(&space.build(&["."])), ["COPY b /"]);
}

#[test]
fn a_step_that_yields_the_same_ends_the_rebuild() {
    let stages = "FROM busybox AS count\nCOPY in /\nRUN wc -c < /in > /n\nFROM busybox\nCOPY --from=count /n /\nRUN cat /n\n";
    let space = TestSpace::with(stages);
    space.write("in", "1");
    space.build(&["."]);
    space.write("in", "2");
    assert_eq!(
        worked(&space.build(&["."])),
        ["COPY in /", "RUN wc -c < /in > /n"]
    );
}

#[test]
fn times_do_not_matter_but_hidden_changes_do() {
    let space = TestSpace::with("FROM scratch\nCOPY a /\n");
    space.write("a", "1");
    let old = SystemTime::now() - Duration::from_secs(1000);
    let date = |space: &TestSpace| {
        std::fs::File::open(space.path("a"))
            .unwrap()
            .set_modified(old)
            .unwrap();
    };
    space.build(&["."]);
    date(&space);
    assert_eq!(worked(&space.build(&["."])), [""; 0]);
    // The same size and the same time, but other content.
    space.write("a", "2");
    date(&space);
    assert_eq!(worked(&space.build(&["."])), ["COPY a /"]);
}

/// A copy of many files is made from the one before; what comes out must be as if it had not been.
#[test]
fn a_large_copy_made_again_is_exact() {
    let space = TestSpace::with("FROM scratch\nCOPY src /src\n");
    for n in 0..600 {
        space.write(&format!("src/d{}/f{n}", n % 7), format!("content {n}"));
    }
    space.build(&["-o", "../one", "."]);
    space.write("src/d3/f3", "changed 3");
    std::fs::set_permissions(
        space.path("src/d4/f4"),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    std::fs::remove_file(space.path("src/d5/f5")).unwrap();
    std::fs::remove_file(space.path("src/d6/f6")).unwrap();
    std::fs::hard_link(space.path("src/d6/f13"), space.path("src/d6/f6")).unwrap();
    space.write("src/d0/new", "new");
    space.build(&["-o", "../two", "."]);
    let fresh = TestSpace::with("FROM scratch\nCOPY src /src\n");
    copy(&space.path("src"), &fresh.path("src"));
    fresh.build(&["-o", "../two", "."]);
    assert_eq!(
        listing(&space.path("../two")),
        listing(&fresh.path("../two"))
    );
    assert_eq!(space.read("../one/src/d3/f3"), "content 3");
    assert_eq!(space.read("../two/src/d3/f3"), "changed 3");
    let id = |space: &TestSpace| {
        space
            .build(&["-q", "--build-arg=SOURCE_DATE_EPOCH=1", "."])
            .text()
    };
    assert_eq!(
        id(&space),
        id(&fresh),
        "the same context must give the same image"
    );
}

/// Edits one after the other: the layers that come of amending and linking are those that a build from nothing makes, and a
/// step that runs on them sees the same files.
#[test]
fn a_large_copy_made_again_and_again_is_exact() {
    let dockerfile = "ARG BASE=scratch\nFROM busybox AS busy\nCOPY below /w\n\
        FROM $BASE AS made\nCOPY src /w\nFROM busy AS used\nCOPY --from=made /w /v\nCOPY src /w\n\
        RUN cd / && busybox find v w -exec busybox stat -c '%N %a %F %Y' {} + | sort > /list\n\
        RUN rm -r /w/d0 && echo x >> /w/d4/f11 && ln /w/d4/f4 /w/d4/linked\n";
    let space = TestSpace::with(dockerfile);
    let sh = |script: &str| drop(shell(&space.path("src"), script));
    space.write("below/d1/below", "below");
    space.write("src/top", "top");
    for n in 0..600 {
        space.write(&format!("src/d{}/f{n}", n % 7), format!("content {n}"));
    }
    sh("mkdir empty; ln -s d1/f1 link; touch -d 2001-01-01 d1/*");
    let edits = [
        "true",
        "echo changed > d3/f3",
        "echo changed again > d3/f3; echo new > d3/new; mkdir -p more/deep; echo deep > more/deep/file",
        "chmod 755 d4/f4; touch -d 2002-02-02 d1/f1 d2",
        "rm link; ln -s d2/f2 link; mkfifo pipe",
        "rm d1/f1; mkdir d1/f1; echo inside > d1/f1/f",
        "rm -r d1/f1; echo a file again > d1/f1",
        "rmdir empty; echo a file now > empty; rm link; mkdir link; echo inside > link/file",
        "rm d5/f5",
        "ln d6/f6 d6/f6-again",
        "echo changed > d6/f6",
        "for n in 0 7 14 21 28; do for m in 0 1 2 3 4 5 6; do i=$((n + m)); [ ! -e d$m/f$i ] || echo $i > d$m/f$i; done; done",
        "for i in d1/* d2/* d3/*; do echo x >> $i; done",
        "mv d2 d9; mv d3/f3 d9/",
        "rm -r d9; mkdir d9; echo alone > d9/file",
    ];
    for edit in edits {
        sh(edit);
        let store = tempfile::tempdir().unwrap();
        let fresh = ["--root", store.path().to_str().unwrap()];
        for base in ["BASE=scratch", "BASE=busy"] {
            let epoch = "--build-arg=SOURCE_DATE_EPOCH=1";
            let made = ["-q", "--target=made", "--build-arg", base, epoch, "."];
            let again = space.build(&made).text();
            let expected = space.build(&[&fresh[..], &made].concat()).text();
            assert_eq!(again, expected, "{edit}: {base}");
        }
        let used = space.files(&["."]);
        assert_eq!(used, space.files(&[&fresh[..], &["."]].concat()), "{edit}");
        assert!(!used.contains_key("w/d0/f0"), "{edit}");
    }
    assert_eq!(space.run(&["fsck"]).text(), "the store is sound\n");
}

/// Where a layer cannot be the one before with a few files over it: what becomes as it is in the base is no part of it, and
/// a directory where a file was shows what the base has there.
#[test]
fn a_large_copy_made_again_amends_only_what_can_be_amended() {
    let space = TestSpace::with(
        "FROM scratch AS base\nCOPY base /w\nFROM base AS over\nCOPY src /w\n\
         FROM base AS linked\nCOPY --link src /w\n",
    );
    let sh = |script: &str| drop(shell(&space.path("."), script));
    for n in 0..600 {
        space.write(&format!("src/d{}/f{n}", n % 7), format!("content {n}"));
    }
    let old = "find . -exec touch -h -d 2001-01-01 {} +";
    sh(&format!(
        "mkdir -m 700 src/m; mkdir -p base/x base/d1 base/m; echo 1 > base/d1/f1; echo below > base/x/y; {old}"
    ));
    let edits = [
        ("over", "true"),
        ("over", "echo changed > src/d3/f3"),
        ("over", "cp -p base/d1/f1 src/d1/f1"),
        ("over", "echo again > src/d3/f3"),
        ("over", "chmod 755 src/m"),
        ("linked", "echo a file > src/x"),
        (
            "linked",
            "rm src/x; mkdir src/x; echo in a directory > src/x/z",
        ),
        ("linked", "echo and again > src/d3/f3"),
    ];
    for (target, edit) in edits {
        sh(edit);
        let store = tempfile::tempdir().unwrap();
        let fresh = ["--root", store.path().to_str().unwrap()];
        let target = ["--target", target, "."];
        let files = space.files(&target);
        assert_eq!(
            files,
            space.files(&[&fresh[..], &target].concat()),
            "{edit}"
        );
        let id = [&["-q", "--build-arg=SOURCE_DATE_EPOCH=1"], &target[..]].concat();
        let expected = space.build(&[&fresh[..], &id].concat()).text();
        assert_eq!(space.build(&id).text(), expected, "{edit}");
    }
    assert_eq!(space.run(&["fsck"]).text(), "the store is sound\n");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(done.success());
}

/// Every path with its mode and content.
fn listing(folder: &std::path::Path) -> Vec<(String, u32, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mode = path.symlink_metadata().unwrap().mode();
        if path.is_dir() {
            found.extend(
                listing(&path)
                    .into_iter()
                    .map(|(below, mode, data)| (format!("{name}/{below}"), mode, data)),
            );
        } else {
            found.push((name, mode, std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}
