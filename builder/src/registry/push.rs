//! Putting blobs and manifests: nothing is sent that the registry has, or can take from another repository.
//!
//! A blob goes up in one request. When that breaks off, the registry is asked how far it came, and gets the rest;
//! a registry that finds a request too large gets the blob in parts.

use bytes::Bytes;
use lapstrake_cache::Digest;
use lapstrake_frontend::image::ImageRef;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::client::{Call, Client, Target, checked, location};
use super::config::Endpoint;
use super::error::{Error, Result, Retry};
use super::pull::{CONTENT_DIGEST, header};
use super::upload::{Body, Meter, Open, Stretch};
use crate::oci::Descriptor;

/// What whoever pushes may do.
const ACTIONS: &str = "pull,push";

/// The size of a part, for registries (or proxies before them) that refuse large requests.
const PART: u64 = 8 << 20;

/// A blob to push.
pub struct Source<'a> {
    /// Its digest and size.
    pub descriptor: &'a Descriptor,
    /// Opens its bytes.
    pub open: &'a Open,
    /// A repository of the same registry that may have it.
    pub mount_from: Option<&'a str>,
    /// Told how much was sent.
    pub meter: Option<&'a Meter>,
}

/// What pushing a blob took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// Nothing: the repository had it.
    Existed,
    /// The registry took it from another repository.
    Mounted,
    /// It was sent.
    Uploaded,
}

/// An upload that the registry waits for.
struct Session {
    url: Url,
    /// How many bytes the registry has.
    offset: u64,
}

impl Client {
    /// Puts a blob into the image's repository, if it is not there. On success the registry has confirmed its digest.
    ///
    /// # Errors
    /// When the registry refuses it or cannot be reached, or the blob cannot be read.
    pub async fn push_blob(&self, image: &ImageRef, source: &Source<'_>) -> Result<Pushed> {
        let digest = &source.descriptor.digest;
        if self.has_blob_for(image, digest, ACTIONS).await? {
            return Ok(Pushed::Existed);
        }
        let endpoint = self.config().endpoint(&image.registry)?;
        let Some(session) = self
            .start(&endpoint, image, digest, source.mount_from)
            .await?
        else {
            return Ok(Pushed::Mounted);
        };
        let upload = Upload {
            client: self,
            endpoint: &endpoint,
            repository: &image.repository,
            source,
        };
        upload.run(image, session).await?;
        Ok(Pushed::Uploaded)
    }

    /// Lets the registry take a blob from another of its repositories. False when it does not.
    ///
    /// # Errors
    /// When the registry cannot be asked or the image's repository must not be written.
    pub async fn mount_blob(&self, image: &ImageRef, digest: &Digest, from: &str) -> Result<bool> {
        let endpoint = self.config().endpoint(&image.registry)?;
        Ok(self
            .start(&endpoint, image, digest, Some(from))
            .await?
            .is_none())
    }

    /// Puts a manifest or an index under the image's tag, or under its digest if the image has no tag.
    ///
    /// # Errors
    /// When the registry refuses it, or stores something else than these bytes.
    pub async fn push_manifest(
        &self,
        image: &ImageRef,
        bytes: Bytes,
        media_type: &str,
    ) -> Result<Digest> {
        let repository = checked(image)?;
        let endpoint = self.config().endpoint(&image.registry)?;
        let digest = Digest::of(&bytes);
        let name = image.tag.clone().unwrap_or_else(|| digest.to_string());
        let target = Target::Path(format!("{repository}/manifests/{name}"));
        let mut call = Call::new(Method::PUT, &endpoint, repository, ACTIONS, target);
        let kind = HeaderValue::from_str(media_type);
        let kind = kind.map_err(|_| Error::plain(format!("{media_type:?} is not a media type")))?;
        call.headers.insert(CONTENT_TYPE, kind);
        call.body = Body::Bytes(bytes);
        let response = self
            .call(
                &call,
                &[StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED],
            )
            .await?;
        confirm(&response, &digest)?;
        Ok(digest)
    }

    /// Begins an upload; `None` when the registry could mount the blob instead.
    async fn start(
        &self,
        endpoint: &Endpoint,
        image: &ImageRef,
        digest: &Digest,
        from: Option<&str>,
    ) -> Result<Option<Session>> {
        let repository = checked(image)?;
        let from = from.filter(|from| *from != repository);
        if let Some(from) = from {
            let query = format!("?mount={digest}&from={from}");
            match self.post(endpoint, repository, &query, Some(from)).await {
                Ok(response) if response.status() == StatusCode::CREATED => return Ok(None),
                Ok(response) => return session(&response).map(Some),
                // Not allowed to read there: then it is sent.
                Err(error) if error.is_denied() || error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let response = self.post(endpoint, repository, "", None).await?;
        session(&response).map(Some)
    }

    async fn post(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        query: &str,
        from: Option<&str>,
    ) -> Result<Response> {
        let target = Target::Path(format!("{repository}/blobs/uploads/{query}"));
        let mut call = Call::new(Method::POST, endpoint, repository, ACTIONS, target);
        call.scopes
            .extend(from.map(|from| format!("repository:{from}:pull")));
        call.body = Body::Bytes(Bytes::new());
        self.call(&call, &[StatusCode::ACCEPTED, StatusCode::CREATED])
            .await
    }
}

/// One blob on its way to a registry.
struct Upload<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    repository: &'a str,
    source: &'a Source<'a>,
}

impl Upload<'_> {
    async fn run(&self, image: &ImageRef, session: Session) -> Result<()> {
        let mut patience = self.client.patience(false);
        let mut session = Some(session);
        let mut part = u64::MAX;
        loop {
            let mut current = match session.take() {
                Some(session) => session,
                None => match self
                    .client
                    .start(self.endpoint, image, &self.source.descriptor.digest, None)
                    .await?
                {
                    Some(session) => session,
                    None => return Ok(()),
                },
            };
            let before = current.offset;
            let error = match self.send(&mut current, part).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if error.status == Some(StatusCode::PAYLOAD_TOO_LARGE) && part > PART {
                part = PART;
                continue;
            }
            if current.offset > before {
                patience.renew();
            }
            patience.pause(judged(error)).await?;
            session = self.status(&current).await;
        }
    }

