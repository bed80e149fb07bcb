//! The registry client against a registry in this process that misbehaves as each test wants.
#![allow(clippy::unwrap_used)]

mod errands;
mod login;
mod mirrors;
mod pull;
mod push;
#[path = "../e2e/registry.rs"]
pub mod server;
mod store;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lapstrake::oci::{Descriptor, Manifest, media};
use lapstrake::registry::{
    Client, Config, Credential, Mirror, Patience, Pushed, Retry, Secret, Source, Sources,
    fetch_config, fetch_manifest, fetch_manifest_by_digest, pull_blob,
};
use lapstrake_cache::{Digest, Store};
use lapstrake_frontend::image::ImageRef;
use server::{Auth, Registry, Reply, Request};

fn image(registry: &str, repository: &str) -> ImageRef {
    ImageRef {
        registry: registry.into(),
        repository: repository.into(),
        tag: Some("v1".into()),
        digest: None,
    }
}

/// Settings for tests: short waits.
fn config() -> Config {
    let patience = Patience {
        connect: Duration::from_secs(5),
        headers: Duration::from_secs(5),
        stall: Duration::from_secs(5),
        pause: Duration::from_millis(10),
        tries: 6,
    };
    Config {
        patience,
        ..Config::default()
    }
}

/// Settings for tests of silence.
fn hasty() -> Config {
    let mut config = config();
    (config.patience.headers, config.patience.stall) =
        (Duration::from_millis(400), Duration::from_millis(400));
    config
}

fn with_user(host: &str) -> Config {
    let user = Credential::Basic {
        username: "user".into(),
        password: Secret::new("pass:word"),
    };
    let credentials = Sources {
        given: [(host.to_owned(), user)].into(),
        ..Sources::default()
    };
    Config {
        credentials,
        ..config()
    }
}

/// Bytes without a pattern that a fault could hide in.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn layer(bytes: &[u8]) -> Descriptor {
    Descriptor::of(media::OCI_LAYER, bytes)
}

async fn pull(client: &Client, image: &ImageRef, blob: &Descriptor) -> Result<Vec<u8>, String> {
    let mut blob = client
        .blob(image, blob)
        .map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    loop {
        match blob.chunk().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return Ok(bytes),
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn push(
    client: &Client,
    image: &ImageRef,
    bytes: &[u8],
    from: Option<&str>,
) -> Result<Pushed, String> {
    let copy = bytes.to_vec();
    let open = move || Ok(Box::new(io::Cursor::new(copy.clone())) as Box<dyn Read + Send>);
    let descriptor = layer(bytes);
    let source = Source {
        descriptor: &descriptor,
        open: &open,
        mount_from: from,
        meter: None,
    };
    client
        .push_blob(image, &source)
        .await
        .map_err(|error| error.to_string())
}

fn lines(log: &[Request]) -> Vec<String> {
    log.iter().map(Request::line).collect()
}

fn count(log: &[Request], method: &str) -> usize {
    log.iter()
        .filter(|request| request.method == method)
        .count()
}

/// An image manifest that the registry has, and its bytes.
fn put_image(registry: &Registry, repository: &str) -> (Digest, Vec<u8>) {
    let config = Descriptor::of(media::OCI_CONFIG, b"{}");
    let bytes = Manifest::new(media::OCI_MANIFEST, config, vec![layer(b"one")]).to_bytes();
    (
        registry.put_manifest(repository, "v1", media::OCI_MANIFEST, &bytes),
        bytes,
    )
}
