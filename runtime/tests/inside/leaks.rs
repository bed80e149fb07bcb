//! What must not be left when a step, or the whole build, has ended.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lapstrake_runtime::{Cancel, run};

use crate::Test;
use crate::support::{Needs, Space, outcome, refused, sh};

pub(crate) const TESTS: &[Test] = &[
    ("steps_leave_nothing", Needs::Nothing, steps_leave_nothing),
    (
        "a_killed_builder_leaves_nothing",
        Needs::Nothing,
        a_killed_builder_leaves_nothing,
    ),
];

/// The argument that makes this program run a command that does not end.
pub(crate) const HOLD: &str = "hold";
/// The argument that makes this program run a command in a group below the one named next.
pub(crate) const GROUP: &str = "group";
/// By which the command is found among all processes.
const SECONDS: &str = "86399";

/// Runs a command forever; says when it runs.
pub(crate) fn hold() -> ! {
    let space = Space::new(lapstrake_runtime::enter().unwrap());
    let script =
        format!("setsid sleep {SECONDS} & echo ready; trap '' TERM INT HUP; sleep {SECONDS}");
    let _ = run(
        &space.sh(&script),
        &mut |_, _| println!("ready"),
        &Cancel::new().unwrap(),
    );
    std::process::exit(1);
}

/// Runs a command in a group below `parent` that tells which group it sees.
pub(crate) fn in_group(parent: &str) -> ! {
    let space = Space::new(lapstrake_runtime::enter().unwrap());
    let mut spec = space.sh("tail -n 1 /proc/self/cgroup");
    spec.limits.cgroup_parent = Some(parent.into());
    println!("{}", outcome(&spec).ok());
    std::process::exit(0);
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .count()
}

fn children_of(parent: u32) -> usize {
    let is_child = |stat: String| {
        let rest = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.to_owned())
            .unwrap_or_default();
        rest.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|s| is_child(s.clone()))
        .count()
}

fn steps_leave_nothing(space: &Space) {
    sh(space, "true");
    let before = (
        descriptors(),
        mounts(),
        children_of(std::process::id()),
        own_groups(),
    );
    for _ in 0..3 {
        outcome(&space.sh("sleep 60 & exit 1"));
        let mut spec = space.sh("true");
        spec.process.user = "missing".into();
        refused(&spec);
        let cancel = Cancel::new().unwrap();
        assert!(
            run(
                &space.sh("echo; sleep 60"),
                &mut |_, _| cancel.cancel(),
                &cancel
            )
            .is_err()
        );
        // The overlay's own directory has nothing that could not be removed.
        let spec = space.sh("mkdir /a; chmod 0 /a");
        outcome(&spec).ok();
        fs::remove_dir_all(spec.root.upper.parent().unwrap()).unwrap();
    }
    assert_eq!(
        (
            descriptors(),
            mounts(),
            children_of(std::process::id()),
            own_groups()
        ),
        before
    );
}

/// How many directories this build's control groups have, all levels counted.
fn own_groups() -> usize {
    fn count(path: &Path) -> usize {
        let inner = fs::read_dir(path).into_iter().flatten().flatten();
        1 + inner
            .filter(|entry| entry.path().is_dir())
            .map(|entry| count(&entry.path()))
            .sum::<usize>()
    }
    groups_of(std::process::id())
        .iter()
        .map(|path| count(path))
        .sum()
}

fn groups_of(builder: u32) -> Vec<PathBuf> {
    let end = format!("-{builder}");
    groups()
        .into_iter()
        .filter(|path| path.display().to_string().ends_with(&end))
        .collect()
}

/// Directories of control groups that builds made.
pub(crate) fn groups() -> Vec<PathBuf> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with("lapstrake-")
                {
                    found.push(entry.path());
                }
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &mut found);
    found
}

/// Processes whose command line has `text`.
fn running(text: &str) -> usize {
    let lines = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| String::from_utf8_lossy(line).contains(text))
        .count()
}

fn a_killed_builder_leaves_nothing(_space: &Space) {
    let before = running(SECONDS);
    let mut builder = Command::new(std::env::current_exe().unwrap());
    let mut builder = builder
        .args([HOLD, "x"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let id = builder.id();
    let mut ready = [0; 5];
    builder
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    assert!(running(SECONDS) > before);
    builder.kill().unwrap();
    builder.wait().unwrap();
    let start = Instant::now();
    let left = || (running(SECONDS) - before, groups_of(id).len());
    while left() != (0, 0) {
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", left());
        std::thread::sleep(Duration::from_millis(5));
    }
}
