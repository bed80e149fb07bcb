//! Slash-separated paths as text, with the rules of Go's `path` package, which Docker's grammar rests on.

/// The shortest equal path: no `.`, no inner `..`, no doubled or trailing slash. Empty becomes `.`.
pub(crate) fn clean(path: &str) -> String {
    let mut walk = Walk::new(path.starts_with('/'), path.len());
    walk.along(path);
    walk.finish()
}

/// `path` below `base`, cleaned. An absolute `path` does not leave `base`.
pub(crate) fn join(base: &str, path: &str) -> String {
    if base.is_empty() && path.is_empty() {
        return String::new();
    }
    let absolute = if base.is_empty() { path } else { base }.starts_with('/');
    let mut walk = Walk::new(absolute, base.len() + path.len() + 1);
    walk.along(base);
    walk.along(path);
    walk.finish()
}

/// `path` as seen from the root that it cannot leave, cleaned, without the slash in front.
pub(crate) fn below_root(path: &str) -> String {
    let mut walk = Walk::new(true, path.len());
    walk.along(path);
    walk.path
}

/// A path that is put together part by part.
struct Walk {
    /// Without the slash in front.
    path: String,
    absolute: bool,
    /// The length of the `..` at the beginning, which another `..` does not take back.
    up: usize,
}

impl Walk {
    fn new(absolute: bool, capacity: usize) -> Self {
        Self {
            path: String::with_capacity(capacity),
            absolute,
            up: 0,
        }
    }

    fn along(&mut self, path: &str) {
        let mut rest = Some(path);
        while let Some(path) = rest {
            let slash = path.bytes().position(|byte| byte == b'/');
            let (part, after) = match slash {
                Some(slash) => (&path[..slash], Some(&path[slash + 1..])),
                None => (path, None),
            };
            rest = after;
            match part {
                "" | "." => {}
                ".." if self.path.len() > self.up => {
                    let slash = self.path[self.up..].rfind('/').unwrap_or(0);
                    self.path.truncate(self.up + slash);
                }
                ".." if self.absolute => {}
                part => {
                    if !self.path.is_empty() {
                        self.path.push('/');
                    }
                    self.path.push_str(part);
                    if part == ".." {
                        self.up = self.path.len();
                    }
                }
            }
        }
    }

    fn finish(mut self) -> String {
        if self.absolute {
            self.path.insert(0, '/');
        } else if self.path.is_empty() {
            self.path.push('.');
        }
        self.path
    }
}

/// The last part of a path: `/` of `/`, `.` of nothing.
pub(crate) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    match path.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

/// `path` as seen from `dir`: absolute and clean, but with the slash (or `/.`) at its end kept as `/`, since it
/// says that the path is a directory.
pub(crate) fn resolve(dir: &str, path: &str) -> String {
    let mut walk = Walk::new(true, dir.len() + path.len() + "//".len());
    if !path.starts_with('/') {
        walk.along(dir);
    }
    walk.along(path);
    let absolute = walk.finish();
    let is_dir = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    if is_dir && absolute != "/" {
        absolute + "/"
    } else {
        absolute
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, want) in [
            ("", "."),
            (".", "."),
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("a/./b/../c", "a/c"),
            ("../a", "../a"),
            ("a/../../b", "../b"),
            ("/../a", "/a"),
            ("/a/..", "/"),
            ("a/..", "."),
            ("./a", "a"),
            ("../a/../../b/c/..", "../../b"),
            ("/a/b/../../../c", "/c"),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
        for (path, want) in [("", ""), ("/", ""), ("/a/../../b/", "b"), ("a/./b", "a/b")] {
            assert_eq!(below_root(path), want, "{path}");
        }
    }

    #[test]
    fn paths_are_resolved() {
        for (dir, path, want) in [
            ("/w", "a", "/w/a"),
            ("/w", ".", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "", "/w/"),
            ("/w", "..", "/"),
            ("/w", "../b", "/b"),
            ("/w", "/a/", "/a/"),
            ("/w", "/a/.", "/a/"),
            ("/", ".", "/"),
            ("/w", "a/.", "/w/a/"),
            ("/w", "..x", "/w/..x"),
            ("/w", "/", "/"),
        ] {
            assert_eq!(resolve(dir, path), want, "{dir} {path}");
        }
    }

    #[test]
    fn the_last_part_is_the_base() {
        for (path, want) in [
            ("", "."),
            ("/", "/"),
            ("/a/b", "b"),
            ("a/", "a"),
            ("//", "/"),
        ] {
            assert_eq!(base(path), want, "{path}");
        }
    }
}
