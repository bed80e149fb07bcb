//! Matches a path with a pattern that was compiled into tokens.
//!
//! The machine keeps the set of tokens that could come next and reads the path once. There is no backtracking, and 64
//! tokens are looked at in one go: the time is that of the path, times a number that grows by one with every 64 tokens of
//! the pattern, whatever they hold.

use super::{Class, Token};

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
    use proptest::prelude::*;

    use super::*;

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
}
