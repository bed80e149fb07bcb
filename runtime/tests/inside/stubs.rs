//! What is put into a root so that mounts have a place, and how it goes away.

use std::fs;
use std::os::unix::fs::symlink;

use lapstrake_runtime::MountKind;

use crate::Test;
use crate::support::{Needs, Space, file, mount, outcome, refused, tree};

pub(crate) const TESTS: &[Test] = &[
    ("stubs_do_not_stay", Needs::Nothing, stubs_do_not_stay),
    (
        "stubs_that_got_content_stay",
        Needs::Nothing,
        stubs_that_got_content_stay,
    ),
    (
        "stubs_are_not_removed_through_links",
        Needs::Nothing,
        stubs_are_not_removed_through_links,
    ),
    (
        "stub_where_a_link_dangles",
        Needs::Nothing,
        stub_where_a_link_dangles,
    ),
];

fn stubs_do_not_stay(space: &Space) {
    let mut spec = space.sh("ls -d /x/y/z /etc/hosts /opt/new/file; echo > /kept");
    spec.mounts.push(mount(
        "/x/y/z",
        MountKind::Tmpfs {
            size: None,
            mode: None,
        },
    ));
    spec.mounts.push(file("/opt/new/file", "content"));
    let before = fs::metadata(space.base().join("etc")).unwrap();
    let opened = fs::File::open(space.base().join("etc")).unwrap();
    opened
        .set_modified(before.modified().unwrap() - std::time::Duration::from_secs(1000))
        .unwrap();
    let before = fs::metadata(space.base().join("etc"))
        .unwrap()
        .modified()
        .unwrap();
    outcome(&spec).ok();
    // /etc was copied up for its stubs; it is empty and as old as in the layer below.
    let mut found = tree(&spec.root.upper);
    found.retain(|path| !matches!(path.as_str(), "dev/" | "proc/" | "sys/"));
    assert_eq!(found, ["etc/", "kept"]);
    assert_eq!(
        fs::metadata(spec.root.upper.join("etc"))
            .unwrap()
            .modified()
            .unwrap(),
        before
    );
}

fn stubs_that_got_content_stay(space: &Space) {
    let mut spec = space.sh("echo mine > /x/other");
    spec.mounts.push(mount(
        "/x/y",
        MountKind::Tmpfs {
            size: None,
            mode: None,
        },
    ));
    outcome(&spec).ok();
    assert_eq!(tree(&spec.root.upper.join("x")), ["other"]);
    // A failing set-up leaves as little.
    let mut spec = space.sh("true");
    spec.mounts.push(mount(
        "/new/target",
        MountKind::Tmpfs {
            size: None,
            mode: None,
        },
    ));
    spec.process.user = "missing".into();
    refused(&spec);
    assert!(!spec.root.upper.join("new").exists());
}

fn stubs_are_not_removed_through_links(space: &Space) {
    let canary = space.fresh("canary");
    fs::write(canary.join("empty"), "").unwrap();
    fs::create_dir(canary.join("dir")).unwrap();
    let script = format!("mv /t /moved && ln -s {} /t", canary.display());
    for name in ["empty", "dir"] {
        let mut spec = space.sh(&script);
        let kind = MountKind::Tmpfs {
            size: None,
            mode: None,
        };
        spec.mounts.push(if name == "dir" {
            mount("/t/dir", kind)
        } else {
            file("/t/empty", "")
        });
        outcome(&spec).ok();
        assert_eq!(tree(&canary), ["dir/", "empty"]);
    }
}

fn stub_where_a_link_dangles(space: &Space) {
    let base = space.fresh("layer");
    fs::create_dir(base.join("etc")).unwrap();
    symlink(
        "../run/systemd/resolve/stub.conf",
        base.join("etc/resolv.conf"),
    )
    .unwrap();
    let mut spec = space.sh("cat /etc/resolv.conf");
    spec.root.lowers.push(base.clone());
    assert_eq!(outcome(&spec).ok(), "nameserver 192.0.2.1");
    assert!(!spec.root.upper.join("run").exists());
    fs::remove_file(base.join("etc/resolv.conf")).unwrap();
    symlink("resolv.conf", base.join("etc/resolv.conf")).unwrap();
    let message = refused(&spec);
    assert!(message.starts_with("mount /etc/resolv.conf: "), "{message}");
}
