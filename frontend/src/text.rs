//! How Go prints values: histories of images and warnings hold them in these forms.

use smol_str::{SmolStr, format_smolstr};

/// `[a b]`.
pub(crate) fn list<S: AsRef<str>>(items: &[S]) -> String {
    let length = |item: &S| item.as_ref().len() + " ".len();
    let length = items.iter().map(length).sum::<usize>() + "[]".len();
    bracketed(items, length, |out, item| out.push_str(item))
}

/// `["a" "b"]`.
pub(crate) fn quoted_list(items: &[impl AsRef<str>]) -> String {
    let length = items.iter().map(|item| item.as_ref().len() + "\"\" ".len());
    let length = length.sum::<usize>() + "[]".len();
    bracketed(items, length, push_quoted)
}

fn bracketed<S: AsRef<str>>(
    items: &[S],
    length: usize,
    push: impl Fn(&mut String, &str),
) -> String {
    let mut out = String::with_capacity(length);
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        push(&mut out, item.as_ref());
    }
    out.push(']');
    out
}

/// `"a"`, with what cannot be seen as an escape sequence.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + "\"\"".len());
    push_quoted(&mut out, text);
    out
}

fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                *out += &format!("\\x{:02x}", c as u32);
            }
            c if !is_printable(c) => match c as u32 {
                code @ ..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
            c => out.push(c),
        }
    }
    out.push('"');
}

/// False for what cannot be seen: control and format characters, blanks other than the space, unassigned code points.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return true;
    }
    // Rust's own escapes go by the same categories; after another character combining marks count as printable.
    let mut pair = [b'a', 0, 0, 0, 0];
    let length = c.encode_utf8(&mut pair[1..]).len();
    let pair = std::str::from_utf8(&pair[..=length]).unwrap_or_default();
    pair.escape_debug().count() == 2
}

/// `1h0m30.5s` of nanoseconds.
pub(crate) fn duration(nanoseconds: u64) -> SmolStr {
    let (unit, name) = match nanoseconds {
        0 => return SmolStr::new_static("0s"),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => return long_duration(nanoseconds),
    };
    format_smolstr!("{}{name}", decimal(nanoseconds, unit))
}

fn long_duration(nanoseconds: u64) -> SmolStr {
    const SECOND: u64 = 1_000_000_000;
    let minutes = nanoseconds / SECOND / 60;
    let seconds = decimal(nanoseconds % (60 * SECOND), SECOND);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format_smolstr!("{seconds}s"),
        (0, minutes) => format_smolstr!("{minutes}m{seconds}s"),
        (hours, minutes) => format_smolstr!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` without trailing zeros; `unit` is a power of ten.
fn decimal(value: u64, unit: u64) -> SmolStr {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return format_smolstr!("{whole}");
    }
    let width = unit.ilog10() as usize;
    let digits = format_smolstr!("{rest:0width$}");
    format_smolstr!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_look_like_go() {
        for (value, want) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (500_000_000, "500ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (7_200_000_000_000, "2h0m0s"),
            (3_661_000_000_001, "1h1m1.000000001s"),
        ] {
            assert_eq!(duration(value), want);
        }
    }

    #[test]
    fn quotes_look_like_go() {
        let text = "a \"b\"\\\n\t\0\u{1}é\u{301}\u{a0}\u{85}\u{feff}\u{10ffff}";
        assert_eq!(
            quoted_list(&["x", text]),
            "[\"x\" \"a \\\"b\\\"\\\\\\n\\t\\x00\\x01é\u{301}\\u00a0\\u0085\\ufeff\\U0010ffff\"]"
        );
        assert_eq!(list::<&str>(&[]), "[]");
    }
}
