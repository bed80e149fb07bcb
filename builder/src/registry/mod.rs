//! The registry protocol (OCI distribution, Docker registry v2): pulling, pushing and proving who we are.
//!
//! ```text
//! config       which servers stand for a registry name, and how far each is trusted
//! credentials  the files and helpers of Docker and podman
//! tls          connections, made when needed
//! auth         challenges, tokens; who may see credentials
//! client       one request: scheme, proof, redirects, retries
//! pull, push   manifests and blobs
//! blob         one blob on its way here, upload: one on its way there
//! store        from a registry into the store
//! ```
//!
//! What holds, whatever a registry does: bytes are handed on only up to the declared size, and an end is reported only
//! after the digest was checked; credentials go to the registry itself or over https to the token service that it names, never
//! along a redirect to another host or port; TLS is not given up for a registry that is not marked insecure and not on this
//! machine; each read has a limit and each wait an end.

mod auth;
mod blob;
mod challenge;
mod client;
mod config;
mod credentials;
mod date;
mod error;
mod pull;
mod push;
mod store;
mod tls;
mod upload;

pub use blob::Blob;
pub use client::Client;
pub use config::{Config, Mirror, OnWait, Patience};
pub use credentials::{Credential, Secret, Sources};
pub(crate) use date::parse as parse_date;
pub use error::{Diagnostic, Error, Failure, Result, Retry};
pub use push::{Pushed, Source};
pub use store::{fetch_config, fetch_manifest, fetch_manifest_by_digest, pull_blob};
pub(crate) use upload::stretch;
pub use upload::{Meter, Open};

/// What a panic left behind is whole: values are put in and taken out, never half changed.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
