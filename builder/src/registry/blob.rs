//! A blob on its way here: pieces, repair of faults, and the check at the end.

use std::time::Instant;

use bytes::Bytes;
use lapstrake_frontend::image::ImageRef;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::client::{Call, Client, Patience, Target, checked};
use super::config::Endpoint;
use super::error::{Error, Result, Retry};
use super::pull::header;
use crate::oci::Descriptor;
use crate::oci::manifest::MAX_DOCUMENT;
use crate::oci::verified::Hasher;

/// A transfer that brought at least this much since the last fault gets all its tries again.
const PROGRESS: u64 = 64 << 10;

/// The least that must arrive within two stall times.
const TRICKLE: u64 = 4 << 10;

impl Client {
    /// A blob of the image's repository. Nothing is sent before the first piece is asked for.
    ///
    /// # Errors
    /// When the name of the image is malformed.
    pub fn blob(&self, image: &ImageRef, descriptor: &Descriptor) -> Result<Blob> {
        checked(image)?;
        let endpoints = self.config().pull_endpoints(&image.registry)?;
        let patience = self.patience(endpoints.len() > 1);
        Ok(Blob {
            client: self.clone(),
            endpoints,
            at: 0,
            repository: image.repository.clone(),
            descriptor: descriptor.clone(),
            position: 0,
            hasher: Some(Hasher::default()),
            answer: None,
            patience,
            mark: 0,
            may_range: true,
            is_refetch: false,
        })
    }

    /// A small blob, such as an image config, whole.
    ///
    /// # Errors
    /// When it is declared larger than such a document may be, or cannot be got.
    pub async fn blob_small(&self, image: &ImageRef, descriptor: &Descriptor) -> Result<Bytes> {
        let Descriptor { digest, size, .. } = descriptor;
        if *size > MAX_DOCUMENT {
            return Err(Error::plain(format!(
                "refuse blob {digest}: it has {size} bytes, more than {MAX_DOCUMENT}"
            )));
        }
        let mut blob = self.blob(image, descriptor)?;
        loop {
            match blob.whole().await {
                Err(error) if error.retry == Retry::AtMost(1) && !blob.again() => {
                    return Err(error);
                }
                Err(error) if error.retry != Retry::AtMost(1) => return Err(error),
                Err(_) => {}
                Ok(bytes) => return Ok(bytes.into()),
            }
        }
    }
}

/// A blob on its way here.
///
/// Pieces are handed out as they arrive; the end (`None`) only after size and digest were checked. A fault on the
/// way is repaired by asking for the rest, from the same server or from the next one.
pub struct Blob {
    client: Client,
    endpoints: Vec<Endpoint>,
    at: usize,
    repository: String,
    descriptor: Descriptor,
    position: u64,
    hasher: Option<Hasher>,
    answer: Option<Answer>,
    patience: Patience,
    /// Where the last fault was.
    mark: u64,
    may_range: bool,
    /// The whole was got once already, and was wrong.
    is_refetch: bool,
}

/// An open answer.
struct Answer {
    response: Response,
    /// Bytes that we have already: the server does not know ranges.
    skip: u64,
    /// When the current measure of speed began, and at which position.
    since: (Instant, u64),
}

