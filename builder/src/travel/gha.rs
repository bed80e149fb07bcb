//! The cache of GitHub Actions, in both of its protocols.
//!
//! An entry has a key and a version, and is never replaced. Blobs are entries by their digests. The index is the newest entry
//! whose key begins with the scope's prefix; each one that is put has the next number.
//!
//! ```text
//! 1 (REST)    POST caches, PATCH caches/ID with ranges, POST caches/ID; GET cache?keys=…
//! 2 (twirp)   CreateCacheEntry, an upload to blob storage, FinalizeCacheEntryUpload; GetCacheEntryDownloadURL
//! ```

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use lapstrake_cache::Digest;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::objects::{Request, get_index, send};
use crate::registry::{Client, Open, stretch};
use crate::web::Response;

/// Entries of other programs, and of other forms of ours, have other versions.
const VERSION: &str = "lapstrake-cache-1";
/// A larger blob goes up in blocks of this size.
const BLOCK: u64 = 32 << 20;
/// No answer of the service is longer.
const MAX_ANSWER: u64 = 1 << 20;
/// So many numbers of the index may be taken by others at the same time.
const MAX_AHEAD: u64 = 16;

/// How the service is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Rest,
    Twirp,
}

/// The cache of a scope.
pub(crate) struct Gha {
    pub(crate) protocol: Protocol,
    /// Of the service.
    pub(crate) url: Url,
    pub(crate) token: String,
    pub(crate) scope: String,
}

/// Without the token.
impl fmt::Debug for Gha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title())
    }
}

/// An entry that was found.
struct Entry {
    key: String,
    /// Signed: in no message.
    url: String,
}

/// What is sent.
struct Content<'a> {
    open: &'a Open,
    size: u64,
}

impl Gha {
    pub(super) fn title(&self) -> String {
        format!("gha:{}", self.scope)
    }

    fn blob(digest: &Digest) -> String {
        format!("lapstrake-blob-1-{digest}")
    }

    /// The key of the index, without its number.
    fn prefix(&self) -> String {
        format!("lapstrake-index-1-{}#", self.scope)
    }

    pub(super) async fn has(&self, client: &Client, digest: &Digest) -> Result<bool> {
        let key = Self::blob(digest);
        let found = self.find(client, &key).await?;
        Ok(found.is_some_and(|entry| entry.key == key))
    }

    /// Where a blob can be had.
    pub(super) async fn url_of(&self, client: &Client, digest: &Digest) -> Result<String> {
        let key = Self::blob(digest);
        let found = self.find(client, &key).await?;
        let found = found.filter(|entry| entry.key == key);
        Ok(found.with_context(|| format!("{digest} is not there"))?.url)
    }

    pub(super) async fn put(
        &self,
        client: &Client,
        digest: &Digest,
        open: &Open,
        size: u64,
    ) -> Result<()> {
        // Where another one puts the same at this moment, that is as good.
        self.save(client, &Self::blob(digest), &Content { open, size })
            .await?;
        Ok(())
    }

    pub(super) async fn index(&self, client: &Client) -> Result<Vec<u8>> {
        let found = self.find(client, &self.prefix()).await?;
        let index = match found {
            Some(entry) => get_index(client, &entry.url, "get the index").await?,
            None => None,
        };
        index.context("it is not there")
    }

    pub(super) async fn put_index(&self, client: &Client, index: Vec<u8>) -> Result<()> {
        let prefix = self.prefix();
        let newest = self.find(client, &prefix).await?;
        let number = newest
            .and_then(|entry| entry.key.strip_prefix(&prefix)?.parse().ok())
            .unwrap_or(0_u64);
        let size = index.len() as u64;
        let open = move || Ok(Box::new(std::io::Cursor::new(index.clone())) as _);
        for number in 1 + number..=MAX_AHEAD + number {
            let content = Content { open: &open, size };
            if self
                .save(client, &format!("{prefix}{number}"), &content)
                .await?
            {
                return Ok(());
            }
        }
        bail!("others write the same scope all the time")
    }

    /// Makes an entry; false where there is one, or another one makes it at this moment.
    async fn save(&self, client: &Client, key: &str, content: &Content<'_>) -> Result<bool> {
        match self.protocol {
            Protocol::Rest => self.save_rest(client, key, content).await,
            Protocol::Twirp => self.save_twirp(client, key, content).await,
        }
    }

