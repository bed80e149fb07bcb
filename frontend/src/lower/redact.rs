//! User names and passwords in URLs, left out of what people get to see: the names of steps, the history, excerpts, errors.

use std::borrow::Cow;

/// `text` with the part before `@` of every URL's host replaced, as BuildKit does.
pub fn redact(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        out.push_str(before);
        let end = after
            .find(|ch: char| ch == '/' || ch == '"' || ch == '\'' || ch.is_whitespace())
            .unwrap_or(after.len());
        let authority = &after[..end];
        match authority.rfind('@') {
            Some(sign) => {
                out.push_str("xxxxx");
                out.push_str(&authority[sign..]);
            }
            None => out.push_str(authority),
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn passwords_are_not_shown() {
        for (text, want) in [
            (
                "ADD https://me:word@host/a /b",
                "ADD https://xxxxx@host/a /b",
            ),
            (
                "https://a@b@c/x https://d/@e",
                "https://xxxxx@c/x https://d/@e",
            ),
            ("git@host:a/b.git", "git@host:a/b.git"),
            ("\"https://t@h\" b://", "\"https://xxxxx@h\" b://"),
        ] {
            assert_eq!(redact(text), want);
        }
    }
}
