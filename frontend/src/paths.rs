//! Slash-separated paths as text, with the rules of Go's `path` package, which Docker's grammar rests on.

/// The shortest equal path: no `.`, no inner `..`, no doubled or trailing slash. Empty becomes `.`.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            _ => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// `path` below `base`, cleaned. An absolute `path` does not leave `base`.
pub(crate) fn join(base: &str, path: &str) -> String {
    match (base.is_empty(), path.is_empty()) {
        (true, true) => String::new(),
        (true, false) => clean(path),
        (false, true) => clean(base),
        (false, false) => clean(&format!("{base}/{path}")),
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
    let absolute = if path.starts_with('/') {
        clean(path)
    } else {
        join("/", &join(dir, path))
    };
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
        ] {
            assert_eq!(clean(path), want, "{path}");
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
