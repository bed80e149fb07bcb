//! Values that many flags share: booleans, comma-separated fields, sizes and durations, as docker reads them.

use std::time::Duration;

/// What is wrong with a value: one line that says what to write instead.
pub(crate) type Invalid = String;

/// A boolean as Go reads it.
pub(crate) fn boolean(text: &str) -> Result<bool, Invalid> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Splits one line of CSV: a field in double quotes may hold commas, and `""` for a quote.
pub(crate) fn fields(text: &str) -> Result<Vec<String>, Invalid> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) = rest
                .split_once(',')
                .map_or((rest, None), |(f, a)| (f, Some(a)));
            if field.contains('"') {
                return Err(format!(
                    "{text:?}: a quote must surround the whole field, as in \"name=a,b\""
                ));
            }
            fields.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let (field, after) =
            unquote(quoted).ok_or_else(|| format!("{text:?}: a quote is not closed"))?;
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(fields),
            None => return Err(format!("{text:?}: a comma must follow a closing quote")),
        }
    }
}

/// The text up to the closing quote, and what follows that quote.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Some((field, after)),
        }
    }
}

/// Splits `key=value,…` fields, with keys in lower case.
pub(crate) fn pairs(text: &str) -> Result<Vec<(String, String)>, Invalid> {
    let pair = |field: String| match field.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_ascii_lowercase(), value.to_owned())),
        None => Err(format!("{field:?} in {text:?} is not KEY=VALUE")),
    };
    fields(text)?.into_iter().map(pair).collect()
}

/// Splits `KEY=VALUE` or a lone `KEY`; the key must not be empty.
pub(crate) fn key_value(text: &str) -> Result<(&str, Option<&str>), Invalid> {
    let (key, value) = text
        .split_once('=')
        .map_or((text, None), |(k, v)| (k, Some(v)));
    if key.is_empty() {
        return Err(format!("{text:?} has no name before the ="));
    }
    Ok((key, value))
}

/// A size in bytes: `512`, `64k`, `1.5GiB`; units are powers of 1024 in any case.
pub(crate) fn size(text: &str) -> Result<u64, Invalid> {
    const UNITS: &[u8] = b"bkmgtp";
    let invalid = || format!("{text:?} is not a size such as 512m or 2g");
    let end = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')
        .ok_or_else(invalid)?;
    let (number, suffix) = text.split_at(end + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number: f64 = number.parse().ok().filter(|_| plain).ok_or_else(invalid)?;
    let suffix = suffix.to_ascii_lowercase();
    let unit = match suffix.as_bytes() {
        [] | [b'b'] => 0,
        [unit] | [unit, b'b'] | [unit, b'i', b'b'] if *unit != b'b' => UNITS
            .iter()
            .position(|known| known == unit)
            .ok_or_else(invalid)?,
        _ => return Err(invalid()),
    };
    // What is too large for 64 bits becomes the largest size there is.
    Ok((number * 1024_f64.powi(i32::try_from(unit).unwrap_or(0))) as u64)
}

/// A duration as Go writes it, and days: `24h`, `1h30m`, `1.5h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, Invalid> {
    let invalid = || format!("{text:?} is not a duration such as 24h, 30m or 7d");
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let seconds = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(invalid()),
        };
        total += number * seconds;
        rest = &rest[end..];
    }
    if text.is_empty() {
        return Err(invalid());
    }
    Duration::try_from_secs_f64(total).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn csv() {
        let cases: &[(&str, Option<&[&str]>)] = &[
            ("a", Some(&["a"])),
            ("a,b", Some(&["a", "b"])),
            ("", Some(&[""])),
            ("a,", Some(&["a", ""])),
            (r#""a,b",c"#, Some(&["a,b", "c"])),
            (r#"x=1,"name=a,b""#, Some(&["x=1", "name=a,b"])),
            (r#""a""b""#, Some(&["a\"b"])),
            (r#""a"#, None),
            (r#"a"b"#, None),
            (r#""a"b"#, None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                fields(text).ok().as_deref(),
                expected
                    .map(|f| f.iter().map(ToString::to_string).collect::<Vec<_>>())
                    .as_deref(),
                "{text}"
            );
        }
        assert_eq!(
            pairs("Type=a,x=1=2").unwrap(),
            [("type".into(), "a".into()), ("x".into(), "1=2".to_string())]
        );
        assert!(pairs("type=a,b").is_err());
        assert_eq!(key_value("a=b=c"), Ok(("a", Some("b=c"))));
        assert_eq!(key_value("a"), Ok(("a", None)));
        assert!(key_value("=b").is_err());
    }

    #[test]
    fn sizes() {
        let cases = [
            ("0", Some(0)),
            ("512", Some(512)),
            ("32b", Some(32)),
            ("1k", Some(1024)),
            ("1KB", Some(1024)),
            ("1kib", Some(1024)),
            ("1.5m", Some(1_572_864)),
            ("2 g", Some(2 << 30)),
            ("1tb", Some(1 << 40)),
            ("1p", Some(1 << 50)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1x", None),
            ("1bb", None),
            ("1bib", None),
            ("1mi", None),
            ("1.2.3", None),
            ("1e5k", None),
            ("1kx", None),
            ("1 2k", None),
        ];
        for (text, expected) in cases {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn durations() {
        let cases = [
            ("24h", Some(86_400.0)),
            ("1h30m", Some(5400.0)),
            ("1.5h", Some(5400.0)),
            ("7d", Some(604_800.0)),
            ("250ms", Some(0.25)),
            ("", None),
            ("5", None),
            ("h", None),
            ("1y", None),
            ("-1h", None),
            ("1..2h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                duration(text).ok(),
                expected.map(Duration::from_secs_f64),
                "{text}"
            );
        }
    }

    #[test]
    fn booleans() {
        assert_eq!(boolean("T"), Ok(true));
        assert_eq!(boolean("0"), Ok(false));
        assert!(boolean("yes").is_err());
    }
}
