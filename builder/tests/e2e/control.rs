//! Which steps are worked although the store has them, because the user says so.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use super::support::{TestSpace, shell, worked};

const STAGES: &str = "\
FROM busybox AS one
RUN echo a > /a
RUN echo b > /b
FROM one AS two
RUN echo c > /c
FROM busybox
COPY --from=one /b /
RUN echo d > /d
COPY --from=two /c /
";

#[test]
fn stages_and_single_steps() {
    let space = TestSpace::with(STAGES);
    space.build(&["."]);
    assert_eq!(
        worked(&space.build(&["--no-cache-filter=one", "."])),
        ["RUN echo a > /a", "RUN echo b > /b"]
    );
    assert_eq!(
        worked(&space.build(&["--no-cache-filter=one:3,two:1", "."])),
        ["RUN echo b > /b", "RUN echo c > /c"]
    );
    let wrong = space.fails(&["--no-cache-filter=one:9", "."]);
    assert!(
        wrong.contains("--no-cache-filter one:9: the build has no such step"),
        "{wrong}"
    );
    // Unknown stages are nothing to complain about for docker either.
    assert_eq!(
        worked(&space.build(&["--no-cache-filter=nine", "."])),
        [""; 0]
    );
}

#[test]
fn from_a_line() {
    let space = TestSpace::with(STAGES);
    space.build(&["."]);
    assert_eq!(
        worked(&space.build(&["--rebuild-from=5", "."])),
        ["RUN echo c > /c", "COPY --from=two /c /"]
    );
    let mut all = worked(&space.build(&["--rebuild-from=3", "."]));
    all.sort();
    all.dedup();
    assert_eq!(
        all,
        [
            "COPY --from=one /b /",
            "COPY --from=two /c /",
            "RUN echo b > /b",
            "RUN echo c > /c",
            "RUN echo d > /d"
        ]
    );
    for line in ["99", "10"] {
        let wrong = space.fails(&["--rebuild-from", line, "."]);
        assert!(wrong.contains("has no step on this line"), "{wrong}");
    }
    assert_eq!(worked(&space.build(&["."])), [""; 0]);
}

#[test]
fn results_of_commands_grow_old() {
    let space = TestSpace::with("FROM busybox\nCOPY a /\nRUN cat /a > /b\n");
    space.write("a", "1");
    space.build(&["."]);
    assert_eq!(worked(&space.build(&["--cache-ttl=1h", "."])), [""; 0]);
    assert_eq!(
        worked(&space.build(&["--cache-ttl=0s", "."])),
        ["RUN cat /a > /b"]
    );
    let told = space.build(&["--cache-ttl=0s", "--explain", "."]).stderr;
    assert!(
        told.contains("RUN cat /a > /b: its result is older than --cache-ttl allows"),
        "{told}"
    );
    // Worked again, it is young again, although its layer is the old one.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(
        worked(&space.build(&["--cache-ttl=2s", "."])),
        ["RUN cat /a > /b"]
    );
    assert_eq!(worked(&space.build(&["--cache-ttl=1h", "."])), [""; 0]);
}

#[test]
fn write_bits_of_checkouts_do_not_count_when_normalized() {
    let space = TestSpace::with("FROM busybox\nCOPY src /src\nRUN ls -l /src > /l\n");
    space.write("src/a", "1");
    let chmod = |dir, file| {
        std::fs::set_permissions(space.path("src/a"), PermissionsExt::from_mode(file)).unwrap();
        std::fs::set_permissions(space.path("src"), PermissionsExt::from_mode(dir)).unwrap();
    };
    chmod(0o755, 0o644);
    space.build(&["."]);
    chmod(0o775, 0o664);
    assert_eq!(
        worked(&space.build(&["--context-modes=normalized", "."])),
        [""; 0]
    );
    assert_eq!(
        worked(&space.build(&["."])),
        ["COPY src /src", "RUN ls -l /src > /l"]
    );
    // What counts is what is made.
    space.write("Dockerfile", "FROM scratch\nCOPY src /made\n");
    space.build(&["--context-modes=normalized", "-o", "../out", "."]);
    let mode = space
        .path("../out/made/a")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o644);
    // An executable file is still another file.
    chmod(0o775, 0o775);
    assert_eq!(
        worked(&space.build(&["--context-modes=normalized", "."])),
        ["COPY src /made"]
    );
}

#[test]
fn a_result_from_the_future_is_not_young() {
    let space = TestSpace::with("FROM busybox\nRUN echo > /b\n");
    space.build(&["."]);
    let keys = space.path("../store/keys-v1");
    shell(&keys, r#"sed -i -E 's/"worked":1/"worked":9/' *"#);
    assert_eq!(
        worked(&space.build(&["--cache-ttl=1h", "."])),
        ["RUN echo > /b"]
    );
    assert_eq!(worked(&space.build(&["--cache-ttl=1h", "."])), [""; 0]);
}
