//! What real overlay mounts leave in an upper folder, and what becomes of it. Needs to be root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{listing, run, set_xattr, store, tar_of};
use lapstrake_cache::{Active, Layer, Store};

/// An overlay mount, for as long as this lives.
struct Mount(PathBuf);

impl Mount {
    fn new(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let out = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", options])
            .arg(at)
            .output()
            .unwrap();
        if !out.status.success() {
            eprintln!(
                "SKIPPED: cannot mount: {}",
                String::from_utf8_lossy(&out.stderr)
            );
            return None;
        }
        Some(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[self.0.to_str().unwrap()]);
    }
}

fn lower_option(lowers: &[PathBuf]) -> String {
    let top_first: Vec<_> = lowers
        .iter()
        .rev()
        .map(|p| p.display().to_string())
        .collect();
    format!("lowerdir={}", top_first.join(":"))
}

/// Runs a script in the merged view of layers, as a build step would.
fn step(store: &Store, lowers: &[PathBuf], script: &str) -> Option<Layer> {
    step_with(store, lowers, |root| {
        let out = Command::new("sh")
            .args(["-ec", script])
            .current_dir(root)
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    })
}

fn step_with(store: &Store, lowers: &[PathBuf], act: impl FnOnce(&Path)) -> Option<Layer> {
    let active = store.snapshot(lowers).unwrap();
    mount_active(&active, act)?;
    Some(store.commit(active).unwrap())
}

fn mount_active(active: &Active, act: impl FnOnce(&Path)) -> Option<()> {
    let at = active.work().with_file_name("merged");
    // A mount wants a lower directory even where there is none.
    let empty = active.work().with_file_name("empty");
    fs::create_dir_all(&empty).unwrap();
    let mut lowers = vec![empty];
    lowers.extend(active.lowers.iter().cloned());
    let options = format!(
        "{},upperdir={},workdir={},index=off,redirect_dir=off,metacopy=off",
        lower_option(&lowers),
        active.upper().display(),
        active.work().display()
    );
    let mount = Mount::new(&at, &options)?;
    act(&mount.0);
    Some(())
}

/// The merged view of layers, listed.
fn view(dir: &Path, lowers: &[PathBuf]) -> Option<Vec<String>> {
    let empty = dir.join("empty");
    fs::create_dir_all(&empty).unwrap();
    let mut all = vec![empty];
    all.extend(lowers.iter().cloned());
    let mount = Mount::new(&dir.join("view"), &lower_option(&all))?;
    Some(listing(&mount.0))
}

fn names(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries
        .map(|e| String::from_utf8(e.unwrap().path_bytes().to_vec()).unwrap())
        .collect()
}

const BASE: &str = "
    mkdir -p etc usr/bin srv/data/deep var/empty tmp
    chmod 1777 tmp
    echo root > etc/passwd; echo hosts > etc/hosts; ln -s passwd etc/link
    echo tool > usr/bin/tool; chmod 4755 usr/bin/tool; ln usr/bin/tool usr/bin/other
    echo one > srv/data/one; echo two > srv/data/two; echo three > srv/data/deep/three
    mkfifo srv/pipe
";

