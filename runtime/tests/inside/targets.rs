//! Where mounts may be put.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use lapstrake_runtime::MountKind;

use crate::Test;
use crate::support::{Needs, Space, bind, file, mount, outcome, refused, tree};

pub(crate) const TESTS: &[Test] = &[
    ("order_of_mounts", Needs::Nothing, order_of_mounts),
    (
        "targets_that_are_refused",
        Needs::Nothing,
        targets_that_are_refused,
    ),
    ("targets_stay_inside", Needs::Nothing, targets_stay_inside),
    (
        "targets_stay_inside_while_links_are_swapped",
        Needs::Nothing,
        targets_while_links_are_swapped,
    ),
];

fn order_of_mounts(space: &Space) {
    let mut spec = space.sh("cat /a/b/c /a/d; ls /a-b");
    spec.mounts.push(file("/a/b/c", "inner "));
    spec.mounts.push(mount(
        "/a-b",
        MountKind::Tmpfs {
            size: None,
            mode: None,
        },
    ));
    spec.mounts.push(file("/a/d", "replaced"));
    spec.mounts.push(file("/a/./d/", "outer"));
    spec.mounts.push(mount(
        "/a",
        MountKind::Tmpfs {
            size: None,
            mode: None,
        },
    ));
    assert_eq!(outcome(&spec).ok(), "inner outer");
}

fn targets_that_are_refused(space: &Space) {
    let proc_link = space.fresh("layer");
    symlink("proc", proc_link.join("link")).unwrap();
    for target in [
        "/",
        "",
        "/.",
        "/x/..",
        "/proc",
        "/proc/sys",
        "/proc/self/mem",
        "/link/version",
        "/link/self/attr",
    ] {
        let mut spec = space.sh("true");
        spec.root.lowers.push(proc_link.clone());
        spec.mounts.push(file(target, ""));
        let message = refused(&spec);
        assert!(message.contains("mount"), "{target}: {message}");
    }
    for name in ["proc", "sys", "dev"] {
        let canary = space.fresh("canary");
        for to in ["/etc".into(), canary.clone()] {
            let layer = space.fresh("layer");
            symlink(to, layer.join(name)).unwrap();
            let mut spec = space.sh("true");
            spec.root.lowers.push(layer);
            let message = refused(&spec);
            assert!(
                message.starts_with(&format!("mount /{name}: ")),
                "{message}"
            );
        }
        assert_eq!(tree(&canary).len(), 0);
    }
}

fn targets_stay_inside(space: &Space) {
    let canary = space.fresh("canary");
    fs::write(canary.join("passwd"), "canary").unwrap();
    fs::set_permissions(&canary, fs::Permissions::from_mode(0o700)).unwrap();
    let base = space.fresh("layer");
    symlink(&canary, base.join("abs")).unwrap();
    symlink(
        format!("../../../../../../../..{}", canary.display()),
        base.join("rel"),
    )
    .unwrap();
    symlink("/proc/self/root", base.join("magic")).unwrap();
    symlink(&canary, base.join("etc")).unwrap();
    for target in [
        "/abs/new",
        "/abs/passwd",
        "/rel/new",
        "/rel/deep/er",
        "/../../x",
        "/magic/x",
        "/magic",
    ] {
        let mut spec = space.sh("true");
        spec.root.lowers = vec![base.clone()];
        spec.process.argv = vec!["/busybox".into(), "true".into()];
        fs::copy("/bin/busybox", spec.root.upper.join("busybox")).unwrap();
        spec.mounts.push(file(target, "attack"));
        // Works inside or is refused.
        let _ = crate::support::try_run(&spec);
        assert_eq!(tree(&canary), ["passwd"], "{target}");
        assert_eq!(fs::read_to_string(canary.join("passwd")).unwrap(), "canary");
    }
}

fn targets_while_links_are_swapped(space: &Space) {
    let canary = space.fresh("canary");
    let cache = space.fresh("cache");
    fs::create_dir(cache.join("place")).unwrap();
    symlink(&canary, cache.join("link")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            while !done.load(Ordering::Relaxed) {
                let (place, link) = (cache.join("place"), cache.join("link"));
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &place,
                    rustix::fs::CWD,
                    &link,
                    exchange,
                )
                .unwrap();
            }
        });
        for number in 0..100 {
            let mut spec = space.sh("true");
            spec.mounts.push(bind("/cache", &cache, false));
            spec.mounts
                .push(file(&format!("/cache/place/{number}/file"), "attack"));
            let _ = crate::support::try_run(&spec);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(tree(&canary).len(), 0);
}
