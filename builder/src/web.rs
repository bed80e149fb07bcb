//! Plain HTTP for ADD, remote contexts and caches: one request at a time, redirects left to the caller. A server that falls
//! silent is given up.

use std::future::Future;
use std::io::{self, Read};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use reqwest::header::HeaderName;
use reqwest::{Method, Url};

use crate::registry::{self, Client};

/// Redirects followed, as Go's client does.
pub(crate) const REDIRECTS: usize = 10;

/// An answer, its body still to come.
pub(crate) struct Response {
    answer: reqwest::Response,
    /// How long its server may be silent.
    patience: Duration,
}

/// Asks for `url`; only `http` and `https` may be asked for.
pub(crate) async fn get(
    client: &Client,
    url: &str,
    headers: &[(&str, String)],
) -> Result<Response> {
    send(client, Method::GET, url, headers, None).await
}

/// Sends a request; only `http` and `https` may be asked.
pub(crate) async fn send(
    client: &Client,
    method: Method,
    url: &str,
    headers: &[(&str, String)],
    body: Option<reqwest::Body>,
) -> Result<Response> {
    let url = parse(url)?;
    let mut request = client.http(&url)?.request(method, url);
    for (name, value) in headers {
        request = request.header(HeaderName::from_bytes(name.as_bytes())?, value);
    }
    let limits = client.time_limits();
    // How long an upload takes is not known.
    let limit = body.as_ref().map_or(limits.headers, |_| Duration::MAX);
    if let Some(body) = body {
        request = request.body(body);
    }
    Ok(Response {
        answer: unless_silent(limit, request.send()).await?,
        patience: limits.stall,
    })
}

/// Waits for a server, but not longer than `limit`.
async fn unless_silent<T>(
    limit: Duration,
    work: impl Future<Output = reqwest::Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(|error| anyhow::Error::new(error.without_url())),
        Err(_) => bail!("nothing came for {} s", limit.as_secs_f32()),
    }
}

impl Response {
    /// The status as a number.
    pub(crate) fn status(&self) -> u16 {
        self.answer.status().as_u16()
    }

    /// Whether the status says that all is well.
    pub(crate) fn is_success(&self) -> bool {
        self.answer.status().is_success()
    }

    /// The length that the server declared.
    pub(crate) fn length(&self) -> Option<u64> {
        self.answer.content_length()
    }

    /// A header's value, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        Some(self.answer.headers().get(name)?.to_str().ok()?.to_owned())
    }

    /// When what it names was changed last, in seconds since 1970, if the server says so.
    pub(crate) fn modified(&self) -> Option<i64> {
        let time = registry::parse_date(&self.header("last-modified")?)?;
        let since = time.duration_since(UNIX_EPOCH);
        Some(since.map_or(0, |since| since.as_secs() as i64))
    }

    /// Where the server sends on to, if it does.
    pub(crate) fn redirect(&self) -> Option<String> {
        matches!(self.status(), 301 | 302 | 303 | 307 | 308)
            .then(|| self.header("location"))
            .flatten()
    }

    /// All of the body, if it is not longer than `limit`.
    pub(crate) async fn whole(mut self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend(chunk);
            if bytes.len() as u64 > limit {
                bail!("the answer is longer than {limit} bytes");
            }
        }
        Ok(bytes)
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let chunk = unless_silent(self.patience, self.answer.chunk()).await?;
        Ok(chunk.map(|chunk| chunk.to_vec()))
    }
}

fn parse(url: &str) -> Result<Url> {
    let parsed = Url::parse(url).context("read the URL")?;
    match parsed.scheme() {
        "http" | "https" => Ok(parsed),
        other => bail!("{other:?} is neither http nor https"),
    }
}

/// Opens what `url` names as a stream, following redirects; to be called on a thread that may block.
pub(crate) fn open(client: &Client, url: &str) -> Result<Body> {
    let tokio = tokio::runtime::Handle::current();
    let mut target = url.to_owned();
    for _ in 0..=REDIRECTS {
        let response = tokio.block_on(get(client, &target, &[]))?;
        match response.redirect() {
            Some(next) => target = join(&target, &next)?,
            None if response.is_success() => {
                return Ok(Body {
                    tokio,
                    response,
                    piece: Vec::new(),
                    read: 0,
                });
            }
            None => bail!("the server answered {}", response.status()),
        }
    }
    bail!("it was redirected more than {REDIRECTS} times")
}

/// The body of an answer, read on a thread that may block.
pub(crate) struct Body {
    tokio: tokio::runtime::Handle,
    response: Response,
    piece: Vec<u8>,
    read: usize,
}

impl Body {
    /// See [`Response::modified`].
    pub(crate) fn modified(&self) -> Option<i64> {
        self.response.modified()
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.piece.len() {
            match self
                .tokio
                .block_on(self.response.chunk())
                .map_err(io::Error::other)?
            {
                Some(piece) => (self.piece, self.read) = (piece, 0),
                None => return Ok(0),
            }
        }
        let taken = buffer.len().min(self.piece.len() - self.read);
        buffer[..taken].copy_from_slice(&self.piece[self.read..self.read + taken]);
        self.read += taken;
        Ok(taken)
    }
}

/// A URL without the user name and password in it, for messages.
pub(crate) fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = rest
        .split_once('/')
        .map_or((rest, None), |(authority, path)| (authority, Some(path)));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    match path {
        Some(path) => format!("{scheme}://{host}/{path}"),
        None => format!("{scheme}://{host}"),
    }
}

/// The URL that a `Location` header names.
pub(crate) fn join(base: &str, location: &str) -> Result<String> {
    let joined = parse(base)?
        .join(location)
        .context("read the Location header")?;
    Ok(parse(joined.as_str())?.to_string())
}

/// The host of a URL, with its port where that is not the scheme's own.
pub(crate) fn host(url: &str) -> Result<String> {
    let url = parse(url)?;
    let host = url.host_str().context("the URL has no host")?;
    Ok(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_do_not_carry_credentials() {
        assert_eq!(
            redacted("https://user:token@host:8443/a/b.git"),
            "https://host:8443/a/b.git"
        );
        assert_eq!(redacted("git@host:a/b.git"), "git@host:a/b.git");
    }

    #[test]
    fn redirects_stay_with_http() {
        assert_eq!(join("https://a/b/c", "../d").unwrap(), "https://a/d");
        assert_eq!(host("https://user:word@a:8443/b").unwrap(), "a:8443");
        for bad in ["file:///etc/passwd", "ftp://a/b", "gopher://a"] {
            assert!(join("https://a/", bad).is_err(), "{bad}");
        }
    }
}
