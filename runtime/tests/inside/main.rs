//! Asserts, from inside and from outside, what a step sees and what it leaves.
//!
//! Runs as whoever calls it; as root it runs itself two times more as an ordinary user, once with a range of subordinate
//! ids and once without, and what regards mounts and confinement again as each of them with roots that are copies. `LAPSTRAKE_NO_SKIP` makes a test that cannot be run a failure.
#![allow(clippy::unwrap_used, missing_docs)]

mod confinement;
mod leaks;
mod mounts;
mod network;
mod process;
mod stubs;
mod support;
mod targets;
mod views;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use lapstrake_runtime::{Identity, Layers, Marks};
use support::{Needs, Space};

/// Name, whom it has to run as, and what to run.
type Test = (&'static str, Needs, fn(&Space));

/// Set where layers are to be copied.
const COPIES: &str = "LAPSTRAKE_INSIDE_COPIES";
/// What is read from an upper directory that holds changes alone, or from a table of mounts that tells of no path of the
/// store.
const OF_OVERLAYS: [&str; 4] = [
    "five_hundred_layers",
    "stubs_do_not_stay",
    "stub_where_a_link_dangles",
    "detached_views",
];

/// An ordinary user of every system.
const NOBODY: u32 = 65534;

fn main() {
    lapstrake_runtime::child_main();
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--test"))
        .collect();
    if args
        .first()
        .is_some_and(|arg| arg == confinement::SELF_WRITE)
    {
        return confinement::write_to_self();
    }
    match lapstrake_runtime::enter() {
        Ok(_) if args.first().is_some_and(|arg| arg == leaks::HOLD) => leaks::hold(),
        Ok(_) if args.len() == 2 && args[0] == leaks::GROUP => leaks::in_group(&args[1]),
        Ok(identity) => {
            let filter = args
                .iter()
                .find(|arg| !arg.starts_with('-'))
                .cloned()
                .unwrap_or_default();
            let copies = std::env::var_os(COPIES).is_some();
            let mut failed = run(identity, &filter, copies);
            if identity == Identity::Root && !copies {
                failed += as_nobody("a range of ids", "nobody:2000000:65536\n", &filter);
                failed += as_nobody("one id", "", &filter);
                let mut again = Command::new(std::env::current_exe().unwrap());
                again.arg(&filter).env(COPIES, "1");
                failed += usize::from(!again.status().unwrap().success());
            }
            std::process::exit(i32::from(failed > 0));
        }
        Err(error) => skip("all tests", &error.to_string()),
    }
}

fn skip(what: &str, why: &str) {
    println!("SKIPPED: {what}: {why}");
    if std::env::var_os("LAPSTRAKE_NO_SKIP").is_some() {
        std::process::exit(1);
    }
}

fn run(identity: Identity, filter: &str, copies: bool) -> usize {
    println!(
        "running as {identity:?}{}",
        if copies { ", on copies" } else { "" }
    );
    let space = Space::new(identity);
    let mut tests = [
        mounts::TESTS,
        stubs::TESTS,
        views::TESTS,
        targets::TESTS,
        confinement::TESTS,
    ]
    .concat();
    if copies {
        tests.retain(|(name, ..)| !OF_OVERLAYS.contains(name));
        lapstrake_runtime::show_layers(Layers::Copies {
            views: space.fresh("views"),
            marks: match identity {
                Identity::Root => Marks::Trusted,
                _ => Marks::User,
            },
        });
    } else {
        tests.extend([process::TESTS, network::TESTS, leaks::TESTS].concat());
    }
    let (mut succeeded, mut failed) = (0, 0);
    for (name, needs, test) in tests.into_iter().filter(|(name, ..)| name.contains(filter)) {
        if !needs.met(identity) {
            continue;
        }
        let passed =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&space))).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
        succeeded += usize::from(passed);
    }
    // As the built-in harness says it, for those who add up.
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {succeeded} passed; {failed} failed; 0 ignored");
    failed
}

/// Runs this program again as an ordinary user to whom `/etc/subuid` gives `ranges`.
fn as_nobody(what: &str, ranges: &str, filter: &str) -> usize {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("inside");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::write(dir.path().join("ranges"), ranges).unwrap();
    for file in ["/etc/subuid", "/etc/subgid"] {
        // In the private mount namespace of this process.
        let bound = Path::new(file).exists()
            && Command::new("mount")
                .arg("--bind")
                .arg(dir.path().join("ranges"))
                .arg(file)
                .status()
                .unwrap()
                .success();
        if !bound && !ranges.is_empty() {
            skip(what, &format!("{file} cannot be replaced"));
            return 0;
        }
    }
    let mut command = Command::new(&program);
    command
        .arg(filter)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .env_remove("TMPDIR");
    let mut failed = !command.status().unwrap().success();
    failed |= !command.env(COPIES, "1").status().unwrap().success();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(file)
            .stderr(std::process::Stdio::null())
            .status();
    }
    println!(
        "as an ordinary user with {what}: {}",
        if failed { "FAILED" } else { "ok" }
    );
    usize::from(failed)
}
