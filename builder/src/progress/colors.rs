//! The colours of the live view.

use std::borrow::Cow;

/// What a line says, and thereby its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Finished,
    Cancelled,
    Failed,
    Warning,
    Log,
}

/// Parameters of SGR sequences; an empty one is no colour.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Colors {
    finished: String,
    cancelled: String,
    failed: String,
    warning: String,
    log: String,
}

impl Colors {
    /// Docker's colours, unless `NO_COLOR` is set to something; `BUILDKIT_COLORS` (`run=green:error=255,0,0`) changes
    /// them. Entries of it that mean nothing are passed over.
    pub fn from_env(no_color: Option<&str>, spec: Option<&str>) -> Self {
        if no_color.is_some_and(|value| !value.is_empty()) {
            return Self::default();
        }
        let mut colors = Self {
            finished: "34".into(),
            cancelled: "33".into(),
            failed: "31".into(),
            warning: "33".into(),
            log: "2".into(),
        };
        for entry in spec.unwrap_or_default().split(':') {
            let Some((key, value)) = entry.split_once('=') else {
                continue;
            };
            let Some(code) = code(&value.trim_matches('"').to_ascii_lowercase()) else {
                continue;
            };
            match key.trim_matches('"').to_ascii_lowercase().as_str() {
                "run" => colors.finished = code,
                "cancel" => colors.cancelled = code,
                "error" => colors.failed = code,
                "warning" => colors.warning = code,
                _ => {}
            }
        }
        colors
    }

    pub(super) fn paint<'a>(&self, paint: Paint, text: &'a str) -> Cow<'a, str> {
        let code = match paint {
            Paint::Plain => "",
            Paint::Finished => &self.finished,
            Paint::Cancelled => &self.cancelled,
            Paint::Failed => &self.failed,
            Paint::Warning => &self.warning,
            Paint::Log => &self.log,
        };
        if code.is_empty() {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m"))
        }
    }
}

fn code(value: &str) -> Option<String> {
    const NAMES: [&str; 8] = [
        "black", "red", "green", "yellow", "blue", "magenta", "cyan", "white",
    ];
    if value == "default" {
        return Some("39".into());
    }
    let (name, base) = value
        .strip_prefix("light-")
        .map_or((value, 30), |name| (name, 90));
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return Some((base + at).to_string());
    }
    let parts: Vec<u8> = value
        .split(',')
        .map(|part| part.trim().parse().ok())
        .collect::<Option<_>>()?;
    let [red, green, blue] = parts[..] else {
        return None;
    };
    Some(format!("38;2;{red};{green};{blue}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment() {
        let painted = |no_color, spec, paint| {
            Colors::from_env(no_color, spec)
                .paint(paint, "x")
                .into_owned()
        };
        assert_eq!(painted(None, None, Paint::Finished), "\x1b[34mx\x1b[0m");
        assert_eq!(painted(Some(""), None, Paint::Failed), "\x1b[31mx\x1b[0m");
        assert_eq!(painted(Some("1"), Some("run=green"), Paint::Finished), "x");
        assert_eq!(
            painted(None, Some("run=light-green"), Paint::Finished),
            "\x1b[92mx\x1b[0m"
        );
        assert_eq!(
            painted(None, Some("error=1,2,3:run=blue"), Paint::Failed),
            "\x1b[38;2;1;2;3mx\x1b[0m"
        );
        assert_eq!(
            painted(None, Some("error=1,2:nonsense:x=y=z"), Paint::Failed),
            "\x1b[31mx\x1b[0m"
        );
        assert_eq!(painted(None, None, Paint::Plain), "x");
    }
}
