//! Wildcards in paths: Go's `path.Match` for the sources of `COPY`, and the machine that `.dockerignore` runs on.

mod machine;

use std::fmt;

pub(crate) use machine::Machine;

/// A pattern that cannot be compiled: an open `[`, an empty or reversed range, a `\` at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPattern;

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("syntax error in pattern")
    }
}

impl std::error::Error for BadPattern {}

/// A source of `COPY` or `ADD` with wildcards: `*`, `?` and `[a-z]` or `[^a-z]`, none of which but a class crosses a
/// `/`; `\` takes the next character as it is. It is matched against the whole path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Machine);

impl Glob {
    /// Compiles a pattern.
    pub fn new(pattern: &str) -> Result<Self, BadPattern> {
        let mut tokens = Vec::new();
        let mut rest = pattern.chars();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '[' => Token::Class(class(&mut rest)?),
                '\\' => Token::Char(rest.next().ok_or(BadPattern)?),
                c => Token::Char(c),
            });
        }
        Ok(Self(Machine::new(tokens)))
    }

    /// True where the pattern takes in the whole path (without a leading `/`).
    pub fn is_match(&self, path: impl AsRef<[u8]>) -> bool {
        self.0.run(path.as_ref(), |_| ()).whole
    }

    /// True where something below this directory could match, so that a walk must enter it.
    pub fn may_match_below(&self, dir: impl AsRef<[u8]>) -> bool {
        matches!(dir.as_ref(), b"" | b".") || self.0.run(dir.as_ref(), |_| ()).open
    }
}

/// True where [`Glob`] would treat the text as more than a name: `*`, `?` or `[`, not after a `\`.
pub fn has_wildcard(pattern: &str) -> bool {
    let mut bytes = pattern.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'*' | b'?' | b'[' => return true,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    false
}

/// The pattern that matches just this name.
pub(crate) fn escape(name: &str) -> String {
    if !has_wildcard(name) {
        return name.to_owned();
    }
    let mut pattern = String::new();
    for c in name.chars() {
        match c {
            '*' | '?' | '[' => pattern.extend(['[', c, ']']),
            '\\' => pattern.push_str("\\\\"),
            c => pattern.push(c),
        }
    }
    pattern
}

/// Divides a pattern into the directory before its first wildcard and the rest, which is empty where there is none.
/// Only what lies below the first part needs a walk.
pub fn split_wildcards(pattern: &str) -> (&str, &str) {
    let mut start = 0;
    for part in pattern.split_inclusive('/') {
        if has_wildcard(part) {
            let (fixed, rest) = pattern.split_at(start);
            return (fixed.trim_end_matches('/'), rest);
        }
        start += part.len();
    }
    (pattern, "")
}

/// One element of a compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// This character.
    Char(char),
    /// Any character but `/`.
    Any,
    Class(Class),
    /// Any number of characters but `/`.
    Star,
    /// Any number of characters.
    Everything,
    /// Nothing, or anything up to and with a `/`. Followed by `InDirs`.
    Dirs,
    /// The inside of `Dirs`.
    InDirs,
}

/// One of these ranges, or none of them. A `/` counts as any other character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class {
    negated: bool,
    pub(crate) ranges: Vec<(char, char)>,
}

impl Class {
    fn takes(&self, c: char) -> bool {
        let inside = self
            .ranges
            .iter()
            .any(|(low, high)| (low..=high).contains(&&c));
        inside != self.negated
    }
}

/// Reads a character class after its `[`.
pub(crate) fn class(rest: &mut std::str::Chars<'_>) -> Result<Class, BadPattern> {
    let negated = rest.as_str().starts_with('^');
    if negated {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.as_str().starts_with(']') {
            rest.next();
            return Ok(Class { negated, ranges });
        }
        let low = class_char(rest)?;
        let mut high = low;
        if rest.as_str().starts_with('-') {
            rest.next();
            high = class_char(rest)?;
        }
        ranges.push((low, high));
    }
}

fn class_char(rest: &mut std::str::Chars<'_>) -> Result<char, BadPattern> {
    match rest.next().ok_or(BadPattern)? {
        '-' | ']' => Err(BadPattern),
        '\\' => rest.next().ok_or(BadPattern),
        c => Ok(c),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn globs_match_as_go_does() {
        for (pattern, path, want) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("*x", "xxx", true),
            ("**", "a/b", false),
            ("**", "ab", true),
            ("*.txt", ".hidden.txt", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(
                Glob::new(pattern).unwrap().is_match(path),
                want,
                "{pattern} {path}"
            );
        }
        for bad in [
            "[]a]", "[-]", "[x-]", "[-x]", "[", "[^", "[^bc", "a[", "a\\", "[\\",
        ] {
            assert_eq!(Glob::new(bad), Err(BadPattern), "{bad}");
        }
    }

    #[test]
    fn walks_enter_only_what_can_match() {
        for (pattern, dir, want) in [
            ("a/b*/c", "a", true),
            ("a/b*/c", "x", false),
            ("a/b*/c", "a/bb", true),
            ("a/b*/c", "a/bb/c", false),
            ("*.txt", "a", false),
            ("*/x", "a", true),
            ("*/x", "", true),
            ("*/x", ".", true),
            ("*", "a", false),
        ] {
            assert_eq!(
                Glob::new(pattern).unwrap().may_match_below(dir),
                want,
                "{pattern} {dir}"
            );
        }
    }

    #[test]
    fn wildcards_are_found() {
        for (pattern, fixed, rest) in [
            ("a/b/c", "a/b/c", ""),
            ("a/b*/c", "a", "b*/c"),
            ("*", "", "*"),
            ("a\\*/b", "a\\*/b", ""),
            ("a/[x]/c", "a", "[x]/c"),
            ("a/b/c?", "a/b", "c?"),
        ] {
            assert_eq!(split_wildcards(pattern), (fixed, rest), "{pattern}");
        }
        for name in ["a", "a*b", "a[1].txt", "w\\?t", "[", "back\\slash"] {
            let pattern = escape(name);
            let same = if has_wildcard(&pattern) {
                Glob::new(&pattern).unwrap().is_match(name)
            } else {
                pattern == name
            };
            assert!(same, "{name} {pattern}");
        }
    }

    #[test]
    fn long_patterns_do_not_explode() {
        let glob = Glob::new(&"*a".repeat(300)).unwrap();
        let path = "a".repeat(3000) + "b";
        let start = std::time::Instant::now();
        assert!(!glob.is_match(&path));
        assert!(start.elapsed().as_secs() < 5);
    }
}
