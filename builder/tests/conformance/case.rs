//! The case format: reading a case file and laying it out as a folder.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

/// The mtime of every file and folder of a case: 2020-01-01T00:00:00Z.
pub(crate) const FIXED_MTIME: i64 = 1_577_836_800;

/// One case, as written.
#[derive(Default)]
pub(crate) struct Case {
    /// Flags of the command line, in order.
    pub(crate) args: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    symlinks: Vec<(String, String)>,
    modes: Vec<(String, u32)>,
    dirs: Vec<(String, u32)>,
}

impl Case {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let mut case = Self::default();
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            if let Some(name) = section(line) {
                case.files.push((name, Vec::new()));
            } else if let Some((_, content)) = case.files.last_mut() {
                content.extend_from_slice(line);
            } else {
                case.header(std::str::from_utf8(line)?.trim_end())?;
            }
        }
        if let Some(at) = case.files.iter().position(|(name, _)| name == "args") {
            let (_, args) = case.files.remove(at);
            for line in std::str::from_utf8(&args)?.lines() {
                case.args.extend(
                    line.splitn(2, ' ')
                        .filter(|arg| !arg.is_empty())
                        .map(str::to_owned),
                );
            }
        }
        Ok(case)
    }

    fn header(&mut self, line: &str) -> Result<()> {
        let Some((key, value)) = line
            .strip_prefix("# ")
            .and_then(|line| line.split_once(": "))
        else {
            return Ok(());
        };
        match key {
            "symlink" => {
                let (path, target) = value
                    .split_once(" -> ")
                    .with_context(|| format!("no target in {line:?}"))?;
                self.symlinks.push((path.to_owned(), target.to_owned()));
            }
            "mode" => self.modes.push(path_and_mode(value)?),
            "dir" => self.dirs.push(path_and_mode(value)?),
            _ => {}
        }
        Ok(())
    }

    /// Lays the case out below `root`, with the registry's address put in.
    pub(crate) fn materialise(&self, root: &Path, registry: &str) -> Result<()> {
        fs::create_dir_all(root.join("context"))?;
        for (name, content) in &self.files {
            let path = root.join(name);
            create_parent(&path)?;
            fs::write(&path, replace(content, b"REGISTRY", registry.as_bytes()))?;
            set_mode(&path, 0o644)?;
        }
        for (name, mode) in &self.dirs {
            fs::create_dir_all(root.join(name))?;
            set_mode(&root.join(name), *mode)?;
        }
        for (name, target) in &self.symlinks {
            create_parent(&root.join(name))?;
            symlink(target, root.join(name))?;
        }
        for (name, mode) in &self.modes {
            set_mode(&root.join(name), *mode)?;
        }
        settle(root)
    }
}

/// The name in a line `-- NAME --`.
fn section(line: &[u8]) -> Option<String> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let name = line.strip_prefix(b"-- ")?.strip_suffix(b" --")?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

fn path_and_mode(value: &str) -> Result<(String, u32)> {
    let (path, mode) = value
        .rsplit_once(' ')
        .with_context(|| format!("no mode in {value:?}"))?;
    Ok((path.to_owned(), u32::from_str_radix(mode, 8)?))
}

fn create_parent(path: &Path) -> Result<()> {
    Ok(fs::create_dir_all(
        path.parent().context("a path without a parent")?,
    )?)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("chmod {}", path.display()))
}

fn replace(content: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// Gives everything below `folder` the fixed mtime, children first.
fn settle(folder: &Path) -> Result<()> {
    let time = Timespec {
        tv_sec: FIXED_MTIME,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            settle(&entry.path())?;
        }
        rustix::fs::utimensat(CWD, entry.path(), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}
