//! ADD of a URL: one file, fetched again only when the server says that it changed.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use lapstrake_cache::{Digest, Ingest, Key, Layer, Store};
use lapstrake_frontend::plan::Http;
use rustix::fs::{self, Mode, OFlags, Timespec, Timestamps};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{Job, Ops, describe, key, key_of};
use crate::engine::{Prepared, Task};
use crate::epoch;
use crate::events::Step;
use crate::fs::Chain;
use crate::registry::Client;
use crate::secrets::Secrets;
use crate::web::{self, REDIRECTS, Response, redacted};

/// What files are fetched with.
pub(crate) struct Access<'a> {
    pub(crate) store: &'a Store,
    pub(crate) client: &'a Client,
    pub(crate) tokio: &'a Handle,
    pub(crate) secrets: &'a Secrets,
    /// Shows how far it is.
    pub(crate) step: Step,
}

impl<'a> Access<'a> {
    fn of(ops: &'a Ops, task: &Task) -> Self {
        Self {
            store: &ops.store,
            client: &ops.client,
            tokio: &ops.tokio,
            secrets: &ops.secrets,
            step: ops.events.of(task),
        }
    }
}

/// What the store keeps of a URL.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fetched {
    digest: Digest,
    size: u64,
    etag: Option<String>,
    /// As the server wrote it, for asking again.
    last_modified: Option<String>,
    /// The same in seconds since 1970.
    modified: Option<i64>,
}

/// What is known of the file before it is needed.
pub(crate) enum Known {
    Fetched(Fetched),
    /// Its digest, which the Dockerfile says: the server is asked when the step must run, and never if it is cached.
    Pinned(Digest),
}

/// Keys the file by its content and time: what `--checksum` says of it, or the server.
pub(super) fn prepare(ops: &Ops, task: &Task, op: &Http) -> Result<Prepared<Job>> {
    let known = match &op.checksum {
        Some(wanted) => Known::Pinned(checksum(wanted)?),
        None => Known::Fetched(fetch(&Access::of(ops, task), &op.url, None)?),
    };
    let note = describe("http", &(), &(), |encoder, ()| match &known {
        Known::Fetched(file) => key::http(encoder, op, &file.digest, file.modified),
        Known::Pinned(digest) => key::http(encoder, op, digest, None),
    });
    let ready = ops.ready(task, note, Chain::default(), Job::Http(known));
    Ok(Prepared::proved(ready))
}

/// The file, which must be what `--checksum` says.
fn pinned(access: &Access<'_>, url: &str, wanted: &Digest) -> Result<Fetched> {
    let fetched = fetch(access, url, Some(wanted))?;
    ensure!(
        fetched.digest == *wanted,
        "digest mismatch for {}: it is {}, not {wanted} as --checksum says",
        redacted(url),
        fetched.digest
    );
    Ok(fetched)
}

