//! `--progress`: which view of a build there is.

use std::io::{BufWriter, Stderr, stderr};
use std::time::{Instant, SystemTime};

use super::environment::Environment;
use super::values::Invalid;
use crate::progress::text::Colour;
use crate::progress::{Colors, Display, Json, LogLimit, Plain, Progress, Quiet, Tty, stderr_size};

/// A view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressMode {
    /// Lines.
    Plain,
    /// A live view.
    Tty,
    /// Nothing.
    Quiet,
    /// JSON objects.
    RawJson,
}

impl ProgressMode {
    /// The view that was asked for by flag or `BUILDKIT_PROGRESS`; on its own, a live view where standard error is a
    /// terminal that can show it, unless debugging. `--quiet` wins.
    pub(super) fn resolve(
        flag: Option<&str>,
        quiet: bool,
        debug: bool,
        env: &Environment,
    ) -> Result<Self, Invalid> {
        let (name, text) = match flag.filter(|text| !text.is_empty()) {
            Some(text) => ("--progress", text),
            None => (
                "BUILDKIT_PROGRESS",
                env.nonempty("BUILDKIT_PROGRESS").unwrap_or("auto"),
            ),
        };
        let live = env.stderr_is_terminal && env.variable("TERM") != Some("dumb");
        let mode = match text {
            "auto" if live && !debug => Self::Tty,
            "auto" | "plain" => Self::Plain,
            "tty" if live => Self::Tty,
            "tty" => {
                return Err(format!(
                    "{name}=tty: standard error is no terminal; use plain"
                ));
            }
            "quiet" | "none" => Self::Quiet,
            "rawjson" => Self::RawJson,
            _ => {
                return Err(format!(
                    "{name}: unknown progress {text:?}: use auto, plain, tty, quiet, rawjson or none"
                ));
            }
        };
        Ok(if quiet { Self::Quiet } else { mode })
    }

    /// Starts to show a build that began at `start`.
    pub fn start(self, env: &Environment, start: Instant) -> std::io::Result<Display> {
        let limit = LogLimit::parse(env.variable("BUILDKIT_STEP_LOG_MAX_SIZE"));
        Display::start(self.open(env), limit, start)
    }

    /// The view itself, on standard error, with the colours and sizes that the environment wants.
    fn open(self, env: &Environment) -> Box<dyn Progress> {
        let no_color = env.nonempty("NO_COLOR");
        match self {
            Self::Plain => {
                let colour = if no_color.is_some() {
                    Colour::Drop
                } else {
                    Colour::Keep
                };
                Box::new(Plain::new(buffered(), colour))
            }
            Self::Tty => {
                let colors = Colors::from_env(no_color, env.variable("BUILDKIT_COLORS"));
                Box::new(Tty::new(
                    stderr(),
                    stderr_size,
                    colors,
                    env.variable("BUILDKIT_TTY_LOG_LINES"),
                ))
            }
            Self::Quiet => Box::new(Quiet),
            Self::RawJson => Box::new(Json::new(buffered(), SystemTime::now())),
        }
    }
}

/// Standard error for lines: those of a few milliseconds are written together.
fn buffered() -> BufWriter<Stderr> {
    BufWriter::new(stderr())
}
