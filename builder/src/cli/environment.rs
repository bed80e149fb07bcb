//! What the command line is read against: variables, the working machine, the terminal.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::Path;

use lapstrake_frontend::image::Platform;

use crate::machine;

/// The surroundings of the process. Options are worked out from this and the arguments alone.
#[derive(Debug, Clone)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    /// The platform of this machine.
    pub platform: Platform,
    /// Standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Standard error is a terminal.
    pub stderr_is_terminal: bool,
    is_dir: fn(&Path) -> bool,
}

impl Environment {
    /// The surroundings of this process.
    pub fn of_process() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            platform: machine::platform(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            is_dir: Path::is_dir,
        }
    }

    /// Surroundings with these variables only, no directories and no terminal, on linux/amd64.
    pub fn of_variables(variables: &[(&str, &str)]) -> Self {
        Self {
            variables: variables
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            platform: Platform::new("linux", "amd64", None),
            stdout_is_terminal: false,
            stderr_is_terminal: false,
            is_dir: |_| false,
        }
    }

    /// A variable, if it is set and UTF-8.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(std::ffi::OsStr::new(name))?.to_str()
    }

    /// A variable that is set to something.
    pub fn nonempty(&self, name: &str) -> Option<&str> {
        self.variable(name).filter(|value| !value.is_empty())
    }

    pub(super) fn os_variable(&self, name: &str) -> Option<&OsString> {
        self.variables.get(std::ffi::OsStr::new(name))
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        (self.is_dir)(path)
    }
}
