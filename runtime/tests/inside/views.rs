//! Layers of other stages as mounts.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use lapstrake_runtime::{Access, MountKind, view, writable_view};

use crate::Test;
use crate::support::{Needs, Space, layer, mount, outcome, refused, tree};

pub(crate) const TESTS: &[Test] = &[
    (
        "views_of_other_stages",
        Needs::Nothing,
        views_of_other_stages,
    ),
    (
        "a_view_does_not_leave_its_root",
        Needs::Nothing,
        a_view_does_not_leave_its_root,
    ),
    ("detached_views", Needs::Nothing, detached_views),
];

fn view_of(
    space: &Space,
    target: &str,
    lowers: Vec<PathBuf>,
    source: &str,
    access: Access,
) -> lapstrake_runtime::Mount {
    let scratch = space.fresh("scratch");
    mount(
        target,
        MountKind::View {
            lowers,
            source: source.into(),
            access,
            scratch,
        },
    )
}

fn views_of_other_stages(space: &Space) {
    let lowers = vec![
        layer(space, &[("app/a", "1")]),
        layer(space, &[("app/b", "2")]),
    ];
    let mut spec =
        space.sh("cat /from/*; (echo x > /from/a) 2>/dev/null || echo refused; cat /file");
    spec.mounts.push(view_of(
        space,
        "/from",
        lowers.clone(),
        "/app",
        Access::ReadOnly,
    ));
    spec.mounts.push(view_of(
        space,
        "/file",
        lowers.clone(),
        "app/a",
        Access::ReadOnly,
    ));
    assert_eq!(outcome(&spec).ok(), "12refused\n1");
    let mut spec =
        space.sh("echo changed > /from/a; rm /from/b; touch /from/c; ls /from; cat /from/a");
    spec.mounts.push(view_of(
        space,
        "/from",
        lowers.clone(),
        "/app",
        Access::Discard,
    ));
    assert_eq!(outcome(&spec).ok(), "a\nc\nchanged");
    assert_eq!(fs::read_to_string(lowers[0].join("app/a")).unwrap(), "1");
    assert_eq!(tree(&lowers[1]), ["app/", "app/b"]);
    let mut spec = space.sh("ls -A /from | wc -l");
    spec.mounts
        .push(view_of(space, "/from", Vec::new(), "/", Access::ReadOnly));
    assert_eq!(outcome(&spec).ok(), "0");
}

fn a_view_does_not_leave_its_root(space: &Space) {
    let canary = layer(space, &[("secret", "canary")]);
    let source = space.fresh("layer");
    symlink(&canary, source.join("link")).unwrap();
    symlink("../../../../../../../../etc", source.join("up")).unwrap();
    symlink("/proc/self/root", source.join("magic")).unwrap();
    for path in [
        "/link",
        "/link/secret",
        "/up/passwd",
        "/magic",
        "/../../etc/passwd",
        "/missing",
    ] {
        let mut spec = space.sh("cat /from");
        spec.mounts.push(view_of(
            space,
            "/from",
            vec![source.clone()],
            path,
            Access::ReadOnly,
        ));
        let message = refused(&spec);
        assert!(message.starts_with("mount /from: "), "{path}: {message}");
    }
}

fn detached_views(space: &Space) {
    let lowers = [
        layer(space, &[("a", "1"), ("b", "1")]),
        layer(space, &[("a", "2")]),
    ];
    let read = |lowers: &[PathBuf], name: &str| {
        let view = view(lowers).unwrap();
        fs::read_to_string(format!("/proc/self/fd/{}/{name}", view.as_raw_fd())).ok()
    };
    assert_eq!(read(&lowers, "a").as_deref(), Some("2"));
    assert_eq!(read(&lowers, "b").as_deref(), Some("1"));
    assert_eq!(read(&lowers[..1], "a").as_deref(), Some("1"));
    // Whiteouts do not show, even where there is nothing below.
    let mut spec = space.sh("rm /bin/false");
    spec.root.lowers = vec![space.base()];
    outcome(&spec).ok();
    assert!(fs::symlink_metadata(spec.root.upper.join("bin/false")).is_ok());
    let top = view(&[spec.root.upper]).unwrap();
    assert!(fs::symlink_metadata(format!("/proc/self/fd/{}/bin/false", top.as_raw_fd())).is_err());
    assert_eq!(read(&[], "a"), None);
    for lowers in [&lowers[..], &lowers[..1], &[]] {
        let spec = space.sh("");
        let view = writable_view(lowers, &spec.root.upper, &spec.root.work).unwrap();
        fs::write(format!("/proc/self/fd/{}/new", view.as_raw_fd()), "").unwrap();
        assert_eq!(tree(&spec.root.upper), ["new"]);
    }
}
