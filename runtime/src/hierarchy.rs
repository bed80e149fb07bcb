//! Directories and files of control groups.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use crate::mount::relative;

/// Those that this program sets bounds with.
pub(crate) const CONTROLLERS: [&str; 4] = ["pids", "memory", "cpu", "cpuset"];
/// What the name of a build's group starts with. The number of the builder's pid namespace follows, as an id of a process
/// means nothing in another one, and its id.
pub(crate) const PREFIX: &str = "lapstrake-";

/// The directory that a `--cgroup-parent` names: a path, or a slice of systemd.
pub(crate) fn parent_path(name: &str) -> String {
    let name = name.trim_matches('/').trim_end_matches(':');
    match name.strip_suffix(".slice") {
        Some(slice) if !name.contains('/') && slice != "-" => {
            // a-b.slice lies in a.slice.
            let ends = slice
                .match_indices('-')
                .map(|(end, _)| end)
                .chain([slice.len()]);
            ends.map(|end| format!("/{}.slice", &slice[..end]))
                .collect()
        }
        _ => name
            .split('/')
            .filter(|part| !matches!(*part, "" | "." | ".."))
            .map(|part| format!("/{part}"))
            .collect(),
    }
}

/// The path of this process's group in the hierarchy of `controller`; that of version 2 has none.
pub(crate) fn own_group(controller: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let line = line_of(&text, controller)?;
    // Outside of what the cgroup namespace shows.
    (!line.1.starts_with("/..")).then(|| line.1.trim_end_matches('/').to_owned())
}

/// The controllers that share a hierarchy with `controller`.
pub(crate) fn own_controllers(controller: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    line_of(&text, controller).map_or(Vec::new(), |(names, _)| {
        names.split(',').map(str::to_owned).collect()
    })
}

fn line_of<'a>(text: &'a str, controller: &str) -> Option<(&'a str, &'a str)> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        names
            .split(',')
            .any(|name| name == controller)
            .then_some((names, path))
    })
}

/// Where controllers can be had, without leaving bounds that hold for the builder.
pub(crate) fn choose_parent(root: BorrowedFd<'_>, own: &str) -> String {
    let able = |path: &str| {
        open(root, path).is_ok_and(|group| {
            delegate(group.as_fd());
            let enabled = read(group.as_fd(), "cgroup.subtree_control").unwrap_or_default();
            ["pids", "memory"]
                .iter()
                .all(|name| enabled.split_whitespace().any(|found| found == *name))
        })
    };
    if able(own) || own.is_empty() || bounded(root, own) || !able("") {
        own.to_owned()
    } else {
        String::new()
    }
}

/// Whether any group from `path` up to the root has a bound.
fn bounded(root: BorrowedFd<'_>, path: &str) -> bool {
    let mut path = path;
    while !path.is_empty() {
        let Ok(group) = open(root, path) else {
            return true;
        };
        let is_max = |file| read(group.as_fd(), file).map_or(true, |text| text.starts_with("max"));
        if !is_max("memory.max") || !is_max("memory.high") || !is_max("cpu.max") {
            return true;
        }
        path = path.rsplit_once('/').map_or("", |(above, _)| above);
    }
    false
}

/// Hands every controller that can be to the children of `group`.
pub(crate) fn delegate(group: BorrowedFd<'_>) {
    for controller in CONTROLLERS {
        let _ = write(group, "cgroup.subtree_control", &format!("+{controller}"));
    }
}

/// Hands controllers down to `path`, as far as the groups on the way can.
pub(crate) fn enable_along(root: BorrowedFd<'_>, path: &str) {
    for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
        if let Ok(group) = make(root, &path[..end]) {
            delegate(group.as_fd());
        }
    }
}

/// Whether bounds of this kind can be set on a group.
pub(crate) fn has_controller(group: BorrowedFd<'_>, controller: &str) -> bool {
    read(group, "cgroup.controllers")
        .is_ok_and(|text| text.split_whitespace().any(|name| name == controller))
}

/// A new group of this controller has neither processors nor memory until it is told.
pub(crate) fn inherit_cpuset(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        write(to, file, read(from, file)?.trim())?;
    }
    Ok(())
}

/// Removes groups of builders that do not exist any more; `own` is the name of this build's.
pub(crate) fn sweep(parent: BorrowedFd<'_>, own: &str) {
    let Ok(entries) = Dir::read_from(parent) else {
        return;
    };
    let prefix = own.trim_end_matches(|last: char| last.is_ascii_digit());
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy();
        let Some(builder) = name.strip_prefix(prefix) else {
            continue;
        };
        let number = !builder.is_empty() && builder.bytes().all(|byte| byte.is_ascii_digit());
        if number && !Path::new("/proc").join(builder).exists() {
            remove_build(parent, &name);
        }
    }
}

/// Removes the group of a build with all below, killing what should not be there any more.
pub(crate) fn remove_build(parent: BorrowedFd<'_>, name: &str) {
    let Ok(build) = open(parent, name) else {
        return;
    };
    let _ = write(build.as_fd(), "cgroup.kill", "1");
    for child in directories(build.as_fd()) {
        if let Ok(group) = open(build.as_fd(), &child) {
            for leaf in directories(group.as_fd()) {
                let _ = remove(group.as_fd(), &leaf);
            }
        }
        let _ = remove(build.as_fd(), &child);
    }
    let _ = remove(parent, name);
}

fn directories(group: BorrowedFd<'_>) -> Vec<String> {
    let Ok(entries) = Dir::read_from(group) else {
        return Vec::new();
    };
    let directory =
        |entry: &rustix::fs::DirEntry| entry.file_type() == rustix::fs::FileType::Directory;
    let names = entries
        .flatten()
        .filter(directory)
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "." && name != "..").collect()
}

/// Opens a group.
pub(crate) fn open(at: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let path = if path.starts_with("/sys/") {
        path
    } else {
        relative(path)
    };
    Ok(openat(
        at,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Opens a group, making it and what is missing above it.
pub(crate) fn make(at: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let path = relative(path);
    for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
        match mkdirat(at, &path[..end], Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    open(at, path)
}

/// Removes an empty group.
pub(crate) fn remove(at: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    Ok(unlinkat(at, name, AtFlags::REMOVEDIR)?)
}

/// The content of a file of a group.
pub(crate) fn read(group: BorrowedFd<'_>, file: &str) -> io::Result<String> {
    let file = openat(group, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    io::read_to_string(fs::File::from(file))
}

/// Writes to a file of a group.
pub(crate) fn write(group: BorrowedFd<'_>, file: &str, value: &str) -> io::Result<()> {
    let file = openat(group, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::io::write(file, value.as_bytes()).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_a_path_or_a_slice() {
        for (name, path) in [
            ("/a/b", "/a/b"),
            ("a//../b/", "/a/b"),
            ("/", ""),
            ("machine.slice", "/machine.slice"),
            (
                "user-1000-x.slice",
                "/user.slice/user-1000.slice/user-1000-x.slice",
            ),
            ("system.slice:", "/system.slice"),
        ] {
            assert_eq!(parent_path(name), path, "{name}");
        }
    }

    #[test]
    fn groups_are_found_by_controller() {
        let text = "5:devices:/\n4:cpu,cpuacct:/a/b\n0::/init.scope\n";
        assert_eq!(line_of(text, ""), Some(("", "/init.scope")));
        assert_eq!(line_of(text, "cpuacct"), Some(("cpu,cpuacct", "/a/b")));
        assert_eq!(line_of(text, "memory"), None);
    }
}
