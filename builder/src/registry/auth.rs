//! Proving who we are: challenges, tokens, and to whom credentials may be shown.
//!
//! A request is first sent with what is known: nothing, or what an earlier answer of the same server asked for.
//! `401` carries a challenge, from which a token is fetched for exactly the scopes that the request needs. Tokens are
//! kept until they expire on our own clock, so that a wrong time of day does no harm.
//!
//! The address of the token service ("realm") is chosen by the registry, so [`judge`] decides what it may get.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::challenge::{self, Challenge};
use super::client::Client;
use super::config::{is_loopback, literal};
use super::credentials::{Credential, Secret};
use super::error::{Error, Result, Retry, redacted};
use super::lock;
use super::tls::is_private;

/// The largest answer of a token service.
const MAX_TOKEN: usize = 1 << 20;

/// How long a token without `expires_in` is good for, and the least that is believed.
const LEAST_LIFE: Duration = Duration::from_secs(60);

/// A request for less than this much of a token's life gets a new token.
const MARGIN: Duration = Duration::from_secs(10);

/// What a server asked for, and the tokens got since.
#[derive(Default)]
pub(super) struct Known {
    challenges: Mutex<HashMap<String, Challenge>>,
    tokens: Mutex<HashMap<(String, String), Slot>>,
    credentials: Mutex<HashMap<(String, String), Credential>>,
    /// One look-up at a time: a helper may ask the user.
    looking: tokio::sync::Mutex<()>,
}

/// One token; whoever holds the lock fetches it, the others wait for it.
type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

struct Token {
    value: Secret,
    expires: Instant,
}

/// What a request wants to do: the server that it goes to, and the scopes.
pub(super) struct Purpose<'a> {
    /// `scheme://host:port` of the registry.
    pub(super) origin: &'a Url,
    /// The name under which credentials are filed.
    pub(super) host: &'a str,
    /// The repository, for credentials that are filed by repository.
    pub(super) repository: &'a str,
    /// `repository:NAME:ACTIONS`, …
    pub(super) scopes: &'a [String],
    /// Whether certificates matter.
    pub(super) verify: bool,
}

impl Purpose<'_> {
    fn server(&self) -> String {
        self.origin.origin().ascii_serialization()
    }

    fn key(&self) -> (String, String) {
        (self.server(), self.scopes.join(" "))
    }
}

impl Client {
    /// The `Authorization` of a request, as far as it is known or can be fetched.
    pub(super) async fn authorization(&self, purpose: &Purpose<'_>) -> Result<Option<HeaderValue>> {
        let known = lock(&self.known().challenges)
            .get(&purpose.server())
            .cloned();
        match known {
            None => Ok(None),
            Some(Challenge::Basic) => match self.credential(purpose).await? {
                Credential::Basic { username, password } => basic(&username, &password).map(Some),
                Credential::Registry(token) => bearer(&token).map(Some),
                Credential::Anonymous | Credential::Identity(_) => Ok(None),
            },
            Some(Challenge::Bearer { realm, service }) => {
                let credential = self.credential(purpose).await?;
                if let Credential::Registry(token) = &credential {
                    return bearer(token).map(Some);
                }
                let slot = Arc::clone(lock(&self.known().tokens).entry(purpose.key()).or_default());
                let mut slot = slot.lock().await;
                if let Some(token) = slot
                    .as_ref()
                    .filter(|token| Instant::now() + MARGIN < token.expires)
                {
                    return bearer(&token.value).map(Some);
                }
                let token = self
                    .fetch_token(purpose, &realm, service.as_deref(), &credential)
                    .await?;
                let header = bearer(&token.value);
                *slot = Some(token);
                header.map(Some)
            }
        }
    }

    /// Takes note of a `401`. False when its challenges are of no kind that we know.
    pub(super) fn learn(&self, purpose: &Purpose<'_>, headers: &HeaderMap) -> bool {
        let values = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let Some(challenge) = challenge::best(values) else {
            return false;
        };
        lock(&self.known().tokens).remove(&purpose.key());
        lock(&self.known().challenges).insert(purpose.server(), challenge);
        true
    }

