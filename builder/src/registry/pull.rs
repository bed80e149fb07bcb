//! Getting manifests and blobs: every byte is checked before it counts, a dropped transfer goes on where it stopped.

use bytes::Bytes;
use lapstrake_cache::Digest;
use lapstrake_frontend::image::ImageRef;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};

use super::client::{Call, Client, Target, checked, read_all};
use super::config::Endpoint;
use super::error::{Error, Result, Retry};
use crate::oci::manifest::{self, Descriptor, MAX_DOCUMENT};
use crate::oci::media;

/// Everything that a tag may name.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// The digest that a registry computed of what it sends.
pub(super) const CONTENT_DIGEST: &str = "docker-content-digest";

impl Client {
    /// What a name stands for, without fetching it: costs no pull where pulls are counted.
    ///
    /// `None` when the registry does not say; then [`Client::resolve`] does. The digest is the registry's claim, which holds
    /// once the manifest of that digest was fetched.
    ///
    /// # Errors
    /// When no registry or mirror has it or can be asked.
    pub async fn head(&self, image: &ImageRef) -> Result<Option<Descriptor>> {
        let reference = reference(image)?;
        let mut failure = None;
        for endpoint in self.config().pull_endpoints(&image.registry)? {
            let call = manifest_call(Method::HEAD, &endpoint, image, &reference)?;
            match self.call(&call, &[StatusCode::OK]).await {
                Ok(response) => return claimed(response.headers(), &reference),
                Err(error) if is_unsupported(&error) => return Ok(None),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| nowhere(image)))
    }

    /// What a name stands for: the descriptor and the bytes of its manifest or index.
    ///
    /// # Errors
    /// When no registry or mirror has it, or it is not what it is said to be.
    pub async fn resolve(&self, image: &ImageRef) -> Result<(Descriptor, Bytes)> {
        self.fetch(image, &reference(image)?).await
    }

