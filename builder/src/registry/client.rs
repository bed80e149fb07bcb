//! Sending a request: which server, over what, with which proof, how often.
//!
//! ```text
//! retry (pull, push)  ->  attempt: http or https?  ->  authorized: 401 once, redirects  ->  exchange: one request
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapstrake_frontend::image::ImageRef;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::{Known, Purpose};
use super::config::{Config, Endpoint, Scheme};
use super::error::{Error, Result, Retry};
use super::lock;
use super::tls::Connections;
use super::upload::{Body, Moved};

/// How often a request is sent on to another place.
const MAX_REDIRECTS: usize = 10;

/// The most that is waited for a registry that says when to come back, over all tries.
const MAX_WAITING: Duration = Duration::from_secs(240);

/// A server that asks for a longer pause is passed over while there is another one.
const HURRY: Duration = Duration::from_secs(1);

/// A client for registries. Cheap to clone; clones share connections, tokens and what was learnt about servers.
///
/// Making one costs nothing: connections, certificates and credentials are looked for when they are needed.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    config: Config,
    connections: Connections,
    known: Known,
    schemes: Mutex<HashMap<String, Scheme>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// One request to a registry.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) endpoint: &'a Endpoint,
    pub(super) target: Target,
    pub(super) repository: &'a str,
    pub(super) scopes: Vec<String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Body<'a>,
}

/// Where a request goes.
#[derive(Clone)]
pub(super) enum Target {
    /// A path below `/v2/`.
    Path(String),
    /// An address that the registry gave us.
    Url(Url),
}

impl<'a> Call<'a> {
    /// A request without headers and body.
    pub(super) fn new(
        method: Method,
        endpoint: &'a Endpoint,
        repository: &'a str,
        actions: &str,
        target: Target,
    ) -> Self {
        Self {
            method,
            endpoint,
            target,
            repository,
            scopes: vec![format!("repository:{repository}:{actions}")],
            headers: HeaderMap::new(),
            body: Body::Empty,
        }
    }
}