/// Each step, and the names that its layer must hold.
const STEPS: &[(&str, &str, &[&str])] = &[
    ("nothing", "true", &[]),
    (
        "read only",
        "cat etc/passwd > /dev/null; ls -lR > /dev/null",
        &[],
    ),
    ("temporary file", "echo x > tmp/x; rm tmp/x", &[]),
    ("temporary directory", "mkdir -p tmp/x/y; rm -r tmp/x", &[]),
    (
        "mode and back",
        "chmod 600 etc/passwd; chmod 644 etc/passwd",
        &[],
    ),
    ("same owner", "chown 0:0 etc/passwd", &[]),
    ("append", "echo x >> etc/passwd", &["etc/", "etc/passwd"]),
    (
        "touch",
        "touch -d @1500000000 etc/passwd",
        &["etc/", "etc/passwd"],
    ),
    (
        "mode of a file",
        "chmod 600 etc/passwd",
        &["etc/", "etc/passwd"],
    ),
    (
        "mode of a directory",
        "chmod 700 var/empty",
        &["var/", "var/empty/"],
    ),
    (
        "owner of a link",
        "chown -h 5:5 etc/link",
        &["etc/", "etc/link"],
    ),
    ("new file", "echo x > srv/new", &["srv/", "srv/new"]),
    (
        "new file in a new directory",
        "mkdir -p a/b; echo x > a/b/c",
        &["a/", "a/b/", "a/b/c"],
    ),
    ("remove a file", "rm etc/hosts", &["etc/", "etc/.wh.hosts"]),
    ("remove a tree", "rm -r srv", &[".wh.srv"]),
    (
        "remove and write again",
        "rm etc/hosts; echo new > etc/hosts",
        &["etc/", "etc/hosts"],
    ),
    (
        "remove a directory and make it again",
        "rm -r srv/data; mkdir srv/data; echo new > srv/data/two",
        &["srv/", "srv/data/", "srv/data/.wh..wh..opq", "srv/data/two"],
    ),
    (
        "make it again and put the same back",
        "cp -a srv/data keep; rm -r srv/data; mv keep srv/data",
        &[
            "srv/",
            "srv/data/",
            "srv/data/.wh..wh..opq",
            "srv/data/deep/",
            "srv/data/deep/three",
            "srv/data/one",
            "srv/data/two",
        ],
    ),
    (
        "directory into file",
        "rm -r srv/data; echo x > srv/data",
        &["srv/", "srv/data"],
    ),
    (
        "file into directory",
        "rm etc/hosts; mkdir etc/hosts",
        &["etc/", "etc/hosts/"],
    ),
    (
        "file into link",
        "ln -sf nowhere etc/hosts",
        &["etc/", "etc/hosts"],
    ),
    (
        "rename",
        "mv etc/hosts etc/names",
        &["etc/", "etc/.wh.hosts", "etc/names"],
    ),
    (
        "new hard link",
        "ln etc/passwd etc/same",
        &["etc/", "etc/same"],
    ),
    (
        "two new names of a file",
        "echo x > etc/a; ln etc/a etc/b; ln etc/a a",
        &["a", "etc/", "etc/a", "etc/b"],
    ),
    (
        "make and remove",
        "echo x > etc/x; rm etc/x; mkdir etc/d; rmdir etc/d",
        &[],
    ),
    (
        "socket",
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"srv/s\")'",
        &[],
    ),
    ("fifo", "mkfifo srv/another", &["srv/", "srv/another"]),
    (
        "device",
        "mknod srv/null c 1 3; chmod 666 srv/null",
        &["srv/", "srv/null"],
    ),
    (
        "deep change",
        "echo x >> srv/data/deep/three",
        &["srv/", "srv/data/", "srv/data/deep/", "srv/data/deep/three"],
    ),
];

#[test]
fn steps_give_the_layers_that_they_should() {
    let (dir, store) = store();
    let Some(base) = step(&store, &[], BASE) else {
        return;
    };
    let lowers = vec![store.layer_dir(&base.diff_id)];
    for (name, script, expected) in STEPS {
        let layer = step(&store, &lowers, script).unwrap();
        let tar = tar_of(&store, &layer);
        assert_eq!(names(&tar), *expected, "{name}");
        if expected.is_empty() {
            assert_eq!(layer.size, 1024, "{name}");
        }

        // The moved upper folder shows the same as the one unpacked from its archive.
        let other = Store::open(&dir.path().join("other")).unwrap();
        let pulled = other.extract(&tar[..], &layer.diff_id).unwrap();
        assert_eq!(pulled.content, layer.content, "{name}");
        let ours = view(
            dir.path(),
            &[lowers[0].clone(), store.layer_dir(&layer.diff_id)],
        )
        .unwrap();
        let theirs = view(
            dir.path(),
            &[lowers[0].clone(), other.layer_dir(&layer.diff_id)],
        )
        .unwrap();
        assert_eq!(ours, theirs, "{name}");

        // A further step over it finds nothing to do.
        let both = vec![lowers[0].clone(), store.layer_dir(&layer.diff_id)];
        let again = step(&store, &both, "true").unwrap();
        assert_eq!(again.size, 1024, "{name}: step after it");
    }
}

#[test]
fn a_committed_view_is_what_the_step_saw() {
    let (dir, store) = store();
    let Some(base) = step(&store, &[], BASE) else {
        return;
    };
    let lowers = vec![store.layer_dir(&base.diff_id)];
    for (name, script, _) in STEPS {
        if *name == "socket" {
            continue;
        }
        let mut seen = Vec::new();
        let layer = step_with(&store, &lowers, |root| {
            let out = Command::new("sh")
                .args(["-ec", script])
                .current_dir(root)
                .output()
                .unwrap();
            assert!(out.status.success());
            seen = listing(root);
        });
        let all = [lowers[0].clone(), store.layer_dir(&layer.unwrap().diff_id)];
        let shown = view(dir.path(), &all).unwrap();
        // Which names share a file changes: a copied-up name is no longer one with those below. So
        // do the times of directories in which nothing is left of a change.
        let plain = |lines: Vec<String>| -> Vec<String> {
            let plain = lines.iter().map(|line| {
                let is_dir = line.split(' ').nth(1) == Some("dir");
                let mut words: Vec<_> = line.split(' ').collect();
                if is_dir {
                    words.truncate(4);
                }
                if let Some(at) = words.iter().position(|word| *word == "as") {
                    words.remove(at + 1);
                }
                words.join(" ")
            });
            plain.collect()
        };
        let mut seen = plain(seen);
        seen.retain(|line| !line.starts_with("empty"));
        assert_eq!(plain(shown), seen, "{name}");
    }
}

