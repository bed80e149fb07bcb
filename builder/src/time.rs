//! Times as image configs write them, and those of files.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use lapstrake_cache::Time;
use rustix::fs::{AtFlags, CWD, utimensat};

/// The present as RFC 3339, in UTC, to the nanosecond.
pub(crate) fn now() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    rfc3339(now.as_secs() as i64, now.subsec_nanos())
}

/// A Unix time as RFC 3339, in UTC; the fraction is left out when it is zero.
pub(crate) fn rfc3339(seconds: i64, nanos: u32) -> String {
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let fraction = if nanos == 0 {
        String::new()
    } else {
        format!(".{nanos:09}")
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// The present, for files that the build makes.
pub(crate) fn present() -> Time {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Time {
        secs: now.as_secs() as i64,
        nanos: now.subsec_nanos(),
    }
}

/// Gives `tree` and all in it the same time.
pub(crate) fn set_all(tree: &Path, seconds: i64) -> Result<()> {
    let mut directories = vec![tree.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            set(&entry.path(), seconds)?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    set(tree, seconds)
}

/// Of a link, not of what it leads to.
pub(crate) fn set(path: &Path, seconds: i64) -> Result<()> {
    let times = Time::from_secs(seconds).as_timestamps();
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The seconds since 1970 of an RFC 3339 time in UTC; the fraction is dropped.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let field = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (field(0..4)?, field(5..7)?, field(8..10)?);
    let (hour, minute, second) = (field(11..13)?, field(14..16)?, field(17..19)?);
    Some(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// The day, counted from 1970-01-01, of a Gregorian date: [`civil`] backwards.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let shifted = (month + 9) % 12;
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The Gregorian date of a day counted from 1970-01-01, computed in 400-year eras that begin in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{parse, rfc3339};

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(rfc3339(1_577_836_799, 0), "2019-12-31T23:59:59Z");
        assert_eq!(rfc3339(-1, 0), "1969-12-31T23:59:59Z");
        for seconds in [0, 951_782_400, 1_577_836_799, -1, 4_107_542_399] {
            assert_eq!(parse(&rfc3339(seconds, 7)), Some(seconds));
        }
        assert_eq!(parse("no time"), None);
    }
}
