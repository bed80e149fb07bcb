//! Lists of patterns as in `.dockerignore` and `COPY --exclude`: the last pattern that matches a path or one of its
//! parents decides, and `!` takes back. Rooted, not like `.gitignore`: `*.log` is for the top level only.

use std::fmt;

use crate::glob::{self, BadPattern, Class, Machine, Token};
use crate::paths;

/// A compiled list of patterns. Paths are relative to the root, with `/` between their parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

/// A line that is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreError {
    /// Counted from 1.
    pub line: usize,
    /// What it says.
    pub message: String,
}

impl fmt::Display for IgnoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for IgnoreError {}

/// A pattern without any of these is a path.
const WILD: [char; 5] = ['*', '?', '[', ']', '\\'];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    text: String,
    /// `!` stood before it.
    except: bool,
    matcher: Matcher,
}

/// Most patterns are one of the first two, which need no machine.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Matcher {
    /// A path without wildcards.
    Exact(String),
    /// `**/` and a path without wildcards.
    Anywhere(String),
    Machine(Machine),
}

impl Ignore {
    /// Reads the text of a `.dockerignore` file: comments begin with `#` in the first column.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().enumerate();
        let patterns =
            lines
                .filter(|(_, line)| !line.starts_with('#'))
                .filter_map(|(index, line)| {
                    let (except, line) = match line.trim().strip_prefix('!') {
                        Some(rest) => ("!", rest.trim()),
                        None => ("", line.trim()),
                    };
                    let path = if line.is_empty() {
                        String::new()
                    } else {
                        paths::clean(line)
                    };
                    let path = if path == "/" {
                        &path
                    } else {
                        path.strip_prefix('/').unwrap_or(&path)
                    };
                    compile(&format!("{except}{path}"), index + 1).transpose()
                });
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
        })
    }

    /// Compiles patterns as `--exclude` and `--parents` give them. An error's line is the pattern's place in the list.
    pub fn from_patterns<S: AsRef<str>>(
        patterns: impl IntoIterator<Item = S>,
    ) -> Result<Self, IgnoreError> {
        let patterns = patterns.into_iter().enumerate();
        let patterns = patterns.filter_map(|(index, p)| compile(p.as_ref(), index + 1).transpose());
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
        })
    }

    /// True where there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// True where some pattern begins with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|p| p.except)
    }

    /// True where the path, or a directory that it lies in, is matched by a pattern and not taken back by a later one.
    /// The root itself never is.
    pub fn matches(&self, path: impl AsRef<[u8]>) -> bool {
        let path = path.as_ref();
        if is_root(path) {
            return false;
        }
        if !self.has_exceptions() {
            return self.patterns.iter().any(|p| p.takes_in(path));
        }
        self.verdict(path).0
    }

    /// False where nothing below this directory can be wanted: it is matched, and no later `!` reaches into it.
    pub fn may_descend(&self, dir: impl AsRef<[u8]>) -> bool {
        let dir = dir.as_ref();
        if is_root(dir) {
            return true;
        }
        let (matched, held) = self.verdict(dir);
        // What holds for the directory holds for all below it, so that only a `!` after it can count there.
        let mut later = self.patterns.iter().zip(held).rev();
        !matched
            || later
                .by_ref()
                .take_while(|(p, held)| p.except || !held)
                .any(|(p, _)| p.except && p.reaches_below(dir))
    }

    /// Goes down from the root as a walk would, and says of the path whether it is matched and which patterns hold for
    /// it and so for all below it. As in Docker's own walk, a pattern that could not change the outcome for a directory
    /// is not tried on it, and then does not hold for what lies below just because of the directory.
    fn verdict(&self, path: &[u8]) -> (bool, Vec<bool>) {
        let levels = path.iter().filter(|b| **b == b'/').count() + 1;
        let mut hits = vec![false; levels * self.patterns.len()];
        for (pattern, hits) in self.patterns.iter().zip(hits.chunks_mut(levels)) {
            pattern.levels(path, |level| hits[level] = true);
        }
        let mut held = vec![false; self.patterns.len()];
        let mut matched = false;
        for level in 0..levels {
            matched = false;
            for (index, pattern) in self.patterns.iter().enumerate() {
                held[index] =
                    held[index] || (pattern.except == matched && hits[index * levels + level]);
                if held[index] {
                    matched = !pattern.except;
                }
            }
        }
        (matched, held)
    }

    /// True where something below this directory could be matched: for lists that say what to take.
    pub fn may_match_below(&self, dir: impl AsRef<[u8]>) -> bool {
        let dir = dir.as_ref();
        let wanted = self.patterns.iter().filter(|p| !p.except);
        is_root(dir)
            || wanted
                .into_iter()
                .any(|p| p.takes_in(dir) || p.reaches_below(dir))
    }
}

impl Ignore {
    /// True where a pattern names everything at the root: `*`, `**` or `**/*`.
    pub(crate) fn takes_everything(&self) -> bool {
        self.patterns
            .iter()
            .any(|p| !p.except && matches!(p.text.as_str(), "*" | "**" | "**/*"))
    }
}

fn is_root(path: &[u8]) -> bool {
    matches!(path, b"" | b".")
}

