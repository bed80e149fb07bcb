//! Paths inside a root: cleaned and resolved component by component, never handed to the kernel as one host path.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};

/// Links followed in one path before it is taken for a loop (the kernel's limit, path_resolution(7)).
const LINK_LIMIT: usize = 40;

/// What lies at a path whose parents are all real directories.
pub(crate) enum Found {
    /// A symbolic link and its target.
    Link(PathBuf),
    /// Anything else.
    Entry,
    /// Nothing.
    Missing,
}

/// `path` as a relative path below a root: `.` dropped, `..` clamped at the root, no leading or trailing slash.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// Follows every symbolic link of `path` inside its root; `look` tells what lies at a resolved path. Components from the
/// first missing one on are taken as they are, so that a destination can be resolved before it exists.
pub(crate) fn resolve(
    path: &Path,
    mut look: impl FnMut(&Path) -> Result<Found>,
) -> Result<PathBuf> {
    let mut todo: VecDeque<OsString> = parts(path);
    let mut real = PathBuf::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == OsStr::new("..") {
            real.pop();
            continue;
        }
        real.push(&part);
        if let Found::Link(target) = look(&real)? {
            links += 1;
            if links > LINK_LIMIT {
                bail!("too many symbolic links in {}", path.display());
            }
            real.pop();
            if target.is_absolute() {
                real = PathBuf::new();
            }
            for part in parts(&target).into_iter().rev() {
                todo.push_front(part);
            }
        }
    }
    Ok(real)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

/// Whether the text of a path asks for a directory: it ends in `/`, `/.` or is `.`.
pub(crate) fn names_directory(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.") || path == "."
}

/// `path` for display, with a leading slash.
pub(crate) fn shown(path: &Path) -> String {
    format!("/{}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(links: &[(&str, &str)], path: &Path) -> Found {
        let target = links.iter().find(|(from, _)| Path::new(from) == path);
        target.map_or(Found::Entry, |(_, to)| Found::Link(PathBuf::from(to)))
    }

    #[test]
    fn links_stay_inside_the_root() {
        for (path, links, want) in [
            ("/a/b", vec![], "a/b"),
            ("a/../../../b", vec![], "b"),
            ("l/x", vec![("l", "/real")], "real/x"),
            ("d/l/x", vec![("d/l", "../up")], "up/x"),
            ("l", vec![("l", "../../../etc/passwd")], "etc/passwd"),
            ("l/x", vec![("l", "m"), ("m", "/deep/down")], "deep/down/x"),
        ] {
            let got = resolve(Path::new(path), |p| Ok(look(&links, p))).expect(path);
            assert_eq!(got, Path::new(want), "{path}");
        }
    }

    #[test]
    fn a_loop_is_refused() {
        let result = resolve(Path::new("l"), |p| Ok(look(&[("l", "l")], p)));
        assert!(result.is_err_and(|error| error.to_string().contains("too many symbolic links")));
    }
}
