//! Values that many flags share: booleans, comma-separated fields, sizes and durations, as docker reads them.

use std::borrow::Cow;
use std::time::Duration;

use lapstrake_frontend::values;

/// What is wrong with a value: one line that says what to write instead.
pub(crate) type Invalid = String;

/// Puts the flag's name before what is wrong with its value.
pub(super) fn of<T>(flag: &str, result: Result<T, Invalid>) -> Result<T, Invalid> {
    result.map_err(|why| format!("--{flag}: {why}"))
}

/// Reads each value of a flag that may be repeated; empty ones mean nothing, as for docker.
pub(super) fn each<T>(
    flag: &str,
    texts: &[String],
    read: impl Fn(&str) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    texts
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| of(flag, read(text)))
        .collect()
}

/// Of equal ids the last counts.
pub(super) fn last_of_each<T>(specs: Vec<T>, id: impl Fn(&T) -> &str) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for spec in specs {
        match kept.iter().position(|known| id(known) == id(&spec)) {
            Some(at) => kept[at] = spec,
            None => kept.push(spec),
        }
    }
    kept
}

/// A boolean as Go reads it.
pub(crate) fn boolean(text: &str) -> Result<bool, Invalid> {
    values::boolean(text).ok_or_else(|| format!("{text:?} is neither true nor false"))
}

/// Splits one line of CSV, as [`values::fields`] does.
pub(crate) fn fields(text: &str) -> Result<Vec<String>, Invalid> {
    let fields = values::fields(text).map_err(|error| format!("{text:?}: {error}"))?;
    Ok(fields.into_iter().map(Cow::into_owned).collect())
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

/// A size in bytes: `512`, `64k`, `1.5GiB`.
pub(crate) fn size(text: &str) -> Result<u64, Invalid> {
    values::size(text).ok_or_else(|| format!("{text:?} is not a size such as 512m or 2g"))
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
    fn keys() {
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
    fn the_last_of_equal_ids_counts() {
        assert_eq!(
            last_of_each(vec!["a1", "b1", "a2"], |text| &text[..1]),
            ["a2", "b1"]
        );
    }
}