impl Pattern {
    /// True where the pattern matches the path or one of its parents.
    fn takes_in(&self, path: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Exact(name) => path
                .strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/'),
            Matcher::Anywhere(name) => has_parts(path, name.as_bytes()),
            Matcher::Machine(machine) => {
                let mut any = false;
                machine.run(path, |_| any = true);
                any
            }
        }
    }

    /// Tells which of the path's parents, and whether the path itself, the pattern matches: by the number of slashes.
    fn levels(&self, path: &[u8], mut hit: impl FnMut(usize)) {
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(index, _)| index);
        let parents = ends.chain([path.len()]).map(|end| &path[..end]).enumerate();
        match &self.matcher {
            Matcher::Exact(name) => {
                parents
                    .filter(|(_, parent)| *parent == name.as_bytes())
                    .for_each(|(level, _)| hit(level));
            }
            Matcher::Anywhere(name) => {
                let name = name.as_bytes();
                let ends_so = |parent: &[u8]| match parent.strip_suffix(name) {
                    Some(rest) => rest.is_empty() || rest.ends_with(b"/"),
                    None => false,
                };
                parents
                    .filter(|(_, parent)| ends_so(parent))
                    .for_each(|(level, _)| hit(level));
            }
            Matcher::Machine(machine) => drop(machine.run(path, hit)),
        }
    }

    /// True where the pattern could match a path below this directory.
    fn reaches_below(&self, dir: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Exact(name) => name
                .as_bytes()
                .strip_prefix(dir)
                .is_some_and(|rest| rest.first() == Some(&b'/')),
            Matcher::Anywhere(_) => true,
            Matcher::Machine(machine) => machine.run(dir, |_| ()).open,
        }
    }
}

/// True where `name` stands in `path` between slashes or ends.
fn has_parts(path: &[u8], name: &[u8]) -> bool {
    let starts = std::iter::once(0).chain(
        path.iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(i, _)| i + 1),
    );
    starts.into_iter().any(|start| {
        path[start..]
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
}

/// Compiles one pattern; a blank one is none.
fn compile(text: &str, line: usize) -> Result<Option<Pattern>, IgnoreError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let text = paths::clean(text);
    let fail = |message| IgnoreError { line, message };
    let (except, text) = match text.strip_prefix('!') {
        Some("") => return Err(fail("illegal exclusion pattern: \"!\"".to_owned())),
        Some(rest) => (true, rest.to_owned()),
        None => (false, text),
    };
    let matcher = matcher(&text).map_err(|BadPattern| fail(format!("{BadPattern}: {text:?}")))?;
    Ok(Some(Pattern {
        text,
        except,
        matcher,
    }))
}

fn matcher(text: &str) -> Result<Matcher, BadPattern> {
    if !text.contains(WILD) {
        return Ok(Matcher::Exact(text.to_owned()));
    }
    match text.strip_prefix("**/") {
        Some(rest) if !rest.contains(WILD) => Ok(Matcher::Anywhere(rest.to_owned())),
        _ => Ok(Matcher::Machine(Machine::new(tokens(text)?))),
    }
}

/// `**` stands for any number of directories, also none, and with nothing after it for everything.
fn tokens(text: &str) -> Result<Vec<Token>, BadPattern> {
    let mut tokens = Vec::new();
    let mut rest = text.chars();
    // `**name` without any other wildcard takes in every path that ends so.
    let end = text.strip_prefix("**").filter(|end| !end.starts_with('/'));
    if let Some(end) = end.filter(|end| !end.contains(WILD)) {
        tokens.push(Token::Everything);
        rest = end.chars();
    }
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.as_str().starts_with('*') => {
                rest.next();
                if rest.as_str().starts_with('/') {
                    rest.next();
                }
                if rest.as_str().is_empty() {
                    tokens.push(Token::Everything);
                } else if !tokens.ends_with(&[Token::InDirs]) {
                    tokens.extend([Token::Dirs, Token::InDirs]);
                }
            }
            '*' => tokens.push(Token::Star),
            '?' => tokens.push(Token::Any),
            '[' => tokens.push(Token::Class(ordered(glob::class(&mut rest)?)?)),
            '\\' => tokens.push(Token::Char(rest.next().ok_or(BadPattern)?)),
            c => tokens.push(Token::Char(c)),
        }
    }
    Ok(tokens)
}

/// Refuses `[z-a]`, which Docker takes for an error here, though not in `COPY`.
fn ordered(class: Class) -> Result<Class, BadPattern> {
    match class.ranges.iter().any(|(low, high)| low > high) {
        true => Err(BadPattern),
        false => Ok(class),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_read_line_by_line() {
        let text = "\u{feff}# comment\r\n\n  /a/../b/  \n ! c \n # not a comment\n";
        let texts: Vec<_> = Ignore::parse(text)
            .unwrap()
            .patterns
            .into_iter()
            .map(|p| (p.except, p.text))
            .collect();
        assert_eq!(
            texts,
            [
                (false, "b".into()),
                (true, "c".into()),
                (false, "# not a comment".into())
            ]
        );
        for (text, message) in [
            ("a\n!\n", "line 2: illegal exclusion pattern: \"!\""),
            ("!/", "line 1: illegal exclusion pattern: \"!\""),
            ("[a", "line 1: syntax error in pattern: \"[a\""),
            ("[z-a]*", "line 1: syntax error in pattern: \"[z-a]*\""),
            ("a\\", "line 1: syntax error in pattern: \"a\\\\\""),
        ] {
            assert_eq!(Ignore::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn long_lists_and_paths_stay_fast() {
        let pattern = format!("**/{}", "*a".repeat(200));
        let ignore = Ignore::from_patterns(["!x", &pattern]).unwrap();
        let path = ["a".repeat(200), "b".repeat(200)].join("/") + "c";
        let start = std::time::Instant::now();
        for _ in 0..50 {
            ignore.matches(&path);
        }
        assert!(start.elapsed().as_secs() < 5);
        let deep = "a/".repeat(2000) + "a";
        assert!(Ignore::from_patterns(["!b", "a"]).unwrap().matches(&deep));
    }
}
