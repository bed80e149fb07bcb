//! What is wrong with a [`RunSpec`] before anything is started.

use crate::Error;
use crate::spec::{Mount, MountKind, RunSpec};

/// Refuses what no step can be made of.
pub(super) fn check(spec: &RunSpec) -> Result<(), Error> {
    if spec.process.argv.is_empty() {
        return Err(Error::Invalid(
            "run an empty command: name a program".into(),
        ));
    }
    if !spec.process.cwd.starts_with('/') {
        return Err(Error::Invalid(format!(
            "use working directory {:?}: it is not absolute",
            spec.process.cwd
        )));
    }
    let words = spec.process.argv.iter().chain(
        spec.process
            .env
            .iter()
            .flat_map(|(name, value)| [name, value]),
    );
    for word in words
        .chain([&spec.process.cwd, &spec.process.user])
        .chain(spec.mounts.iter().map(|m| &m.target))
        .chain(spec.devices.iter().map(|d| &d.target))
    {
        if word.contains('\0') {
            return Err(Error::Invalid(format!(
                "pass {word:?} to a command: it contains a zero byte"
            )));
        }
    }
    for device in &spec.devices {
        check_target(&device.target, &clean(&device.target))?;
    }
    if let Some((name, _)) = spec
        .process
        .env
        .iter()
        .find(|(name, _)| name.is_empty() || name.contains('='))
    {
        return Err(Error::Invalid(format!(
            "set environment variable {name:?}: not a name"
        )));
    }
    Ok(())
}

fn check_target(given: &str, target: &str) -> Result<(), Error> {
    if target == "/" {
        return Err(Error::Invalid(format!(
            "mount onto {given:?}: the root cannot be covered"
        )));
    }
    if target == "/proc" || target.starts_with("/proc/") {
        return Err(Error::Invalid(format!(
            "mount onto {given:?}: nothing can be mounted in /proc"
        )));
    }
    Ok(())
}

/// An absolute path without `.`, `..`, empty components and a trailing `/`, by its text alone.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Mounts by their cleaned targets, parents before children.
pub(crate) fn sorted(mounts: &[Mount]) -> Result<Vec<(String, &MountKind)>, Error> {
    let mut sorted: Vec<(String, &MountKind)> = Vec::new();
    for mount in mounts {
        let target = clean(&mount.target);
        check_target(&mount.target, &target)?;
        match sorted.iter_mut().find(|(other, _)| *other == target) {
            Some(same) => same.1 = &mount.kind,
            None => sorted.push((target, &mount.kind)),
        }
    }
    sorted.sort_by(|a, b| a.0.split('/').cmp(b.0.split('/')));
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn paths_are_cleaned_by_their_text() {
        for (path, cleaned) in [
            ("a//b/", "/a/b"),
            ("/./a/../../b", "/b"),
            ("..", "/"),
            ("", "/"),
            ("/a/.b..c", "/a/.b..c"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }
}
