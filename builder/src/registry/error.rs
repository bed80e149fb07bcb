//! What a registry said, or why it could not be asked.

use std::fmt;
use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::date;

/// The longest time that a registry may make us wait before the next try.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The most bytes of an error's body that are read.
const MAX_BODY: usize = 64 << 10;

/// The most characters of a registry's own words that are shown.
const MAX_WORDS: usize = 400;

/// The result of asking a registry.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed request, or a request that could not be made.
#[derive(Debug)]
pub struct Error(Box<Failure>);

/// What is known about a failure.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// `GET`, …; empty when no request was made.
    pub method: String,
    /// The URL without user, password and query; empty when no request was made.
    pub url: String,
    /// The status of the answer, if there was one.
    pub status: Option<StatusCode>,
    /// What the registry itself said.
    pub diagnostics: Vec<Diagnostic>,
    /// What we say.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retry: Retry,
    /// The other side could not be reached, or does not speak the protocol that was tried.
    pub(super) is_transport: bool,
}

/// One entry of the `errors` that a registry answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// `MANIFEST_UNKNOWN`, `DENIED`, `TOOMANYREQUESTS`, …
    pub code: String,
    /// The registry's explanation.
    pub message: String,
}

/// Whether and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The answer will be the same.
    Never,
    /// It is worth this many more tries, not more.
    AtMost(u32),
    /// A passing fault: with growing pauses.
    Backoff,
    /// The registry asked for this pause.
    After(Duration),
}

impl Error {
    /// A failure without a request.
    pub(super) fn plain(message: impl Into<String>) -> Self {
        Self(Box::new(Failure {
            method: String::new(),
            url: String::new(),
            status: None,
            diagnostics: Vec::new(),
            message: message.into(),
            retry: Retry::Never,
            is_transport: false,
        }))
    }

    /// A failure of this request.
    pub(super) fn new(
        method: &Method,
        url: &Url,
        message: impl Into<String>,
        retry: Retry,
    ) -> Self {
        let mut error = Self::plain(message);
        error.0.method = method.to_string();
        error.0.url = redacted(url);
        error.0.retry = retry;
        error
    }

    /// The request could not be sent, or its answer not be received.
    pub(super) fn transport(method: &Method, url: &Url, cause: &reqwest::Error) -> Self {
        let certificate = is_certificate(cause);
        let retry = match () {
            () if certificate => Retry::Never,
            () if cause.is_connect() => Retry::AtMost(2),
            () => Retry::Backoff,
        };
        let mut error = Self::new(method, url, root_cause(cause), retry);
        error.0.is_transport = !certificate;
        error
    }

    /// The answer has a status that means failure.
    pub(super) async fn refused(method: &Method, mut response: Response) -> Self {
        let status = response.status();
        let retry = verdict(status, response.headers());
        let mut error = Self::new(method, response.url(), "", retry);
        let mut body = Vec::new();
        let reading = async {
            while let Ok(Some(chunk)) = response.chunk().await {
                body.extend_from_slice(&chunk);
                if body.len() > MAX_BODY {
                    break;
                }
            }
        };
        // The words are a courtesy: a registry that stalls while complaining has said enough.
        let _ = tokio::time::timeout(Duration::from_secs(5), reading).await;
        error.0.status = Some(status);
        error.0.diagnostics = diagnostics(&body);
        error
    }

    /// Adds what to do about it.
    #[must_use]
    pub(super) fn hint(mut self, hint: &str) -> Self {
        if !self.0.message.is_empty() {
            self.0.message.push_str("; ");
        }
        self.0.message.push_str(hint);
        self
    }

    /// The same failure with another verdict.
    #[must_use]
    pub(super) fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// The registry does not have it.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND)
    }

    /// The registry wants (other) credentials.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(
            self.status,
            Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        )
    }
}

impl std::ops::Deref for Error {
    type Target = Failure;

    fn deref(&self) -> &Failure {
        &self.0
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.method.is_empty() {
            parts.push(format!("{} {}", self.method, self.url));
        }
        if let Some(status) = self.status {
            let reason = status
                .canonical_reason()
                .unwrap_or("unknown status")
                .to_lowercase();
            parts.push(format!("{} {reason}", status.as_u16()));
        }
        parts.extend(self.diagnostics.iter().map(Diagnostic::to_string));
        if !self.message.is_empty() {
            parts.push(self.message.clone());
        }
        f.write_str(&parts.join(": "))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.is_empty(), self.message.is_empty()) {
            (false, false) => write!(f, "{} ({})", self.message, self.code),
            (true, _) => f.write_str(&self.message),
            (_, true) => f.write_str(&self.code),
        }
    }
}

