//! Many builds at once on one store, each a process of its own.
#![allow(clippy::unwrap_used)]

use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::support::{Ended, TestSpace, ended, worked};

/// Nothing here takes a tenth of this.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts builds with these arguments and waits for all of them; each must succeed.
fn at_once(space: &TestSpace, builds: &[Vec<String>]) -> Vec<Ended> {
    let start = |arguments: &Vec<String>| {
        let fixed = ["build", "--progress=plain"].map(str::to_owned);
        let arguments: Vec<&str> = fixed.iter().chain(arguments).map(String::as_str).collect();
        space.start(&arguments)
    };
    let children: Vec<Child> = builds.iter().map(start).collect();
    let all: Vec<Ended> = children.into_iter().map(ended).collect();
    for one in &all {
        assert_eq!(one.code, Some(0), "{}", one.stderr);
    }
    all
}

#[test]
fn equal_builds_cost_one() {
    let dockerfile = "FROM busybox AS a\nCOPY in /\nRUN cat /in > /a && sleep 0.3\n\
                      FROM busybox AS b\nRUN echo b > /b && sleep 0.3\n\
                      FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\nRUN cat /a /b > /c\n";
    let space = TestSpace::with(dockerfile);
    space.write("in", "1");
    let all = at_once(&space, &vec![vec![".".to_owned()]; 12]);
    let mut steps: Vec<String> = all.iter().flat_map(worked).collect();
    steps.sort();
    assert_eq!(
        steps,
        [
            "COPY --from=a /a /",
            "COPY --from=b /b /",
            "COPY in /",
            "RUN cat /a /b > /c",
            "RUN cat /in > /a && sleep 0.3",
            "RUN echo b > /b && sleep 0.3"
        ]
    );
    assert_eq!(space.run(&["fsck"]).text(), "the store is sound\n");
}

#[test]
fn nobody_waits_for_one_that_died() {
    // Whoever comes first stays for ever, the next one passes.
    let space = TestSpace::with(
        "FROM busybox\nRUN --mount=type=cache,target=/c if test -e /c/first; then :; else touch /c/first; sleep 1000; fi\n",
    );
    let mut first = space.start(&["build", "--progress=plain", "."]);
    let begun = Instant::now();
    let is_there = || {
        super::support::shell(
            &space.path(".."),
            "find store/mounts-v1 -name first | wc -l",
        )
    };
    while is_there().trim() == "0" {
        assert!(begun.elapsed() < PATIENCE, "the first build does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = space.start(&["build", "--progress=plain", "."]);
    std::thread::sleep(Duration::from_millis(300));
    first.kill().unwrap();
    first.wait().unwrap();
    let second = ended(second);
    assert_eq!(second.code, Some(0), "{}", second.stderr);
}

/// Builds that differ, so that none takes the result of another.
fn different(count: u32) -> Vec<Vec<String>> {
    let arguments = |n| vec![format!("--build-arg=N={n}"), ".".to_owned()];
    (0..count).map(arguments).collect()
}

#[test]
fn a_locked_cache_mount_has_one_user() {
    let alone =
        "test ! -e /c/busy && touch /c/busy && sleep 0.2 && rm /c/busy && echo x >> /c/count";
    let space = TestSpace::with(&format!(
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c,sharing=locked {alone}\n"
    ));
    at_once(&space, &different(5));
    space.write(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked wc -l < /c/count > /n\n",
    );
    assert_eq!(space.files(&["."])["n"].trim(), "5");
}

#[test]
fn a_private_cache_mount_is_another_one_while_it_is_used() {
    // Each leaves a mark, and stays until all others have begun: none may see the mark of another.
    let space = TestSpace::with(
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c,sharing=private \
         --mount=type=cache,target=/all,id=all \
         test ! -e /c/busy && touch /c/busy /all/$N && until test -e /all/0 -a -e /all/1 -a -e /all/2; do sleep 0.05; done && rm /c/busy\n",
    );
    at_once(&space, &different(3));
}

#[test]
fn a_shared_cache_mount_has_many_users() {
    let space = TestSpace::with(
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c \
         touch /c/$N && until test -e /c/0 -a -e /c/1 -a -e /c/2; do sleep 0.05; done\n",
    );
    at_once(&space, &different(3));
}

#[test]
fn prunes_all_the_time_break_no_build() {
    let space = TestSpace::with(
        "FROM busybox AS a\nARG N\nCOPY in /\nRUN cat /in > /a; echo $N >> /a\nFROM busybox\nCOPY --from=a /a /\nRUN cat /a > /b\n",
    );
    space.write("in", "1");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pruning = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                let ended = space.run(&["prune", "-af"]);
                assert_eq!(ended.code, Some(0), "{}", ended.stderr);
                rounds += 1;
            }
            rounds
        });
        for round in 0..3 {
            let builds: Vec<Vec<String>> = (0..8)
                .map(|n| {
                    let tag = format!("--tag=app:{n}");
                    vec![
                        format!("--build-arg=N={}", round + n % 4),
                        tag,
                        ".".to_owned(),
                    ]
                })
                .collect();
            at_once(&space, &builds);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(pruning.join().unwrap() > 1);
    });
    assert_eq!(space.run(&["fsck"]).text(), "the store is sound\n");
    for n in 0..8 {
        let archive = space.run(&["history", &format!("app:{n}")]);
        assert_eq!(archive.code, Some(0), "{}", archive.stderr);
    }
}
