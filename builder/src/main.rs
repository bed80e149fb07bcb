//! The `lapstrake` command.

use std::process::ExitCode;

use lapstrake::cli::{Command, Exit, Format, main as with_arguments};

fn main() -> ExitCode {
    with_arguments(|invocation, _env| match invocation.command {
        Command::Version(Format::Table) => {
            let text = format!("lapstrake {}\n", env!("CARGO_PKG_VERSION"));
            Exit { code: 0, text }.print()
        }
        Command::Version(Format::Json) => {
            let text = format!("{{\"version\":\"{}\"}}\n", env!("CARGO_PKG_VERSION"));
            Exit { code: 0, text }.print()
        }
        _ => {
            let text = "error: this command is not supported yet\n".to_owned();
            Exit { code: 1, text }.print()
        }
    })
}