/// A URL that may be shown: signed URLs and upload sessions carry their secrets in the query.
pub(super) fn redacted(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

fn verdict(status: StatusCode, headers: &HeaderMap) -> Retry {
    let passing = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    if !passing.contains(&status) {
        return Retry::Never;
    }
    retry_after(headers).map_or(Retry::Backoff, |pause| {
        Retry::After(pause.min(MAX_RETRY_AFTER))
    })
}

/// Seconds, or a date that is compared with the registry's own clock where it tells.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    let value = text(RETRY_AFTER)?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = date::parse(value)?;
    let now = text(DATE)
        .and_then(date::parse)
        .unwrap_or_else(SystemTime::now);
    Some(until.duration_since(now).unwrap_or_default())
}

fn diagnostics(body: &[u8]) -> Vec<Diagnostic> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Entry>,
        #[serde(default)]
        details: Option<String>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: Option<String>,
        #[serde(default)]
        message: Option<String>,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return Vec::new();
    };
    let own = body
        .errors
        .into_iter()
        .map(|Entry { code, message }| Diagnostic {
            code: words(&code.unwrap_or_default()),
            message: words(&message.unwrap_or_default()),
        });
    // Docker's token service answers with `details`.
    let details = body.details.map(|text| Diagnostic {
        code: String::new(),
        message: words(&text),
    });
    own.chain(details)
        .filter(|d| !(d.code.is_empty() && d.message.is_empty()))
        .take(5)
        .collect()
}

/// Somebody else's text, safe to print: one line, no control characters, not too long.
pub(super) fn words(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut safe = String::new();
    for character in line.chars().take(MAX_WORDS) {
        match character.is_control() {
            true => safe.extend(character.escape_default()),
            false => safe.push(character),
        }
    }
    safe
}

fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

fn is_certificate(error: &reqwest::Error) -> bool {
    chain(error).any(|cause| {
        // An io::Error gives the error that it wraps through get_ref, and hides it from source().
        let wrapped = cause
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.get_ref());
        let tls = cause
            .downcast_ref::<rustls::Error>()
            .or_else(|| wrapped?.downcast_ref());
        matches!(
            tls,
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::General(_))
        )
    })
}

/// The innermost cause: the outer ones only say that a request failed.
fn root_cause(error: &reqwest::Error) -> String {
    let innermost = chain(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default();
    words(&innermost)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        let url =
            Url::parse("https://user:pw@host:444/v2/x/blobs/1?X-Amz-Signature=abc#f").unwrap();
        assert_eq!(redacted(&url), "https://host:444/v2/x/blobs/1");
    }

    #[test]
    fn which_answers_are_worth_another_try() {
        let none = headers(&[]);
        assert_eq!(verdict(StatusCode::NOT_FOUND, &none), Retry::Never);
        assert_eq!(
            verdict(StatusCode::SERVICE_UNAVAILABLE, &none),
            Retry::Backoff
        );
        let asked = |value| {
            verdict(
                StatusCode::TOO_MANY_REQUESTS,
                &headers(&[("retry-after", value)]),
            )
        };
        assert_eq!(asked("3"), Retry::After(Duration::from_secs(3)));
        assert_eq!(asked("86400"), Retry::After(Duration::from_secs(60)));
        assert_eq!(asked("soon"), Retry::Backoff);
        let dated = headers(&[
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("retry-after", "Sun, 06 Nov 1994 08:49:44 GMT"),
        ]);
        assert_eq!(
            verdict(StatusCode::TOO_MANY_REQUESTS, &dated),
            Retry::After(Duration::from_secs(7))
        );
    }

    #[test]
    fn the_words_of_a_registry_are_made_safe() {
        let body =
            br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m\nway"},{"code":"X"},{}]}"#;
        let found: Vec<String> = diagnostics(body)
            .iter()
            .map(Diagnostic::to_string)
            .collect();
        assert_eq!(found, ["no\\u{1b}[31m way (DENIED)", "X"]);
        assert_eq!(diagnostics(b"<html>"), []);
        assert_eq!(
            diagnostics(br#"{"details":"incorrect password"}"#)[0].to_string(),
            "incorrect password"
        );
        assert_eq!(words(&"x".repeat(9000)).len(), MAX_WORDS);
    }

    #[test]
    fn an_error_is_one_line() {
        let url = Url::parse("https://r.example/v2/a/manifests/1?x=y").unwrap();
        let mut error = Error::new(&Method::GET, &url, "", Retry::Never);
        error.0.status = Some(StatusCode::NOT_FOUND);
        error.0.diagnostics = diagnostics(
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
        );
        let expected = "GET https://r.example/v2/a/manifests/1: 404 not found: manifest unknown (MANIFEST_UNKNOWN)";
        assert_eq!(error.to_string(), expected);
        assert!(error.is_not_found());
        assert_eq!(
            Error::plain("read x").hint("do y").to_string(),
            "read x; do y"
        );
    }
}
