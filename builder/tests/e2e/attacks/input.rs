//! Dockerfiles, contexts and steps that are not as they should be.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use super::super::support::{Ended, TestSpace, shell};
use super::watch::Running;
use super::{Canary, SECRET, failed};

fn build(space: &TestSpace, more: &[&str]) -> Ended {
    let arguments = [
        &["build", "--progress=plain", "-o", "type=tar,dest=../out"],
        more,
    ]
    .concat();
    space.run(&arguments)
}

/// Fails with this, and writes no output.
fn refused(space: &TestSpace, what: &str, expected: &str) {
    let start = Instant::now();
    let ended = build(space, &["."]);
    failed(space, what, &ended, expected);
    assert!(!space.path("../out").exists(), "{what}");
    assert!(start.elapsed() < Duration::from_secs(20), "{what}");
}

#[test]
fn dockerfiles_that_are_no_files() {
    let space = TestSpace::empty();
    let canary = Canary::new(&space);
    let file = space.path("Dockerfile");
    refused(&space, "missing", "there is no Dockerfile");
    fs::create_dir(&file).unwrap();
    refused(&space, "directory", "not a regular file");
    fs::remove_dir(&file).unwrap();
    shell(&space.path("."), "mkfifo Dockerfile");
    refused(&space, "pipe", "not a regular file");
    for (target, expected) in [
        (canary.path("secret"), "does not have"),
        ("../canary/secret".into(), "does not have"),
        ("/dev/zero".into(), "does not have"),
        ("nothing".into(), "does not have"),
        ("Dockerfile".into(), "read "),
    ] {
        fs::remove_file(&file).unwrap();
        symlink(&target, &file).unwrap();
        refused(&space, &target, expected);
        canary.check(&target, &build(&space, &["."]));
    }
    fs::remove_file(&file).unwrap();
    fs::File::create(&file).unwrap().set_len(2 << 30).unwrap();
    refused(&space, "2 GiB", "more than 16777216 bytes");
    fs::remove_file(&file).unwrap();
    space.write("docker/real", "FROM scratch\nLABEL a=b\n");
    symlink("docker/real", &file).unwrap();
    assert_eq!(build(&space, &["."]).code, Some(0));
    // What the user names outside of the context is the user's own.
    symlink(space.path("docker/real"), space.path("../named")).unwrap();
    assert_eq!(build(&space, &["-f", "../named", "."]).code, Some(0));
    symlink("real", space.path("docker/inside")).unwrap();
    symlink(canary.path("secret"), space.path("docker/outside")).unwrap();
    assert_eq!(build(&space, &["-f", "docker/inside", "."]).code, Some(0));
    let ended = build(&space, &["-f", "docker/outside", "."]);
    assert!(ended.stderr.contains("does not have"), "{}", ended.stderr);
    canary.check("named", &ended);
}

