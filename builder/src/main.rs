//! The `lapstrake` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Helpers of a running build are this program too; they do nothing of what follows.
    lapstrake_runtime::child_main();
    lapstrake::cli::main(lapstrake::run)
}
