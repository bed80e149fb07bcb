//! Machines that lack something: room, descriptors, a home, streams, namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::support::{Ended, TestSpace, shell};
use super::failed;

const DOCKERFILE: &str = "FROM busybox\nCOPY a /\nRUN echo works > /x\n";

fn space() -> TestSpace {
    let space = TestSpace::with(DOCKERFILE);
    space.write("a", "a");
    space
}

/// A build by way of a shell script that changes its surroundings first.
fn build(space: &TestSpace, script: &str) -> Ended {
    let arguments = [
        "build",
        "--progress=plain",
        "-o",
        "type=oci,dest=../out",
        ".",
    ];
    let mut command = space.scripted(script, &arguments);
    command.stdin(Stdio::null()).output().unwrap().into()
}

#[test]
fn surroundings_that_do_not_matter() {
    for (what, script) in [
        ("no home", "unset HOME; exec \"$@\""),
        ("home that is not there", "HOME=/nonexistent exec \"$@\""),
        ("home that may not be written", "HOME=/proc exec \"$@\""),
        (
            "no folder for temporary files",
            "TMPDIR=/nonexistent XDG_RUNTIME_DIR=/nonexistent exec \"$@\"",
        ),
        ("no input", "exec \"$@\" <&-"),
        ("no output", "exec \"$@\" >&-"),
        ("no errors", "exec \"$@\" 2>&-"),
        ("no streams", "exec \"$@\" <&- >&- 2>&-"),
        ("full device for output", "exec \"$@\" > /dev/full"),
        ("full device for errors", "exec \"$@\" 2> /dev/full"),
        (
            "closed pipe for errors",
            "(sleep 0.1; \"$@\"; echo $? > ../code) 2>&1 | true; exit $(cat ../code)",
        ),
        ("few descriptors", "ulimit -n 64; exec \"$@\""),
        ("few descriptors for good", "ulimit -Hn 256; exec \"$@\""),
        ("no core files", "ulimit -c 0; exec \"$@\""),
        ("strict umask", "umask 0777; exec \"$@\""),
        (
            "signals ignored",
            "trap '' INT TERM HUP PIPE CHLD; exec \"$@\"",
        ),
        (
            "strange names",
            "exec env 'A.B=c' \"$(printf 'X\\nY')=z\" \"$@\"",
        ),
    ] {
        let space = space();
        let ended = build(&space, script);
        assert_eq!(ended.code, Some(0), "{what}: {}", ended.stderr);
        assert!(space.path("../out").exists() && space.is_clean(), "{what}");
    }
}

#[test]
fn surroundings_that_do_are_told_of() {
    for (what, script, expected) in [
        (
            "working directory is gone",
            "mkdir ../gone; cd ../gone; rmdir ../gone; exec \"$@\"",
            "error",
        ),
        (
            "files may not grow",
            "ulimit -f 100; exec \"$@\"",
            "ile too large",
        ),
    ] {
        let space = space();
        let ended = build(&space, script);
        failed(&space, what, &ended, expected);
        assert!(!space.path("../out").exists(), "{what}");
        assert_eq!(build(&space, "exec \"$@\"").code, Some(0), "{what}");
    }
    let space = space();
    let closed = "exec \"$@\" >&-";
    for output in [
        "-",
        "type=oci,dest=-",
        "type=docker,dest=-",
        "type=tar,dest=-",
    ] {
        let mut command = space.scripted(closed, &["build", "--progress=plain", "-o", output, "."]);
        let ended: Ended = command.output().unwrap().into();
        failed(&space, output, &ended, "standard output is closed");
    }
    for output in ["-", "type=oci,dest=-"] {
        let mut command = space.scripted(
            "exec \"$@\" > /dev/full",
            &["build", "--progress=plain", "-o", output, "."],
        );
        let ended: Ended = command.output().unwrap().into();
        failed(&space, output, &ended, "o space left");
    }
    for output in [
        "type=oci,dest=/proc/x",
        "type=local,dest=/proc/x",
        "type=oci,dest=../gone/x",
        "type=tar,dest=..",
    ] {
        let ended = space.run(&["build", "--progress=plain", "-o", output, "."]);
        assert_eq!(ended.code, Some(1), "{output}: {}", ended.stderr);
        assert!(space.is_clean(), "{output}");
    }
    let mut command = space.command(&["build", "."]);
    let ended: Ended = command
        .env("LAPSTRAKE_ROOT", "/proc/store")
        .output()
        .unwrap()
        .into();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("/proc/store"), "{}", ended.stderr);
}

