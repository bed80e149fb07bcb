//! Builds that are stopped, at every stage: by the user, or by force.

use std::fs;
use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::super::registry::{Auth, Registry, Reply};
use super::super::support::{TestSpace, archive, shell};
use super::images::Forged;
use super::watch::Running;

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(300);
/// A stopped build ends within a second; a machine with much else to do may take longer.
const SOON: Duration = Duration::from_secs(8);

/// A build that stands still, and how to know that it does.
struct Stage {
    name: &'static str,
    space: TestSpace,
    arguments: Vec<String>,
    /// What it must have reported.
    ready: Box<dyn Fn(&str) -> bool>,
    /// What keeps it from going on.
    registry: Registry,
}

impl Stage {
    /// One that stands still once `registry` was asked this.
    fn asking(name: &'static str, line: &'static str, dockerfile: &str, more: &[&str]) -> Self {
        let registry = Registry::start(Auth::Open);
        Forged::of_layer(&registry, "app", &archive(&[("file", "x")])).put(&registry, "app");
        registry.fail(usize::MAX, line, Reply::new(200).stall(FOREVER));
        let asked = registry.clone();
        let fill = |text: &str| text.replace("HOST", registry.host());
        Self {
            name,
            space: TestSpace::with(&fill(dockerfile)),
            arguments: more.iter().map(|text| fill(text)).collect(),
            ready: Box::new(move |_| {
                asked
                    .seen()
                    .iter()
                    .any(|request| request.line().starts_with(line))
            }),
            registry,
        }
    }

    /// One that stands still at a step that says `ready`.
    fn running(name: &'static str, dockerfile: &str) -> Self {
        Self {
            ready: Box::new(|log| log.lines().any(|line| line.ends_with(" ready"))),
            ..Self::asking(name, "NOTHING", dockerfile, &["."])
        }
    }

