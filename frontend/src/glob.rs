//! Wildcards in paths: Go's `path.Match` for the sources of `COPY`, and the machine that `.dockerignore` runs on.
//!
//! A pattern is compiled once into tokens; matching keeps the set of tokens that could come next and reads the path
//! once. There is no backtracking, and 64 tokens are looked at in one go: the time is that of the path, times a number
//! that grows by one with every 64 tokens of the pattern, whatever they hold.

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

/// What a path made of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The whole path matched.
    pub(crate) whole: bool,
    /// A longer path below this one could match.
    pub(crate) open: bool,
}

/// A compiled pattern. Its places, the gaps between the tokens and at both ends, are the bits of words: one step moves
/// all that are in a word at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    blocks: Vec<Block>,
    /// The places before anything is read.
    start: Vec<u64>,
    /// The place behind the last token.
    end: usize,
}

/// A word of places, and at which of them what stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    /// By character: where a token ends with it.
    ascii: [u64; 128],
    others: Vec<(char, u64)>,
    classes: Vec<(Class, u64)>,
    any: u64,
    star: u64,
    /// `Everything` and `InDirs`, which go on over any character.
    unbounded: u64,
    /// What may also stand for nothing: its end follows without a character.
    optional: u64,
    /// Here the place behind `InDirs` follows too.
    dirs: u64,
}

impl Block {
    const EMPTY: Self = Self {
        ascii: [0; 128],
        others: Vec::new(),
        classes: Vec::new(),
        any: 0,
        star: 0,
        unbounded: 0,
        optional: 0,
        dirs: 0,
    };

    fn add(&mut self, token: Token, bit: u64) {
        match token {
            Token::Char(c) => match self.ascii.get_mut(c as usize) {
                Some(bits) => *bits |= bit,
                None => match self.others.binary_search_by_key(&c, |(c, _)| *c) {
                    Ok(known) => self.others[known].1 |= bit,
                    Err(at) => self.others.insert(at, (c, bit)),
                },
            },
            Token::Any => {
                self.any |= bit;
                self.add_ascii(bit, |c| c != '/');
            }
            Token::Class(class) => {
                self.add_ascii(bit, |c| class.takes(c));
                match self.classes.iter_mut().find(|(c, _)| *c == class) {
                    Some((_, bits)) => *bits |= bit,
                    None => self.classes.push((class, bit)),
                }
            }
            Token::Star => {
                self.star |= bit;
                self.optional |= bit;
            }
            Token::Everything => {
                self.unbounded |= bit;
                self.optional |= bit;
            }
            Token::Dirs => {
                self.dirs |= bit;
                self.optional |= bit;
            }
            Token::InDirs => {
                self.unbounded |= bit;
                self.add_ascii(bit, |c| c == '/');
            }
        }
    }

    fn add_ascii(&mut self, bit: u64, takes: impl Fn(char) -> bool) {
        for (c, bits) in ('\0'..).zip(&mut self.ascii) {
            if takes(c) {
                *bits |= bit;
            }
        }
    }

    /// Those of the places where a token ends with this character.
    fn taking(&self, places: u64, c: char) -> u64 {
        if let Some(taking) = self.ascii.get(c as usize) {
            return places & taking;
        }
        let mut taking = self.any;
        if let Ok(at) = self.others.binary_search_by_key(&c, |(c, _)| *c) {
            taking |= self.others[at].1;
        }
        for (class, bits) in &self.classes {
            if places & bits != 0 && class.takes(c) {
                taking |= bits;
            }
        }
        places & taking
    }

    /// Those of the places where a token goes on over this character.
    fn keeping(&self, places: u64, c: char) -> u64 {
        let star = if c == '/' { 0 } else { self.star };
        places & (self.unbounded | star)
    }

    /// Adds the places that follow without a character. Few follow one on another: no pattern has the same token twice
    /// in a row, where that would say nothing.
    fn close(&self, mut places: u64) -> u64 {
        loop {
            let more = (places & self.optional) << 1 | (places & self.dirs) << 2;
            if more & !places == 0 {
                return places;
            }
            places |= more;
        }
    }

    /// The same, of those that are in the next word.
    fn overflow(&self, places: u64) -> u64 {
        (places & self.optional) >> 63 | (places & self.dirs) >> 62
    }
}

impl Machine {
    pub(crate) fn new(mut tokens: Vec<Token>) -> Self {
        tokens.dedup_by(|next, token| *next == Token::Star && *token == Token::Star);
        let end = tokens.len();
        let mut blocks = vec![Block::EMPTY; end / 64 + 1];
        for (at, token) in tokens.into_iter().enumerate() {
            blocks[at / 64].add(token, 1 << (at % 64));
        }
        let mut follow = 1;
        let close = |block: &Block| {
            let places = block.close(follow);
            follow = block.overflow(places);
            places
        };
        let start = blocks.iter().map(close).collect();
        Self { blocks, start, end }
    }