/// Where no user namespace can be made an ordinary user is told what to do, and root can do without.
#[test]
fn no_user_namespaces() {
    let none_left = "echo 0 > /proc/sys/user/max_user_namespaces";
    let user = format!(
        "unshare -U --keep-caps sh -c \"{none_left}; exec setpriv --inh-caps=-all --ambient-caps=-all \\\"\\$@\\\"\" sh"
    );
    let root = format!(
        "unshare -U --map-root-user sh -c \"{none_left}; \
         exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin \\\"\\$@\\\"\" sh"
    );
    let run = |space: &TestSpace, surroundings: &str, arguments: &[&str]| -> Ended {
        let script = format!(
            "cp $1 ../lapstrake; shift; chmod 755 ..; exec {surroundings} ../lapstrake \"$@\""
        );
        space.scripted(&script, arguments).output().unwrap().into()
    };
    let isolated = ["build", "--progress=plain", "."];
    let bare = [
        "build",
        "--progress=plain",
        "--isolation=none",
        "-t",
        "made",
        ".",
    ];
    for (surroundings, arguments, expected) in [
        (&user, &isolated[..], "user.max_user_namespaces"),
        (&user, &bare[..], "this process lacks CHOWN"),
        (&root, &isolated[..], "--isolation=none"),
        // Root of a user namespace may not make device nodes.
        (&root, &bare[..], "CAP_MKNOD"),
    ] {
        let ended = run(&space(), surroundings, arguments);
        assert_eq!(ended.code, Some(1), "{expected}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(expected),
            "{expected}: {}",
            ended.stderr
        );
    }
    let space = TestSpace::with("FROM busybox\nCOPY a /\n");
    space.write("a", "a");
    let ended = run(&space, &root, &bare);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let listed = run(&space, &root, &["images"]);
    assert!(listed.text().contains("made"), "{}", listed.stderr);
}

/// A small file system of its own, in the namespace of nobody else's.
struct Small(PathBuf);

impl Small {
    fn new(at: &Path, size: &str) -> Self {
        fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "small"]);
        assert!(
            mount.arg(at).status().unwrap().success(),
            "mount a tmpfs: these tests need root"
        );
        Self(at.to_path_buf())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_under_an_output_leaves_no_output() {
    let space = TestSpace::with("FROM scratch\nCOPY large /\n");
    space.write("large", vec![7; 20 << 20]);
    let _small = Small::new(&space.path("../small"), "4m");
    for kind in [
        "type=oci,compression=uncompressed,dest=../small/out",
        "type=tar,dest=../small/out",
        "type=docker,compression=uncompressed,dest=../small/out",
    ] {
        let ended = space.run(&["build", "--progress=plain", "-o", kind, "."]);
        failed(&space, kind, &ended, "o space left");
        assert_eq!(
            fs::read_dir(space.path("../small")).unwrap().count(),
            0,
            "{kind}"
        );
    }
    space.build(&["-o", "../whole", "."]);
}

/// A device that fails, once or from then on, stops the build and is not taken for a success; what it spoilt is not used later.
#[test]
fn a_device_that_fails_is_told_of() {
    for (what, calls, when, is_fatal) in [
        ("copying", "copy_file_range,sendfile", "1+", false),
        ("reading", "pread64,preadv2,readlinkat", "30+", false),
        ("renaming", "rename,renameat,renameat2", "1+", true),
        ("renaming once", "rename,renameat,renameat2", "2", false),
        ("linking", "linkat,symlinkat", "1+", false),
        ("making folders", "mkdirat", "4+", true),
        ("making a folder", "mkdirat", "12", false),
        (
            "changing owners and modes",
            "fchown,fchmod,utimensat",
            "3+",
            true,
        ),
        ("syncing", "fsync,fdatasync,syncfs", "1+", true),
        ("syncing once", "fsync,fdatasync,syncfs", "2", false),
    ] {
        let space = space();
        let script = format!(
            "exec strace -f -qq -o /dev/null -e trace={calls} -e inject={calls}:error=EIO:when={when} \"$@\""
        );
        let ended = build(&space, &script);
        match ended.code {
            // Some have another way, or what they do is not needed.
            Some(0) if !is_fatal => assert!(space.path("../out").exists(), "{what}"),
            _ => {
                assert_eq!(ended.code, Some(1), "{what}: {}", ended.stderr);
                assert!(
                    ended.stderr.contains("nput/output error"),
                    "{what}: {}",
                    ended.stderr
                );
                assert!(!space.path("../out").exists(), "{what}");
            }
        }
        assert_eq!(space.files(&["."])["x"], "works\n", "{what}");
        let checked = space.run(&["fsck"]);
        assert_eq!(checked.code, Some(0), "{what}: {}", checked.text());
        assert!(space.is_clean(), "{what}");
    }
}

/// Stores where nothing can be noted of what a layer hides, or where layers cannot be mounted.
#[test]
fn stores_on_file_systems_that_lack_something() {
    let space = space();
    let script = |mounted: &str| {
        format!("exec unshare -m sh -ec 'mkdir -p ../store; {mounted}; exec \"$@\"' sh \"$@\"")
    };
    let bare = build(&space, &script("mount -t ramfs x ../store"));
    failed(&space, "no attributes", &bare, "extended attributes");
    assert_eq!(build(&space, "exec \"$@\"").code, Some(0));
    let overlay = "mkdir ../lower ../upper ../work; \
        mount -t overlay x -o lowerdir=../lower,upperdir=../upper,workdir=../work ../store";
    for mounted in ["mount -t tmpfs x ../store", overlay] {
        let built = build(&space, &script(mounted));
        assert_eq!(built.code, Some(0), "{mounted}: {}", built.stderr);
    }
}

/// Eight times the files take about eight times as long.
#[test]
fn large_contexts_take_linear_time() {
    let time = |count: u32| {
        let space = TestSpace::with("FROM scratch\nCOPY . /\n");
        let script = format!(
            "for d in $(seq {}); do mkdir $d; (cd $d; seq 1000 | xargs touch); done",
            count / 1000
        );
        shell(&space.path("."), &script);
        let start = Instant::now();
        space.build(&["."]);
        start.elapsed()
    };
    let (few, many) = (time(1000), time(8000));
    assert!(
        many < few * 30 + Duration::from_secs(10),
        "{few:?}, {many:?}"
    );
}