impl Blob {
    /// The next piece; `None` at the end, when all of it was right.
    ///
    /// # Errors
    /// When the blob is not what its descriptor says, or cannot be got. What was handed out before is worthless then.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.step().await {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(piece) => return Ok(piece),
                Err(error) => self.recover(error).await?,
            }
        }
    }

    /// Leaves the digest to whoever receives the bytes; the size is still checked.
    pub(super) fn unhashed(mut self) -> Self {
        self.hasher = None;
        self
    }

    /// Starts from nothing, with the next server if there is one. False when that was done before.
    pub(super) fn again(&mut self) -> bool {
        if self.is_refetch {
            return false;
        }
        self.is_refetch = true;
        self.answer = None;
        self.position = 0;
        self.mark = 0;
        self.hasher = self.hasher.as_ref().map(|_| Hasher::default());
        self.at = (self.at + 1).min(self.endpoints.len() - 1);
        true
    }

    async fn whole(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.chunk().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    async fn step(&mut self) -> Result<Option<Bytes>> {
        let size = self.descriptor.size;
        if self.answer.is_none() && self.position < size {
            self.answer = Some(self.open().await?);
        }
        let Some(answer) = &mut self.answer else {
            return self.finish();
        };
        let limit = self.client.config().patience.stall;
        let arrived = tokio::time::timeout(limit, answer.response.chunk()).await;
        if self.position == size {
            // All is here; only more of it would matter.
            return match arrived {
                Ok(Ok(Some(more))) if !more.is_empty() => {
                    Err(self.fault("blob is longer than declared", Retry::Never))
                }
                _ => self.finish(),
            };
        }
        let url = answer.response.url();
        match arrived {
            Err(_) => Err(self.fault(
                &format!("nothing came for {} s", limit.as_secs_f32()),
                Retry::AtMost(2),
            )),
            Ok(Err(error)) => {
                Err(Error::transport(&Method::GET, url, &error).with_retry(Retry::Backoff))
            }
            Ok(Ok(None)) => Err(self.fault("connection was closed early", Retry::Backoff)),
            Ok(Ok(Some(bytes))) => self.take(bytes).map(Some),
        }
    }

    /// Accounts for a piece; gives the part of it that is new.
    fn take(&mut self, mut bytes: Bytes) -> Result<Bytes> {
        let Some(answer) = &mut self.answer else {
            return Ok(bytes);
        };
        let known = usize::try_from(answer.skip)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        answer.skip -= known as u64;
        let bytes = bytes.split_off(known);
        if bytes.len() as u64 > self.descriptor.size - self.position {
            return Err(self.fault("blob is longer than declared", Retry::Never));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        self.position += bytes.len() as u64;
        let (since, from) = answer.since;
        if since.elapsed() > self.client.config().patience.stall * 2 {
            if self.position - from < TRICKLE {
                return Err(self.fault("blob comes too slowly", Retry::AtMost(2)));
            }
            answer.since = (Instant::now(), self.position);
        }
        if self.position - self.mark >= PROGRESS {
            self.patience.renew();
        }
        Ok(bytes)
    }

    fn finish(&mut self) -> Result<Option<Bytes>> {
        let found = self.hasher.take().map(Hasher::finish);
        if let Some(found) = found.filter(|found| *found != self.descriptor.digest) {
            // Only a fresh start can help, and only the receiver can start afresh.
            self.hasher = Some(Hasher::default());
            return Err(self.fault(&format!("blob has the digest {found}"), Retry::AtMost(1)));
        }
        Ok(None)
    }

    async fn open(&self) -> Result<Answer> {
        let endpoint = &self.endpoints[self.at];
        let Descriptor { digest, size, .. } = &self.descriptor;
        let target = Target::Path(format!("{}/blobs/{digest}", self.repository));
        let mut call = Call::new(Method::GET, endpoint, &self.repository, "pull", target);
        if self.position > 0 && self.may_range {
            call.headers.insert(RANGE, range(self.position));
        }
        let response = self
            .client
            .attempt(&call, &[StatusCode::OK, StatusCode::PARTIAL_CONTENT])
            .await?;
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
        let failed =
            |text: String, retry| Err(Error::new(&Method::GET, response.url(), text, retry));
        if is_part && part_start(response.headers()) != Some(self.position) {
            return failed(
                "registry sent another part of the blob than was asked for".into(),
                Retry::Backoff,
            );
        }
        let expected = if is_part { size - self.position } else { *size };
        match response.content_length() {
            Some(length) if length != expected => failed(
                format!("blob has {length} bytes, not the {expected} declared"),
                Retry::AtMost(1),
            ),
            _ => {
                let skip = if is_part { 0 } else { self.position };
                Ok(Answer {
                    response,
                    skip,
                    since: (Instant::now(), self.position),
                })
            }
        }
    }

    /// Prepares for the next try, or gives the failure back.
    async fn recover(&mut self, error: Error) -> Result<()> {
        self.answer = None;
        let is_complete = self.position == self.descriptor.size;
        if is_complete {
            return Err(error);
        }
        if error.status == Some(StatusCode::RANGE_NOT_SATISFIABLE) && self.may_range {
            self.may_range = false;
            return Ok(());
        }
        self.mark = self.position;
        match self.patience.pause(error).await {
            Err(_) if self.at + 1 < self.endpoints.len() => {
                self.at += 1;
                self.patience = self.client.patience(self.at + 1 < self.endpoints.len());
                Ok(())
            }
            done => done,
        }
    }

    fn fault(&self, text: &str, retry: Retry) -> Error {
        let Descriptor { digest, size, .. } = &self.descriptor;
        let text = format!("{text} (at byte {} of {size})", self.position);
        match &self.answer {
            Some(answer) => Error::new(&Method::GET, answer.response.url(), text, retry),
            None => Error::plain(format!("get blob {digest}: {text}")).with_retry(retry),
        }
    }
}

fn range(from: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("bytes={from}-")).expect("digits are a header value")
}

/// The position at which a partial answer starts (`bytes 5-9/10`).
fn part_start(headers: &HeaderMap) -> Option<u64> {
    let range = header(headers, CONTENT_RANGE.as_str())?;
    range
        .strip_prefix("bytes ")?
        .split_once('-')?
        .0
        .trim()
        .parse()
        .ok()
}