impl Client {
    /// A client that has not done anything yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let (connections, known, schemes) = Default::default();
        Self(Arc::new(Inner {
            config,
            connections,
            known,
            schemes,
        }))
    }

    /// The HTTP client for a URL that is no registry's: no credentials, no redirects.
    pub(crate) fn http(&self, url: &Url) -> Result<reqwest::Client> {
        self.connections().to(url, true, false, self.config())
    }

    /// How long to wait for servers.
    pub(crate) fn time_limits(&self) -> super::config::Patience {
        self.config().patience
    }

    pub(super) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.0.connections
    }

    pub(super) fn known(&self) -> &Known {
        &self.0.known
    }

    /// A fresh count of tries; `hurried` when there is another server to ask.
    pub(super) fn patience(&self, hurried: bool) -> Patience {
        let tries = if hurried {
            2
        } else {
            self.config().patience.tries
        };
        Patience {
            client: self.clone(),
            limit: tries,
            tries: 0,
            waited: Duration::ZERO,
            hurried,
        }
    }

    /// Sends the request until it is answered with one of these statuses, or there is no hope.
    pub(super) async fn call(&self, call: &Call<'_>, expected: &[StatusCode]) -> Result<Response> {
        let mut patience = self.patience(false);
        loop {
            match self.attempt(call, expected).await {
                Ok(response) => return Ok(response),
                Err(error) => patience.pause(error).await?,
            }
        }
    }

    /// Sends the request once; finds out first whether the server speaks TLS where it may speak either.
    pub(super) async fn attempt(
        &self,
        call: &Call<'_>,
        expected: &[StatusCode],
    ) -> Result<Response> {
        let endpoint = call.endpoint;
        let known = lock(&self.0.schemes).get(&endpoint.host).copied();
        let known = known.filter(|scheme| endpoint.schemes.contains(scheme));
        let schemes = known.map_or_else(|| endpoint.schemes.clone(), |scheme| vec![scheme]);
        let mut first = None;
        for (left, scheme) in schemes
            .iter()
            .enumerate()
            .map(|(at, scheme)| (schemes.len() - at - 1, *scheme))
        {
            match self.authorized(call, scheme).await {
                // What a Go server with TLS says to plain HTTP.
                Ok(response)
                    if left > 0
                        && scheme == Scheme::Http
                        && response.status() == StatusCode::BAD_REQUEST =>
                {
                    first = Some(Error::refused(&call.method, response).await);
                }
                Ok(response) => {
                    lock(&self.0.schemes).insert(endpoint.host.clone(), scheme);
                    return match expected.contains(&response.status()) {
                        true => Ok(response),
                        false => {
                            Err(self.explained(call, Error::refused(&call.method, response).await))
                        }
                    };
                }
                Err(error) if left > 0 && error.is_transport => first = Some(error),
                Err(error) => return Err(first.unwrap_or(error)),
            }
        }
        Err(first
            .unwrap_or_else(|| Error::plain(format!("registry {} has no address", endpoint.host))))
    }

    /// Says whether credentials were missing or not good enough.
    fn explained(&self, call: &Call<'_>, error: Error) -> Error {
        let host = &call.endpoint.host;
        if !error.is_denied() || !error.url.contains(&format!("://{host}/")) {
            return error;
        }
        let name = if host == "registry-1.docker.io" {
            "docker.io"
        } else {
            host
        };
        match self.is_somebody(host, call.repository) {
            true => error.hint(&format!("the credentials for {name} do not allow it")),
            false => error.hint(&format!(
                "no credentials for {name} were found: log in with docker login {name}"
            )),
        }
    }

    /// Sends the request, again with a token if the server asks for one, and on to where it is redirected.
    async fn authorized(&self, call: &Call<'_>, scheme: Scheme) -> Result<Response> {
        let base = call.endpoint.url(scheme, "")?;
        let mut url = match &call.target {
            Target::Path(path) => call.endpoint.url(scheme, path)?,
            Target::Url(url) => url.clone(),
        };
        let purpose = Purpose {
            origin: &base,
            host: &call.endpoint.host,
            repository: call.repository,
            scopes: &call.scopes,
            verify: call.endpoint.verify,
        };
        let mut challenged = false;
        for _ in 0..=MAX_REDIRECTS {
            let own = url.origin() == base.origin();
            let mut headers = call.headers.clone();
            if own && let Some(proof) = self.authorization(&purpose).await? {
                headers.insert(AUTHORIZATION, proof);
            }
            let verify = call.endpoint.verify || !own;
            let response = self.exchange(call, &url, headers, verify).await?;
            match response.status() {
                StatusCode::UNAUTHORIZED
                    if own && !challenged && self.learn(&purpose, response.headers()) =>
                {
                    challenged = true;
                }
                status if is_redirect(status, &call.method) => {
                    url = redirect(&call.method, &url, response.headers())?;
                }
                _ => return Ok(response),
            }
        }
        Err(Error::new(
            &call.method,
            &url,
            format!("redirected more than {MAX_REDIRECTS} times"),
            Retry::Never,
        ))
    }

    /// One request, one answer; what the registry says is not judged here.
    async fn exchange(
        &self,
        call: &Call<'_>,
        url: &Url,
        headers: HeaderMap,
        verify: bool,
    ) -> Result<Response> {
        let http = self.connections().to(url, verify, false, self.config())?;
        let moved = Moved::default();
        let request = http
            .request(call.method.clone(), url.clone())
            .headers(headers);
        let request = match call.body.open(&moved)? {
            Some((body, length)) => request.header(CONTENT_LENGTH, length).body(body),
            None => request,
        };
        let failed = |error: &reqwest::Error| match moved.failure() {
            Some(failure) => Error::new(&call.method, url, failure, Retry::Never),
            None => Error::transport(&call.method, url, error),
        };
        let request = request.build().map_err(|error| failed(&error))?;
        let answer = http.execute(request);
        tokio::select! {
            answer = answer => answer.map_err(|error| failed(&error)),
            () = moved.stalled(self.config().patience.headers) => {
                let waited = self.config().patience.headers.as_secs_f32();
                Err(Error::new(&call.method, url, format!("no answer for {waited} s"), Retry::AtMost(2)))
            }
        }
    }
}

/// Counts tries and waits between them.
pub(super) struct Patience {
    client: Client,
    limit: u32,
    tries: u32,
    waited: Duration,
    /// There is another server to ask.
    hurried: bool,
}

impl Patience {
    /// Waits as long as the failure asks for; gives the failure back when another try is pointless.
    pub(super) async fn pause(&mut self, error: Error) -> Result<()> {
        let config = self.client.config();
        let limits = &config.patience;
        self.tries += 1;
        let growing = limits.pause.saturating_mul(1 << self.tries.min(6)) / 2;
        let pause = match error.retry {
            Retry::Never => return Err(error),
            Retry::AtMost(tries) if self.tries > tries => return Err(error),
            Retry::AtMost(_) | Retry::Backoff => jittered(growing.min(limits.pause * 20)),
            Retry::After(pause) if self.hurried && pause > HURRY => return Err(error),
            Retry::After(pause) => pause + jittered(limits.pause / 4),
        };
        let too_long = matches!(error.retry, Retry::After(_)) && self.waited + pause > MAX_WAITING;
        if self.tries >= self.limit || too_long {
            return Err(error);
        }
        self.waited += pause;
        if let Some(tell) = &config.on_wait {
            tell(&error, pause);
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Something arrived: the count begins anew.
    pub(super) fn renew(&mut self) {
        self.tries = 0;
    }
}

/// Half to one and a half times the pause, so that many clients do not come back at once.
fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    let part = u32::try_from(random % 1000).unwrap_or_default();
    pause / 2 + pause * part / 1000
}

fn is_redirect(status: StatusCode, method: &Method) -> bool {
    match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
            matches!(*method, Method::GET | Method::HEAD)
        }
        _ => false,
    }
}

fn redirect(method: &Method, from: &Url, headers: &HeaderMap) -> Result<Url> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let refuse = |why: &str| {
        Error::new(
            method,
            from,
            format!("refuse redirect: {why}"),
            Retry::Never,
        )
    };
    let location = location.ok_or_else(|| refuse("it does not say where to"))?;
    self::location(from, location).map_err(refuse)
}