    /// Sends what the registry does not have yet, and closes the session.
    async fn send(&self, session: &mut Session, part: u64) -> Result<()> {
        let Descriptor { digest, size, .. } = self.source.descriptor;
        let mut closing = Body::Bytes(Bytes::new());
        if session.offset == 0 && part >= *size {
            closing = self.stretch(0, *size);
        } else {
            while session.offset < *size {
                let length = part.min(size - session.offset);
                let response = self.patch(session, length).await?;
                *session = Session {
                    url: next(&response)?,
                    offset: session.offset + length,
                };
            }
        }
        let mut url = session.url.clone();
        url.query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let mut call = self.call(Method::PUT, url);
        call.headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        call.body = closing;
        let response = self
            .client
            .attempt(
                &call,
                &[StatusCode::CREATED, StatusCode::OK, StatusCode::NO_CONTENT],
            )
            .await?;
        confirm(&response, digest)
    }

    async fn patch(&self, session: &Session, length: u64) -> Result<Response> {
        let mut call = self.call(Method::PATCH, session.url.clone());
        let range = format!("{}-{}", session.offset, session.offset + length - 1);
        let range = HeaderValue::from_str(&range).expect("digits are a header value");
        call.headers.insert(CONTENT_RANGE, range);
        call.headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        call.body = self.stretch(session.offset, length);
        self.client
            .attempt(
                &call,
                &[
                    StatusCode::ACCEPTED,
                    StatusCode::NO_CONTENT,
                    StatusCode::CREATED,
                ],
            )
            .await
    }

    fn stretch(&self, from: u64, length: u64) -> Body<'_> {
        Body::Stretch(Stretch {
            open: self.source.open,
            from,
            length,
            meter: self.source.meter,
        })
    }

    /// How far the upload came; `None` when it must begin anew.
    async fn status(&self, session: &Session) -> Option<Session> {
        let call = self.call(Method::GET, session.url.clone());
        let response = self
            .client
            .attempt(&call, &[StatusCode::NO_CONTENT])
            .await
            .ok()?;
        let last: u64 = header(response.headers(), RANGE.as_str())?
            .rsplit_once('-')?
            .1
            .parse()
            .ok()?;
        // An empty upload says 0-0 too.
        let offset = (last > 0)
            .then_some(last + 1)
            .filter(|offset| *offset <= self.source.descriptor.size)?;
        Some(Session {
            url: next(&response).unwrap_or_else(|_| session.url.clone()),
            offset,
        })
    }

    fn call(&self, method: Method, url: Url) -> Call<'_> {
        Call::new(
            method,
            self.endpoint,
            self.repository,
            ACTIONS,
            Target::Url(url),
        )
    }
}

/// An upload session can be lost, and an upload be spoilt on the way: both are worth another try.
fn judged(error: Error) -> Error {
    match error.status {
        Some(
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::BAD_REQUEST,
        ) => error.with_retry(Retry::AtMost(1)),
        Some(StatusCode::PAYLOAD_TOO_LARGE) => {
            error.hint("the registry, or a proxy before it, limits the size of requests")
        }
        _ => error,
    }
}

/// The upload that the registry has begun.
fn session(response: &Response) -> Result<Session> {
    let url = next(response)?;
    Ok(Session { url, offset: 0 })
}

/// Where the registry wants the next request of an upload.
fn next(response: &Response) -> Result<Url> {
    let failed = |text: &str| Error::new(&Method::POST, response.url(), text, Retry::Never);
    let text = header(response.headers(), LOCATION.as_str());
    let text =
        text.ok_or_else(|| failed("registry does not say where to upload to (no Location)"))?;
    location(response.url(), text).map_err(|why| failed(&format!("refuse upload address: {why}")))
}

/// Compares the digest that the registry confirms, if it does.
fn confirm(response: &Response, digest: &Digest) -> Result<()> {
    let headers: &HeaderMap = response.headers();
    match header(headers, CONTENT_DIGEST) {
        Some(found) if found != digest.to_string() => {
            let text = format!(
                "registry stored {:?} instead of {digest}",
                super::error::words(found)
            );
            Err(Error::new(&Method::PUT, response.url(), text, Retry::Never))
        }
        _ => Ok(()),
    }
}
