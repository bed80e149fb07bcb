//! Places that keep objects by their names: blobs by their digests, and the index.

use std::io::Read;
use std::time::Duration;

use anyhow::{Result, bail};
use lapstrake_cache::Digest;
use reqwest::{Method, StatusCode};
use tokio::runtime::Handle;

use super::{Gha, S3};
use crate::oci::manifest::MAX_DOCUMENT;
use crate::registry::{Client, Open};
use crate::sink::Outlet;
use crate::web::{self, Response};

/// A request is sent so often, as long as the server is not well.
const TRIES: u32 = 5;
/// The first pause before another try; it doubles each time.
const PAUSE: Duration = Duration::from_millis(300);

/// One of these places.
#[derive(Debug)]
pub(crate) enum Objects {
    S3(S3),
    Gha(Gha),
}

impl Objects {
    pub(super) fn name(&self) -> String {
        match self {
            Self::S3(bucket) => bucket.title(),
            Self::Gha(cache) => cache.title(),
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::S3(_) => "s3",
            Self::Gha(_) => "gha",
        }
    }

    /// Whether a blob is there.
    pub(super) fn has(&self, outlet: &Outlet, digest: &Digest) -> Result<bool> {
        let Outlet { client, tokio, .. } = outlet;
        match self {
            Self::S3(bucket) => tokio.block_on(bucket.has(client, digest)),
            Self::Gha(cache) => tokio.block_on(cache.has(client, digest)),
        }
    }

    /// The bytes of a blob, as they come: whoever reads them checks them. To be called on a thread that may block.
    pub(crate) fn open(
        &self,
        client: &Client,
        tokio: &Handle,
        digest: &Digest,
    ) -> Result<Box<dyn Read + Send>> {
        let url = match self {
            Self::S3(bucket) => bucket.url_of(digest),
            Self::Gha(cache) => tokio.block_on(cache.url_of(client, digest))?,
        };
        Ok(Box::new(web::open(client, &url)?))
    }

    /// Puts a blob of `size` bytes there.
    pub(super) fn put(
        &self,
        outlet: &Outlet,
        digest: &Digest,
        open: &Open,
        size: u64,
    ) -> Result<()> {
        let Outlet { client, tokio, .. } = outlet;
        match self {
            Self::S3(bucket) => tokio.block_on(bucket.put(client, digest, open, size)),
            Self::Gha(cache) => tokio.block_on(cache.put(client, digest, open, size)),
        }
    }

    /// The index that was put last.
    pub(super) fn index(&self, outlet: &Outlet) -> Result<Vec<u8>> {
        let Outlet { client, tokio, .. } = outlet;
        match self {
            Self::S3(bucket) => tokio.block_on(bucket.index(client)),
            Self::Gha(cache) => tokio.block_on(cache.index(client)),
        }
    }

    /// Puts the index there, unless it is the one that is there.
    pub(super) fn put_index(&self, outlet: &Outlet, index: Vec<u8>) -> Result<()> {
        if self.index(outlet).is_ok_and(|now| now == index) {
            return Ok(());
        }
        let Outlet { client, tokio, .. } = outlet;
        match self {
            Self::S3(bucket) => tokio.block_on(bucket.put_index(client, index)),
            Self::Gha(cache) => tokio.block_on(cache.put_index(client, index)),
        }
    }
}

/// One request of such a place.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// May hold a signature: it is in no message.
    pub(super) url: &'a str,
    /// For messages.
    pub(super) what: &'a str,
    pub(super) headers: &'a [(&'a str, String)],
    /// Makes the body, each time that the request is sent.
    pub(super) body: &'a (dyn Fn() -> Option<reqwest::Body> + Sync),
}

/// Sends a request, again while the server is overloaded or cannot be reached, until it is answered with a success or with
/// one of `also`.
pub(super) async fn send(
    client: &Client,
    request: &Request<'_>,
    also: &[StatusCode],
) -> Result<Response> {
    let Request {
        method,
        url,
        what,
        headers,
        body,
    } = request;
    let mut pause = PAUSE;
    for left in (0..TRIES).rev() {
        let answer = web::send(client, method.clone(), url, headers, body()).await;
        match answer {
            Ok(answer)
                if answer.is_success() || also.iter().any(|also| *also == answer.status()) =>
            {
                return Ok(answer);
            }
            Ok(answer) if left > 0 && matches!(answer.status(), 429 | 500..) => {}
            Ok(answer) => bail!("{what}: the server answered {}", answer.status()),
            Err(_) if left > 0 => {}
            Err(error) => return Err(error.context((*what).to_owned())),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    bail!("{what}: the server does not answer")
}

/// Asks for an index; none if the server says that it is not there.
pub(super) async fn get_index(client: &Client, url: &str, what: &str) -> Result<Option<Vec<u8>>> {
    let request = Request {
        method: Method::GET,
        url,
        what,
        headers: &[],
        body: &nothing,
    };
    let answer = send(client, &request, &[StatusCode::NOT_FOUND]).await?;
    if answer.is_success() {
        return answer.whole(MAX_DOCUMENT).await.map(Some);
    }
    Ok(None)
}

/// For requests without a body.
pub(super) fn nothing() -> Option<reqwest::Body> {
    None
}
