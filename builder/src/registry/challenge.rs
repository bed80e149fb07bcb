//! The challenges of a `401` answer (`WWW-Authenticate`).

use std::collections::BTreeMap;

/// What a server asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A name and a password with each request.
    Basic,
    /// A token from this service.
    Bearer {
        /// Address of the token service.
        realm: String,
        /// The name of the registry, to be passed on.
        service: Option<String>,
    },
}

/// The challenge to take among all that were offered: a token before a password.
pub(super) fn best<'a>(values: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<Challenge> = values.flat_map(parse).collect();
    let token = all
        .iter()
        .find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    token.or(all.first()).cloned()
}

/// The challenges of one header that are understood. One header may hold several, separated like their parameters.
fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header;
    while let Some((token, after)) = word(rest) {
        let trimmed = after.trim_start();
        match trimmed.strip_prefix('=') {
            // `name=value` belongs to the scheme before it.
            Some(value) => {
                let (value, after) = parameter(value.trim_start());
                if let Some((_, parameters)) = found.last_mut() {
                    parameters
                        .entry(token.to_ascii_lowercase())
                        .or_insert(value);
                }
                rest = after;
            }
            None => {
                found.push((token.to_ascii_lowercase(), BTreeMap::new()));
                rest = after;
            }
        }
    }
    found
        .into_iter()
        .filter_map(|(scheme, parameters)| challenge(&scheme, parameters))
        .collect()
}

fn challenge(scheme: &str, mut parameters: BTreeMap<String, String>) -> Option<Challenge> {
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: parameters.remove("realm")?,
            service: parameters.remove("service"),
        }),
        _ => None,
    }
}

/// The next token, and what follows it.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
    let end = text
        .find(|c: char| c == ',' || c == '=' || c.is_whitespace())
        .unwrap_or(text.len());
    // A stray `=` would not move on.
    let end = if end == 0 {
        text.chars().next().map_or(0, char::len_utf8)
    } else {
        end
    };
    (end > 0).then(|| text.split_at(end))
}

/// A quoted string with escapes, or a bare value up to the next comma.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text
            .find(|c: char| c == ',' || c.is_whitespace())
            .unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
        })
    }

    #[test]
    fn challenges() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a:pull""#;
        let table = [
            (
                hub,
                token("https://auth.docker.io/token", Some("registry.docker.io")),
            ),
            (r#"bearer Realm=https://a/t"#, token("https://a/t", None)),
            (
                r#"Basic realm="x", Bearer realm="https://a/t", service=s"#,
                token("https://a/t", Some("s")),
            ),
            (
                r#"BASIC realm="a \"b\", Bearer realm=c""#,
                Some(Challenge::Basic),
            ),
            ("Basic", Some(Challenge::Basic)),
            ("Bearer service=x", None),
            ("Negotiate abc==, Basic realm=y", Some(Challenge::Basic)),
            (r#"Bearer realm="open"#, token("open", None)),
            ("", None),
            ("=,=, ==", None),
            ("Digest realm=x", None),
            (r#"Bearer realm="a",realm="b""#, token("a", None)),
        ];
        for (header, expected) in table {
            assert_eq!(best([header].into_iter()), expected, "{header}");
        }
        assert_eq!(best(["Basic", hub].into_iter()), best([hub].into_iter()));
    }
}