    /// The entry with this key, or else the newest whose key begins so.
    async fn find(&self, client: &Client, key: &str) -> Result<Option<Entry>> {
        match self.protocol {
            Protocol::Rest => self.find_rest(client, key).await,
            Protocol::Twirp => self.find_twirp(client, key).await,
        }
    }

    fn authorization(&self) -> (&'static str, String) {
        ("authorization", format!("Bearer {}", self.token))
    }

    async fn find_rest(&self, client: &Client, key: &str) -> Result<Option<Entry>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Found {
            cache_key: String,
            archive_location: String,
        }
        let mut url = self.rest("cache")?;
        url.query_pairs_mut()
            .append_pair("keys", key)
            .append_pair("version", VERSION);
        let answer = self.ask_rest(client, Method::GET, &url, None, &[]).await?;
        let bytes = answer.whole(MAX_ANSWER).await?;
        // Nothing is what it says when there is nothing (204).
        if bytes.is_empty() {
            return Ok(None);
        }
        let found: Found = serde_json::from_slice(&bytes).context("read the answer")?;
        Ok(Some(Entry {
            key: found.cache_key,
            url: found.archive_location,
        }))
    }

    async fn save_rest(&self, client: &Client, key: &str, content: &Content<'_>) -> Result<bool> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Reserved {
            cache_id: u64,
        }
        let body = json!({ "key": key, "version": VERSION, "cacheSize": content.size });
        let conflict = [StatusCode::CONFLICT];
        let url = self.rest("caches")?;
        let answer = self
            .ask_rest(client, Method::POST, &url, Some(&body), &conflict)
            .await?;
        if !answer.is_success() {
            return Ok(false);
        }
        let reserved: Reserved =
            serde_json::from_slice(&answer.whole(MAX_ANSWER).await?).context("read the answer")?;
        let url = self.rest(&format!("caches/{}", reserved.cache_id))?;
        for (from, length) in blocks(content.size) {
            let range = format!("bytes {from}-{}/*", from + length.max(1) - 1);
            let headers = [
                self.authorization(),
                ("content-type", "application/octet-stream".to_owned()),
                ("content-range", range),
                ("content-length", length.to_string()),
            ];
            let request = Request {
                method: Method::PATCH,
                url: url.as_str(),
                what: "put a part",
                headers: &headers,
                body: &|| Some(stretch(content.open, from, length)),
            };
            send(client, &request, &[]).await?;
        }
        let size = json!({ "size": content.size });
        self.ask_rest(client, Method::POST, &url, Some(&size), &[])
            .await?;
        Ok(true)
    }

    fn rest(&self, path: &str) -> Result<Url> {
        let base = self.url.as_str().trim_end_matches('/');
        Ok(Url::parse(&format!("{base}/_apis/artifactcache/{path}"))?)
    }

    async fn ask_rest(
        &self,
        client: &Client,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        also: &[StatusCode],
    ) -> Result<Response> {
        let headers = [
            self.authorization(),
            (
                "accept",
                "application/json;api-version=6.0-preview.1".to_owned(),
            ),
            ("content-type", "application/json".to_owned()),
        ];
        let request = Request {
            method,
            url: url.as_str(),
            what: "ask the cache of GitHub Actions",
            headers: &headers,
            body: &|| Some(body?.to_string().into()),
        };
        send(client, &request, also).await
    }

    async fn find_twirp(&self, client: &Client, key: &str) -> Result<Option<Entry>> {
        #[derive(Deserialize)]
        struct Found {
            #[serde(default)]
            ok: bool,
            #[serde(default, alias = "signedDownloadUrl")]
            signed_download_url: String,
            #[serde(default, alias = "matchedKey")]
            matched_key: String,
        }
        let body = json!({ "key": key, "restore_keys": [key], "version": VERSION });
        let missing = [StatusCode::NOT_FOUND];
        let answer = self
            .ask_twirp(client, "GetCacheEntryDownloadURL", &body, &missing)
            .await?;
        if !answer.is_success() {
            return Ok(None);
        }
        let found: Found =
            serde_json::from_slice(&answer.whole(MAX_ANSWER).await?).context("read the answer")?;
        Ok(found.ok.then_some(Entry {
            key: found.matched_key,
            url: found.signed_download_url,
        }))
    }

    async fn save_twirp(&self, client: &Client, key: &str, content: &Content<'_>) -> Result<bool> {
        #[derive(Deserialize)]
        struct Created {
            #[serde(default)]
            ok: bool,
            #[serde(default, alias = "signedUploadUrl")]
            signed_upload_url: String,
        }
        let body = json!({ "key": key, "version": VERSION });
        let answer = self
            .ask_twirp(client, "CreateCacheEntry", &body, &[StatusCode::CONFLICT])
            .await?;
        if !answer.is_success() {
            return Ok(false);
        }
        let created: Created =
            serde_json::from_slice(&answer.whole(MAX_ANSWER).await?).context("read the answer")?;
        if !created.ok {
            return Ok(false);
        }
        upload(client, &created.signed_upload_url, content).await?;
        // 64-bit numbers are texts in the JSON of protobuf.
        let body = json!({
            "key": key, "version": VERSION, "size_bytes": content.size.to_string()
        });
        let answer = self
            .ask_twirp(client, "FinalizeCacheEntryUpload", &body, &[])
            .await?;
        let done: Value =
            serde_json::from_slice(&answer.whole(MAX_ANSWER).await?).context("read the answer")?;
        ensure!(done["ok"] == true, "the service did not take {key}");
        Ok(true)
    }

    async fn ask_twirp(
        &self,
        client: &Client,
        call: &str,
        body: &Value,
        also: &[StatusCode],
    ) -> Result<Response> {
        let base = self.url.as_str().trim_end_matches('/');
        let url = format!("{base}/twirp/github.actions.results.api.v1.CacheService/{call}");
        let headers = [
            self.authorization(),
            ("content-type", "application/json".to_owned()),
        ];
        let request = Request {
            method: Method::POST,
            url: &url,
            what: call,
            headers: &headers,
            body: &|| Some(body.to_string().into()),
        };
        send(client, &request, also).await
    }
}

