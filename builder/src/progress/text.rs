//! Text that came from a build, made safe to print; sizes and times as BuildKit writes them.
//!
//! A step's output, a file name or a server's error may hold bytes that move the cursor, rename the window or answer
//! on the user's keyboard. Escape sequences are dropped whole, except colours where the caller keeps them; any other
//! control character is shown as a visible escape. Direction overrides, which reorder text on screen, are shown too.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use lapstrake_frontend::redact;

/// Whether colours (SGR sequences) survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Colour {
    Keep,
    Drop,
}

/// A line of output, without its line end. Bytes that are no UTF-8 become `U+FFFD`.
pub fn line(bytes: &[u8], colour: Colour) -> String {
    let text = String::from_utf8_lossy(bytes);
    if !text.chars().any(unsafe_to_print) {
        return text.into_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut coloured = false;
    let mut rest = text.as_ref();
    while let Some(c) = rest.chars().next() {
        match escape_sequence(rest) {
            Some((sequence, after)) => {
                if colour == Colour::Keep && is_sgr(sequence) {
                    out.push_str(sequence);
                    coloured = !matches!(sequence, "\x1b[m" | "\x1b[0m");
                }
                rest = after;
            }
            None => {
                push_safe(&mut out, c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    if coloured {
        out.push_str("\x1b[0m");
    }
    out
}

/// An error with its causes, without passwords of URLs. Some errors name their cause already; it is not said twice.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut all = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if all.is_empty() {
            all = cause;
        } else if !all.ends_with(&cause) {
            all.push_str(": ");
            all.push_str(&cause);
        }
    }
    redact(&all).into_owned()
}

/// A name or an error as one line: every control character, line ends included, is shown as an escape.
pub fn name(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c == '\t' || unsafe_to_print(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c == '\t' {
            out.push(' ');
        } else {
            push_safe(&mut out, c);
        }
    }
    Cow::Owned(out)
}

/// An error that may have several lines, each made safe.
pub fn paragraphs(text: &str) -> impl Iterator<Item = String> + '_ {
    text.trim_end()
        .lines()
        .map(|text| line(text.as_bytes(), Colour::Drop))
}

fn unsafe_to_print(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_safe(out: &mut String, c: char) {
    if unsafe_to_print(c) {
        out.extend(c.escape_default());
    } else {
        out.push(c);
    }
}

/// Splits a complete escape sequence off the front of `text`. `None` where there is none, or its end is missing.
fn escape_sequence(text: &str) -> Option<(&str, &str)> {
    let mut chars = text.char_indices();
    let (_, '\x1b') = chars.next()? else {
        return None;
    };
    let (start, kind) = chars.next()?;
    let end = match kind {
        '[' => csi_end(text)?,
        ']' | 'P' | 'X' | '^' | '_' => string_end(text)?,
        ' '..='/' => intermediate_end(text)?,
        '0'..='~' => start + 1,
        _ => return None,
    };
    Some(text.split_at(end))
}

/// `ESC`, intermediates, one final byte: `ESC ( B`.
fn intermediate_end(text: &str) -> Option<usize> {
    let at = 1 + text[1..].find(|c: char| !matches!(c, ' '..='/'))?;
    text[at..]
        .starts_with(|c: char| matches!(c, '0'..='~'))
        .then_some(at + 1)
}

/// `ESC [`, parameters, intermediates, one final byte.
fn csi_end(text: &str) -> Option<usize> {
    let at = 2 + text[2..].find(|c: char| !matches!(c, ' '..='?'))?;
    text[at..]
        .starts_with(|c: char| matches!(c, '@'..='~'))
        .then_some(at + 1)
}

/// `ESC ]` and its kin run to BEL or `ESC \`.
fn string_end(text: &str) -> Option<usize> {
    let bell = text.find('\x07').map(|at| at + 1);
    let terminator = text[2..].find("\x1b\\").map(|at| 2 + at + 2);
    match (bell, terminator) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn is_sgr(sequence: &str) -> bool {
    let inner = sequence
        .strip_prefix("\x1b[")
        .and_then(|rest| rest.strip_suffix('m'));
    inner.is_some_and(|inner| {
        inner
            .bytes()
            .all(|b| b.is_ascii_digit() || b == b';' || b == b':')
    })
}

/// `1.05MB`, `832B`: decimal units, two places.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.995 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

/// ` 1.05MB / 3.40MB`, ` 1.05MB` or nothing.
pub fn amount(current: u64, total: Option<u64>) -> String {
    match total {
        Some(total) if total > 0 => format!("{} / {}", bytes(current), bytes(total)),
        _ if current > 0 => bytes(current),
        _ => String::new(),
    }
}

/// The time in front of a line of output: `0.123`, `12.34`, `123.4`.
pub fn stamp(since_start: Duration) -> String {
    let seconds = since_start.as_secs_f64();
    let mut out = String::new();
    let places = if seconds < 10.0 {
        3
    } else if seconds < 100.0 {
        2
    } else {
        1
    };
    // Writing to a string cannot fail.
    let _ = write!(out, "{seconds:.places$}");
    out
}

/// How many columns `text` takes; it holds no control characters.
pub fn width(text: &str) -> usize {
    console::measure_text_width(text)
}

/// As much of `text` as fits into `columns`.
pub fn fit(text: &str, columns: usize) -> Cow<'_, str> {
    if text.len() <= columns {
        return Cow::Borrowed(text);
    }
    console::truncate_str(text, columns, "")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn output_lines() {
        let cases: &[(&[u8], &str, &str)] = &[
            // input | colours kept | colours dropped
            (b"plain text", "plain text", "plain text"),
            (b"tab\there", "tab\there", "tab\there"),
            ("grüße 日本".as_bytes(), "grüße 日本", "grüße 日本"),
            (b"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m", "red"),
            (b"\x1b[1;38:5:9mx", "\x1b[1;38:5:9mx\x1b[0m", "x"),
            (b"\x1b[2Jcleared", "cleared", "cleared"),
            (b"\x1b[10;10Hmoved", "moved", "moved"),
            (b"\x1b]0;title\x07after", "after", "after"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link", "link"),
            (b"\x1bPq#0\x1b\\sixel", "sixel", "sixel"),
            (b"\x1b(Bcharset", "charset", "charset"),
            (b"\x1bcreset", "reset", "reset"),
            (
                b"\x1b]0;never ends",
                "\\u{1b}]0;never ends",
                "\\u{1b}]0;never ends",
            ),
            (b"cut \x1b", "cut \\u{1b}", "cut \\u{1b}"),
            (b"cut \x1b[", "cut \\u{1b}[", "cut \\u{1b}["),
            (b"cut \x1b(", "cut \\u{1b}(", "cut \\u{1b}("),
            (b"\x1b\xff", "\\u{1b}\u{fffd}", "\\u{1b}\u{fffd}"),
            (b"\x1b(\xc3\xa9", "\\u{1b}(é", "\\u{1b}(é"),
            (b"\x1b[31\xc3\xa9", "\\u{1b}[31é", "\\u{1b}[31é"),
            (
                b"bell\x07 back\x08",
                "bell\\u{7} back\\u{8}",
                "bell\\u{7} back\\u{8}",
            ),
            (b"nul\0", "nul\\u{0}", "nul\\u{0}"),
            (b"\xff\xfe", "\u{fffd}\u{fffd}", "\u{fffd}\u{fffd}"),
            ("c1 \u{9b}31m".as_bytes(), "c1 \\u{9b}31m", "c1 \\u{9b}31m"),
            (
                "over\u{202e}ride".as_bytes(),
                "over\\u{202e}ride",
                "over\\u{202e}ride",
            ),
        ];
        for (input, kept, dropped) in cases {
            assert_eq!(line(input, Colour::Keep), *kept, "{input:?}");
            assert_eq!(line(input, Colour::Drop), *dropped, "{input:?}");
        }
    }

    #[test]
    fn whatever_comes_only_text_and_whole_colours_leave() {
        let pieces = [
            "\x1b", "[", "]", "31", ";", "m", "J", "\x07", "\\", "(", "B", "P", "é", "\u{9b}",
            "\u{202e}", "\t", "x", "\r", "\n", "\0",
        ];
        let mut state = 88_172_645_463_325_252_u64;
        for _ in 0..50_000 {
            let mut text = String::new();
            for _ in 0..12 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            let dropped = line(text.as_bytes(), Colour::Drop);
            assert!(
                dropped.chars().all(|c| c == '\t' || !unsafe_to_print(c)),
                "{text:?}: {dropped:?}"
            );
            assert!(!name(&text).contains(unsafe_to_print), "{text:?}");
            let mut kept = line(text.as_bytes(), Colour::Keep);
            while let Some(at) = kept.find('\x1b') {
                let end = at + kept[at..].find('m').unwrap();
                assert!(is_sgr(&kept[at..=end]), "{text:?}: {kept:?}");
                kept.drain(at..=end);
            }
            assert_eq!(kept, dropped, "{text:?}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(name("RUN make"), "RUN make");
        assert_eq!(name("COPY a\nb\x1b[31m c\td"), "COPY a\\nb\\u{1b}[31m c d");
    }

    #[test]
    fn sizes_and_times() {
        let sizes = [
            (0, "0B"),
            (832, "832B"),
            (1000, "1.00kB"),
            (1_048_576, "1.05MB"),
            (999_999, "1.00MB"),
            (u64::MAX, "18.45EB"),
        ];
        for (count, text) in sizes {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(amount(5, Some(10)), "5B / 10B");
        assert_eq!(amount(5, None), "5B");
        assert_eq!(amount(0, None), "");
        let times = [
            (0, "0.000"),
            (123, "0.123"),
            (12_345, "12.35"),
            (123_456, "123.5"),
        ];
        for (millis, text) in times {
            assert_eq!(stamp(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn widths() {
        assert_eq!(width("日本"), 4);
        assert_eq!(fit("日本語", 5), "日本");
        assert_eq!(fit("abc", 2), "ab");
        assert_eq!(fit("abc", 0), "");
    }
}
