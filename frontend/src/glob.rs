//! Wildcards in paths: Go's `path.Match` for the sources of `COPY`, and the machine that `.dockerignore` runs on.
//!
//! A pattern is compiled once into tokens; matching keeps the set of tokens that could come next and reads the path
//! once. There is no backtracking, so that the time is bounded by path times pattern, whatever they hold.

use std::fmt;

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
                '[' => class(&mut rest)?,
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
    /// One of these ranges, or none of them. A `/` counts as any other character.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// Any number of characters but `/`.
    Star,
    /// Any number of characters.
    Everything,
    /// Nothing, or anything up to and with a `/`. Followed by `InDirs`.
    Dirs,
    /// The inside of `Dirs`.
    InDirs,
}

/// Reads a character class after its `[`.
pub(crate) fn class(rest: &mut std::str::Chars<'_>) -> Result<Token, BadPattern> {
    let negated = rest.as_str().starts_with('^');
    if negated {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.as_str().starts_with(']') {
            rest.next();
            return Ok(Token::Class { negated, ranges });
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

/// What a path made of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The whole path matched.
    pub(crate) whole: bool,
    /// A longer path below this one could match.
    pub(crate) open: bool,
}

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    tokens: Vec<Token>,
    /// From this token on, the rest of the pattern may be nothing.
    accepting: usize,
}

impl Machine {
    pub(crate) fn new(tokens: Vec<Token>) -> Self {
        let optional = |t: &Token| matches!(t, Token::Star | Token::Everything);
        let tail = tokens.iter().rev().take_while(|t| optional(t)).count();
        let accepting = tokens.len() - tail;
        Self { tokens, accepting }
    }

    /// Reads the path once, from left to right. `matched` is told of each parent that matches, and of the path itself,
    /// by the number of slashes in it.
    pub(crate) fn run(&self, path: &[u8], mut matched: impl FnMut(usize)) -> Outcome {
        let mut now = States::new(self.tokens.len() + 1);
        let mut next = States::new(self.tokens.len() + 1);
        now.insert(0);
        let mut level = 0;
        for chunk in path.utf8_chunks() {
            let invalid = chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER);
            for c in chunk.valid().chars().chain(invalid) {
                if c == '/' {
                    if self.accepts(&mut now) {
                        matched(level);
                    }
                    level += 1;
                }
                self.step(&mut now, c, &mut next);
                std::mem::swap(&mut now, &mut next);
                if now.is_empty() {
                    return Outcome {
                        whole: false,
                        open: false,
                    };
                }
            }
        }
        let whole = self.accepts(&mut now);
        if whole {
            matched(level);
        }
        self.step(&mut now, '/', &mut next);
        Outcome {
            whole,
            open: self.leads_on(&next),
        }
    }

    /// Moves every state over one character. States that follow without one are found on the way: they are always
    /// further right.
    fn step(&self, now: &mut States, c: char, next: &mut States) {
        next.clear();
        let mut from = 0;
        while let Some(at) = now.first_from(from) {
            from = at + 1;
            let Some(token) = self.tokens.get(at) else {
                continue;
            };
            match token {
                Token::Char(wanted) if *wanted == c => next.insert(at + 1),
                Token::Any if c != '/' => next.insert(at + 1),
                Token::Class { negated, ranges } => {
                    if ranges.iter().any(|(low, high)| (low..=high).contains(&&c)) != *negated {
                        next.insert(at + 1);
                    }
                }
                Token::Star => {
                    now.insert(at + 1);
                    if c != '/' {
                        next.insert(at);
                    }
                }
                Token::Everything => {
                    now.insert(at + 1);
                    next.insert(at);
                }
                Token::Dirs => {
                    now.insert(at + 1);
                    now.insert(at + 2);
                }
                Token::InDirs => {
                    next.insert(at);
                    if c == '/' {
                        next.insert(at + 1);
                    }
                }
                Token::Char(_) | Token::Any => {}
            }
        }
    }

    /// True where the pattern may end here.
    fn accepts(&self, now: &mut States) -> bool {
        let mut from = 0;
        while let Some(at) = now.first_from(from) {
            if at >= self.accepting {
                return true;
            }
            match self.tokens.get(at) {
                Some(Token::Star | Token::Everything) => now.insert(at + 1),
                Some(Token::Dirs) => {
                    now.insert(at + 1);
                    now.insert(at + 2);
                }
                _ => {}
            }
            from = at + 1;
        }
        false
    }

    /// After a `/`: true where more than the end of the pattern is left.
    fn leads_on(&self, next: &States) -> bool {
        next.first_from(0).is_some_and(|at| at < self.tokens.len())
    }
}

/// A set of small numbers.
struct States(Vec<u64>);

impl States {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }

    fn insert(&mut self, state: usize) {
        self.0[state / 64] |= 1 << (state % 64);
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn first_from(&self, from: usize) -> Option<usize> {
        let mut index = from / 64;
        let mut word = self.0.get(index)? & (u64::MAX << (from % 64));
        while word == 0 {
            index += 1;
            word = *self.0.get(index)?;
        }
        Some(index * 64 + word.trailing_zeros() as usize)
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
