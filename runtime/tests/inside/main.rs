//! Asserts, from inside and from outside, what a step sees and what it leaves.
#![allow(clippy::unwrap_used, missing_docs)]

mod process;
mod support;

use support::Space;

type Test = (&'static str, fn(&Space));

fn main() {
    lapstrake_runtime::child_main();
    let identity = match lapstrake_runtime::enter() {
        Ok(identity) => identity,
        Err(error) => {
            println!("SKIPPED: all tests of {}: {error}", module_path!());
            std::process::exit(if std::env::var_os("LAPSTRAKE_NO_SKIP").is_some() {
                1
            } else {
                0
            });
        }
    };
    let filter = std::env::args()
        .skip(1)
        .find(|arg| !arg.starts_with('-'))
        .unwrap_or_default();
    let space = Space::new();
    let mut failed = 0;
    println!("running as {identity:?}");
    for (name, test) in process::TESTS
        .iter()
        .filter(|(name, _)| name.contains(&filter))
    {
        let passed =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&space))).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    std::process::exit(if failed == 0 { 0 } else { 1 });
}