/// Makes the layer with the one file.
pub(super) fn run(ops: &Ops, task: &Task, op: &Http, known: Known) -> Result<Layer> {
    let fetched = match known {
        Known::Fetched(fetched) => fetched,
        Known::Pinned(digest) => pinned(&Access::of(ops, task), &op.url, &digest)?,
    };
    let mut blob = ops
        .store
        .open_blob(&fetched.digest)?
        .context("the fetched file is gone from the store")?;
    let active = ops.store.snapshot(&[])?;
    let root = fs::open(
        active.upper(),
        OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    ensure!(
        Path::new(&op.filename).components().count() == 1,
        "the file name {:?} is not one name",
        op.filename
    );
    let mut file = std::fs::File::from(fs::openat(
        &root,
        op.filename.as_str(),
        flags,
        Mode::from_raw_mode(0o600),
    )?);
    std::io::copy(&mut blob, &mut file).context("write the fetched file")?;
    file.flush()?;
    // Where the server says none it is this one, as with BuildKit, whatever SOURCE_DATE_EPOCH is: the key has no other.
    let time = Timespec {
        tv_sec: fetched.modified.unwrap_or(0),
        tv_nsec: 0,
    };
    fs::futimens(
        file.as_fd(),
        &Timestamps {
            last_access: time,
            last_modification: time,
        },
    )?;
    Ok(ops.store.commit(active)?)
}

/// The time of the file: what the server says, or the newest file where it is an archive. With `--checksum` the server is
/// not asked for anything but the file, and the archive counts, as with BuildKit.
pub(crate) fn time(access: &Access<'_>, op: &Http) -> Result<Option<i64>> {
    let fetched = match &op.checksum {
        Some(wanted) => pinned(access, &op.url, &checksum(wanted)?)?,
        None => {
            let fetched = fetch(access, &op.url, None)?;
            if fetched.modified.is_some() {
                return Ok(fetched.modified);
            }
            fetched
        }
    };
    let mut blob = access
        .store
        .open_blob(&fetched.digest)?
        .context("the fetched file is gone from the store")?;
    let scratch = access.store.scratch()?;
    super::unpack_if_archive(&mut blob, scratch.path())
        .with_context(|| format!("read {}", redacted(&op.url)))?;
    epoch::newest(scratch.path())
}

fn checksum(text: &str) -> Result<Digest> {
    text.parse()
        .with_context(|| format!("read --checksum {text:?}"))
}

/// The file at `url`. The server is not asked if what it gave before is what is wanted.
fn fetch(access: &Access<'_>, url: &str, wanted: Option<&Digest>) -> Result<Fetched> {
    let Access { store, tokio, .. } = *access;
    // Without credentials, which have no place in a key: the server decides who may have it, each time.
    let key: Key = key_of("url", &[redacted(url).as_bytes()]);
    let known: Option<Fetched> = store.record(&key)?;
    let known = known.filter(|known| store.has_blob(&known.digest) == Some(known.size));
    if let Some(known) = known.as_ref().filter(|known| Some(&known.digest) == wanted) {
        return Ok(known.clone());
    }
    let fetched = tokio
        .block_on(download(access, url, known.as_ref()))
        .with_context(|| format!("fetch {}", redacted(url)))?;
    store.put_record(&key, &fetched)?;
    Ok(fetched)
}

/// Downloads `url`, unless the server says that what is known is still good.
async fn download(access: &Access<'_>, url: &str, known: Option<&Fetched>) -> Result<Fetched> {
    let mut response = request(access, url, known).await?;
    if response.status() == 304 {
        return known
            .cloned()
            .context("the server answered 304 to a first request");
    }
    ensure!(
        response.is_success(),
        "the server answered {}",
        response.status()
    );
    let etag = response.header("etag");
    let last_modified = response.header("last-modified");
    let modified = response.modified();
    let total = response.length();
    let counter = access.step.counter(redacted(url), total);
    let mut blob: Ingest = access.store.ingest()?;
    while let Some(chunk) = response.chunk().await? {
        blob.write_all(&chunk)?;
        counter.add(chunk.len() as u64);
    }
    if let Some(total) = total {
        ensure!(
            blob.count() == total,
            "the answer ended after {} of {total} bytes",
            blob.count()
        );
    }
    counter.done();
    let (digest, size) = blob.commit()?;
    Ok(Fetched {
        digest,
        size,
        etag,
        last_modified,
        modified,
    })
}

/// Follows redirects itself: credentials are for the first host only, and only HTTP may be asked for.
async fn request(access: &Access<'_>, url: &str, known: Option<&Fetched>) -> Result<Response> {
    let mut target = url.to_owned();
    for _ in 0..=REDIRECTS {
        let mut headers = Vec::new();
        if let Some(value) = authorization(access.secrets, &target, url)? {
            headers.push(("authorization", value));
        }
        if let Some(etag) = known.and_then(|known| known.etag.clone()) {
            headers.push(("if-none-match", etag));
        }
        if let Some(time) = known.and_then(|known| known.last_modified.clone()) {
            headers.push(("if-modified-since", time));
        }
        let response = web::get(access.client, &target, &headers).await?;
        match response.redirect() {
            Some(next) => target = web::join(&target, &next)?,
            None => return Ok(response),
        }
    }
    bail!("it was redirected more than {REDIRECTS} times")
}

/// The secrets HTTP_AUTH_HEADER_host and HTTP_AUTH_TOKEN_host, for the host that the Dockerfile names.
fn authorization(secrets: &Secrets, target: &str, first: &str) -> Result<Option<String>> {
    let host = web::host(target)?;
    let is_tls = |url: &str| url.starts_with("https://");
    if host != web::host(first)? || is_tls(first) && !is_tls(target) {
        return Ok(None);
    }
    if let Some(value) = secrets.get(&format!("HTTP_AUTH_HEADER_{host}"), false)? {
        return Ok(Some(String::from_utf8_lossy(&value).trim().to_owned()));
    }
    let token = secrets.get(&format!("HTTP_AUTH_TOKEN_{host}"), false)?;
    Ok(token.map(|token| format!("Bearer {}", String::from_utf8_lossy(&token).trim())))
}