/// Puts a block blob at a signed URL of Azure's blob storage: at once, or in blocks that a list then makes one.
async fn upload(client: &Client, url: &str, content: &Content<'_>) -> Result<()> {
    let put = async |url: &str, headers: &[(&str, String)], from: u64, length: u64| {
        let request = Request {
            method: Method::PUT,
            url,
            what: "put a blob",
            headers,
            body: &|| Some(stretch(content.open, from, length)),
        };
        send(client, &request, &[]).await
    };
    if content.size <= BLOCK {
        let headers = [
            ("x-ms-blob-type", "BlockBlob".to_owned()),
            ("content-length", content.size.to_string()),
        ];
        put(url, &headers, 0, content.size).await?;
        return Ok(());
    }
    let mut list = String::from(r#"<?xml version="1.0" encoding="utf-8"?><BlockList>"#);
    for (from, length) in blocks(content.size) {
        // All of one length, as the service demands.
        let id = format!("block-{from:020}");
        let id = base64::engine::general_purpose::STANDARD.encode(id);
        let mut block = Url::parse(url).context("read the address of the upload")?;
        block
            .query_pairs_mut()
            .append_pair("comp", "block")
            .append_pair("blockid", &id);
        let headers = [("content-length", length.to_string())];
        put(block.as_str(), &headers, from, length).await?;
        list.push_str(&format!("<Latest>{id}</Latest>"));
    }
    list.push_str("</BlockList>");
    let mut all = Url::parse(url).context("read the address of the upload")?;
    all.query_pairs_mut().append_pair("comp", "blocklist");
    let request = Request {
        method: Method::PUT,
        url: all.as_str(),
        what: "put a list of blocks",
        headers: &[("content-type", "application/xml".to_owned())],
        body: &|| Some(list.clone().into()),
    };
    send(client, &request, &[]).await?;
    Ok(())
}

/// The blocks of so many bytes: where each begins, and its length.
fn blocks(size: u64) -> impl Iterator<Item = (u64, u64)> {
    let starts = (0..size.div_ceil(BLOCK).max(1)).map(|number| number * BLOCK);
    starts.map(move |from| (from, BLOCK.min(size - from)))
}