    fn start(&self) -> Running {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let arguments = [&["build", "--progress=plain"], &arguments[..]].concat();
        let mut command = self.space.command(&arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running::start(command);
        running.wait_until(self.name, |log| (self.ready)(log));
        running
    }
}

fn stages() -> Vec<Stage> {
    let stubborn = "FROM busybox\nRUN trap '' TERM INT HUP; (trap '' TERM; busybox setsid sleep 999) & echo ready; sleep 998\n";
    let mut stages = vec![
        Stage::asking("resolve", "HEAD /v2/app/", "FROM HOST/app:v1\n", &["."]),
        Stage::asking(
            "fetch",
            "GET /v2/app/blobs/",
            "FROM HOST/app:v1\nWORKDIR /new\n",
            &["."],
        ),
        Stage::asking(
            "http",
            "GET /file",
            "FROM scratch\nADD http://HOST/file /\n",
            &["."],
        ),
        Stage::asking(
            "git",
            "GET /repo.git/info/refs",
            "FROM scratch\nADD http://HOST/repo.git /\n",
            &["."],
        ),
        Stage::asking(
            "git context",
            "GET /repo.git/info/refs",
            "",
            &["http://HOST/repo.git"],
        ),
        Stage::asking(
            "url context",
            "GET /context.tar",
            "",
            &["http://HOST/context.tar"],
        ),
        Stage::asking(
            "push",
            "POST /v2/made/blobs",
            "FROM scratch\nLABEL a=b\n",
            &["-t", "HOST/made:v1", "--push", "."],
        ),
        Stage::running("step", stubborn),
    ];
    let waits_for_input = Stage {
        ready: Box::new(|log| log.contains("load build definition")),
        ..Stage::asking("standard input", "NOTHING", "", &["-"])
    };
    stages.push(waits_for_input);
    // Nobody reads what it writes.
    let into_pipe = Stage {
        ready: Box::new(|log| log.contains("exporting to")),
        ..Stage::asking("export", "NOTHING", "FROM busybox\n", &["-o", "-", "."])
    };
    stages.push(into_pipe);
    let copy = Stage {
        ready: Box::new(|log| log.contains("COPY")),
        ..Stage::asking("copy", "NOTHING", "FROM scratch\nCOPY tree /\n", &["."])
    };
    let script = "mkdir tree; cd tree; for d in $(seq 100); do mkdir $d; for f in $(seq 100); do echo $d$f > $d/$f; done; done";
    shell(&copy.space.path("."), script);
    stages.push(copy);
    stages
}

/// The same store serves the next build.
fn check_next(stage: &Stage) {
    stage.registry.mend();
    let space = &stage.space;
    space.write("Dockerfile", "FROM busybox\nRUN echo works > /x\n");
    assert_eq!(space.files(&["."])["x"], "works\n", "{}", stage.name);
    assert!(space.is_clean(), "{}", stage.name);
}

fn check_stopped(stage: &Stage, signal: Signal) {
    let running = stage.start();
    let family = running.family();
    running.signal(signal);
    let ended = running.end();
    let name = stage.name;
    assert_eq!(ended.code, Some(130), "{name}: {ended:?}");
    assert!(ended.after < SOON, "{name}: {ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{name}: {ended:?}");
    family.check_gone(name);
    assert!(stage.space.is_clean(), "{name}: {:?}", ended.stderr);
    check_next(stage);
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    for (number, stage) in stages().iter().enumerate() {
        check_stopped(
            stage,
            if number % 2 == 0 {
                Signal::INT
            } else {
                Signal::TERM
            },
        );
    }
}

#[test]
fn a_killed_build_leaves_nothing_that_lasts() {
    for stage in stages() {
        let running = stage.start();
        let family = running.family();
        running.signal(Signal::KILL);
        assert_eq!(running.end().code, None);
        // A git that waits for its server ends when that stays silent.
        if !stage.name.starts_with("git") {
            family.check_gone(stage.name);
        }
        check_next(&stage);
    }
}

/// A signal that comes before the build has begun counts too.
#[test]
fn an_interrupt_at_the_start_is_not_lost() {
    let space = TestSpace::with("FROM busybox\nRUN sleep 99\n");
    for round in 0..12 {
        let _ = fs::remove_dir_all(space.path("../store"));
        let mut command = space.command(&["build", "--progress=plain", "."]);
        command.stdout(Stdio::null());
        let mut running = Running::start(command);
        let store = space.path("../store");
        running.wait_until("the store", |_| store.exists());
        std::thread::sleep(Duration::from_micros(700 * round));
        let family = running.family();
        running.signal(if round % 2 == 0 {
            Signal::INT
        } else {
            Signal::TERM
        });
        let ended = running.end();
        assert_eq!(ended.code, Some(130), "{round}: {ended:?}");
        assert!(ended.after < SOON, "{round}: {ended:?}");
        family.check_gone("early");
        assert!(space.is_clean(), "{round}");
    }
}

#[test]
fn a_second_interrupt_ends_at_once() {
    let stage = &stages()[7];
    let running = stage.start();
    let family = running.family();
    running.signal(Signal::INT);
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.code, Some(130), "{ended:?}");
    family.check_gone("second");
    check_next(stage);
}

/// However much a killed build left, a few opens of the store later it is gone, and none of them takes long.
#[test]
fn large_leftovers_are_removed_bit_by_bit() {
    let space = TestSpace::with("FROM scratch\nLABEL a=b\n");
    space.build(&["."]);
    let script = "mkdir store/tmp/999999999-0; cd store/tmp/999999999-0; for d in $(seq 12); do mkdir $d; (cd $d; seq 500 | xargs touch); done";
    shell(&space.path(".."), script);
    let mut opens = 0;
    while !space.is_clean() {
        let start = Instant::now();
        assert_eq!(space.run(&["images"]).code, Some(0));
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?}",
            start.elapsed()
        );
        opens += 1;
        assert!(opens < 60, "it does not become less");
    }
}

/// Who reads the archive goes away.
#[test]
fn a_closed_pipe_is_an_error_and_nothing_more() {
    let space = TestSpace::with("FROM busybox\n");
    let mut command = space.command(&["build", "--progress=plain", "-o", "-", "."]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut head = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut head).unwrap();
    let ended = child.wait_with_output().unwrap().into();
    super::failed(&space, "closed pipe", &ended, "standard output");
}