/// An address that a registry gave, relative to the one that was asked.
///
/// A registry behind a proxy that adds TLS often believes that it is plain http and says so: an address on its own host
/// keeps the scheme and port that were used. Any other step down from https is refused.
pub(super) fn location(base: &Url, text: &str) -> std::result::Result<Url, &'static str> {
    let mut url = base.join(text).map_err(|_| "not an address")?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("neither https nor http");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the address has a user name");
    }
    if base.scheme() == "https" && url.scheme() == "http" {
        let default = url.port().is_none() || url.port() == base.port();
        if url.host_str() != base.host_str() || !default {
            return Err("from https to plain http");
        }
        let kept = url
            .set_scheme("https")
            .and_then(|()| url.set_port(base.port()));
        kept.map_err(|()| "from https to plain http")?;
    }
    Ok(url)
}

/// Reads an answer whole, if it is not larger than `limit`.
pub(super) async fn read_all(
    method: &Method,
    mut response: Response,
    limit: usize,
) -> Result<Vec<u8>> {
    let url = response.url().clone();
    let too_large = || {
        Error::new(
            method,
            &url,
            format!("answer is larger than {limit} bytes"),
            Retry::Never,
        )
    };
    if response
        .content_length()
        .is_some_and(|length| length > limit as u64)
    {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| Error::transport(method, &url, &error))?
    {
        if bytes.len() + chunk.len() > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Refuses names that the URL of a request could not carry as they are. The grammar of references has no such names.
pub(super) fn checked(image: &ImageRef) -> Result<&str> {
    let plain = |text: &str, more: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let repository = image.repository.as_str();
    let parts_are_names = repository
        .split('/')
        .all(|part| !matches!(part, "" | "." | ".."));
    let tag_is_plain = image
        .tag
        .as_deref()
        .is_none_or(|tag| plain(tag, "_.-") && !tag.starts_with('.'));
    match plain(repository, "/_.-") && parts_are_names && tag_is_plain {
        true => Ok(repository),
        false => Err(Error::plain(format!(
            "{repository:?} is not the name of an image"
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_that_a_registry_gives() {
        let table = [
            ("https://r/v2/a/", "/v2/a/up?x=1", "https://r/v2/a/up?x=1"),
            (
                "https://r/v2/a/",
                "https://cdn.example/b",
                "https://cdn.example/b",
            ),
            ("https://r/v2/a/", "http://r/v2/up", "https://r/v2/up"),
            ("https://r:444/v2/", "http://r/v2/up", "https://r:444/v2/up"),
            (
                "https://r:444/v2/",
                "http://r:444/v2/up",
                "https://r:444/v2/up",
            ),
            (
                "https://r/v2/",
                "http://r:8080/v2/up",
                "from https to plain http",
            ),
            (
                "https://r/v2/",
                "http://other/v2/up",
                "from https to plain http",
            ),
            (
                "http://localhost:1/v2/",
                "http://other/v2/up",
                "http://other/v2/up",
            ),
            (
                "https://r/v2/",
                "file:///etc/passwd",
                "neither https nor http",
            ),
            (
                "https://r/v2/",
                "https://u:p@r/v2/",
                "the address has a user name",
            ),
            ("https://r/v2/", "https://", "not an address"),
        ];
        for (base, text, expected) in table {
            let found =
                location(&Url::parse(base).unwrap(), text).map_or_else(str::to_owned, String::from);
            assert_eq!(found, expected, "{text} from {base}");
        }
    }

    #[test]
    fn odd_names_are_not_asked_for() {
        let image = |repository: &str, tag: Option<&str>| ImageRef {
            registry: "r".into(),
            repository: repository.into(),
            tag: tag.map(Into::into),
            digest: None,
        };
        for good in ["a", "library/a-b_c.d", "a/b/c"] {
            assert!(checked(&image(good, Some("v1.0_x-y"))).is_ok(), "{good}");
        }
        for bad in [
            "", "a//b", "../a", "a/..", "a?b", "a#b", "a%2f", "a b", "/a", "a/",
        ] {
            assert!(checked(&image(bad, None)).is_err(), "{bad}");
        }
        for bad in ["", "..", "a/b", "a?b"] {
            assert!(checked(&image("a", Some(bad))).is_err(), "{bad}");
        }
    }

    /// Callers run these on several threads.
    #[test]
    fn requests_can_move_between_threads() {
        fn check<T: Send>(
            _: impl Fn(&'static Client, &'static ImageRef, &'static super::super::Source<'static>) -> T,
        ) {
        }
        check(|client, image, _| client.resolve(image));
        check(|client, image, _| client.head(image));
        check(|client, image, source| client.push_blob(image, source));
        check(|client, image, _| client.push_manifest(image, bytes::Bytes::new(), ""));
    }

    #[test]
    fn pauses_vary_but_not_much() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_millis(1000)).as_millis();
            assert!((500..1500).contains(&pause), "{pause}");
        }
    }
}