    /// The manifest or index with this digest in the image's repository.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn manifest(&self, image: &ImageRef, digest: &Digest) -> Result<(Descriptor, Bytes)> {
        self.fetch(image, &Reference::Digest(*digest)).await
    }

    async fn fetch(&self, image: &ImageRef, reference: &Reference) -> Result<(Descriptor, Bytes)> {
        let mut failure = None;
        let endpoints = self.config().pull_endpoints(&image.registry)?;
        let last = endpoints.len() - 1;
        for (at, endpoint) in endpoints.iter().enumerate() {
            let call = manifest_call(Method::GET, endpoint, image, reference)?;
            let mut patience = self.patience(at < last);
            loop {
                match self.fetch_once(&call, reference).await {
                    Ok(found) => return Ok(found),
                    Err(error) => match patience.pause(error).await {
                        Ok(()) => {}
                        Err(error) => break failure = Some(error),
                    },
                }
            }
        }
        Err(failure.unwrap_or_else(|| nowhere(image)))
    }

    async fn fetch_once(
        &self,
        call: &Call<'_>,
        reference: &Reference,
    ) -> Result<(Descriptor, Bytes)> {
        let response = self.attempt(call, &[StatusCode::OK]).await?;
        let (url, headers) = (response.url().clone(), response.headers().clone());
        let failed = |text: String, retry| Error::new(&call.method, &url, text, retry);
        let limit = self.config().patience.stall * 2;
        let reading = read_all(
            &call.method,
            response,
            usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX),
        );
        let bytes = match tokio::time::timeout(limit, reading).await {
            Ok(bytes) => bytes?,
            Err(_) => {
                return Err(failed(
                    format!("manifest did not arrive within {} s", limit.as_secs_f32()),
                    Retry::AtMost(2),
                ));
            }
        };
        let digest = Digest::of(&bytes);
        let promised = match reference {
            Reference::Digest(wanted) => Some(*wanted),
            Reference::Tag(_) => {
                header(&headers, CONTENT_DIGEST).and_then(|text| text.parse().ok())
            }
        };
        if let Some(promised) = promised.filter(|promised| *promised != digest) {
            return Err(failed(
                format!("manifest has the digest {digest}, not {promised}"),
                Retry::AtMost(1),
            ));
        }
        let served_as = header(&headers, CONTENT_TYPE.as_str());
        let document = manifest::parse(&bytes, served_as)
            .map_err(|error| failed(format!("{error:#}"), Retry::Never))?;
        let media_type = document.media_type(served_as);
        Ok((
            Descriptor::new(&media_type, digest, bytes.len() as u64),
            bytes.into(),
        ))
    }

    /// Whether the image's repository has the blob, in the registry itself.
    ///
    /// # Errors
    /// When the registry cannot be asked or refuses to say.
    pub async fn has_blob(&self, image: &ImageRef, digest: &Digest) -> Result<bool> {
        self.has_blob_for(image, digest, "pull").await
    }

    pub(super) async fn has_blob_for(
        &self,
        image: &ImageRef,
        digest: &Digest,
        actions: &str,
    ) -> Result<bool> {
        let repository = checked(image)?;
        let endpoint = self.config().endpoint(&image.registry)?;
        let target = Target::Path(format!("{repository}/blobs/{digest}"));
        let call = Call::new(Method::HEAD, &endpoint, repository, actions, target);
        match self.call(&call, &[StatusCode::OK]).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether the server does not know how to answer `HEAD`.
fn is_unsupported(error: &Error) -> bool {
    matches!(
        error.status,
        Some(StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
    )
}

/// A tag or a digest.
enum Reference {
    Tag(String),
    Digest(Digest),
}

fn reference(image: &ImageRef) -> Result<Reference> {
    match (&image.digest, &image.tag) {
        (Some(digest), _) => digest.parse().map(Reference::Digest).map_err(|_| {
            Error::plain(format!("digest {digest:?} is not supported: it must be sha256: and 64 lower-case hex digits"))
        }),
        (None, Some(tag)) => Ok(Reference::Tag(tag.clone())),
        (None, None) => Ok(Reference::Tag("latest".into())),
    }
}

fn manifest_call<'a>(
    method: Method,
    endpoint: &'a Endpoint,
    image: &'a ImageRef,
    reference: &Reference,
) -> Result<Call<'a>> {
    let repository = checked(image)?;
    let name = match reference {
        Reference::Tag(tag) => tag.clone(),
        Reference::Digest(digest) => digest.to_string(),
    };
    let target = Target::Path(format!("{repository}/manifests/{name}"));
    let mut call = Call::new(method, endpoint, repository, "pull", target);
    call.headers
        .insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
    Ok(call)
}

/// The descriptor that the headers of an answer promise, if they say all of it.
fn claimed(headers: &HeaderMap, reference: &Reference) -> Result<Option<Descriptor>> {
    let media_type = header(headers, CONTENT_TYPE.as_str()).map(manifest::essence);
    let known = media_type.filter(|kind| media::is_manifest(kind) || media::is_index(kind));
    let size = header(headers, CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
    let digest: Option<Digest> = header(headers, CONTENT_DIGEST).and_then(|text| text.parse().ok());
    let digest = match (reference, digest) {
        (Reference::Digest(wanted), _) => Some(*wanted),
        (Reference::Tag(_), digest) => digest,
    };
    let (Some(media_type), Some(size), Some(digest)) = (known, size, digest) else {
        return Ok(None);
    };
    if size > MAX_DOCUMENT {
        return Err(Error::plain(format!(
            "refuse manifest {digest}: it has {size} bytes, more than {MAX_DOCUMENT}"
        )));
    }
    Ok(Some(Descriptor::new(&media_type, digest, size)))
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn nowhere(image: &ImageRef) -> Error {
    Error::plain(format!("registry {} has no address", image.registry))
}
