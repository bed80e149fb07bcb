//! Values that flags of instructions and of the command line share, read as the libraries of Go and of docker read them.

use std::borrow::Cow;
use std::fmt;

/// A boolean, as `strconv.ParseBool` of Go reads it.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Bytes, as `units.RAMInBytes` of docker reads them: `10`, `1.5g`, `64 MiB`. Units are powers of 1024 in any case; what
/// is too large for 64 bits becomes the largest size there is.
pub fn size(text: &str) -> Option<u64> {
    let last = text.rfind(|ch: char| ch.is_ascii_digit() || matches!(ch, '.' | ' '))?;
    let (number, unit) = text.split_at(last + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    let number: f64 = number.parse().ok().filter(|number: &f64| *number >= 0.0)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    Some((number * (1_u64 << shift) as f64) as u64)
}

/// Why a line is no CSV record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CsvError {
    /// A quote inside a field that does not begin with one.
    Inside,
    /// No closing quote.
    Open,
    /// More text after a closing quote.
    After,
}

impl fmt::Display for CsvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inside => "a quote must surround the whole field, as in \"name=a,b\"",
            Self::Open => "a quote is not closed",
            Self::After => "a comma must follow a closing quote",
        })
    }
}

impl std::error::Error for CsvError {}

/// The fields of one CSV record: one in double quotes may hold commas, and `""` for a quote.
pub fn fields(line: &str) -> Result<Vec<Cow<'_, str>>, CsvError> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(rest) => quoted(rest)?,
            None => bare(rest)?,
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// The field that `text` begins with, and what follows from the comma on.
fn bare(text: &str) -> Result<(Cow<'_, str>, &str), CsvError> {
    let (field, after) = text.split_at(text.find(',').unwrap_or(text.len()));
    if field.contains('"') {
        return Err(CsvError::Inside);
    }
    Ok((field.into(), after))
}

/// [`bare`] for a field in quotes, of which `text` follows the opening one.
fn quoted(text: &str) -> Result<(Cow<'_, str>, &str), CsvError> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"').ok_or(CsvError::Open)?;
        field.push_str(part);
        rest = after;
        if let Some(after) = rest.strip_prefix('"') {
            field.push('"');
            rest = after;
        } else if rest.is_empty() || rest.starts_with(',') {
            return Ok((field.into(), rest));
        } else {
            return Err(CsvError::After);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans() {
        assert_eq!(boolean("T"), Some(true));
        assert_eq!(boolean("0"), Some(false));
        assert_eq!(boolean("yes"), None);
    }

    #[test]
    fn csv() {
        let cases: &[(&str, Result<&[&str], CsvError>)] = &[
            ("a", Ok(&["a"])),
            ("a,b", Ok(&["a", "b"])),
            ("", Ok(&[""])),
            ("a,", Ok(&["a", ""])),
            (r#""a,b",c"#, Ok(&["a,b", "c"])),
            (r#"x=1,"name=a,b""#, Ok(&["x=1", "name=a,b"])),
            (r#""a""b""#, Ok(&["a\"b"])),
            (r#""a"#, Err(CsvError::Open)),
            (r#"a"b"#, Err(CsvError::Inside)),
            (r#""a"b"#, Err(CsvError::After)),
        ];
        for (text, expected) in cases {
            let read = fields(text);
            let read: Result<Vec<&str>, CsvError> = read
                .as_ref()
                .map(|fields| fields.iter().map(|field| &**field).collect())
                .map_err(|error| *error);
            assert_eq!(read, expected.map(<[_]>::to_vec), "{text}");
        }
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
            ("1e3k", Some(1_024_000)),
            ("99999p", Some(u64::MAX)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1x", None),
            ("1bb", None),
            ("1bib", None),
            ("1mi", None),
            ("1.2.3", None),
            ("1kx", None),
            ("1 2k", None),
        ];
        for (text, expected) in cases {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}
