//! Input that wants to do harm, and machines that fail: what is refused is refused in one clear message, nothing is left
//! behind, and the next build works.
//!
//! Archives, mounts and steps are attacked more closely where they are at home: in the tests of the store and of the runtime.

mod images;
mod input;
mod pushes;
mod registries;
mod roots;
mod secrets;
mod sources;
mod stop;
mod surroundings;
mod watch;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::support::{Ended, TestSpace};

/// What must not be seen in any output, image or file of the store.
pub(crate) const SECRET: &str = "canary-secret-word";

/// A tree beside the build that nobody may read or change.
pub(crate) struct Canary {
    dir: PathBuf,
    before: Vec<String>,
}

impl Canary {
    /// Made beside the context of `space`.
    pub(crate) fn new(space: &TestSpace) -> Self {
        let dir = fs::canonicalize(space.path("..")).unwrap().join("canary");
        fs::create_dir_all(dir.join("vdir/inner")).unwrap();
        fs::write(dir.join("secret"), SECRET).unwrap();
        fs::write(dir.join("empty"), "").unwrap();
        fs::write(dir.join("passwd"), format!("{SECRET}:x:0:0::/:/bin/sh\n")).unwrap();
        fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(dir.join("vdir"), fs::Permissions::from_mode(0o700)).unwrap();
        let before = state(&dir);
        Self { dir, before }
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Nothing has changed, and `ended` does not tell what is in it.
    pub(crate) fn check(&self, attack: &str, ended: &Ended) {
        assert_eq!(
            state(&self.dir),
            self.before,
            "{attack}: THE CANARY WAS TOUCHED"
        );
        let told = ended.stderr.contains(SECRET) || holds(&ended.stdout, SECRET);
        assert!(!told, "{attack}: THE CANARY WAS READ: {}", ended.stderr);
    }
}

/// Names, modes, owners, link counts and change times.
fn state(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        found.push(format!(
            "{} {:o} {}:{} {} {}.{}",
            path.display(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.ctime(),
            meta.ctime_nsec()
        ));
        if meta.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    found.sort();
    found
}

/// Whether `text` is somewhere in `bytes`.
pub(crate) fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

/// The build failed with exit status 1 and one error, which says `expected`, and left nothing.
pub(crate) fn failed(space: &TestSpace, what: &str, ended: &Ended, expected: &str) {
    let Ended { code, stderr, .. } = ended;
    assert_eq!(*code, Some(1), "{what}: {stderr}");
    assert!(stderr.contains(expected), "{what}: {stderr}");
    let errors = stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .count();
    // A Dockerfile may be wrong in several places.
    let findings = stderr.contains("error[");
    assert!(errors == 1 || (errors == 0 && findings), "{what}: {stderr}");
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    assert!(space.is_clean(), "{what} left something in the store");
}