    async fn credential(&self, purpose: &Purpose<'_>) -> Result<Credential> {
        let key = (purpose.host.to_owned(), purpose.repository.to_owned());
        let _looking = self.known().looking.lock().await;
        if let Some(credential) = lock(&self.known().credentials).get(&key) {
            return Ok(credential.clone());
        }
        let credential = self
            .config()
            .credentials
            .find(purpose.host, purpose.repository)
            .await?;
        lock(&self.known().credentials).insert(key, credential.clone());
        Ok(credential)
    }

    /// Whether credentials were found for this repository, as far as they were looked for.
    pub(super) fn is_somebody(&self, host: &str, repository: &str) -> bool {
        let found = lock(&self.known().credentials);
        let credential = found.get(&(host.to_owned(), repository.to_owned()));
        credential.is_some_and(|credential| *credential != Credential::Anonymous)
    }

    async fn fetch_token(
        &self,
        purpose: &Purpose<'_>,
        realm: &str,
        service: Option<&str>,
        credential: &Credential,
    ) -> Result<Token> {
        let refuse = |why: &str| {
            Error::plain(format!(
                "refuse token service {realm:?} of {}: {why}",
                purpose.host
            ))
        };
        let url = Url::parse(realm).map_err(|_| refuse("not a URL"))?;
        let verdict = judge(&url, purpose.origin).map_err(refuse)?;
        let guarded = verdict.guarded && !is_inside(purpose.origin).await;
        if guarded && literal(&url).is_some_and(is_private) {
            return Err(refuse("it is a private address"));
        }
        let nobody = Credential::Anonymous;
        let shown = if verdict.credentials {
            credential
        } else {
            &nobody
        };
        let verify = purpose.verify || !verdict.same_origin;
        let started = Instant::now();
        let bytes = self
            .ask_realm(&url, purpose, service, shown, Connect { verify, guarded })
            .await;
        let bytes = bytes.map_err(|error| match shown == credential {
            true => error,
            false => error.hint("credentials are only sent to the registry itself or over https"),
        })?;
        token(&bytes, started).ok_or_else(|| refuse("its answer has no token"))
    }

    async fn ask_realm(
        &self,
        url: &Url,
        purpose: &Purpose<'_>,
        service: Option<&str>,
        credential: &Credential,
        connect: Connect,
    ) -> Result<Vec<u8>> {
        let http = self
            .connections()
            .to(url, connect.verify, connect.guarded, self.config())?;
        let mut patience = self.patience(false);
        loop {
            let request = token_request(&http, url, purpose.scopes, service, credential)?;
            match self.token_answer(&http, request).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => patience.pause(error).await?,
            }
        }
    }

    async fn token_answer(
        &self,
        http: &reqwest::Client,
        request: reqwest::Request,
    ) -> Result<Vec<u8>> {
        let (method, url) = (request.method().clone(), request.url().clone());
        let asking = async {
            let response = http
                .execute(request)
                .await
                .map_err(|error| Error::transport(&method, &url, &error))?;
            if response.status().is_redirection() {
                return Err(Error::new(
                    &method,
                    &url,
                    "refuse redirect of the token service",
                    Retry::Never,
                ));
            }
            if !response.status().is_success() {
                return Err(Error::refused(&method, response).await);
            }
            super::client::read_all(&method, response, MAX_TOKEN).await
        };
        match tokio::time::timeout(self.config().patience.headers, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::new(
                &method,
                &url,
                "token service does not answer",
                Retry::AtMost(2),
            )),
        }
    }
}

#[derive(Clone, Copy)]
struct Connect {
    verify: bool,
    guarded: bool,
}

/// What a realm may get.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    same_origin: bool,
    /// Our credentials.
    credentials: bool,
    /// A visit only if it is not inside our network, unless the registry is there too.
    guarded: bool,
}

/// Decides what a token service may get that the registry at `registry` named.
///
/// Credentials go to the registry's own host and port, or elsewhere over https. A registry that is spoken to over https
/// may not send us to plain http.
fn judge(realm: &Url, registry: &Url) -> std::result::Result<Verdict, &'static str> {
    if !matches!(realm.scheme(), "http" | "https") || realm.host_str().is_none() {
        return Err("neither https nor http");
    }
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err("it has a user name");
    }
    if registry.scheme() == "https" && realm.scheme() == "http" {
        return Err("plain http, although the registry is https");
    }
    let same_origin = realm.origin() == registry.origin();
    Ok(Verdict {
        same_origin,
        credentials: same_origin || realm.scheme() == "https",
        guarded: !same_origin,
    })
}

