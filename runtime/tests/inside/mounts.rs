//! Every kind of mount, and that nothing of it remains in the layer.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use lapstrake_runtime::{MountKind, RunSpec};

use crate::Test;
use crate::support::{Needs, Space, bind, layer, mount, outcome, refused, sh, tree};

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
    ("bind_mounts", Needs::Nothing, bind_mounts),
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
    ("a_socket_of_the_host", Needs::Nothing, a_socket_of_the_host),
];

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
