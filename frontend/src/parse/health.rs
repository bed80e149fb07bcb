//! The durations and counts of `HEALTHCHECK`.

use crate::diag::{Code, Diagnostic};
use crate::parse::flags::Flags;

const MILLISECOND: i64 = 1_000_000;

/// The nanoseconds of a duration flag; zero where it is absent.
pub(crate) fn interval(flags: &Flags, name: &str) -> Result<u64, Diagnostic> {
    let Some(value) = flags.text(name) else {
        return Ok(0);
    };
    let error = |message: String| Diagnostic::error(Code::FlagValue, value.span, message);
    let Some(nanoseconds) = duration(&value.value) else {
        return Err(error(format!("invalid duration {:?}", value.value))
            .hint("write it like 30s, 1m30s or 500ms"));
    };
    if nanoseconds != 0 && nanoseconds < MILLISECOND {
        return Err(error(format!("--{name} cannot be less than 1ms")));
    }
    Ok(nanoseconds.unsigned_abs())
}

/// `--retries`; zero where it is absent.
pub(crate) fn retries(flags: &Flags) -> Result<u64, Diagnostic> {
    let Some(value) = flags.text("retries") else {
        return Ok(0);
    };
    let error = |message: String| Err(Diagnostic::error(Code::FlagValue, value.span, message));
    match value.value.parse::<i32>() {
        Ok(count) if count < 0 => error(format!("--retries cannot be negative ({count})")),
        Ok(count) => Ok(u64::from(count.unsigned_abs())),
        Err(_) => error(format!("invalid number {:?} of retries", value.value)),
    }
}

/// Reads Go's notation of durations: decimal numbers with units, such as `1h2m3.5s`. Nanoseconds.
fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: u64 = 0;
    while total == 0 || !rest.is_empty() {
        let (number, after) =
            rest.split_at(rest.find(|ch: char| !ch.is_ascii_digit() && ch != '.')?);
        let (unit, after) = after.split_at(
            after
                .find(|ch: char| ch.is_ascii_digit() || ch == '.')
                .unwrap_or(after.len()),
        );
        total = total.checked_add(term(number, unit)?)?;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let limit = i64::MAX.unsigned_abs();
    if total > limit + u64::from(negative) {
        return None;
    }
    let total = i64::try_from(total).unwrap_or(i64::MAX);
    Some(if negative { -total } else { total })
}

/// `number` of `unit` in nanoseconds. What is less than one is cut off.
fn term(number: &str, unit: &str) -> Option<u64> {
    let scale: u64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    // Twelve digits are finer than a nanosecond of an hour.
    let fraction = &fraction[..fraction.len().min(12)];
    let part = if fraction.is_empty() {
        0
    } else {
        fraction.parse::<u128>().ok()?
    };
    let part = part * u128::from(scale) / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    whole
        .checked_mul(scale)?
        .checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0", Some(0)),
            ("30s", Some(30_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("-1s", Some(-1_000_000_000)),
            ("0s", Some(0)),
            ("0s1s", Some(1_000_000_000)),
            ("500us", Some(500_000)),
            ("1µs", Some(1_000)),
            ("", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("1s ", None),
            ("9223372036854775808ns", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration(text), expected, "{text:?}");
        }
    }
}