/// Whether the registry itself is on this machine or inside our network. Unknown names count as outside.
async fn is_inside(registry: &Url) -> bool {
    if let Some(address) = literal(registry) {
        return is_private(address);
    }
    let host = registry.host_str().unwrap_or_default();
    let addresses = tokio::net::lookup_host((host, 0)).await;
    is_loopback(registry)
        || addresses.is_ok_and(|mut all| all.any(|address| is_private(address.ip())))
}

fn token_request(
    http: &reqwest::Client,
    realm: &Url,
    scopes: &[String],
    service: Option<&str>,
    credential: &Credential,
) -> Result<reqwest::Request> {
    let mut form = realm.clone();
    form.set_query(None);
    let mut fields = form.query_pairs_mut();
    fields.extend_pairs(service.map(|service| ("service", service)));
    let request = match credential {
        Credential::Identity(token) => {
            fields.append_pair("scope", &scopes.join(" "));
            fields
                .append_pair("grant_type", "refresh_token")
                .append_pair("client_id", "lapstrake");
            fields.append_pair("refresh_token", token.expose());
            drop(fields);
            let body = form.query().unwrap_or_default().to_owned();
            http.post(realm.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body)
        }
        _ => {
            fields.extend_pairs(scopes.iter().map(|scope| ("scope", scope)));
            if let Credential::Basic { username, .. } = credential {
                fields.append_pair("account", username);
            }
            drop(fields);
            let mut url = realm.clone();
            let query = [realm.query(), form.query()]
                .into_iter()
                .flatten()
                .filter(|query| !query.is_empty());
            url.set_query(Some(&query.collect::<Vec<_>>().join("&")));
            http.get(url)
        }
    };
    let request = match credential {
        Credential::Basic { username, password } => {
            request.header("authorization", basic(username, password)?)
        }
        _ => request,
    };
    request
        .build()
        .map_err(|error| Error::plain(format!("ask token service {}: {error}", redacted(realm))))
}

fn token(bytes: &[u8], asked: Instant) -> Option<Token> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    let value = answer
        .token
        .into_iter()
        .chain(answer.access_token)
        .find(|value| !value.is_empty())?;
    let life =
        Duration::from_secs(answer.expires_in.unwrap_or_default().min(86_400)).max(LEAST_LIFE);
    Some(Token {
        value: Secret::new(value),
        expires: asked + life,
    })
}

fn basic(username: &str, password: &Secret) -> Result<HeaderValue> {
    header(
        "Basic",
        &BASE64_STANDARD.encode(format!("{username}:{}", password.expose())),
    )
}

fn bearer(token: &Secret) -> Result<HeaderValue> {
    header("Bearer", token.expose())
}

