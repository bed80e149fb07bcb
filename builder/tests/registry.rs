//! The registry client against a registry in this process that misbehaves as each test wants.
#![allow(clippy::unwrap_used)]

#[path = "e2e/registry.rs"]
pub mod server;

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

// ---------------------------------------------------------------- plain pulls and pushes

#[tokio::test]
async fn what_is_pushed_is_what_is_pulled() {
    let registry = Registry::start(Auth::Open);
    let client = Client::new(config());
    let image = image(registry.host(), "a/b");
    let blob = noise(3_000_000);
    assert_eq!(
        push(&client, &image, &blob, None).await.unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(
        push(&client, &image, &blob, None).await.unwrap(),
        Pushed::Existed
    );
    assert_eq!(
        push(&client, &image, b"", None).await.unwrap(),
        Pushed::Uploaded
    );
    assert!(client.has_blob(&image, &Digest::of(&blob)).await.unwrap());
    assert!(
        !client
            .has_blob(&image, &Digest::of(b"other"))
            .await
            .unwrap()
    );

    // The bytes of a manifest are kept as they are, whatever their form.
    let config = Descriptor::of(media::OCI_CONFIG, b"{}");
    let manifest = Manifest::new(media::OCI_MANIFEST, config, vec![layer(&blob)]);
    let manifest = serde_json::to_string_pretty(&manifest).unwrap() + "\n";
    let bytes = Bytes::from(manifest);
    let digest = client
        .push_manifest(&image, bytes.clone(), media::OCI_MANIFEST)
        .await
        .unwrap();
    let (descriptor, found) = client.resolve(&image).await.unwrap();
    assert_eq!(
        (&found, &descriptor),
        (&bytes, &Descriptor::of(media::OCI_MANIFEST, &bytes))
    );
    assert_eq!(client.head(&image).await.unwrap().unwrap(), descriptor);
    assert_eq!(client.manifest(&image, &digest).await.unwrap().1, bytes);
    assert_eq!(pull(&client, &image, &layer(&blob)).await.unwrap(), blob);
    assert_eq!(pull(&client, &image, &layer(b"")).await.unwrap(), b"");
    assert_eq!(
        client.blob_small(&image, &layer(b"")).await.unwrap(),
        Bytes::new()
    );
}

#[tokio::test]
async fn what_is_missing_is_said_in_one_line() {
    let registry = Registry::start(Auth::Open);
    let client = Client::new(config());
    let error = client
        .resolve(&image(registry.host(), "a/b"))
        .await
        .unwrap_err();
    assert!(error.is_not_found());
    let url = format!("http://{}/v2/a/b/manifests/v1", registry.host());
    let expected = format!("GET {url}: 404 not found: as the test wants (MANIFEST_UNKNOWN)");
    assert_eq!(error.to_string(), expected);
    assert_eq!(registry.log().len(), 1);
}

// ---------------------------------------------------------------- who we are

#[tokio::test]
async fn a_token_is_fetched_once_for_a_scope() {
    let registry = Registry::start(Auth::Token { realm: None });
    let (digest, bytes) = put_image(&registry, "a/b");
    registry.put_blob("a/b", b"one");
    let client = Client::new(config());
    let image = image(registry.host(), "a/b");
    assert_eq!(client.resolve(&image).await.unwrap().1, bytes);
    assert_eq!(client.manifest(&image, &digest).await.unwrap().1, bytes);
    assert_eq!(pull(&client, &image, &layer(b"one")).await.unwrap(), b"one");
    let expected = [
        "GET /v2/a/b/manifests/v1",
        "GET /token",
        "GET /v2/a/b/manifests/v1",
        &format!("GET /v2/a/b/manifests/{digest}"),
        &format!("GET /v2/a/b/blobs/{}", Digest::of(b"one")),
    ];
    let log = registry.log();
    assert_eq!(lines(&log), expected);
    assert_eq!(
        log[1].query,
        "service=test+registry&scope=repository%3Aa%2Fb%3Apull"
    );

    // Many at once ask for one token.
    let client = Client::new(config());
    let _ = client.has_blob(&image, &digest).await;
    registry.log();
    let other = ImageRef {
        repository: "c".into(),
        ..image.clone()
    };
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (client, other) = (client.clone(), other.clone());
            tokio::spawn(async move { client.has_blob(&other, &digest).await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert!(!task.await.unwrap());
    }
    let log = registry.log();
    assert_eq!(
        log.iter()
            .filter(|request| request.path == "/token")
            .count(),
        1
    );
}

#[tokio::test]
async fn pushing_needs_to_be_somebody() {
    let registry = Registry::start(Auth::Token { realm: None });
    let image = image(registry.host(), "a/b");
    let anonymous = Client::new(config());
    let error = push(&anonymous, &image, b"one", None).await.unwrap_err();
    assert!(
        error.contains("401 unauthorized: no credentials for"),
        "{error}"
    );
    let client = Client::new(with_user(registry.host()));
    assert_eq!(
        push(&client, &image, b"one", None).await.unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(registry.blob("a/b", &Digest::of(b"one")).unwrap(), b"one");
}

#[tokio::test]
async fn a_wrong_password_is_reported_by_the_token_service() {
    let registry = Registry::start(Auth::Token { realm: None });
    let mut config = with_user(registry.host());
    let wrong = Credential::Basic {
        username: "user".into(),
        password: Secret::new("SECRET"),
    };
    config
        .credentials
        .given
        .insert(registry.host().into(), wrong);
    let error = Client::new(config)
        .resolve(&image(registry.host(), "a"))
        .await
        .unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(
        text.contains("/token: 401 unauthorized: incorrect username or password"),
        "{text}"
    );
    assert!(!text.contains("SECRET"), "{text}");
}

#[tokio::test]
async fn basic_is_remembered() {
    let registry = Registry::start(Auth::Basic);
    put_image(&registry, "a");
    let image = image(registry.host(), "a");
    let client = Client::new(with_user(registry.host()));
    client.resolve(&image).await.unwrap();
    client.resolve(&image).await.unwrap();
    assert_eq!(registry.log().len(), 3);
    let error = Client::new(config()).resolve(&image).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
}

#[tokio::test]
async fn credentials_come_from_files_and_helpers() {
    let registry = Registry::start(Auth::Basic);
    put_image(&registry, "a");
    let space = tempfile::tempdir().unwrap();
    let file = space.path().join("config.json");
    let text = format!(
        r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNzOndvcmQ="}}}}}}"#,
        registry.host()
    );
    std::fs::write(&file, text).unwrap();
    let credentials = Sources {
        files: vec![file],
        ..Sources::default()
    };
    let client = Client::new(Config {
        credentials,
        ..config()
    });
    client.resolve(&image(registry.host(), "a")).await.unwrap();
}

#[tokio::test]
async fn an_expired_token_is_replaced() {
    let registry = Registry::start(Auth::Token { realm: None });
    put_image(&registry, "a");
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    client.resolve(&image).await.unwrap();
    let challenge = format!(
        r#"Bearer realm="http://{}/token",service="s""#,
        registry.host()
    );
    registry.fail(
        1,
        "GET /v2/a/",
        Reply::new(401).header("www-authenticate", challenge),
    );
    registry.log();
    client.resolve(&image).await.unwrap();
    let expected = [
        "GET /v2/a/manifests/v1",
        "GET /token",
        "GET /v2/a/manifests/v1",
    ];
    assert_eq!(lines(&registry.log()), expected);
}

// ---------------------------------------------------------------- who may see credentials

#[tokio::test]
async fn a_redirect_leads_away_without_credentials() {
    let elsewhere = Registry::start(Auth::Open);
    let blob = noise(100_000);
    elsewhere.put_blob("x", &blob);
    let registry = Registry::start(Auth::Basic);
    let digest = Digest::of(&blob);
    let to = format!("http://{}/v2/x/blobs/{digest}", elsewhere.host());
    registry.hook(move |request| {
        let is_known = request.method == "GET" && !request.header("authorization").is_empty();
        is_known.then(|| Reply::new(307).header("location", &to))
    });
    let client = Client::new(with_user(registry.host()));
    assert_eq!(
        pull(&client, &image(registry.host(), "a"), &layer(&blob))
            .await
            .unwrap(),
        blob
    );
    let log = elsewhere.log();
    assert_eq!((log.len(), log[0].header("authorization")), (1, ""));
}

#[tokio::test]
async fn redirects_without_end_are_given_up() {
    let registry = Registry::start(Auth::Open);
    registry.hook(|request| Some(Reply::new(302).header("location", format!("{}x", request.path))));
    let error = Client::new(config())
        .resolve(&image(registry.host(), "a"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("redirected more than 10 times"),
        "{error}"
    );
    assert_eq!(registry.log().len(), 11);
}

#[tokio::test]
async fn a_token_service_elsewhere_sees_no_credentials() {
    let thief = Registry::start(Auth::Open);
    let realm = Some(format!("http://{}/token", thief.host()));
    let registry = Registry::start(Auth::Token { realm });
    put_image(&registry, "a");
    let image = image(registry.host(), "a");
    let client = Client::new(with_user(registry.host()));
    client.resolve(&image).await.unwrap();
    let log = thief.log();
    assert_eq!((log.len(), log[0].header("authorization")), (1, ""));
    assert!(!log[0].query.contains("account"), "{}", log[0].query);
    thief.fail(1, "GET /token", Reply::new(401));
    let error = Client::new(with_user(registry.host()))
        .resolve(&image)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("only sent to the registry itself or over https"),
        "{error}"
    );
}

#[tokio::test]
async fn a_token_service_may_not_send_us_on() {
    let registry = Registry::start(Auth::Token { realm: None });
    put_image(&registry, "a");
    registry.fail(
        1,
        "GET /token",
        Reply::new(302).header("location", "http://127.0.0.1:1/"),
    );
    let error = Client::new(config())
        .resolve(&image(registry.host(), "a"))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("refuse redirect of the token service"),
        "{error}"
    );
}

#[tokio::test]
async fn a_token_service_has_a_limit() {
    let registry = Registry::start(Auth::Token { realm: None });
    registry.fail(
        1,
        "GET /token",
        Reply::new(200).body(vec![b' '; 2 << 20]).chunked(),
    );
    let error = Client::new(config())
        .resolve(&image(registry.host(), "a"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("larger than 1048576 bytes"),
        "{error}"
    );
}

// ---------------------------------------------------------------- faults on the way here

#[tokio::test]
async fn passing_faults_pass() {
    let registry = Registry::start(Auth::Open);
    let (_, bytes) = put_image(&registry, "a");
    registry.fail(2, "GET /v2/a/manifests", Reply::new(503));
    let client = Client::new(config());
    assert_eq!(
        client
            .resolve(&image(registry.host(), "a"))
            .await
            .unwrap()
            .1,
        bytes
    );
    assert_eq!(registry.log().len(), 3);
    registry.fail(usize::MAX, "GET /v2/a/manifests", Reply::new(503));
    let error = client
        .resolve(&image(registry.host(), "a"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().ends_with("503 service unavailable"),
        "{error}"
    );
    assert_eq!(registry.log().len(), 6);
}

#[tokio::test]
async fn a_registry_says_how_long_to_wait() {
    let registry = Registry::start(Auth::Open);
    put_image(&registry, "a");
    registry.fail(
        1,
        "GET /v2/a/manifests",
        Reply::new(429).header("retry-after", 1),
    );
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    let on_wait = move |error: &lapstrake::registry::Error, pause| {
        listener.lock().unwrap().push((error.to_string(), pause));
    };
    let client = Client::new(Config {
        on_wait: Some(Arc::new(on_wait)),
        ..config()
    });
    let started = Instant::now();
    client.resolve(&image(registry.host(), "a")).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1);
    assert!(
        told[0].0.ends_with("429 too many requests") && told[0].1 >= Duration::from_secs(1),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_dropped_transfer_goes_on_where_it_stopped() {
    let registry = Registry::start(Auth::Open);
    let blob = noise(1_000_000);
    let digest = registry.put_blob("a", &blob);
    let path = format!("GET /v2/a/blobs/{digest}");
    registry.fail(1, &path, Reply::new(200).body(blob.clone()).cut(300_000));
    let rest = Reply::new(206).header("content-range", "bytes 300000-999999/1000000");
    registry.fail(1, &path, rest.body(&blob[300_000..]).cut(300_000));
    let client = Client::new(config());
    assert_eq!(
        pull(&client, &image(registry.host(), "a"), &layer(&blob))
            .await
            .unwrap(),
        blob
    );
    let ranges: Vec<String> = registry
        .log()
        .iter()
        .map(|r| r.header("range").to_owned())
        .collect();
    assert_eq!(ranges, ["", "bytes=300000-", "bytes=600000-"]);
}

#[tokio::test]
async fn a_registry_without_ranges_starts_again() {
    let registry = Registry::start(Auth::Open);
    let blob = noise(500_000);
    let digest = registry.put_blob("a", &blob);
    let path = format!("GET /v2/a/blobs/{digest}");
    registry.fail(1, &path, Reply::new(200).body(blob.clone()).cut(123_456));
    registry.fail(1, &path, Reply::new(200).body(blob.clone()));
    let client = Client::new(config());
    assert_eq!(
        pull(&client, &image(registry.host(), "a"), &layer(&blob))
            .await
            .unwrap(),
        blob
    );
    assert_eq!(registry.log().len(), 2);
}

#[tokio::test]
async fn a_registry_that_always_drops_is_given_up() {
    let registry = Registry::start(Auth::Open);
    let blob = noise(100_000);
    registry.fail(usize::MAX, "GET", Reply::new(200).body(blob.clone()).cut(0));
    let client = Client::new(config());
    let error = pull(&client, &image(registry.host(), "a"), &layer(&blob))
        .await
        .unwrap_err();
    assert!(error.contains("/blobs/sha256:"), "{error}");
    assert_eq!(registry.log().len(), 6);
}

#[tokio::test]
async fn wrong_bytes_are_never_the_end() {
    let registry = Registry::start(Auth::Open);
    let (good, mut bad) = (noise(100_000), noise(100_000));
    bad[50_000] ^= 1;
    registry.fail(usize::MAX, "GET", Reply::new(200).body(bad));
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    let error = pull(&client, &image, &layer(&good)).await.unwrap_err();
    assert!(error.contains("blob has the digest"), "{error}");
    assert_eq!(registry.log().len(), 1);
    // What is small is got once more before giving up.
    assert!(client.blob_small(&image, &layer(&good)).await.is_err());
    assert_eq!(registry.log().len(), 2);
}

#[tokio::test]
async fn bodies_of_another_length_are_refused() {
    let registry = Registry::start(Auth::Open);
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    let blob = noise(10_000);
    for (reply, expected) in [
        (
            Reply::new(200).body(noise(10_001)),
            "10001 bytes, not the 10000 declared",
        ),
        (
            Reply::new(200).body(noise(9_999)),
            "9999 bytes, not the 10000 declared",
        ),
        (
            Reply::new(200).body(noise(10_000_000)).chunked(),
            "longer than declared",
        ),
        (
            Reply::new(200).body(noise(10_001)).chunked(),
            "longer than declared",
        ),
        (Reply::new(200).body(noise(9_999)).chunked(), "closed early"),
    ] {
        registry.fail(6, "GET", reply);
        let error = pull(&client, &image, &layer(&blob)).await.unwrap_err();
        registry.mend();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn silence_is_not_waited_for() {
    let registry = Registry::start(Auth::Open);
    let blob = noise(200_000);
    registry.put_blob("a", &blob);
    let client = Client::new(hasty());
    let image = image(registry.host(), "a");
    let long = Duration::from_secs(60);
    registry.fail(1, "GET", Reply::new(200).stall(long));
    registry.fail(1, "GET", Reply::new(200).body(blob.clone()).stall(long));
    assert_eq!(pull(&client, &image, &layer(&blob)).await.unwrap(), blob);
    registry.fail(usize::MAX, "GET", Reply::new(200).stall(long));
    let started = Instant::now();
    let error = pull(&client, &image, &layer(&blob)).await.unwrap_err();
    assert!(error.contains("no answer for"), "{error}");
    let error = client.resolve(&image).await.unwrap_err();
    assert!(error.to_string().contains("no answer for"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_trickle_is_not_waited_for() {
    let registry = Registry::start(Auth::Open);
    let blob = noise(200_000);
    let slow = Reply::new(200)
        .body(blob.clone())
        .slowly(10, Duration::from_millis(50));
    registry.fail(usize::MAX, "GET /v2/a/blobs", slow.clone());
    registry.fail(usize::MAX, "GET", slow);
    let client = Client::new(hasty());
    let image = image(registry.host(), "a");
    let started = Instant::now();
    let error = pull(&client, &image, &layer(&blob)).await.unwrap_err();
    assert!(error.contains("too slowly"), "{error}");
    let error = client.resolve(&image).await.unwrap_err();
    assert!(
        error.to_string().contains("did not arrive within"),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn lies_about_manifests_are_refused() {
    let registry = Registry::start(Auth::Open);
    let (digest, bytes) = put_image(&registry, "a");
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    let of = |kind: &str, body: Vec<u8>| Reply::new(200).header("content-type", kind).body(body);
    let other = Digest::of(b"other");
    let cases = [
        (
            of(media::OCI_MANIFEST, bytes.clone()).header("docker-content-digest", other),
            "has the digest",
        ),
        (of(media::OCI_INDEX, bytes.clone()), "is served as"),
        (of(media::OCI_MANIFEST, vec![b' '; 5 << 20]), "larger than"),
        (
            of(media::OCI_MANIFEST, vec![b' '; 5 << 20]).chunked(),
            "larger than",
        ),
        (of("text/html", b"<html>".to_vec()), "parse manifest"),
        (
            of(
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                b"{}".to_vec(),
            ),
            "schema 1",
        ),
    ];
    for (reply, expected) in cases {
        registry.fail(1, "GET", reply.clone());
        registry.fail(1, "GET", reply);
        let error = client
            .resolve(&image)
            .await
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(error.contains(expected), "{expected}: {error}");
        registry.mend();
    }
    registry.fail(
        2,
        "GET",
        of(media::OCI_MANIFEST, [bytes.as_slice(), b" "].concat()),
    );
    let error = client.manifest(&image, &digest).await.unwrap_err();
    assert!(
        error.to_string().contains(&format!("not {digest}")),
        "{error}"
    );
    let odd = ImageRef {
        digest: Some("sha512:00".into()),
        ..image
    };
    assert!(
        client
            .resolve(&odd)
            .await
            .unwrap_err()
            .to_string()
            .contains("not supported")
    );
}

// ---------------------------------------------------------------- into the store

#[tokio::test]
async fn the_store_gets_exactly_the_blob() {
    let registry = Registry::start(Auth::Open);
    let (blob, mut bad) = (noise(1_000_000), noise(1_000_000));
    bad[999_999] ^= 1;
    let digest = registry.put_blob("a", &blob);
    registry.fail(1, "GET", Reply::new(200).body(bad.clone()));
    let space = tempfile::tempdir().unwrap();
    let store = Store::open(space.path()).unwrap();
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    pull_blob(&client, &store, &image, &layer(&blob), None)
        .await
        .unwrap();
    assert_eq!(store.read_blob(&digest, 1 << 20).unwrap().unwrap(), blob);
    assert_eq!(registry.log().len(), 2);
    pull_blob(&client, &store, &image, &layer(&blob), None)
        .await
        .unwrap();
    assert_eq!(registry.log().len(), 0);

    let other = noise(500_000);
    registry.fail(usize::MAX, "GET", Reply::new(200).body(&bad[..500_000]));
    let error = pull_blob(&client, &store, &image, &layer(&other[1..]), None)
        .await
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("not the 499999 declared"),
        "{error:#}"
    );
    let mut wrong = layer(&other);
    wrong.digest = Digest::of(b"x");
    let error = pull_blob(&client, &store, &image, &wrong, None)
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("corrupt"), "{error:#}");
    assert_eq!(store.has_blob(&wrong.digest), None);
}

#[tokio::test]
async fn what_the_store_has_is_not_fetched() {
    let registry = Registry::start(Auth::Open);
    let (digest, bytes) = put_image(&registry, "a");
    registry.put_blob("a", b"{}");
    let space = tempfile::tempdir().unwrap();
    let store = Store::open(space.path()).unwrap();
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    let first = fetch_manifest(&client, &store, &image).await.unwrap();
    assert_eq!(
        first,
        (
            Descriptor::of(media::OCI_MANIFEST, &bytes),
            Bytes::from(bytes)
        )
    );
    assert_eq!(
        (count(&registry.log(), "GET"), registry.log().len()),
        (1, 0)
    );
    assert_eq!(
        fetch_manifest(&client, &store, &image).await.unwrap(),
        first
    );
    assert_eq!(lines(&registry.log()), ["HEAD /v2/a/manifests/v1"]);
    let pinned = ImageRef {
        digest: Some(digest.to_string()),
        ..image.clone()
    };
    assert_eq!(
        fetch_manifest(&client, &store, &pinned).await.unwrap(),
        first
    );
    assert_eq!(
        fetch_manifest_by_digest(&client, &store, &image, &digest)
            .await
            .unwrap(),
        first
    );
    assert_eq!(registry.log().len(), 0);

    let config = Descriptor::of(media::OCI_CONFIG, b"{}");
    for _ in 0..2 {
        assert_eq!(
            fetch_config(&client, &store, &image, &config)
                .await
                .unwrap(),
            "{}"
        );
    }
    assert_eq!(registry.log().len(), 1);

    // A registry that cannot answer HEAD is asked with GET.
    registry.fail(1, "HEAD", Reply::new(405));
    assert_eq!(
        fetch_manifest(&client, &store, &image).await.unwrap(),
        first
    );
    registry.fail(1, "HEAD", Reply::new(404));
    assert!(fetch_manifest(&client, &store, &image).await.is_err());
}

// ---------------------------------------------------------------- faults on the way there

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository() {
    let registry = Registry::start(Auth::Token { realm: None });
    let digest = registry.put_blob("base", b"one");
    let client = Client::new(with_user(registry.host()));
    let image = image(registry.host(), "app");
    assert_eq!(
        push(&client, &image, b"one", Some("base")).await.unwrap(),
        Pushed::Mounted
    );
    assert_eq!(registry.blob("app", &digest).unwrap(), b"one");
    let log = registry.log();
    let asked = log
        .iter()
        .find(|request| request.query.contains("base%3Apull"))
        .unwrap();
    assert!(
        asked.query.contains("repository%3Aapp%3Apull%2Cpush"),
        "{}",
        asked.query
    );
    assert!(
        client
            .mount_blob(
                &ImageRef {
                    repository: "b".into(),
                    ..image.clone()
                },
                &digest,
                "base"
            )
            .await
            .unwrap()
    );
    assert!(
        !client
            .mount_blob(&image, &Digest::of(b"none"), "base")
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_refused_mount_becomes_an_upload() {
    let registry = Registry::start(Auth::Token { realm: None });
    let client = Client::new(with_user(registry.host()));
    let image = image(registry.host(), "app");
    // The registry does not have it: it opens an upload instead, which is used.
    registry.log();
    assert_eq!(
        push(&client, &image, b"one", Some("base")).await.unwrap(),
        Pushed::Uploaded
    );
    let log = registry.log();
    let posts = log
        .iter()
        .filter(|r| r.method == "POST" && !r.header("authorization").is_empty());
    assert_eq!(posts.count(), 1);
    // We may not read there.
    assert_eq!(
        push(&client, &image, b"two", Some("private"))
            .await
            .unwrap(),
        Pushed::Uploaded
    );
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_it_stopped() {
    let registry = Registry::start(Auth::Open);
    registry.break_upload(400_000);
    let blob = noise(1_000_000);
    let client = Client::new(config());
    assert_eq!(
        push(&client, &image(registry.host(), "a"), &blob, None)
            .await
            .unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(registry.blob("a", &Digest::of(&blob)).unwrap(), blob);
    let log = registry.log();
    let patch = log
        .iter()
        .find(|request| request.method == "PATCH")
        .unwrap();
    assert_eq!(
        (patch.body.len(), patch.header("content-range")),
        (600_000, "400000-999999")
    );
    assert_eq!(count(&log, "POST"), 1);
}

#[tokio::test]
async fn a_lost_upload_begins_again() {
    let registry = Registry::start(Auth::Open);
    registry.fail(1, "PUT", Reply::new(404));
    registry.fail(1, "GET", Reply::new(404));
    let client = Client::new(config());
    assert_eq!(
        push(&client, &image(registry.host(), "a"), b"one", None)
            .await
            .unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(count(&registry.log(), "POST"), 2);
}

#[tokio::test]
async fn a_large_blob_is_sent_in_parts_where_it_must() {
    let registry = Registry::start(Auth::Open);
    registry.hook(|request| (request.body.len() > 9 << 20).then(|| Reply::new(413)));
    let blob = noise(20 << 20);
    let client = Client::new(Config {
        patience: Patience::default(),
        ..config()
    });
    assert_eq!(
        push(&client, &image(registry.host(), "a"), &blob, None)
            .await
            .unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(registry.blob("a", &Digest::of(&blob)).unwrap(), blob);
    assert_eq!(count(&registry.log(), "PATCH"), 3);
    registry.hook(|request| (!request.body.is_empty()).then(|| Reply::new(413)));
    let error = push(&client, &image(registry.host(), "a"), &blob[1..], None)
        .await
        .unwrap_err();
    assert!(
        error.contains("413 payload too large: the registry, or a proxy"),
        "{error}"
    );
}

#[tokio::test]
async fn answers_that_make_no_sense_end_the_push() {
    let registry = Registry::start(Auth::Open);
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    registry.fail(1, "POST", Reply::new(202));
    let error = push(&client, &image, b"one", None).await.unwrap_err();
    assert!(error.contains("no Location"), "{error}");
    registry.fail(
        1,
        "POST",
        Reply::new(202).header("location", "file:///etc/passwd"),
    );
    let error = push(&client, &image, b"one", None).await.unwrap_err();
    assert!(error.contains("neither https nor http"), "{error}");
    registry.fail(
        1,
        "PUT",
        Reply::new(201).header("docker-content-digest", "sha256:1"),
    );
    let error = push(&client, &image, b"one", None).await.unwrap_err();
    assert!(error.contains("instead of"), "{error}");
    registry.fail(
        1,
        "PUT",
        Reply::new(201).header("docker-content-digest", Digest::of(b"x")),
    );
    let manifest = client
        .push_manifest(&image, Bytes::from_static(b"{}"), media::OCI_MANIFEST)
        .await;
    assert!(manifest.unwrap_err().to_string().contains("instead of"));
}

#[tokio::test]
async fn a_blob_that_changes_while_it_is_sent_is_our_fault() {
    let registry = Registry::start(Auth::Open);
    let client = Client::new(config());
    let open = || Ok(Box::new(io::Cursor::new(noise(1000))) as Box<dyn Read + Send>);
    let descriptor = layer(&noise(2000));
    let source = Source {
        descriptor: &descriptor,
        open: &open,
        mount_from: None,
        meter: None,
    };
    let error = client
        .push_blob(&image(registry.host(), "a"), &source)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("read blob: blob ends 1000 bytes too early"),
        "{error}"
    );
    assert_eq!(error.retry, Retry::Never);
}

#[tokio::test]
async fn the_meter_tells_how_far_it_is() {
    let registry = Registry::start(Auth::Open);
    let blob = noise(1_000_000);
    let copy = blob.clone();
    let open = move || Ok(Box::new(io::Cursor::new(copy.clone())) as Box<dyn Read + Send>);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let meter: lapstrake::registry::Meter = Arc::new(move |bytes| sink.lock().unwrap().push(bytes));
    let source = Source {
        descriptor: &layer(&blob),
        open: &open,
        mount_from: None,
        meter: Some(&meter),
    };
    Client::new(config())
        .push_blob(&image(registry.host(), "a"), &source)
        .await
        .unwrap();
    let seen = seen.lock().unwrap();
    assert!(
        seen.is_sorted() && seen.last() == Some(&1_000_000),
        "{seen:?}"
    );
}

// ---------------------------------------------------------------- mirrors and TLS

fn mirrored(endpoints: &[String], insecure: bool) -> Config {
    let registry = "registry.invalid".to_owned();
    Config {
        mirrors: vec![Mirror {
            registry,
            endpoints: endpoints.to_vec(),
            insecure,
        }],
        ..config()
    }
}

#[tokio::test]
async fn mirrors_are_asked_in_their_order() {
    let (first, second) = (Registry::start(Auth::Open), Registry::start(Auth::Open));
    let (_, bytes) = put_image(&second, "a");
    let blob = noise(300_000);
    second.put_blob("a", &blob);
    let mut bad = blob.clone();
    bad[0] ^= 1;
    first.fail(1, "GET /v2/a/blobs", Reply::new(200).body(bad));
    first.fail(
        usize::MAX,
        "GET /v2/a/blobs",
        Reply::new(200).body(blob.clone()).cut(100_000),
    );
    let closed = "http://127.0.0.1:1".to_owned();
    let places = [
        closed,
        format!("http://{}", first.host()),
        second.host().to_owned(),
    ];
    let client = Client::new(mirrored(&places, false));
    let image = image("registry.invalid", "a");
    assert_eq!(client.resolve(&image).await.unwrap().1, bytes);
    assert!(client.head(&image).await.unwrap().is_some());
    assert_eq!(
        client.blob_small(&image, &layer(&blob)).await.unwrap(),
        blob
    );
    assert_eq!(pull(&client, &image, &layer(&blob)).await.unwrap(), blob);
    let error = push(&client, &image, b"one", None).await.unwrap_err();
    assert!(error.contains("https://registry.invalid/"), "{error}");
}

fn authority() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/tls/ca.crt")
}

#[tokio::test]
async fn certificates_are_verified() {
    let registry = Registry::start_tls();
    let (_, bytes) = put_image(&registry, "a");
    let image = image("registry.invalid", "a");
    let port = registry.host().rsplit_once(':').unwrap().1;
    let place = [format!("https://localhost:{port}")];
    let known = Config {
        roots: vec![authority()],
        ..mirrored(&place, false)
    };
    assert_eq!(Client::new(known).resolve(&image).await.unwrap().1, bytes);

    let space = tempfile::tempdir().unwrap();
    let folder = space.path().join(format!("localhost:{port}"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(authority(), folder.join("ca.crt")).unwrap();
    let folders = Config {
        certs: vec![space.path().to_owned()],
        ..mirrored(&place, false)
    };
    assert_eq!(Client::new(folders).resolve(&image).await.unwrap().1, bytes);

    registry.log();
    assert!(
        Client::new(mirrored(&place, false))
            .resolve(&image)
            .await
            .is_err()
    );
    let other_name = [format!("https://127.0.0.2:{port}")];
    let wrong = Config {
        roots: vec![authority()],
        ..mirrored(&other_name, false)
    };
    assert!(Client::new(wrong).resolve(&image).await.is_err());
    assert_eq!(registry.log().len(), 0);
    assert_eq!(
        Client::new(mirrored(&place, true))
            .resolve(&image)
            .await
            .unwrap()
            .1,
        bytes
    );
}

#[tokio::test]
async fn an_unknown_certificate_is_named_as_the_reason() {
    let registry = Registry::start_tls();
    let port = registry.host().rsplit_once(':').unwrap().1;
    let image = image("registry.invalid", "a");
    // The mirror is the only place: what the registry itself says would hide its failure.
    let told = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&told);
    let on_wait: lapstrake::registry::OnWait =
        Arc::new(move |error, _| *sink.lock().unwrap() = error.to_string());
    let config = Config {
        on_wait: Some(on_wait),
        ..mirrored(&[format!("https://localhost:{port}")], false)
    };
    let _ = Client::new(config).resolve(&image).await;
    assert!(
        !told.lock().unwrap().contains("localhost"),
        "a bad certificate was tried again: {}",
        told.lock().unwrap()
    );
}

#[tokio::test]
async fn tls_is_not_given_up() {
    let plain = Registry::start(Auth::Open);
    put_image(&plain, "a");
    let image = image("registry.invalid", "a");
    let config = mirrored(&[format!("https://{}", plain.host())], false);
    assert!(Client::new(config).resolve(&image).await.is_err());
    assert_eq!(plain.log().len(), 0);
}

#[tokio::test]
async fn a_registry_on_this_machine_may_speak_tls() {
    let registry = Registry::start_tls();
    let (_, bytes) = put_image(&registry, "a");
    let client = Client::new(config());
    let image = image(registry.host(), "a");
    assert_eq!(client.resolve(&image).await.unwrap().1, bytes);
    assert_eq!(client.resolve(&image).await.unwrap().1, bytes);
}
