//! A bucket of S3, or of what speaks its protocol.
//!
//! ```text
//! PREFIX/blobs/sha256:<hex>    layers
//! PREFIX/manifests/NAME        the index
//! ```
//!
//! Requests are signed in their URL (Signature Version 4), which ends with the request's patience; such a URL is in no message.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lapstrake_cache::Digest;
use reqwest::{Method, StatusCode, Url};
use rusty_s3::actions::{GetObject, HeadObject, PutObject, S3Action};
use rusty_s3::{Bucket, Credentials, UrlStyle};

use super::objects::{Request, get_index, nothing, send};
use crate::registry::{Client, Open, stretch};

/// How long a signed URL is good: longer than any transfer takes.
const SIGNED_FOR: Duration = Duration::from_secs(6 * 3600);

/// What one request can carry.
const MAX_OBJECT: u64 = 5 << 30;

/// A bucket and where in it the cache is.
pub(crate) struct S3 {
    bucket: Bucket,
    credentials: Option<Credentials>,
    blobs: String,
    /// The objects that hold the index.
    indexes: Vec<String>,
}

/// Without the credentials.
impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title())
    }
}

impl S3 {
    /// The caches `names` below `prefix` in `bucket`; without an `endpoint` it is Amazon's.
    pub(crate) fn new(
        bucket: &str,
        region: &str,
        endpoint: Option<&str>,
        path_style: bool,
        credentials: Option<Credentials>,
    ) -> Result<Self> {
        let amazon = format!("https://s3.{region}.amazonaws.com");
        let endpoint = Url::parse(endpoint.unwrap_or(&amazon)).context("read endpoint_url")?;
        let style = match path_style {
            true => UrlStyle::Path,
            false => UrlStyle::VirtualHost,
        };
        let bucket = Bucket::new(endpoint, style, bucket.to_owned(), region.to_owned())
            .map_err(|error| anyhow::anyhow!("the bucket {bucket:?} has no address: {error}"))?;
        Ok(Self {
            bucket,
            credentials,
            blobs: String::new(),
            indexes: Vec::new(),
        })
    }

    /// Where in the bucket things are.
    pub(crate) fn at(self, blobs: String, indexes: Vec<String>) -> Result<Self> {
        // In a URL these would lead elsewhere.
        let is_plain = |name: &String| name.split('/').all(|part| !matches!(part, "." | ".."));
        ensure!(
            is_plain(&blobs) && indexes.iter().all(is_plain),
            "prefix and name may not hold . and .. as parts"
        );
        Ok(Self {
            blobs,
            indexes,
            ..self
        })
    }

    pub(super) fn title(&self) -> String {
        let name = self.indexes.first().map_or("", String::as_str);
        format!("s3://{}/{name}", self.bucket.name())
    }

    fn blob(&self, digest: &Digest) -> String {
        format!("{}{digest}", self.blobs)
    }

    fn signed<'a>(&self, action: &impl S3Action<'a>) -> String {
        action.sign(SIGNED_FOR).into()
    }

    fn get(&self, object: &str) -> String {
        self.signed(&GetObject::new(
            &self.bucket,
            self.credentials.as_ref(),
            object,
        ))
    }

    /// Where a blob can be had.
    pub(super) fn url_of(&self, digest: &Digest) -> String {
        self.get(&self.blob(digest))
    }

    pub(super) async fn has(&self, client: &Client, digest: &Digest) -> Result<bool> {
        let object = self.blob(digest);
        let action = HeadObject::new(&self.bucket, self.credentials.as_ref(), &object);
        let request = Request {
            method: Method::HEAD,
            url: &self.signed(&action),
            what: "look for a blob",
            headers: &[],
            body: &nothing,
        };
        let answer = send(client, &request, &[StatusCode::NOT_FOUND]).await?;
        Ok(answer.is_success())
    }

    pub(super) async fn put(
        &self,
        client: &Client,
        digest: &Digest,
        open: &Open,
        size: u64,
    ) -> Result<()> {
        ensure!(
            size <= MAX_OBJECT,
            "blob {digest} has {size} bytes: no more than {MAX_OBJECT} can be put at once"
        );
        self.put_object(client, &self.blob(digest), size, &|| {
            Some(stretch(open, 0, size))
        })
        .await
    }

    async fn put_object(
        &self,
        client: &Client,
        object: &str,
        size: u64,
        body: &(dyn Fn() -> Option<reqwest::Body> + Sync),
    ) -> Result<()> {
        let action = PutObject::new(&self.bucket, self.credentials.as_ref(), object);
        let request = Request {
            method: Method::PUT,
            url: &self.signed(&action),
            what: &format!("put {object}"),
            headers: &[("content-length", size.to_string())],
            body,
        };
        send(client, &request, &[]).await?;
        Ok(())
    }

    /// The first of the names that is there.
    pub(super) async fn index(&self, client: &Client) -> Result<Vec<u8>> {
        for name in &self.indexes {
            let what = format!("get {name}");
            if let Some(index) = get_index(client, &self.get(name), &what).await? {
                return Ok(index);
            }
        }
        bail!("it is not there")
    }

    pub(super) async fn put_index(&self, client: &Client, index: Vec<u8>) -> Result<()> {
        for name in &self.indexes {
            let size = index.len() as u64;
            self.put_object(client, name, size, &|| Some(index.clone().into()))
                .await?;
        }
        Ok(())
    }
}