fn header(scheme: &str, value: &str) -> Result<HeaderValue> {
    let mut header = HeaderValue::from_str(&format!("{scheme} {value}"))
        .map_err(|_| Error::plain("credentials have characters that a request cannot carry"))?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use reqwest::Method;

    fn verdict(realm: &str, registry: &str) -> String {
        match judge(&Url::parse(realm).unwrap(), &Url::parse(registry).unwrap()) {
            Err(why) => why.to_owned(),
            Ok(v) => format!(
                "{} {}",
                if v.credentials { "known" } else { "anonymous" },
                if v.guarded { "guarded" } else { "free" }
            ),
        }
    }

    #[test]
    fn what_a_realm_may_get() {
        let table = [
            (
                "https://auth.example/token",
                "https://r.example/v2/",
                "known guarded",
            ),
            (
                "https://r.example/token",
                "https://r.example/v2/",
                "known free",
            ),
            (
                "https://r.example:444/token",
                "https://r.example/v2/",
                "known guarded",
            ),
            (
                "http://r.example/token",
                "https://r.example/v2/",
                "plain http, although the registry is https",
            ),
            (
                "http://169.254.169.254/x",
                "https://r.example/v2/",
                "plain http, although the registry is https",
            ),
            (
                "http://localhost:5000/t",
                "http://localhost:5000/v2/",
                "known free",
            ),
            (
                "http://localhost:5001/t",
                "http://localhost:5000/v2/",
                "anonymous guarded",
            ),
            (
                "http://evil.example/t",
                "http://lan:5000/v2/",
                "anonymous guarded",
            ),
            (
                "https://auth.example/t",
                "http://lan:5000/v2/",
                "known guarded",
            ),
            (
                "https://u:p@auth.example/t",
                "https://r.example/v2/",
                "it has a user name",
            ),
            (
                "file:///etc/passwd",
                "https://r.example/v2/",
                "neither https nor http",
            ),
        ];
        for (realm, registry, expected) in table {
            assert_eq!(verdict(realm, registry), expected, "{realm} for {registry}");
        }
    }

    #[tokio::test]
    async fn registries_inside_and_outside() {
        for (registry, expected) in [
            ("http://127.0.0.1:5000", true),
            ("http://localhost", true),
            ("https://8.8.8.8", false),
            ("https://[fd00::1]", true),
        ] {
            assert_eq!(
                is_inside(&Url::parse(registry).unwrap()).await,
                expected,
                "{registry}"
            );
        }
    }

    #[tokio::test]
    async fn a_public_registry_may_not_send_us_inside() {
        use crate::registry::Config;
        let client = Client::new(Config::default());
        let origin = Url::parse("https://8.8.8.8/v2/").unwrap();
        let purpose = Purpose {
            origin: &origin,
            host: "8.8.8.8",
            repository: "a",
            scopes: &[],
            verify: true,
        };
        for realm in [
            "https://169.254.169.254/token",
            "https://127.0.0.1/token",
            "https://[::1]/token",
            "https://0.0.0.0/token",
            "https://2130706433/token",
            "https://[::ffff:10.0.0.1]/token",
            "https://localhost/token",
        ] {
            let refused = client
                .fetch_token(&purpose, realm, None, &Credential::Anonymous)
                .await;
            let error = refused.err().unwrap().to_string();
            assert!(error.contains("private address"), "{realm}: {error}");
        }
    }

    #[test]
    fn tokens_live_by_our_own_clock() {
        let now = Instant::now();
        let life =
            |text: &str| token(text.as_bytes(), now).map(|token| (token.expires - now).as_secs());
        assert_eq!(
            life(r#"{"token":"t","expires_in":300,"issued_at":"1970-01-01T00:00:00Z"}"#),
            Some(300)
        );
        assert_eq!(life(r#"{"access_token":"t","expires_in":1}"#), Some(60));
        assert_eq!(life(r#"{"token":"","access_token":"t"}"#), Some(60));
        assert_eq!(
            life(r#"{"token":"t","expires_in":18446744073709551615}"#),
            Some(86_400)
        );
        assert_eq!(life(r#"{"token":""}"#), None);
        assert_eq!(life("{}"), None);
    }

    #[test]
    fn requests_for_tokens() {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(
                rustls::ClientConfig::builder_with_provider(Arc::new(
                    rustls::crypto::ring::default_provider(),
                ))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth(),
            )
            .build()
            .unwrap();
        let realm = Url::parse("https://a.example/t?x=1").unwrap();
        let scopes = [
            "repository:a/b:pull,push".to_owned(),
            "repository:c:pull".to_owned(),
        ];
        let ask = |credential: &Credential| {
            token_request(&http, &realm, &scopes, Some("s p"), credential).unwrap()
        };
        let anonymous = ask(&Credential::Anonymous);
        let query =
            "x=1&service=s+p&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Ac%3Apull";
        assert_eq!(anonymous.url().query(), Some(query));
        let basic = ask(&Credential::Basic {
            username: "u".into(),
            password: Secret::new("p"),
        });
        assert_eq!(basic.headers()["authorization"], "Basic dTpw");
        assert!(basic.url().query().unwrap().ends_with("&account=u"));
        let identity = ask(&Credential::Identity(Secret::new("id")));
        assert_eq!(identity.method(), Method::POST);
        let body = std::str::from_utf8(identity.body().unwrap().as_bytes().unwrap()).unwrap();
        assert!(
            body.contains("grant_type=refresh_token") && body.contains("refresh_token=id"),
            "{body}"
        );
    }
}
