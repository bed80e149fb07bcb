//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: literals, `?` and `*`, neither of which matches a line feed.
//!
//! A match walks the literal segments between the stars from left to right, without backtracking. The work is
//! counted all the same, because a segment with `?` in it is searched naively.

/// Why a pattern could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PatternError {
    /// A `\` before something that needs none.
    Escape(String),
    /// More work than any real Dockerfile asks for.
    Work,
    /// The result is larger than allowed.
    Size,
}

/// Counts steps, so that a hostile text cannot keep us busy.
#[derive(Debug)]
pub(crate) struct Work(u64);

impl Work {
    /// A fraction of a second.
    pub(crate) fn new() -> Self {
        Self(1 << 28)
    }

    /// Takes `steps` off what is left.
    pub(crate) fn spend(&mut self, steps: usize) -> Result<(), PatternError> {
        self.0 = self.0.checked_sub(steps as u64).ok_or(PatternError::Work)?;
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    Any,
}

impl Token {
    fn matches(self, ch: char) -> bool {
        match self {
            Self::Char(wanted) => wanted == ch,
            Self::Any => ch != '\n',
        }
    }
}

/// A parsed pattern: the segments between its stars. One segment: no star.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Vec<Token>>);

/// The end of the value that is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Front,
    Back,
}

/// How much of the value a star takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Shortest,
    Longest,
}

