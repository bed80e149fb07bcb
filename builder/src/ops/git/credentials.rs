//! How a remote learns who asks: by variables, since arguments can be read by everyone on the machine.

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::Url;

use crate::secrets::Secrets;
use crate::web::redacted;

/// The configuration that holds the credentials for `remote`: from secrets, or from the URL itself.
pub(super) fn credentials(secrets: &Secrets, remote: &str) -> Result<Option<(String, String)>> {
    let header = |value: String| {
        let name = format!("http.{}.extraheader", origin(remote));
        (name, format!("Authorization: {value}"))
    };
    if let Some(value) = authorization(secrets, remote)? {
        return Ok(Some(header(value)));
    }
    let Some(url) = http_url(remote).filter(|url| !url.username().is_empty()) else {
        return Ok(None);
    };
    Ok(Some(match url.password() {
        Some(password) => {
            let (user, password) = (decoded(url.username()), decoded(password));
            let pair = [&user[..], b":", &password].concat();
            let pair = BASE64_STANDARD.encode(pair);
            header(format!("basic {pair}"))
        }
        // Only shown to a server that asks for it: public repositories are named like this too.
        None => (
            format!(
                "credential.{}.username",
                origin(remote).trim_end_matches('/')
            ),
            String::from_utf8_lossy(&decoded(url.username())).into_owned(),
        ),
    }))
}

fn http_url(remote: &str) -> Option<Url> {
    let url = Url::parse(remote).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

/// What is given to git: an HTTP address without user and password.
pub(super) fn address(remote: &str) -> String {
    match http_url(remote) {
        Some(_) => redacted(remote),
        None => remote.to_owned(),
    }
}

/// The bytes that a part of a URL stands for.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (byte, after) = match byte.filter(|_| *first == b'%') {
            Some(byte) => (byte, &after[2..]),
            None => (*first, after),
        };
        bytes.push(byte);
        rest = after;
    }
    bytes
}

/// The Authorization header from the secrets GIT_AUTH_HEADER and GIT_AUTH_TOKEN, with or without the host's name.
fn authorization(secrets: &Secrets, remote: &str) -> Result<Option<String>> {
    let Some(host) = host(remote) else {
        return Ok(None);
    };
    for name in [
        format!("GIT_AUTH_HEADER.{host}"),
        "GIT_AUTH_HEADER".to_owned(),
    ] {
        if let Some(value) = secrets.get(&name, false)? {
            return Ok(Some(String::from_utf8_lossy(&value).trim().to_owned()));
        }
    }
    for name in [
        format!("GIT_AUTH_TOKEN.{host}"),
        "GIT_AUTH_TOKEN".to_owned(),
    ] {
        if let Some(value) = secrets.get(&name, false)? {
            let user = format!("x-access-token:{}", String::from_utf8_lossy(&value).trim());
            return Ok(Some(format!("basic {}", BASE64_STANDARD.encode(user))));
        }
    }
    Ok(None)
}

/// `https://host/` of an HTTP remote: credentials are for that origin only.
fn origin(remote: &str) -> String {
    let scheme = if remote.starts_with("http://") {
        "http"
    } else {
        "https"
    };
    format!("{scheme}://{}/", host(remote).unwrap_or_default())
}

fn host(remote: &str) -> Option<String> {
    let rest = remote
        .strip_prefix("https://")
        .or_else(|| remote.strip_prefix("http://"))?;
    let authority = rest.split('/').next()?;
    Some(authority.rsplit('@').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn credentials_are_for_one_origin() {
        assert_eq!(origin("https://token@host/a.git"), "https://host/");
        let found = |remote: &str| credentials(&Secrets::default(), remote).unwrap();
        let header = (
            "http.https://h:8443/.extraheader",
            "Authorization: basic dTpwQHc=",
        );
        let both = found("https://u:p%40w@h:8443/a.git").unwrap();
        assert_eq!((&*both.0, &*both.1), header);
        let named = found("https://token@h/a.git").unwrap();
        assert_eq!(
            (&*named.0, &*named.1),
            ("credential.https://h.username", "token")
        );
        for none in ["https://h/a.git", "git@h:a.git", "ssh://git@h/a.git"] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    #[test]
    fn arguments_hold_no_password() {
        assert_eq!(address("https://u:p@h/a.git"), "https://h/a.git");
        for kept in ["git@h:a.git", "ssh://git@h/a.git", "git://h/a"] {
            assert_eq!(address(kept), kept);
        }
    }
}