#[test]
fn many_layers_merge_as_the_kernel_merges_them() {
    let (dir, store) = store();
    let Some(base) = step(&store, &[], BASE) else {
        return;
    };
    let mut lowers = vec![store.layer_dir(&base.diff_id)];
    let steps = [
        "rm -r srv/data; echo x > srv/data",
        "rm srv/data; mkdir -p srv/data/new; echo y > srv/data/new/file",
        "rm etc/hosts; echo z > etc/z",
        "echo back > etc/hosts; rm -r srv",
        "mkdir -p srv/data; echo again > srv/data/one",
        "rm -r etc; mkdir etc",
    ];
    for script in steps {
        let layer = step(&store, &lowers, script).unwrap();
        lowers.push(store.layer_dir(&layer.diff_id));
        assert_eq!(
            step(&store, &lowers, "true").unwrap().size,
            1024,
            "after {script}"
        );
        // To copy up everything that is there, and put it back as it was, is no change.
        let touched = "find . -type f | while read f; do chmod o+t \"$f\"; chmod o-t \"$f\"; done";
        assert_eq!(
            step(&store, &lowers, touched).unwrap().size,
            1024,
            "touched after {script}"
        );
    }
    let shown = view(dir.path(), &lowers).unwrap().join("\n");
    assert!(
        shown.contains("srv/data/one") && !shown.contains("srv/data/two"),
        "{shown}"
    );
    assert!(!shown.contains("etc/"), "{shown}");
}

#[test]
fn content_is_compared_where_time_and_size_agree() {
    let (_dir, store) = store();
    let Some(base) = step(&store, &[], "echo aaa > file; touch -d @1500000000.5 file") else {
        return;
    };
    let lowers = vec![store.layer_dir(&base.diff_id)];
    let script = "echo bbb > file; touch -d @1500000000.5 file";
    let layer = step(&store, &lowers, script).unwrap();
    assert_eq!(names(&tar_of(&store, &layer)), ["file"]);
    let script = "echo aaa > file; touch -d @1500000000.5 file";
    assert_eq!(step(&store, &lowers, script).unwrap().size, 1024);
}

#[test]
fn the_same_step_at_another_time_has_the_same_content() {
    let (_dir, store) = store();
    let Some(base) = step(&store, &[], BASE) else {
        return;
    };
    let lowers = vec![store.layer_dir(&base.diff_id)];
    let script = "echo x > srv/x; rm etc/hosts; chmod 700 var/empty; ln -s a srv/l";
    let first = step(&store, &lowers, script).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = step(&store, &lowers, script).unwrap();
    assert_eq!(first.content, second.content);
    assert_ne!(first.diff_id, second.diff_id);
    let third = step(&store, &lowers, &format!("{script}; echo y >> srv/x")).unwrap();
    assert_ne!(first.content, third.content);
}

#[test]
fn overlay_marks_of_a_mount_do_not_reach_the_archive() {
    let (_dir, store) = store();
    let Some(base) = step(&store, &[], BASE) else {
        return;
    };
    let lowers = vec![store.layer_dir(&base.diff_id)];
    let layer = step_with(&store, &lowers, |root| {
        fs::write(root.join("etc/passwd"), "changed").unwrap();
        set_xattr(&root.join("etc/passwd"), "user.mine", b"a=b\nc\0d");
        set_xattr(&root.join("etc"), "user.mine", b"");
        chown(root.join("etc/hosts"), Some(70_000), Some(4_000_000_000)).unwrap();
    });
    let tar = tar_of(&store, &layer.unwrap());
    let text = String::from_utf8_lossy(&tar);
    assert!(
        !text.contains(".overlay."),
        "overlay attributes in the archive"
    );
    assert!(text.contains("SCHILY.xattr.user.mine=a=b\nc\0d\n"));
    assert!(text.contains("gid=4000000000\n"));
}

#[test]
fn the_root_has_the_mode_of_the_layer_below() {
    let (_dir, store) = store();
    let active = store.snapshot(&[]).unwrap();
    let meta = fs::metadata(active.upper()).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o755, 0));
    fs::set_permissions(active.upper(), fs::Permissions::from_mode(0o711)).unwrap();
    chown(active.upper(), Some(7), Some(8)).unwrap();
    symlink("x", active.upper().join("l")).unwrap();
    let layer = store.commit(active).unwrap();
    let next = store.snapshot(&[store.layer_dir(&layer.diff_id)]).unwrap();
    let meta = fs::metadata(next.upper()).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o711, 7, 8)
    );
}