impl Pattern {
    /// `\` escapes `*`, `?`, `\`, `/` and `}`, whatever the file's escape character is.
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        let mut segments = vec![Vec::new()];
        let mut chars = text.chars();
        while let Some(ch) = chars.next() {
            let token = match ch {
                '*' => {
                    segments.push(Vec::new());
                    continue;
                }
                '?' => Token::Any,
                '\\' => match chars.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '/' | '}')) => Token::Char(escaped),
                    other => {
                        let other = other.map(String::from).unwrap_or_default();
                        return Err(PatternError::Escape(format!("\\{other}")));
                    }
                },
                literal => Token::Char(literal),
            };
            if let Some(segment) = segments.last_mut() {
                segment.push(token);
            }
        }
        Ok(Self(segments))
    }

    /// `value` without the part at its front or back that matches.
    pub(crate) fn trim(
        mut self,
        value: &str,
        end: End,
        extent: Extent,
        work: &mut Work,
    ) -> Result<String, PatternError> {
        let mut text: Vec<char> = value.chars().collect();
        work.spend(text.len())?;
        if end == End::Back {
            text.reverse();
            self.0.reverse();
            self.0.iter_mut().for_each(|segment| segment.reverse());
        }
        let first = self.0.first().map_or(&[][..], Vec::as_slice);
        let cut = if occurs(first, &text, 0, work)? {
            self.finish(&text, first.len(), extent, work)?.unwrap_or(0)
        } else {
            0
        };
        let rest = &text[cut..];
        Ok(match end {
            End::Front => rest.iter().collect(),
            End::Back => rest.iter().rev().collect(),
        })
    }

    /// `value` with the first match, or all that do not overlap, replaced.
    pub(crate) fn replace(
        &self,
        value: &str,
        with: &str,
        all: bool,
        limit: usize,
        work: &mut Work,
    ) -> Result<String, PatternError> {
        let text: Vec<char> = value.chars().collect();
        work.spend(text.len())?;
        let mut out = String::new();
        let (mut from, mut copied) = (0, 0);
        while let Some((start, end)) = self.find(&text, from, work)? {
            out.extend(&text[copied..start]);
            // An empty match right behind the previous one is none.
            if end > copied || start == 0 {
                out.push_str(with);
            }
            copied = end;
            from = end.max(from + 1);
            if out.len() > limit {
                return Err(PatternError::Size);
            }
            if !all || from > text.len() {
                break;
            }
        }
        out.extend(&text[copied..]);
        Ok(out)
    }

    /// The leftmost match at or after `from`, and of those the longest.
    fn find(
        &self,
        text: &[char],
        from: usize,
        work: &mut Work,
    ) -> Result<Option<(usize, usize)>, PatternError> {
        let first = self.0.first().map_or(&[][..], Vec::as_slice);
        let mut start = from;
        while start + first.len() <= text.len() {
            if !occurs(first, text, start, work)? {
                start += 1;
                continue;
            }
            if let Some(end) = self.finish(text, start + first.len(), Extent::Longest, work)? {
                return Ok(Some((start, end)));
            }
            // What is missing behind this start is missing behind every later one on its line.
            start = line_end(text, start, work)? + 1;
        }
        Ok(None)
    }

    /// The end of a match whose first segment ends at `at`.
    fn finish(
        &self,
        text: &[char],
        mut at: usize,
        extent: Extent,
        work: &mut Work,
    ) -> Result<Option<usize>, PatternError> {
        for (number, segment) in self.0.iter().enumerate().skip(1) {
            let limit = line_end(text, at, work)?;
            let last = number + 1 == self.0.len();
            let found = if last && extent == Extent::Longest {
                search(segment, text, (at..=limit).rev(), work)?
            } else {
                search(segment, text, at..=limit, work)?
            };
            match found {
                Some(start) => at = start + segment.len(),
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }
}

fn search(
    segment: &[Token],
    text: &[char],
    starts: impl Iterator<Item = usize>,
    work: &mut Work,
) -> Result<Option<usize>, PatternError> {
    for start in starts {
        if occurs(segment, text, start, work)? {
            return Ok(Some(start));
        }
    }
    Ok(None)
}

fn occurs(
    segment: &[Token],
    text: &[char],
    at: usize,
    work: &mut Work,
) -> Result<bool, PatternError> {
    let Some(part) = text.get(at..at + segment.len()) else {
        work.spend(1)?;
        return Ok(false);
    };
    let same = segment
        .iter()
        .zip(part)
        .take_while(|(token, ch)| token.matches(**ch))
        .count();
    work.spend(same + 1)?;
    Ok(same == segment.len())
}

fn line_end(text: &[char], at: usize, work: &mut Work) -> Result<usize, PatternError> {
    let rest = text.get(at..).unwrap_or_default();
    let length = rest.iter().position(|ch| *ch == '\n').unwrap_or(rest.len());
    work.spend(length)?;
    Ok(at + length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn trim(value: &str, pattern: &str, end: End, extent: Extent) -> String {
        Pattern::parse(pattern)
            .unwrap()
            .trim(value, end, extent, &mut Work::new())
            .unwrap()
    }

    fn replace(value: &str, pattern: &str, with: &str, all: bool) -> String {
        Pattern::parse(pattern)
            .unwrap()
            .replace(value, with, all, 1 << 20, &mut Work(1 << 22))
            .unwrap()
    }

    #[test]
    fn trims() {
        assert_eq!(trim("a/b/c", "*/", End::Front, Extent::Shortest), "b/c");
        assert_eq!(trim("a/b/c", "*/", End::Front, Extent::Longest), "c");
        assert_eq!(trim("a/b/c", "/*", End::Back, Extent::Shortest), "a/b");
        assert_eq!(trim("a/b/c", "/*", End::Back, Extent::Longest), "a");
        assert_eq!(trim("a\nb", "*", End::Front, Extent::Longest), "\nb");
        assert_eq!(trim("a\nb", "*", End::Back, Extent::Longest), "a\n");
        assert_eq!(trim("xx**", "\\**", End::Back, Extent::Longest), "xx");
        assert_eq!(trim("한국", "?", End::Front, Extent::Shortest), "국");
    }

    #[test]
    fn replaces() {
        assert_eq!(replace("a-b-c", "-", "+", false), "a+b-c");
        assert_eq!(replace("a-b-c", "-", "+", true), "a+b+c");
        assert_eq!(replace("abc", "*", "x", true), "x");
        assert_eq!(replace("ab", "", "x", true), "xaxbx");
        assert_eq!(replace("ab", "", "x", false), "xab");
        assert_eq!(replace("a1b\na2b", "a*b", "x", true), "x\nx");
        assert_eq!(replace("aab", "a?b", "x", true), "x");
        assert_eq!(replace("a1\na2b", "a*b", "x", true), "a1\nx");
    }

    #[test]
    fn refuses_needless_escapes() {
        for bad in ["\\", "\\x", "\\\\\\"] {
            assert!(
                matches!(Pattern::parse(bad), Err(PatternError::Escape(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn work_is_bounded() {
        let value = "a".repeat(1 << 20);
        let pattern = Pattern::parse(&format!("*{}?b", "a".repeat(1 << 12))).unwrap();
        let result = pattern.replace(&value, "", true, 1 << 20, &mut Work(1 << 22));
        assert_eq!(result, Err(PatternError::Work));
        let pattern = Pattern::parse("a*b*c*d").unwrap();
        assert_eq!(
            pattern.replace(&value, "", true, 1 << 20, &mut Work(1 << 24)),
            Ok(value)
        );
    }
}
