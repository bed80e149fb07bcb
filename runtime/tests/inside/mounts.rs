//! Every kind of mount, and that nothing of it remains in the layer.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use lapstrake_runtime::{Access, MountKind, RunSpec, view, writable_view};

use crate::Test;
use crate::support::{Needs, Space, bind, file, mount, outcome, refused, sh};

pub(crate) const TESTS: &[Test] = &[
    (
        "layers_are_merged_and_changes_kept",
        Needs::Nothing,
        layers_are_merged_and_changes_kept,
    ),
    (
        "a_root_without_layers",
        Needs::Nothing,
        a_root_without_layers,
    ),
    ("five_hundred_layers", Needs::Nothing, five_hundred_layers),
    ("hosts_and_resolver", Needs::Nothing, hosts_and_resolver),
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
    ("bind_mounts", Needs::Nothing, bind_mounts),
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
    ("files_in_memory", Needs::Nothing, files_in_memory),
    (
        "owners_of_files_in_memory",
        Needs::Ids,
        owners_of_files_in_memory,
    ),
    ("tmpfs", Needs::Nothing, tmpfs),
    ("tmpfs-on-dev", Needs::Nothing, tmpfs_on_dev),
    ("folders-on-dev", Needs::Nothing, folders_on_dev),
    ("tmpfs-on-sys", Needs::Nothing, tmpfs_on_sys),
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
    ("a_socket_of_the_host", Needs::Nothing, a_socket_of_the_host),
    ("detached_views", Needs::Nothing, detached_views),
];