#[test]
fn ignore_files_that_are_no_files() {
    let space = TestSpace::with("FROM scratch\nCOPY a /\n");
    let canary = Canary::new(&space);
    space.write("a", "a");
    let file = space.path(".dockerignore");
    shell(&space.path("."), "mkfifo .dockerignore");
    refused(&space, "pipe", "not a regular file");
    fs::remove_file(&file).unwrap();
    symlink(canary.path("secret"), &file).unwrap();
    refused(&space, "link out", "does not have");
    fs::remove_file(&file).unwrap();
    fs::File::create(&file).unwrap().set_len(2 << 30).unwrap();
    refused(&space, "2 GiB", "larger than");
    fs::remove_file(&file).unwrap();
    let bomb: String = (0..200)
        .map(|n| format!("**/*a*a*a*a*a*a*a*a{n}\n"))
        .collect();
    space.write(".dockerignore", bomb);
    for number in 0..500 {
        space.write(&format!("d/{}{number}", "a".repeat(100)), "");
    }
    let start = Instant::now();
    assert_eq!(build(&space, &["."]).code, Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn dockerfiles_that_are_wrong_name_their_line() {
    let space = TestSpace::empty();
    let cases: &[(&str, &[u8], &str)] = &[
        ("empty", b"", "Dockerfile"),
        ("comments only", b"# nothing\n", "Dockerfile"),
        ("zero bytes", b"FROM scratch\nRUN a\0b\n", "Dockerfile:2"),
        ("not text", b"\xff\xfe\x00\x01\x02", "Dockerfile:1"),
        (
            "unknown instruction",
            b"FROM scratch\n\nCOPPY a b\n",
            "Dockerfile:3",
        ),
        (
            "unknown flag",
            b"FROM scratch\nCOPY --frm=x a b\n",
            "Dockerfile:2",
        ),
        (
            "missing source",
            b"FROM scratch\nCOPY gone /\n",
            "Dockerfile:2",
        ),
        (
            "source above",
            b"FROM scratch\nCOPY ../canary/secret /\n",
            "Dockerfile:2",
        ),
        (
            "unknown stage",
            b"FROM scratch\nCOPY --from=9 a /\n",
            "Dockerfile:2",
        ),
        ("circle", b"FROM b AS a\nFROM a AS b\n", "Dockerfile:"),
        ("bad name", b"FROM UPPER/case:x\n", "Dockerfile:1"),
        (
            "open heredoc",
            b"FROM scratch\nCOPY <<EOF /a\nb\n",
            "Dockerfile:2",
        ),
        (
            "failing step",
            b"FROM busybox\nRUN exit 3\n",
            "Dockerfile:2",
        ),
        (
            "killed step",
            b"FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?\n",
            "Dockerfile:2",
        ),
        (
            "no such program",
            b"FROM busybox\nRUN [\"/none\"]\n",
            "Dockerfile:2",
        ),
        (
            "working directory is a file",
            b"FROM busybox\nWORKDIR /bin/busybox\nRUN true\n",
            "Dockerfile:",
        ),
    ];
    for (what, text, expected) in cases {
        space.write("Dockerfile", text);
        refused(&space, what, expected);
    }
    space.write("Dockerfile", "FROM busybox\nRUN echo works > /x\n");
    assert_eq!(build(&space, &["."]).code, Some(0));
}

#[test]
fn dockerfiles_that_explode() {
    let space = TestSpace::empty();
    let doubled: String = (0..64).map(|_| "ENV A=$A$A$A$A\n").collect();
    let doubled_args: String = (1..64)
        .map(|n| format!("ARG A{n}=$A{0}$A{0}\n", n - 1))
        .collect();
    let stars = "*a".repeat(1500);
    let cases: Vec<(&str, String)> = vec![
        (
            "values that double",
            format!("FROM scratch\nENV A=xxxxxxxxxxxxxxxx\n{doubled}"),
        ),
        (
            "arguments that double",
            format!("FROM scratch\nARG A0=xxxxxxxxxxxxxxxxxxxxxxx\n{doubled_args}LABEL a=$A63\n"),
        ),
        (
            "a pattern of stars",
            format!(
                "FROM scratch\nENV A={}\nENV B=${{A##{stars}b}}\n",
                "a".repeat(30_000)
            ),
        ),
        (
            "replacing everything",
            format!(
                "FROM scratch\nENV A={}\nENV B=${{A//a/{}}}\n",
                "a".repeat(30_000),
                "b".repeat(30_000)
            ),
        ),
        (
            "one long line",
            format!("FROM scratch\nLABEL a={}\n", "x".repeat(15 << 20)),
        ),
        (
            "continuations",
            format!("FROM scratch\nLABEL a=b{}\n", " \\\n".repeat(500_000)),
        ),
        ("stages", "FROM scratch\n".repeat(5000)),
        (
            "nested lists",
            format!(
                "FROM scratch\nCMD {}{}\n",
                "[".repeat(200_000),
                "]".repeat(200_000)
            ),
        ),
    ];
    for (what, text) in cases {
        space.write("Dockerfile", text);
        let start = Instant::now();
        let ended = build(&space, &["."]);
        assert!(
            matches!(ended.code, Some(0 | 1)),
            "{what}: {:?}",
            ended.code
        );
        assert!(
            ended.stderr.len() < 4 << 20,
            "{what}: {} bytes",
            ended.stderr.len()
        );
        assert!(
            !ended.stderr.contains("panicked"),
            "{what}: {}",
            ended.stderr
        );
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{what}: {:?}",
            start.elapsed()
        );
    }
}

#[test]
fn contexts_with_what_is_no_file() {
    let space = TestSpace::with("FROM scratch\nCOPY . /in/\n");
    shell(&space.path("."), "mkfifo pipe; mkdir sub; echo a > sub/a");
    let _socket = UnixListener::bind(space.path("socket")).unwrap();
    let canary = Canary::new(&space);
    symlink(canary.path("secret"), space.path("link")).unwrap();
    symlink(canary.path("vdir"), space.path("sub/dir")).unwrap();
    let ended = build(&space, &["."]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    canary.check("links", &ended);
    assert!(!super::holds(
        &fs::read(space.path("../out")).unwrap(),
        SECRET
    ));
    for source in ["link", "sub/dir/inner", "sub/dir/../secret", "sub/dir/"] {
        space.write("Dockerfile", format!("FROM scratch\nCOPY {source} /x\n"));
        canary.check(
            source,
            &space.run(&["build", "--progress=plain", "-o", "-", "."]),
        );
    }
    fs::remove_file(space.path("../out")).unwrap();
    shell(&space.path("."), "mknod device c 1 5");
    space.write("Dockerfile", "FROM scratch\nCOPY device /\n");
    let start = Instant::now();
    build(&space, &["."]);
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// An ordinary user cannot read everything in a context.
#[test]
fn a_file_that_may_not_be_read_is_named() {
    let space = TestSpace::with("FROM scratch\nCOPY . /\n");
    space.write("sub/hidden", "x");
    let set = |path: &str, mode| {
        fs::set_permissions(space.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    set("sub/hidden", 0o000);
    shell(
        &space.path(".."),
        "chmod 777 . context; mkdir store; chown 65534:65534 store",
    );
    let arguments = ["build", "--progress=plain", "-o", "../out", "."];
    // The build directory of this test may be one that only root can enter.
    let program = space.path("../lapstrake");
    fs::copy(env!("CARGO_BIN_EXE_lapstrake"), &program).unwrap();
    let script = format!(
        "shift; exec setpriv --reuid 65534 --regid 65534 --clear-groups {} \"$@\"",
        program.display()
    );
    let mut command = space.scripted(&script, &arguments);
    let ended: Ended = command.output().unwrap().into();
    failed(&space, "unreadable file", &ended, "sub/hidden");
    assert!(ended.stderr.contains("Dockerfile:2"), "{}", ended.stderr);
    assert!(!space.path("../out").exists());
}

#[test]
fn steps_that_write_without_end_or_sense() {
    let limit = 100 << 10;
    let cases = [
        ("one long line", "head -c 100000000 /dev/zero | tr '\\0' x"),
        ("many lines", "yes 0123456789 | head -c 100000000"),
        ("binary", "head -c 3000000 /dev/urandom"),
    ];
    for (what, script) in cases {
        let text = format!("FROM busybox\nRUN busybox sh -c \"{script}; exit 5\"\n");
        let text = text
            .replace("head", "busybox head")
            .replace("tr ", "busybox tr ")
            .replace("yes", "busybox yes");
        let space = TestSpace::with(&text);
        let mut command = space.command(&["build", "--progress=plain", "."]);
        command.env("BUILDKIT_STEP_LOG_MAX_SIZE", limit.to_string());
        let running = Running::start(command);
        let mut peak = 0;
        while let Some(now) = running.memory() {
            peak = peak.max(now);
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = running.end();
        assert_eq!(ended.code, Some(1), "{what}");
        assert!(ended.stderr.contains("exit code: 5"), "{what}");
        assert!(peak < 200 << 10, "{what}: {peak} KiB");
        // Escapes are four times as long as what they stand for; a report of failure repeats the last lines.
        let shown = ended.stderr.len();
        assert!(
            shown < 10 * limit && ended.stderr.contains("output clipped"),
            "{what}: {shown} bytes"
        );
        let controls = |byte: &u8| *byte < b' ' && !b"\n\t".contains(byte);
        assert!(!ended.stderr.as_bytes().iter().any(controls), "{what}");
        assert!(space.is_clean(), "{what}");
    }
}

#[test]
fn steps_that_take_all_they_can_get() {
    let space = TestSpace::with("FROM busybox\nRUN busybox tail /dev/zero\n");
    let ended = build(&space, &["--memory=64m", "."]);
    failed(&space, "memory", &ended, "out of memory");
    assert!(ended.stderr.contains("Dockerfile:2"), "{}", ended.stderr);
    // What it started ends with it.
    space.write(
        "Dockerfile",
        "FROM busybox\nRUN f() { f & f & sleep 99; }; f & sleep 3; exit 4\n",
    );
    let start = Instant::now();
    let ended = build(&space, &["."]);
    failed(&space, "fork bomb", &ended, "Dockerfile:2");
    assert!(
        start.elapsed() < Duration::from_secs(50),
        "{:?}",
        start.elapsed()
    );
    space.write("Dockerfile", "FROM busybox\nRUN echo works\n");
    assert_eq!(build(&space, &["."]).code, Some(0));
}
