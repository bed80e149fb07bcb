//! The config file: what a machine and a user set once instead of on every command line.
//!
//! `/etc/lapstrake/config.toml` is read first, then `$XDG_CONFIG_HOME/lapstrake/config.toml` (usually
//! `~/.config/lapstrake/config.toml`), whose values replace those of the first one by one. `--config` or
//! `LAPSTRAKE_CONFIG` name one file to read instead of both. Flags of the command line replace what the files say.
//!
//! ```toml
//! [steps]
//! network-mode = "pasta"  # what steps get that ask for no network: "auto" (through pasta, or else the host's), "pasta"
//!                         # (or the build fails), "host" or "none"
//!
//! [gc]                    # what is removed after builds; nothing, unless one of these says so
//! max-used = "20GB"       # remove what was used least recently until the store takes no more than this
//! min-free = "10GB"       # and until so much of the disk is free
//! keep-for = "14d"        # remove what was not used for so long
//! cache-mounts = true     # cache mounts too
//! max-time = "2s"         # stop then, and go on after the next build
//! ```
//!
//! A key that is not known is an error, so that a spelling mistake is not taken for consent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Deserializer, de};

use crate::cli::{Environment, duration, size};

/// The machine's own file.
const SYSTEM: &str = "/etc/lapstrake/config.toml";

/// All that config files say. `None` is what no file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) gc: Gc,
    #[serde(default)]
    pub(crate) steps: Steps,
}

/// `[steps]`: what all steps of this machine get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Steps {
    pub(crate) network_mode: Option<NetworkMode>,
}

/// The network of steps that ask for none in particular.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NetworkMode {
    /// One of their own where that can be had, otherwise the host's.
    #[default]
    Auto,
    /// One of their own.
    Pasta,
    /// The host's.
    Host,
    /// Nothing but loopback.
    None,
}

/// `[gc]`: what is removed after builds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Gc {
    #[serde(default, deserialize_with = "bytes")]
    pub(crate) max_used: Option<u64>,
    #[serde(default, deserialize_with = "bytes")]
    pub(crate) min_free: Option<u64>,
    #[serde(default, deserialize_with = "time")]
    pub(crate) keep_for: Option<Duration>,
    pub(crate) cache_mounts: Option<bool>,
    #[serde(default, deserialize_with = "time")]
    pub(crate) max_time: Option<Duration>,
}

impl Config {
    /// Reads the file that the user named, or those of the machine and of the user as far as they are there.
    pub(crate) fn load(named: Option<&Path>, env: &Environment) -> Result<Self> {
        if let Some(path) = named {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("read {}", path.display()))?;
            return Self::parse(&text, path);
        }
        let mut config = Self::default();
        for path in std::iter::once(PathBuf::from(SYSTEM)).chain(user_file(env)) {
            match std::fs::read_to_string(&path) {
                Ok(text) => config = Self::parse(&text, &path)?.over(&config),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(format!("read {}", path.display())),
            }
        }
        Ok(config)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let place = error.span().map_or(text.len(), |span| span.start);
            let line = 1 + text[..place].matches('\n').count();
            let why = error.message().lines().collect::<Vec<_>>().join(": ");
            anyhow!("{}: line {line}: {why}", path.display())
        })
    }

    /// This, and where this says nothing, `earlier`.
    fn over(self, earlier: &Self) -> Self {
        let Self { gc, steps } = self;
        Self {
            gc: gc.over(&earlier.gc),
            steps: Steps {
                network_mode: steps.network_mode.or(earlier.steps.network_mode),
            },
        }
    }
}

impl Gc {
    fn over(self, earlier: &Self) -> Self {
        let Self {
            max_used,
            min_free,
            keep_for,
            cache_mounts,
            max_time,
        } = self;
        Self {
            max_used: max_used.or(earlier.max_used),
            min_free: min_free.or(earlier.min_free),
            keep_for: keep_for.or(earlier.keep_for),
            cache_mounts: cache_mounts.or(earlier.cache_mounts),
            max_time: max_time.or(earlier.max_time),
        }
    }
}

fn user_file(env: &Environment) -> Option<PathBuf> {
    let home = || Some(Path::new(env.nonempty("HOME")?).join(".config"));
    let folder = env
        .nonempty("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(home);
    Some(folder?.join("lapstrake/config.toml"))
}

/// A number, or a text with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum Amount {
    Number(u64),
    Text(String),
}

/// Bytes: `1048576` or `"1MB"`.
fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    match Amount::deserialize(from) {
        Ok(Amount::Number(number)) => Ok(Some(number)),
        Ok(Amount::Text(text)) => size(&text).map(Some).map_err(de::Error::custom),
        Err(_) => Err(de::Error::custom("give a size such as \"20GB\"")),
    }
}

/// A duration: `"14d"`.
fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)
        .map_err(|_| de::Error::custom("give a duration such as \"14d\""))?;
    duration(&text).map(Some).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parsed(text: &str) -> Result<Config> {
        Config::parse(text, Path::new("config.toml"))
    }

    #[test]
    fn values_have_units() {
        let text =
            "[gc]\nmax-used = \"2k\"\nmin-free = 5\nkeep-for = \"1h\"\ncache-mounts = true\n";
        let expected = Gc {
            max_used: Some(2048),
            min_free: Some(5),
            keep_for: Some(Duration::from_secs(3600)),
            cache_mounts: Some(true),
            max_time: None,
        };
        assert_eq!(parsed(text).unwrap().gc, expected);
        assert_eq!(parsed("").unwrap(), Config::default());
    }

    #[test]
    fn mistakes_name_file_and_line() {
        for (text, line, word) in [
            ("[gc]\nmax-usde = 1\n", 2, "max-usde"),
            ("\n[cg]\n", 2, "cg"),
            ("[gc]\n\nmax-used = \"much\"\n", 3, "much"),
            ("[gc]\nkeep-for = 3\n", 2, "duration"),
            ("[gc\n", 1, ""),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            let place = format!("config.toml: line {line}: ");
            assert!(error.starts_with(&place) && error.contains(word), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn the_user_s_file_replaces_the_machine_s_key_by_key() {
        let machine = parsed("[gc]\nmax-used = 1\nmin-free = 2\n").unwrap();
        let user = parsed("[gc]\nmax-used = 3\n").unwrap();
        let gc = user.over(&machine).gc;
        assert_eq!((gc.max_used, gc.min_free), (Some(3), Some(2)));
    }

    #[test]
    fn the_files_are_found() {
        let home = Environment::of_variables(&[("HOME", "/h")]);
        let xdg = Environment::of_variables(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]);
        let file = |env| user_file(env).unwrap().display().to_string();
        assert_eq!(file(&home), "/h/.config/lapstrake/config.toml");
        assert_eq!(file(&xdg), "/x/lapstrake/config.toml");
        let missing = Config::load(Some(Path::new("/nowhere/config.toml")), &home);
        assert!(missing.is_err());
    }
}