    /// Reads the path once, from left to right. `matched` is told of each parent that matches, and of the path itself,
    /// by the number of slashes in it.
    pub(crate) fn run(&self, path: &[u8], mut matched: impl FnMut(usize)) -> Outcome {
        let mut now = self.start.clone();
        let (mut at, mut level) = (0, 0);
        while at < path.len() {
            let (c, length) = char_at(path, at);
            at += length;
            if c == '/' {
                if self.accepts(&now) {
                    matched(level);
                }
                level += 1;
            }
            if !self.advance(&mut now, c) {
                return Outcome {
                    whole: false,
                    open: false,
                };
            }
        }
        let whole = self.accepts(&now);
        if whole {
            matched(level);
        }
        self.advance(&mut now, '/');
        Outcome {
            whole,
            open: self.leads_on(&now),
        }
    }

    /// Moves all places over one character; false where none is left.
    fn advance(&self, now: &mut [u64], c: char) -> bool {
        // What comes over from the word before: places behind the character, and those that follow without one.
        let (mut reached, mut follow) = (0, 0);
        let mut any = 0;
        for (block, places) in self.blocks.iter().zip(now) {
            let taking = block.taking(*places, c);
            let open = taking << 1 | block.keeping(*places, c) | reached | follow;
            *places = block.close(open);
            any |= *places;
            reached = taking >> 63;
            follow = block.overflow(*places);
        }
        any != 0
    }

    /// True where the pattern may end here.
    fn accepts(&self, now: &[u64]) -> bool {
        now[self.end / 64] & self.end_bit() != 0
    }

    /// After a `/`: true where more than the end of the pattern is left.
    fn leads_on(&self, now: &[u64]) -> bool {
        let (last, others) = now.split_last().unwrap_or((&0, &[]));
        last & !self.end_bit() != 0 || others.iter().any(|places| *places != 0)
    }

    fn end_bit(&self) -> u64 {
        1 << (self.end % 64)
    }
}

/// The character that begins there, and its length; a byte that is not UTF-8 counts as one.
fn char_at(path: &[u8], at: usize) -> (char, usize) {
    let byte = path[at];
    if byte.is_ascii() {
        return (char::from(byte), 1);
    }
    let longest = &path[at..path.len().min(at + 4)];
    let valid = longest.utf8_chunks().next();
    match valid.and_then(|chunk| chunk.valid().chars().next()) {
        Some(c) => (c, c.len_utf8()),
        None => (char::REPLACEMENT_CHARACTER, 1),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

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

    /// What the tokens from `at` on make of the text, and whether a longer one could be theirs: by trying everything.
    fn slow(tokens: &[Token], text: &[char]) -> bool {
        let mut ends = vec![vec![false; text.len() + 1]; tokens.len() + 1];
        ends[tokens.len()][text.len()] = true;
        for at in (0..tokens.len()).rev() {
            for from in (0..=text.len()).rev() {
                let c = text.get(from).copied();
                let (skip, one) = (ends[at + 1][from], |at: usize| {
                    c.is_some() && ends[at][from + 1]
                });
                ends[at][from] = match &tokens[at] {
                    Token::Char(wanted) => c == Some(*wanted) && one(at + 1),
                    Token::Any => c != Some('/') && one(at + 1),
                    Token::Class(class) => c.is_some_and(|c| class.takes(c)) && one(at + 1),
                    Token::Star => skip || c != Some('/') && one(at),
                    Token::Everything => skip || one(at),
                    Token::Dirs => skip || ends[at + 2][from],
                    Token::InDirs => one(at) || c == Some('/') && one(at + 1),
                };
            }
        }
        ends[0][0]
    }

    fn some_tokens() -> impl Strategy<Value = Vec<Token>> {
        let class = |negated| {
            let ranges = vec![('a', 'a'), ('c', 'é')];
            vec![Token::Class(Class { negated, ranges })]
        };
        let token = prop_oneof![
            6 => prop::sample::select(vec!['a', 'b', 'é', '/']).prop_map(|c| vec![Token::Char(c)]),
            2 => Just(vec![Token::Any]),
            1 => any::<bool>().prop_map(class),
            4 => Just(vec![Token::Star]),
            1 => Just(vec![Token::Everything]),
            2 => Just(vec![Token::Dirs, Token::InDirs]),
        ];
        prop::collection::vec(token, 0..140).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        /// Tokens in any order, in one word and in several.
        #[test]
        fn all_places_move_together(tokens in some_tokens(), path in "[abcé/]{0,30}") {
            let machine = Machine::new(tokens.clone());
            let mut hits = Vec::new();
            let outcome = machine.run(path.as_bytes(), |level| hits.push(level));
            let text: Vec<char> = path.chars().collect();
            let ends = text.iter().enumerate().filter(|(_, c)| **c == '/').map(|(at, _)| at);
            let wanted = ends.chain([text.len()]).map(|end| slow(&tokens, &text[..end]));
            let wanted: Vec<usize> = (0..).zip(wanted).filter(|(_, hit)| *hit).map(|(at, _)| at).collect();
            prop_assert_eq!(&hits, &wanted);
            prop_assert_eq!(outcome.whole, slow(&tokens, &text));
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