/// Everything below `root`, directories with a slash.
fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, path: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let directory = path.symlink_metadata().unwrap().is_dir();
            found.push(if directory { format!("{name}/") } else { name });
            if directory {
                walk(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

fn layer(space: &Space, files: &[(&str, &str)]) -> PathBuf {
    let layer = space.fresh("layer");
    for (path, content) in files {
        let path = layer.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    layer
}

fn layers_are_merged_and_changes_kept(space: &Space) {
    let mut spec = space.sh("cat /a /b; rm /a; echo new > /c; rm -r /dir");
    spec.root
        .lowers
        .push(layer(space, &[("a", "1"), ("b", "1"), ("dir/x", "")]));
    spec.root.lowers.push(layer(space, &[("a", "2")]));
    assert_eq!(outcome(&spec).ok(), "21");
    assert_eq!(
        fs::read_to_string(spec.root.upper.join("c")).unwrap(),
        "new\n"
    );
    assert!(
        fs::symlink_metadata(spec.root.upper.join("a"))
            .unwrap()
            .rdev()
            == 0
    );
    assert!(
        spec.root
            .upper
            .join("dir")
            .symlink_metadata()
            .is_ok_and(|gone| !gone.is_dir())
    );
}

fn a_root_without_layers(space: &Space) {
    let mut spec = space.spec(&["/busybox", "ls", "/"]);
    spec.root.lowers.clear();
    fs::copy("/bin/busybox", spec.root.upper.join("busybox")).unwrap();
    assert_eq!(outcome(&spec).ok(), "busybox\ndev\netc\nproc\nsys");
    // Directories for the kernel stay, as with other builders; those for hosts and resolv.conf do not.
    assert_eq!(tree(&spec.root.upper), ["busybox", "dev/", "proc/", "sys/"]);
}

fn five_hundred_layers(space: &Space) {
    let layers = space.fresh("layers");
    let mut spec = space.sh("ls / | grep -c layer");
    spec.root.lowers.truncate(1);
    for number in 1..500 {
        let path = layers.join(format!("a-rather-long-name-of-a-layer-{number}"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join(format!("layer-{number}")), "").unwrap();
        spec.root.lowers.push(path);
    }
    assert_eq!(outcome(&spec).ok(), "499");
    assert!(
        !sh(space, "cat /proc/self/mountinfo").contains("step"),
        "no path of the host shows"
    );
}

fn hosts_and_resolver(space: &Space) {
    let script = "cat /etc/hosts /etc/resolv.conf; stat -c %a /etc/hosts; touch /etc/hosts 2>/dev/null || echo ro";
    assert_eq!(
        sh(space, script),
        "127.0.0.1 localhost\nnameserver 192.0.2.1\n644\nro"
    );
}

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

fn bind_mounts(space: &Space) {
    let source = layer(space, &[("a/file", "content"), ("single", "one")]);
    let mut spec = space
        .sh("cat /ro/a/file /one; touch /ro/x 2>/dev/null || echo refused; echo new > /rw/new");
    spec.mounts.push(bind("/ro", &source, true));
    spec.mounts.push(bind("/rw", &source, false));
    spec.mounts.push(bind("/one", source.join("single"), true));
    assert_eq!(outcome(&spec).ok(), "contentonerefused");
    assert_eq!(fs::read_to_string(source.join("new")).unwrap(), "new\n");
    assert!(sh_with(space, &spec, "grep ' /rw ' /proc/mounts").contains("nodev"));
}

/// Runs another script with the mounts of `spec`.
fn sh_with(space: &Space, spec: &RunSpec, script: &str) -> String {
    let mut other = space.sh(script);
    other.mounts.clone_from(&spec.mounts);
    outcome(&other).ok()
}

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

fn files_in_memory(space: &Space) {
    let mut spec = space.sh(
        "stat -c %a /run/secrets/s; cat /run/secrets/s; /script; grep /run/secrets/s /proc/mounts",
    );
    let kind = MountKind::File {
        content: b"secret\n".into(),
        mode: 0o400,
        uid: 0,
        gid: 0,
    };
    spec.mounts.push(mount("/run/secrets/s", kind));
    let kind = MountKind::File {
        content: b"#!/bin/sh\necho ran\n".into(),
        mode: 0o755,
        uid: 0,
        gid: 0,
    };
    spec.mounts.push(mount("/script", kind));
    let output = outcome(&spec).ok();
    assert!(output.starts_with("400\nsecret\nran\n"), "{output}");
    assert!(output.contains("ro,nosuid,nodev"), "{output}");
    assert!(!spec.root.upper.join("run").exists());
    let big = MountKind::File {
        content: vec![7; 3 << 20],
        mode: 0o444,
        uid: 0,
        gid: 0,
    };
    let mut spec = space.sh("stat -c %s /big");
    spec.mounts.push(mount("/big", big));
    assert_eq!(outcome(&spec).ok(), (3 << 20).to_string());
}

fn owners_of_files_in_memory(space: &Space) {
    let mut spec = space.sh("stat -c %u:%g:%a /s; cat /s");
    let kind = MountKind::File {
        content: b"secret".into(),
        mode: 0o400,
        uid: 1000,
        gid: 7,
    };
    spec.mounts.push(mount("/s", kind));
    spec.process.user = "ann".into();
    assert_eq!(outcome(&spec).ok(), "1000:7:400\nsecret");
}

fn tmpfs(space: &Space) {
    let mut spec = space.sh(
        "stat -c %a /t /tmp; dd if=/dev/zero of=/t/x bs=1M count=3 2>/dev/null; stat -c %s /t/x",
    );
    spec.mounts.push(mount(
        "/t",
        MountKind::Tmpfs {
            size: Some(1 << 20),
            mode: Some(0o700),
        },
    ));
    spec.mounts.push(mount(
        "/tmp",
        MountKind::Tmpfs {
            size: None,
            mode: None,
        },
    ));
    assert_eq!(outcome(&spec).ok(), "700\n1777\n1048576");
}

/// It has the devices all the same, and is the only mount there.
fn tmpfs_on_dev(space: &Space) {
    let mut spec = space.sh(
        "echo x > /dev/null && stat -c %F /dev/null /dev/pts /dev/shm; grep -c ' /dev ' /proc/mounts; \
         dd if=/dev/zero of=/dev/x bs=1M count=3 2>/dev/null; [ $(stat -c %s /dev/x) -le 1048576 ] && echo bounded",
    );
    spec.mounts.push(mount(
        "/dev/",
        MountKind::Tmpfs {
            size: Some(1 << 20),
            mode: None,
        },
    ));
    assert_eq!(
        outcome(&spec).ok(),
        "character special file\ndirectory\ndirectory\n1\nbounded"
    );
}

/// What belongs in a `/dev` is on top of them, where there is a place for it; the devices are not.
fn folders_on_dev(space: &Space) {
    let script = "ls /dev; cat /proc/interrupts; ls /dev/pts; (echo kept > /dev/shm/x) && cat /dev/shm/x; true";
    let output_on = |from: &Path, readonly| {
        let mut spec = space.sh(script);
        spec.mounts.push(bind("/dev", from, readonly));
        outcome(&spec).ok()
    };
    let all = "mqueue\nown\npts\nshm\nptmx\nkept";
    let folder = layer(space, &[("own", "")]);
    // They are made where they can be, and stay.
    assert_eq!(output_on(&folder, true), "own");
    assert_eq!(output_on(&folder, false), all);
    assert_eq!(output_on(&folder, true), all);
    // No link leads them elsewhere.
    fs::remove_dir(folder.join("shm")).unwrap();
    symlink("/etc", folder.join("shm")).unwrap();
    let mut spec = space.sh("true");
    spec.mounts.push(bind("/dev", &folder, false));
    assert!(refused(&spec).contains("/dev"), "{}", refused(&spec));
}

/// The control groups are on top, as without it.
fn tmpfs_on_sys(space: &Space) {
    let groups = "grep -c ' /sys/fs/cgroup cgroup2' /proc/mounts; true";
    let mut spec = space.sh(groups);
    let without = outcome(&spec).ok();
    spec.mounts.push(mount(
        "/sys",
        MountKind::Tmpfs {
            size: None,
            mode: None,
        },
    ));
    assert_eq!(outcome(&spec).ok(), without);
}

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

fn a_socket_of_the_host(space: &Space) {
    let path = space.fresh("socket").join("agent");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let mut spec = space.sh("test -S /run/agent && echo socket");
    spec.mounts
        .push(mount("/run/agent", MountKind::Socket { path }));
    assert_eq!(outcome(&spec).ok(), "socket");
    drop(listener);
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
